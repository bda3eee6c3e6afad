"""The loop: a tick from the source, the model's steps, words to whoever listens, until the source ends or breaks."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from data_pipelines.decode import Tick
from data_pipelines.video_source import VideoError, redact
from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.frame_feed import FrameFeed, Reader
from mmduplex_jax.streaming.slot import TickResult
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.streaming.statistics import RunStatistics
from mmduplex_jax.word_decoder import TimedWord

# In real time, how far the model may fall behind before the oldest frames go.
_LAG_MAX_S = 1.0
# How far a file is decoded ahead: enough to smooth out, little to hold.
_AHEAD_S = 2.0


class Listener(Protocol):
    """Takes what a stream says as it comes: a terminal, a caption file, a rendered video."""

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """After the steps of each tick; in real time `result.words` are said when they come, if that is later."""

    def close(self, words: Sequence[TimedWord]) -> None:
        """Once, at the end, with the last words, also when the source broke: finishes what it writes."""


class Watching(Protocol):
    """What is needed of a session: `streaming.pool.Session` has it, and so has one on a server."""

    @property
    def clock(self) -> Clock:
        """Of its model."""

    @property
    def compile_s(self) -> float:
        """Seconds that compilation took."""

    def tick(self, t_s: float, frame: np.ndarray) -> TickResult:
        """The steps of one tick; ConnectionError where the model is elsewhere and out of reach."""

    @property
    def error(self) -> ConnectionError | None:
        """What kept `finish` from the stream's end, where the model is elsewhere."""

    def finish(self) -> list[TimedWord]:
        """The words that were still to come."""


class Runtime:
    """Runs one session over one reader.

    Attributes:
      error: what broke the source, or the connection to the model, after `run`; None where all was whole.
      stopped: `stop()` ended the run.
    """

    def __init__(
        self,
        session: Watching,
        reader: Reader,
        listeners: Sequence[Listener] = (),
        *,
        realtime: bool = False,
        hearers: Sequence[Callable[[SoundPiece], None]] = (),
    ):
        """Nothing runs yet.

        Args:
          session: watches.
          reader: its source.
          listeners: take what is said, tick by tick.
          realtime: at the source's own speed.
          hearers: take what is heard, piece by piece, each tick's after the listeners took the tick.
        """
        self._session, self._reader, self._listeners, self._hearers = session, reader, listeners, hearers
        self._realtime = realtime or reader.info.live or reader.info.in_segments
        waiting = max(1, session.clock.ticks_in(_AHEAD_S))
        self._feed = FrameFeed(reader, realtime=realtime, max_waiting=waiting, lag_max_s=_LAG_MAX_S)
        self._statistics, self._end_s = RunStatistics(session.clock), 0.0
        self.error: VideoError | ConnectionError | None = None
        self.stopped = False

    def stop(self) -> None:
        """Ends the run after the current tick; everything is finished properly. For signal handlers."""
        self.stopped = True
        self._feed.stop()

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Within it Ctrl-C and SIGTERM end the run in good order; for the main thread."""
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def words(self, stop_after_s: float | None = None) -> Iterator[TimedWord]:
        """Runs to the end of the source and yields the words as they come.

        A source that breaks on the way ends the run (see `error`). However it ends, the listeners are closed.

        Args:
          stop_after_s: end after so much video; where a source without a known end stands still, after so much time.
        """
        self._feed.end_after_s = stop_after_s
        try:
            for tick in self._feed:
                if stop_after_s is not None and tick.t_s >= stop_after_s:
                    break
                result = self._session.tick(tick.t_s, tick.frame)
                result = result._replace(words=self._timed(result.words))
                lag_s = self._wall_s() - tick.t_s if self._realtime else 0.0
                self._statistics.add(result.words, result.tokens.number, result.step_ms, lag_s)
                self._end_s = tick.t_s + self._session.clock.tick_s
                for listener in self._listeners:
                    listener.on_tick(tick, result, self._statistics.tokens_in_last_second)
                for piece in result.sound:
                    for hear in self._hearers:
                        hear(piece)
                yield from result.words
        except (VideoError, ConnectionError) as error:
            self.error = error
        finally:
            last_words = self._timed(self._session.finish())
            self.error = self.error or self._session.error
            self._statistics.words.extend(last_words)
            # Each is closed, also when another one's closing fails.
            with contextlib.ExitStack() as closing:
                for listener in reversed(self._listeners):
                    closing.callback(listener.close, last_words)
                self._feed.close()
        yield from last_words

    def run(self, stop_after_s: float | None = None) -> dict[str, Any]:
        """Runs to the end of the source, as `words` does.

        Returns:
          The report (see `RunStatistics.report`), with `source`, `notes`, and `error`, what broke the run or None.
        """
        started_s = time.perf_counter()
        for _ in self.words(stop_after_s):
            pass
        report = self._statistics.report(
            duration_s=min(self._end_s, self._reader.length_s) if self._reader.length_s else self._end_s,
            wall_s=time.perf_counter() - started_s,
            compile_s=self._session.compile_s,
            dropped_frames=self._feed.dropped,
        )
        error = None if self.error is None else redact(str(self.error))
        return {"source": self._reader.info.source, **report, "notes": list(self._reader.info.notes), "error": error}

    def _wall_s(self) -> float:
        """The stream's time by the wall clock."""
        return time.monotonic() - (self._feed.started_s or time.monotonic())

    def _timed(self, words: list[TimedWord]) -> list[TimedWord]:
        """In real time a word is said when it comes, if that is later than its step."""
        if not self._realtime:
            return words
        wall_s = self._wall_s()
        return [word._replace(t_emit_s=max(word.t_emit_s, wall_s)) for word in words]
