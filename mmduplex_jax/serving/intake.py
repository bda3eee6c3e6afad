"""One stream's pictures on their way in: sampled at the clock's ticks, decoded where a tick shows them, compared."""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmduplex_jax.clock import Clock, TickSampler
from mmduplex_jax.serving.limits import Bucket
from mmduplex_jax.serving.pictures import PictureDecoder, Shown
from mmduplex_jax.serving.protocol import Frame

# Green is most of brightness; a change below this is noise and compression.
_CHANGED = 16
# Times that go back by less are pictures out of order, which are left out; by more, the client's clock was set anew.
CLOCK_SET_BACK_S = 0.5


class Tick(NamedTuple):
    """A tick for the model.

    Attributes:
      t_s: its time.
      frame: uint8 [frame_px, frame_px, 3].
      change: the share of the picture that changed since the tick before, 0 to 1.
    """

    t_s: float
    frame: np.ndarray
    change: float


class Taken(NamedTuple):
    """What a picture gave.

    Attributes:
      ticks: that are known with it, in order.
      late: pictures so far that were left out because a later one had come before.
      too_fast: ticks so far that were left out, undecoded, because they came faster than they may.
      set_back_s: by how much the client's clock was set back; the ticks are then of a stream that begins anew.
      gap_s: the length of a gap over which time jumped.
    """

    ticks: list[Tick]
    late: int
    too_fast: int
    set_back_s: float | None
    gap_s: float | None


@dataclasses.dataclass(frozen=True)
class IntakeConfig:
    """How a stream's pictures become ticks.

    Attributes:
      clock, frame_px: of the model.
      fit: how a wide picture becomes a square.
      pixels_max: of a picture, width × height.
      gap_s: how long a picture is repeated when none comes.
      ticks_hz, ticks_burst: the rate of ticks that are decoded, and how many at once; None decodes all.
    """

    clock: Clock
    frame_px: int
    fit: str
    pixels_max: int
    gap_s: float
    ticks_hz: float | None = None
    ticks_burst: float = 1.0


class Intake:
    """From pictures to ticks. One thread at a time may use it, and it may block for as long as decoding takes."""

    def __init__(self, config: IntakeConfig, now: Callable[[], float] = time.monotonic):
        self._config = config
        rate_hz = config.ticks_hz
        self._bucket = None if rate_hz is None else Bucket(rate_hz, config.ticks_burst, now)
        self._late = self._too_fast = 0
        self.reset()

    def reset(self) -> None:
        """Begins anew, with any time; counts go on."""
        config = self._config
        self._decoder = PictureDecoder(config.frame_px, config.fit, config.pixels_max)
        self._begin()

    def _begin(self) -> None:
        self._sampler: TickSampler[Shown] = TickSampler(self._config.clock, self._config.gap_s)
        self._before: np.ndarray | None = None

    def take(self, picture: Frame) -> Taken:
        """Takes a picture and returns the ticks that are known with it.

        Raises:
          PictureRefused: one that does not decode or is too large; the stream may go on.
        """
        ticks: list[Tick] = []
        set_back_s = gap_s = None
        for one in self._decoder.take(picture):
            last_s = self._sampler.last_s
            if last_s is not None and one.t_s <= last_s:
                if last_s - one.t_s < CLOCK_SET_BACK_S:
                    self._late += 1
                    continue
                set_back_s, ticks = last_s - one.t_s, []
                self._begin()
            elif last_s is not None and self._sampler.holds and one.t_s - last_s > self._config.gap_s:
                gap_s = one.t_s - last_s
            for t_s, at_tick in self._sampler.push(one.t_s, one):
                if self._bucket is not None and not self._bucket.take():
                    self._too_fast += 1
                    continue
                frame = at_tick.square()
                ticks.append(Tick(t_s, frame, changed_share(self._before, frame)))
                self._before = frame
        return Taken(ticks, self._late, self._too_fast, set_back_s, gap_s)

    def jump(self) -> None:
        """The stream stood still on purpose: its last picture is not repeated up to the next one."""
        self._sampler.jump()


def changed_share(before: np.ndarray | None, frame: np.ndarray) -> float:
    """The share of the pixels that differ between two ticks, 0 to 1; 0 where there is none before.

    Args:
      before, frame: uint8 [frame_px, frame_px, 3].
    """
    if before is None or before is frame:
        return 0.0
    green, green_before = frame[..., 1].astype(np.int16), before[..., 1].astype(np.int16)
    return float(np.mean(np.abs(green - green_before) > _CHANGED))
