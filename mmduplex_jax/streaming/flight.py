"""What is on the device and on its way back: rounds are dispatched, later their steps are read and told.

A *round* is one tick of every stream that has a frame.
"""

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jax.profiler import TraceAnnotation, annotate_function

from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.compilations import compilations
from mmduplex_jax.streaming.place import Place, Stream, WaitingFrame
from mmduplex_jax.streaming.pool_statistics import PoolCounts
from mmduplex_jax.streaming.rows import NO_TOKENS, Reading, Rows, SpentTokens, Step
from mmduplex_jax.word_decoder import TimedWord

_log = logging.getLogger(__name__)
# What the loop's thread does, by name in a profiler's trace; without one an annotation costs nothing to speak of.
DISPATCH, WAIT, TELL = "dispatch a round", "wait for a step", "tell a step"


class Part(NamedTuple):
    """A stream's part in a round.

    Attributes:
      place: where it sits.
      stream: what is being said there, which a reset after this round does not change.
      frame: what it shows.
      first_step: the model's step that the round begins with.
      delay_steps, pad_bias: the model's settings.
    """

    place: Place
    stream: Stream
    frame: WaitingFrame
    first_step: int
    delay_steps: int
    pad_bias: float


@dataclasses.dataclass
class _Round:
    """A round on the device: who takes part, the steps that were not read yet, when it began, how many were read."""

    parts: Sequence[Part]
    steps: deque[Step]
    began_s: float
    read: int = 0


class _Ending(NamedTuple):
    """The end of a stream, after the rounds before it; `last` where its seat ends with it."""

    place: Place
    stream: Stream
    last: bool


class Flight:
    """Rounds in the order in which they were dispatched, with the ends of streams between them.

    Attributes:
      rounds: how many are on their way.
      lag_s: how far behind the last results were for the stream that was furthest behind.
    """

    def __init__(
        self,
        rows: Rows,
        clock: Clock,
        counts: PoolCounts,
        lock: threading.Condition,
        now: Callable[[], float],
        deadline_s: float,
    ):
        """Nothing is on its way; `lock` is held wherever `counts` changes."""
        self._rows, self._clock, self._counts, self._lock = rows, clock, counts, lock
        self._now, self._deadline_s = now, deadline_s
        self._items: deque[_Round | _Ending] = deque()
        self._delays, self._biases = np.zeros(rows.count, np.int32), np.zeros(rows.count, np.float32)
        self._sent: tuple[bytes, bytes, int] | None = None
        self._done_s = self._round_done_s = now()
        self.rounds = 0
        self.lag_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._items)

    @partial(annotate_function, name=DISPATCH)
    def dispatch(self, parts: Sequence[Part], cap: int, now_s: float) -> None:
        """Sends a round to the device; waits for nothing.

        Args:
          parts: who takes part, each in a row of its own.
          cap: video tokens a second at most, a stream.
          now_s: when it was chosen.
        """
        compiled = compilations()
        count, side = self._rows.count, self._rows.frame_px
        # An array of its own for every round: a CPU device reads it in place.
        frames, active = np.zeros((count, side, side, 3), np.uint8), np.zeros(count, bool)
        for part in parts:
            row = part.place.row
            frames[row], active[row] = part.frame.frame, True
            self._delays[row], self._biases[row] = part.delay_steps, part.pad_bias
        settings = (self._delays.tobytes(), self._biases.tobytes(), cap)
        if settings != self._sent:
            self._sent = settings
            self._rows.configure(self._delays, self._biases, np.full(count, cap, np.int32))
        on_device = self._rows.send(frames)
        steps = [self._rows.step(on_device, active, with_report=i == 0) for i in range(self._clock.video_stride)]
        self._items.append(_Round(parts, deque(steps), now_s))
        self.rounds += 1
        with self._lock:
            self._counts.recompilations += compilations() - compiled

    def end(self, endings: Sequence[tuple[Place, Stream, bool]]) -> None:
        """Lets streams end after the rounds dispatched so far, and clears their rows for others.

        Args:
          endings: the place, its stream, and whether the seat ends too.
        """
        cleared = np.zeros(self._rows.count, bool)
        for place, stream, last in endings:
            cleared[place.row] = True
            self._items.append(_Ending(place, stream, last))
        self._rows.reset(cleared)

    def land(self) -> float | None:
        """Reads the oldest step, or ends a stream, and tells the listeners; waits for the device where it has to.

        Returns:
          Where a round is through: how long the device and the host were busy with it, rounds before it not counted.
        """
        item = self._items[0]
        if isinstance(item, _Ending):
            self._items.popleft()
            word = item.stream.words.flush()
            if word is not None:
                self._tell(item.place, [word], word.t_emit_s, NO_TOKENS, item.stream.steps, 0.0)
                with self._lock:
                    self._counts.words += 1
            if item.last:
                self._close(item.place)
            return None
        step = item.steps.popleft()
        waited, behind = not step.ready, bool(item.steps) or self.rounds > 1
        with TraceAnnotation(WAIT):
            reading = step.read()
        with TraceAnnotation(TELL):
            return self._tell_step(item, reading, waited, behind)

    def _tell_step(self, item: _Round, reading: Reading, waited: bool, behind: bool) -> float | None:
        """Tells what the round's next step gave; what `land` returns."""
        now_s = self._now()
        offset_s = self._clock.step_time_s(item.read)
        words = spent = 0
        lags_s = [now_s - part.frame.arrived_s for part in item.parts]
        for part, lag_s in zip(item.parts, lags_s):
            row, assembler, t_s = part.place.row, part.stream.words, part.frame.t_s + offset_s
            assembler.delay_s = self._clock.step_time_s(part.delay_steps)
            word = assembler.push(int(reading.slots[row]), t_s)
            if word is not None and part.place.live:
                # In real time a word is said when it comes, if that is later than its step.
                word = word._replace(t_emit_s=max(word.t_emit_s, part.frame.t_s + lag_s))
            tokens = reading.tokens(row)
            words, spent = words + (word is not None), spent + tokens.number
            self._tell(part.place, [] if word is None else [word], t_s, tokens, part.first_step + item.read, lag_s)
        with self._lock:
            self._count(item, now_s, lags_s, words, spent)
            if waited:
                self._counts.overlapped_waits += behind
                self._counts.idle_waits += not behind
        item.read += 1
        self._done_s = now_s
        if item.steps:
            return None
        self._items.popleft()
        self.rounds -= 1
        busy_s = now_s - max(item.began_s, self._round_done_s)
        self._round_done_s = now_s
        return busy_s

    def abandon(self, places: Sequence[Place]) -> None:
        """Gives up what is on its way, where the device failed: `places`, and those that were to end, end now."""
        leaving = [item.place for item in self._items if isinstance(item, _Ending) and item.last]
        self._items.clear()
        for place in (*places, *leaving):
            self._close(place)

    def _count(self, item: _Round, now_s: float, lags_s: Sequence[float], words: int, spent: int) -> None:
        counts = self._counts
        counts.steps += 1
        counts.words += words
        counts.step_s.add(now_s - max(item.began_s, self._done_s))
        self.lag_s = max(lags_s)
        if item.read == 0:
            counts.rounds += 1
            counts.ticks += len(item.parts)
            counts.tokens += spent
            counts.token_rate.add(now_s, spent)
        if len(item.steps) == 0:
            counts.missed_deadlines += sum(lag_s > self._deadline_s for lag_s in lags_s)
            for lag_s in lags_s:
                counts.lag_s.add(lag_s)

    def _tell(
        self, place: Place, words: list[TimedWord], t_s: float, tokens: SpentTokens, step: int, lag_s: float
    ) -> None:
        """Gives an output to the listener; one that fails ends its own seat and no other."""
        if place.error is not None:
            return
        try:
            place.give(words, t_s, tokens, step, lag_s)
        except Exception as error:  # noqa: BLE001  kept in `Seat.error`, counted and logged
            self._fail(place, error)

    def _close(self, place: Place) -> None:
        try:
            place.end()
        except Exception as error:  # noqa: BLE001  as above
            self._fail(place, error)

    def _fail(self, place: Place, error: Exception) -> None:
        _log.error("a listener failed; its seat ends", exc_info=error)
        with self._lock:
            place.error, place.leaving = error, True
            place.waiting.clear()
            self._counts.failed += 1
