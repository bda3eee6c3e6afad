"""Stopping on a signal: the run saves, then exits with a code that a launcher can retry."""

import signal
from types import FrameType
from typing import Any

# sysexits.h EX_TEMPFAIL: nothing is wrong, start the same command again.
EXIT_PREEMPTED = 75
# What shells report for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130


class StopSignal:
    """Notes SIGTERM (a scheduler wants the machine) and SIGINT (Ctrl-C) while it is entered.

    The first signal only sets `received`; the handlers that were there before are put back at once, so a second one
    ends the program as it would have without this.

    Attributes:
      received: the signal's number; None until one comes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What the program should exit with after it has saved."""
        return EXIT_INTERRUPTED if self.received == signal.SIGINT else EXIT_PREEMPTED
