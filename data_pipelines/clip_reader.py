"""Clips out of a video: the frames and the sound of given windows, in one pass over the file."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from data_pipelines.audio_track import AudioFormat
from data_pipelines.sources import Rejected
from data_pipelines.windows import Window
from mmduplex_jax.clock import Clock

__all__ = ["AudioFormat", "Clip", "VideoLength", "probe", "read_clips"]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A window as the model sees it.

    Attributes:
      window: where it is in the file.
      frames: uint8 [T, px, px, 3] RGB; T ticks begin in the window.
      tick_times_s: float64 [T], when the picture of each tick was presented, from the window's start on. At most the
        tick's own time; less than 0 where a picture stays from before the window.
      audio: the encoded sound with its own header, exactly as long as the window; None where the file has no sound or none is asked for.
    """

    window: Window
    frames: np.ndarray
    tick_times_s: np.ndarray
    audio: bytes | None


@dataclasses.dataclass(frozen=True)
class VideoLength:
    """What is known of a video before it is decoded.

    Attributes:
      begin_s, end_s: when the first picture appears and when the last one ends, in the file's time: it counts from the
        start of the first stream (picture or sound), as players and transcripts do. So `begin_s` is 0 or a little more.
      has_audio: there is a sound stream.
    """

    begin_s: float
    end_s: float
    has_audio: bool

    @property
    def duration_s(self) -> float:
        return self.end_s - self.begin_s


def probe(video: str | os.PathLike[str] | bytes | BinaryIO, name: str = "") -> VideoLength:
    """Length and streams of a video, from its header where that has them, and from its packets where it has not.

    Args:
      video: a path, the file's bytes, or an open binary file that can seek.
      name: what messages call it; a path says it itself.

    Raises:
      VideoError: it is no video; the message names it and says why.
    """
    raise NotImplementedError


def read_clips(
    video: str | os.PathLike[str] | bytes | BinaryIO,
    windows: Sequence[Window],
    clock: Clock,
    frame_px: int,
    fit: str = "crop",
    audio: AudioFormat | None = None,
    name: str = "",
) -> Iterator[Clip | Rejected]:
    """Reads windows in one pass, seeking over what lies between them.

    Yields exactly one item for each window, in the windows' order: a Clip, or Rejected ("cannot decode" with libav's words) where
    the video breaks in that window, ends before it does, or is no video at all.

    Args:
      video: a path, the file's bytes, or an open binary file that can seek.
      windows: with starts in ascending order; they may overlap.
      clock: its ticks count from each window's start; tick k sees the last picture presented at or before it.
      frame_px, fit: as `decode.VideoReader` has them.
      audio: how to keep the sound; None leaves it.
      name: what messages call the video; a path says it itself.
    """
    raise NotImplementedError
