"""The one clock: steps, ticks and seconds.

Text takes one slot a *step*; video gives one *tick* every `video_stride`-th step. Nothing else in the code multiplies a
rate by a time. Rates are kept as fractions, so that no conversion drifts however long a stream runs.
"""

import dataclasses
import math
from fractions import Fraction

# A time this close below a boundary counts as on it: one microsecond, far under a step and over float64's rounding.
_EPSILON_S = Fraction(1, 1_000_000)


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
        return Fraction(self.step_hz).limit_denominator(1000)

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
