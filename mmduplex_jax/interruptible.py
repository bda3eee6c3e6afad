"""Waiting that Ctrl-C ends at once: what works in C (opening an address, compiling) holds a signal's handler back."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")
# What was begun and has not ended. (A thread whose join was interrupted counts as ended, for Python 3.11.)
_unfinished: set[threading.Event] = set()


def run_interruptibly(work: Callable[[], Result], name: str) -> Result:
    """Runs `work` in a thread of that name and waits for it; returns what it returns, raises what it raises.

    KeyboardInterrupt (or what another handler raises) comes through at once. The thread then ends by itself, with the
    process at the latest.
    """
    outcome: list[Any] = []
    error: list[BaseException] = []
    finished = threading.Event()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as raised:  # noqa: BLE001  it is raised again where the result is waited for
            error.append(raised)
        finally:
            _unfinished.discard(finished)
            finished.set()

    _unfinished.add(finished)
    threading.Thread(target=run, name=name, daemon=True).start()
    while not finished.wait(0.1):
        pass
    if error:
        raise error[0]
    return outcome[0]


def leave(code: int) -> NoReturn:
    """Ends the program; at once where interrupted work still runs, which would crash the interpreter's own end."""
    if _unfinished:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
