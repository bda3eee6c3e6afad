"""One stream's pictures on their way in: decoded, sampled at the ticks, and measured."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.serving.pictures import PictureDecoder, Shown
from mmduplex_jax.serving.protocol import Frame
from mmduplex_jax.serving.tick_sampler import TickSampler

# Green is most of brightness; a change below this is noise and compression.
_CHANGED = 16


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A picture that came decoded, from WebRTC: when, by the stream's clock, and the picture."""

    t_s: float
    frame: av.VideoFrame


class TakenTick(NamedTuple):
    """A tick for the model.

    Attributes:
      t_s: its time.
      frame: uint8 [frame_px, frame_px, 3].
      change: the share of the picture that changed since the tick before, 0 to 1.
    """

    t_s: float
    frame: np.ndarray
    change: float


class Intake:
    """From messages to ticks. One thread at a time may use it, and it may block for as long as decoding takes.

    Attributes:
      late: pictures that were left out because a later one had come before.
      too_fast: ticks that were left out, undecoded, because `may_take` said so.
    """

    def __init__(
        self, clock: Clock, frame_px: int, fit: str, *, pixels_max: int, gap_s: float, may_take: Callable[[], bool]
    ):
        """Makes it.

        Args:
          clock, frame_px: of the model.
          fit: how a wide picture becomes a square.
          pixels_max: of a picture.
          gap_s: how long a picture is repeated when none comes.
          may_take: asked before every tick.
        """
        self._decoder = PictureDecoder(frame_px, fit, pixels_max)
        self._sampler: TickSampler[Shown] = TickSampler(clock, gap_s)
        self._before: np.ndarray | None = None
        self._may_take = may_take
        self.late = self.too_fast = 0

    def take(self, picture: Frame | Decoded) -> list[TakenTick]:
        """Takes a picture and returns the ticks that are known with it.

        Raises:
          PictureRefused: one that does not decode or is too large; the stream may go on.
        """
        shown = (
            self._decoder.take(picture)
            if isinstance(picture, Frame)
            else [self._decoder.shown(picture.t_s, picture.frame)]
        )
        ticks: list[TakenTick] = []
        for one in shown:
            if self._sampler.last_s is not None and one.t_s <= self._sampler.last_s:
                self.late += 1
                continue
            for t_s, at_tick in self._sampler.push(one.t_s, one):
                if not self._may_take():
                    self.too_fast += 1
                    continue
                frame = at_tick.square()
                ticks.append(TakenTick(t_s, frame, changed_share(self._before, frame)))
                self._before = frame
        return ticks

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
