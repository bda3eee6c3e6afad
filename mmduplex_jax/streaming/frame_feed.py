"""Ticks from a reader, decoded ahead in a thread; in real time they come when they are due, and old ones may go."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from data_pipelines.decode import Tick
from data_pipelines.video_source import VideoInfo

# What a source may be late by, before it counts as standing still.
_STALL_S = 1.0


class Reader(Protocol):
    """What is needed of a source: `data_pipelines.decode.VideoReader` has it."""

    info: VideoInfo
    length_s: float

    def ticks(self) -> Iterator[Tick]:
        """The ticks in order."""

    def close(self) -> None:
        """Frees the source."""


class FrameFeed:
    """Iterates the ticks of a reader, which works in a thread of its own.

    A file is read at most `max_waiting` ticks ahead. In real time (or from a live source) nobody can be asked to wait:
    when `max_waiting` ticks wait, or the oldest was due more than `lag_max_s` ago and a newer one waits, the oldest is
    dropped and counted, and its pictures go to the next one. A live playlist gives some seconds at once: its ticks come
    when they are due, and after a stall of it they are due later.

    Attributes:
      dropped: ticks that were dropped.
      started_s: `time.monotonic()` of the stream's second 0; set when the first tick is there.
      end_after_s: of a source without a known end, how long to wait for its ticks in all, also where none come; None
        for no limit.
    """

    end_after_s: float | None = None

    def __init__(self, reader: Reader, *, realtime: bool, max_waiting: int, lag_max_s: float):
        info = reader.info
        self._reader, self._paced = reader, (realtime and not info.live) or info.in_segments
        self._may_drop = realtime or info.live or info.in_segments
        self._max_waiting, self._lag_max_s = max_waiting, lag_max_s
        self._waiting: deque[Tick] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        self.dropped = 0
        self.started_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)

    def __iter__(self) -> Iterator[Tick]:
        """The ticks; raises what the reader raised, after the ticks that came before it."""
        self._thread.start()
        began_s = time.monotonic()
        while True:
            with self._changed:
                # A limit on the wait, so that a signal's handler gets its turn while a source hangs.
                while not (self._waiting or self._ended or self._stop.is_set() or self._is_over(began_s)):
                    self._changed.wait(0.2)
                if self._stop.is_set():
                    return
                if not (self._waiting or self._ended):
                    self._reader.info.note(f"the source stood still when {self.end_after_s:g} s were over")
                    return
                if not self._waiting:
                    break
                while self._may_drop and len(self._waiting) > 1 and self._age_s(self._waiting[0]) > self._lag_max_s:
                    self._drop_oldest()
                tick = self._waiting.popleft()
                self._changed.notify_all()
            yield tick
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends the iteration at the next tick; may be called from a signal's handler."""
        self._stop.set()

    def close(self) -> None:
        """Ends the thread and closes the reader; where that hangs in a read, as soon as the read gives up."""
        self._stop.set()
        self._reader.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=2.0)

    def _is_over(self, began_s: float) -> bool:
        limit_s = self.end_after_s if self._reader.info.endless else None
        return limit_s is not None and time.monotonic() - began_s > limit_s + _STALL_S

    def _work(self) -> None:
        try:
            for tick in self._reader.ticks():
                if self.started_s is None:
                    self.started_s = time.monotonic() - tick.t_s
                elif self._reader.info.in_segments and self._age_s(tick) > self._lag_max_s:
                    self.started_s = time.monotonic() - tick.t_s  # it was the source that stood still, not the model
                if self._paced and self._stop.wait(max(0.0, self.started_s + tick.t_s - time.monotonic())):
                    break
                if not self._put(tick):
                    break
        except BaseException as error:  # noqa: BLE001  it is raised where the ticks are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, tick: Tick) -> bool:
        """Adds a tick; False when the feed was stopped."""
        with self._changed:
            while len(self._waiting) >= self._max_waiting and not self._may_drop:
                if self._stop.is_set():
                    return False
                self._changed.wait(0.2)
            self._waiting.append(tick)
            if len(self._waiting) > self._max_waiting:
                self._drop_oldest()
            self._changed.notify_all()
        return not self._stop.is_set()

    def _drop_oldest(self) -> None:
        oldest = self._waiting.popleft()
        self._waiting[0] = self._waiting[0]._replace(pictures=oldest.pictures + self._waiting[0].pictures)
        self.dropped += 1

    def _age_s(self, tick: Tick) -> float:
        return time.monotonic() - (self.started_s or 0.0) - tick.t_s
