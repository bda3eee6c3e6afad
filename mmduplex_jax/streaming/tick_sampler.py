"""Pictures at any times to ticks of the clock: each tick shows the last picture that was on the screen."""

from typing import Generic, TypeVar

from mmduplex_jax.clock import Clock

Picture = TypeVar("Picture")
# A picture this close to a tick's time is at it.
_AT_S = 2e-6


class TickSampler(Generic[Picture]):
    """Decides which picture each tick shows, as pictures come in.

    A picture at a tick's own time is shown at once; one between two ticks is shown by the next tick, which is known
    when a later picture comes. Over a gap the last picture is repeated for at most `gap_s`; then time jumps.

    Attributes:
      last_s: the time of the last picture.
    """

    def __init__(self, clock: Clock, gap_s: float):
        self._clock, self._gap_ticks = clock, max(1, clock.ticks_in(gap_s))
        self._held: Picture | None = None
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
        if self._held is not None:
            repeated = range(self._next, min(due, self._next + self._gap_ticks))
            ticks = [(self._clock.tick_time_s(tick), self._held) for tick in repeated]
        # (A picture just before the tick that showed the last one leaves the next tick where it is.)
        self._next = max(self._next, due)
        if self._next == due and self._clock.tick_time_s(due) <= t_s + _AT_S:
            ticks.append((self._clock.tick_time_s(due), picture))
            self._next = due + 1
        self._held, self.last_s = picture, t_s
        return ticks

    def jump(self) -> None:
        """Forgets the picture that is on the screen: the time up to the next one has no ticks."""
        self._held = None

    @property
    def holds(self) -> bool:
        """Whether a picture is on the screen."""
        return self._held is not None
