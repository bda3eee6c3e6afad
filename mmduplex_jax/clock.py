"""The one clock: steps, ticks and seconds.

Text takes one slot a *step*; video gives one *tick* every `video_stride`-th step. Nothing else in the code multiplies a
rate by a time. Rates are kept as fractions, so that no conversion drifts however long a stream runs.
"""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Generic, TypeVar

Picture = TypeVar("Picture")

# A time this close below a boundary counts as on it: one microsecond, far under a step and over float64's rounding.
_EPSILON_S = Fraction(1, 1_000_000)
# A picture this close to a tick's time is at it.
_AT_S = 2e-6


@functools.cache
def _as_fraction(rate_hz: float) -> Fraction:
    return Fraction(rate_hz).limit_denominator(1000)


@dataclasses.dataclass(frozen=True)
class Clock:
    """Conversions between steps, ticks and seconds.

    Attributes:
      step_hz: text slots a second (12.5 is the frame rate of the Mimi audio codec).
      video_stride: steps from one video tick to the next.
    """

    step_hz: float = 12.5
    video_stride: int = 2

    def __post_init__(self):
        if not self.step_hz > 0:
            raise ValueError(f"clock.step_hz must be positive, got {self.step_hz}")
        if self.video_stride < 1:
            raise ValueError(f"clock.video_stride must be at least 1, got {self.video_stride}")

    @property
    def _step_rate(self) -> Fraction:
        return _as_fraction(self.step_hz)

    @property
    def tick_hz(self) -> float:
        return float(self._step_rate / self.video_stride)

    @property
    def step_s(self) -> float:
        return float(1 / self._step_rate)

    @property
    def tick_s(self) -> float:
        return float(self.video_stride / self._step_rate)

    @property
    def ticks_in_a_second(self) -> int:
        """The most ticks that any half-open second holds (7 at 6.25 Hz)."""
        return math.ceil(self._step_rate / self.video_stride)

    def step_at(self, time_s: float) -> int:
        """The last step at or before `time_s`."""
        return math.floor((Fraction(time_s) + _EPSILON_S) * self._step_rate)

    def tick_at(self, time_s: float) -> int:
        """The last tick at or before `time_s`."""
        return self.step_at(time_s) // self.video_stride

    def step_time_s(self, step: int) -> float:
        return float(step / self._step_rate)

    def tick_time_s(self, tick: int) -> float:
        return self.step_time_s(tick * self.video_stride)

    def step_of_tick(self, tick: int) -> int:
        return tick * self.video_stride

    def steps_in(self, duration_s: float) -> int:
        """Steps that begin in `[0, duration_s)`."""
        return math.ceil((Fraction(duration_s) - _EPSILON_S) * self._step_rate)

    def ticks_in(self, duration_s: float) -> int:
        """Ticks that begin in `[0, duration_s)`."""
        return -(-self.steps_in(duration_s) // self.video_stride)


class TickSampler(Generic[Picture]):
    """Decides which picture each tick shows, as pictures come in.

    A picture at a tick's own time is shown at once; one between two ticks is shown by the next tick, which is known
    when a later picture comes. Over a gap the last picture is repeated for at most `gap_s`; then time jumps.

    Attributes:
      last_s: the time of the last picture.
      held: the picture on the screen; None where there is none.
    """

    def __init__(self, clock: Clock, gap_s: float):
        self._clock, self._gap_ticks = clock, max(1, clock.ticks_in(gap_s))
        self.held: Picture | None = None
        self._next: int | None = None
        self.last_s: float | None = None

    def push(self, t_s: float, picture: Picture) -> list[tuple[float, Picture]]:
        """The ticks that are known now, with their pictures, in order.

        Raises:
          ValueError: the picture is not after the last one.
        """
        if self.last_s is not None and t_s <= self.last_s:
            raise ValueError(f"a picture at {t_s:.3f} s came after one at {self.last_s:.3f} s")
        due = self._clock.ticks_in(t_s)
        if self._next is None:
            self._next = due
        ticks: list[tuple[float, Picture]] = []
        if self.held is not None:
            repeated = range(self._next, min(due, self._next + self._gap_ticks))
            ticks = [(self._clock.tick_time_s(tick), self.held) for tick in repeated]
        # (A picture just before the tick that showed the last one leaves the next tick where it is.)
        self._next = max(self._next, due)
        if self._next == due and self._shows(t_s, due):
            ticks.append((self._clock.tick_time_s(due), picture))
            self._next = due + 1
        self.held, self.last_s = picture, t_s
        return ticks

    def jump(self) -> None:
        """Forgets the picture that is on the screen: the time up to the next one has no ticks."""
        self.held = None

    def begin_after(self, t_s: float, held: Picture | None = None) -> None:
        """Goes on where another sampler took its last picture, with what it held: no tick up to then comes again."""
        due = self._clock.ticks_in(t_s)
        self._next = due + 1 if self._shows(t_s, due) else due
        self.held, self.last_s = held, t_s

    def _shows(self, t_s: float, due: int) -> bool:
        """Whether a picture is shown by the first tick after it at once."""
        return self._clock.tick_time_s(due) <= t_s + _AT_S
