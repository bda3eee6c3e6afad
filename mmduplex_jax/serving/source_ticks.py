"""A source of the server's as ticks. Runs in the processes of `decoding.py`."""

import dataclasses
from typing import BinaryIO

import numpy as np

from data_pipelines.decode import VideoReader
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.serving.pictures import Tick, changed_share
from mmduplex_jax.streaming.frame_feed import FrameFeed

_LAG_MAX_S = 1.0
# How far a file is decoded ahead.
_AHEAD_S = 2.0


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """What is watched, and how it becomes ticks.

    Attributes:
      source: an address, or the whole path of a file.
      fit: how a picture of another shape becomes a frame.
      realtime: ticks come when they are due, and old ones may go.
    """

    source: str
    clock: Clock
    frame_px: FrameSize
    fit: str
    realtime: bool


class SourceTicks:
    """The ticks of a source, one by one."""

    def __init__(self, config: SourceConfig, file: BinaryIO | None):
        """Opens it, which decodes its first picture.

        Args:
          config: how.
          file: what a path leads to, open; None where it is an address.

        Raises:
          VideoError: it is no video.
        """
        source = config.source if file is None else file
        reader = VideoReader(source, config.clock, config.frame_px, config.fit)
        ahead = max(1, config.clock.ticks_in(_AHEAD_S))
        self._ticks = iter(FrameFeed(reader, realtime=config.realtime, max_waiting=ahead, lag_max_s=_LAG_MAX_S))
        self._before: np.ndarray | None = None

    def next(self) -> Tick | None:
        """The next one; None after the last. Raises what broke the source."""
        one = next(self._ticks, None)
        if one is None:
            return None
        tick = Tick(one.t_s, one.frame, changed_share(self._before, one.frame))
        self._before = one.frame
        return tick
