"""Counts what XLA compiles, by thread: a step loop that runs for days must not compile anything."""

import threading
from collections import Counter

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_by_thread: Counter[int] = Counter()
_lock = threading.Lock()
_listening = False


def _count(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == _EVENT:
        # The listener runs in the thread that compiles.
        _by_thread[threading.get_ident()] += 1


def compilations() -> int:
    """How often this thread has compiled since the first call of this function in the process."""
    global _listening
    with _lock:
        if not _listening:
            jax.monitoring.register_event_duration_secs_listener(_count)
            _listening = True
    return _by_thread[threading.get_ident()]
