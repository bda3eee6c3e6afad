"""Calls from other threads to the event loop, in order, many with one wake-up."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class ToLoop:
    """Brings calls to the loop. Hundreds of streams speak at the same moment; the loop is woken once for all."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._waking = False

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Has the loop call the function; returns at once, from any thread.

        Raises:
          RuntimeError: the loop is closed.
        """
        with self._lock:
            self._calls.append((function, arguments))
            wake, self._waking = not self._waking, True
        if wake:
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        with self._lock:
            calls, self._calls, self._waking = self._calls, deque(), False
        for function, arguments in calls:
            # Each as a callback of its own: what one raises goes to the loop's handler and spares the others.
            self._loop.call_soon(function, *arguments)
