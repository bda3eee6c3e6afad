"""The numbers of a pool: counters that only grow, histograms of fixed size, and rates over the last seconds."""

import bisect
import dataclasses
import itertools
import math
from collections import Counter, deque
from typing import NamedTuple

# Seconds, upper bounds as Prometheus has them: fine where the deadlines are.
STEP_BOUNDS_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.32)
LAG_BOUNDS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
_RATE_S = 10


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
      dropped_frames: frames that were not looked at, because they came too late or too fast.
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
    dropped_frames: int = 0
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

    @property
    def dropped_frames(self) -> int:
        return self.counts.dropped_frames

    @property
    def recompilations(self) -> int:
        return self.counts.recompilations

    @property
    def step_s_buckets(self) -> list[tuple[str, float]]:
        return self.counts.step_s.cumulative()

    @property
    def step_s_sum(self) -> float:
        return self.counts.step_s.sum
