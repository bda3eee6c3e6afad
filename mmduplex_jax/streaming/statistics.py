"""What a stream and a pool count: counters that only grow, histograms of fixed size, rates, and what XLA compiles."""

import bisect
import dataclasses
import itertools
import math
import threading
from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.word_decoder import TimedWord

# Seconds, upper bounds as Prometheus has them: fine where the deadlines are.
STEP_BOUNDS_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.32)
LAG_BOUNDS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
_RATE_S = 10
_COMPILED_EVENT = "/jax/core/compile/backend_compile_duration"
_compiled_by_thread: Counter[int] = Counter()
_lock = threading.Lock()
_listening = False


class Histogram:
    """Counts values in buckets.

    Attributes:
      bounds: upper bounds of the buckets, inclusive, rising.
      counts: values in each bucket; one more, for those over the last bound.
      sum: of all values.
    """

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def number(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The upper bound of the bucket that holds the quantile; infinite over the last; None where it is empty."""
        wanted, seen = share * self.number, 0
        for bound, count in zip((*self.bounds, math.inf), self.counts):
            seen += count
            if count and seen >= wanted:
                return bound
        return None

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus's buckets: `(upper bound, values up to it)`, the last for "+Inf"."""
        bounds = (*(str(float(bound)) for bound in self.bounds), "+Inf")
        return [(bound, float(number)) for bound, number in zip(bounds, itertools.accumulate(self.counts))]


class Rate:
    """A sum over the last ten seconds, in slices of one."""

    def __init__(self) -> None:
        self._slices: deque[tuple[int, int]] = deque()

    def add(self, now_s: float, amount: int) -> None:
        second = int(now_s)
        if self._slices and self._slices[-1][0] == second:
            amount += self._slices.pop()[1]
        self._slices.append((second, amount))
        self._forget(second)

    def per_s(self, now_s: float) -> float:
        """The mean over the last ten whole seconds and the one that runs."""
        self._forget(int(now_s))
        return sum(amount for _, amount in self._slices) / (_RATE_S + now_s - int(now_s))

    def _forget(self, second: int) -> None:
        while self._slices and self._slices[0][0] < second - _RATE_S:
            self._slices.popleft()


@dataclasses.dataclass
class PoolCounts:
    """What a pool counts while it runs; nothing in it grows with time.

    Attributes:
      joined, left: sessions.
      refused: sessions that were not admitted, by reason.
      failed: sessions whose listener raised.
      rounds, steps: of the whole batch.
      ticks: of all streams.
      words, tokens: of all streams.
      sound_steps: steps of streams that speak, whose sound was made.
      sound_steps_left_out: those whose sound was left out, since the machine was too slow.
      dropped_frames: frames that were not looked at, because they came too late or too fast.
      cuts: at which streams began anew.
      missed_deadlines: ticks whose results came after the policy's deadline.
      overlapped_waits: how often the loop waited for the device while that had more to do.
      idle_waits: how often it waited with nothing dispatched behind.
      rungs: rounds that were run on each rung of the policy's ladder.
      recompilations: programs compiled in the loop since it began.
      step_s: how long steps of the whole batch took.
      lag_s: from a frame's arrival to its tick's first results.
      token_rate: of `tokens`.
    """

    joined: int = 0
    left: int = 0
    refused: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: int = 0
    rounds: int = 0
    steps: int = 0
    ticks: int = 0
    words: int = 0
    tokens: int = 0
    sound_steps: int = 0
    sound_steps_left_out: int = 0
    dropped_frames: int = 0
    cuts: int = 0
    missed_deadlines: int = 0
    overlapped_waits: int = 0
    idle_waits: int = 0
    rungs: Counter[int] = dataclasses.field(default_factory=Counter)
    recompilations: int = 0
    step_s: Histogram = dataclasses.field(default_factory=lambda: Histogram(STEP_BOUNDS_S))
    lag_s: Histogram = dataclasses.field(default_factory=lambda: Histogram(LAG_BOUNDS_S))
    token_rate: Rate = dataclasses.field(default_factory=Rate)


class PoolStatistics(NamedTuple):
    """A pool at one moment.

    Attributes:
      sessions, slots: taken, and there are.
      running: the loop runs and has not failed.
      rung: of the policy's ladder.
      load: the share of the time that rounds take.
      lag_s: how far the stream that is furthest behind was behind, at the last results.
      tokens_per_s: video tokens, all streams, over the last ten seconds.
      compile_s: what construction compiled for.
      counts: everything since construction; a copy.
      speaking: streams that ask to be heard.
      unheard: those of them whose sound is left out now.
      turn_s: how long the loop has been at its present turn; one that waits for a device that hangs grows without end.
      admits: the policy lets new streams in.
    """

    sessions: int
    slots: int
    running: bool
    rung: int
    load: float
    lag_s: float
    tokens_per_s: float
    compile_s: float
    counts: PoolCounts
    speaking: int = 0
    unheard: int = 0
    turn_s: float = 0.0
    admits: bool = True

    @property
    def dropped_frames(self) -> int:
        return self.counts.dropped_frames

    @property
    def cuts(self) -> int:
        return self.counts.cuts

    @property
    def recompilations(self) -> int:
        return self.counts.recompilations

    @property
    def step_s_buckets(self) -> list[tuple[str, float]]:
        return self.counts.step_s.cumulative()

    @property
    def step_s_sum(self) -> float:
        return self.counts.step_s.sum


class RunStatistics:
    """Counts what a stream does, a few bytes a step, and makes its report."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._step_ms, self._tick_ms = array("f"), array("f")
        self._second: deque[int] = deque(maxlen=clock.ticks_in_a_second)
        self._tokens = 0
        self.tokens_max = 0
        self.ticks = 0
        self.lag_max_s = 0.0
        self.words: list[TimedWord] = []

    @property
    def tokens_in_last_second(self) -> int:
        return sum(self._second)

    def add(self, words: Sequence[TimedWord], n_tokens: int, step_ms: Sequence[float], lag_s: float) -> None:
        """Counts one tick."""
        self.ticks += 1
        self._tokens += n_tokens
        self._second.append(n_tokens)
        self.tokens_max = max(self.tokens_max, self.tokens_in_last_second)
        self._step_ms.extend(step_ms)
        self._tick_ms.append(sum(step_ms))
        self.lag_max_s = max(self.lag_max_s, lag_s)
        self.words.extend(words)

    def report(self, *, duration_s: float, wall_s: float, compile_s: float, dropped_frames: int) -> dict[str, Any]:
        """The report as JSON values; a number that a run was too short for is None.

        Args:
          duration_s: seconds of video.
          wall_s: from the first tick to the last word, compilation not counted.
          compile_s: what compilation took before that.
          dropped_frames: ticks whose frame an overloaded real-time run left out.
        """
        lags = [word.t_emit_s - word.t_video_s for word in self.words]
        return {
            "duration_s": round(duration_s, 4),
            "wall_s": round(wall_s, 4),
            "real_time_factor": round(duration_s / wall_s, 3) if wall_s else None,
            "ticks": self.ticks,
            "tokens_per_s_mean": round(self._tokens / duration_s, 3) if duration_s else None,
            "tokens_in_any_second_max": self.tokens_max,
            **_percentiles("step_ms", self._step_ms),
            **_percentiles("tick_ms", self._tick_ms),
            "word_lag_p50_s": round(float(np.median(lags)), 4) if lags else None,
            "compile_s": round(compile_s, 3),
            "dropped_frames": dropped_frames,
            "lag_max_s": round(self.lag_max_s, 4),
            "words": [
                {"text": w.text, "t_video_s": round(w.t_video_s, 4), "t_emit_s": round(w.t_emit_s, 4)}
                | ({} if w.ends_sentence is None else {"ends_sentence": w.ends_sentence})
                | ({} if w.scene_s is None else {"scene_s": round(w.scene_s, 4)})
                for w in self.words
            ],
        }


def format_report(report: Mapping[str, Any]) -> str:
    """A run's report as a person reads it: length and speed, tokens, step times, words, notes."""
    number = lambda name, form="{}": "-" if report[name] is None else form.format(report[name])
    lines = [
        f"  {number('duration_s', '{:.2f}')} s of video in {number('wall_s', '{:.2f}')} s: "
        f"{number('real_time_factor', '{:.1f}')} x real time (compiled in {number('compile_s', '{:.1f}')} s before)",
        f"  {report['ticks']} ticks, {report['dropped_frames']} dropped; tokens a second: "
        f"{number('tokens_per_s_mean', '{:.1f}')} on average, {report['tokens_in_any_second_max']} at most "
        f"(cap {report['tokens_per_s_cap']})",
        f"  a step takes {number('step_ms_p50')} ms (p95 {number('step_ms_p95')}, p99 {number('step_ms_p99')}), "
        f"a tick {number('tick_ms_p50')} ms",
        f"  {len(report['words'])} words, {number('word_lag_p50_s', '{:.2f}')} s after the picture (median)",
        *(f"  note: {note}" for note in report["notes"]),
    ]
    return "\n".join(lines)


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not len(values):
        return {f"{name}_p{p}": None for p in (50, 95, 99)}
    return {f"{name}_p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 95, 99)}


def _count_compilation(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == _COMPILED_EVENT:
        # The listener runs in the thread that compiles.
        _compiled_by_thread[threading.get_ident()] += 1


def compilations() -> int:
    """How often this thread has compiled since the first call of this function in the process."""
    global _listening
    with _lock:
        if not _listening:
            jax.monitoring.register_event_duration_secs_listener(_count_compilation)
            _listening = True
    return _compiled_by_thread[threading.get_ident()]
