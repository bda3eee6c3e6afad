"""Encoded pictures of clients to the square that the model looks at, decoded only where a tick shows them."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np
import simplejpeg

from data_pipelines.geometry import FrameSquarer, squarer
from data_pipelines.source_info import VideoError, why
from mmduplex_jax.serving.protocol import Frame
from mmduplex_jax.serving.still_headers import PictureRefused, jpeg_size, webp_size

_US = Fraction(1, 1_000_000)


class Shown(NamedTuple):
    """A picture that was on the screen from `t_s` on.

    Attributes:
      t_s: on the client's clock.
      square: decodes it once, uint8 [frame_px, frame_px, 3]; PictureRefused where it does not decode.
    """

    t_s: float
    square: Callable[[], np.ndarray]


class PictureDecoder:
    """Decodes the pictures of one stream. One thread at a time may use it."""

    def __init__(self, frame_px: int, fit: str, pixels_max: int):
        self._square_image, self._square_frame = squarer(frame_px, fit), FrameSquarer(frame_px, fit)
        self._pixels_max = pixels_max
        self._h264: av.VideoCodecContext | None = None

    def take(self, frame: Frame) -> list[Shown]:
        """The pictures that this message shows: a still itself; of H.264 those that are complete now.

        Raises:
          PictureRefused: it does not decode, or is too large.
        """
        if frame.codec == "h264":
            return self._take_h264(frame)
        size = jpeg_size(frame.data) if frame.codec == "jpeg" else webp_size(frame.data)
        self._check(*size)
        return [Shown(frame.t_s, functools.cache(lambda: self._still(frame)))]

    def shown(self, t_s: float, frame: av.VideoFrame) -> Shown:
        """A picture that was decoded elsewhere; PictureRefused where it is too large."""
        self._check(frame.width, frame.height)
        return Shown(t_s, functools.cache(lambda: self._frame(frame)))

    def _still(self, frame: Frame) -> np.ndarray:
        if frame.codec == "jpeg":
            try:
                image = simplejpeg.decode_jpeg(frame.data, "RGB")
            except ValueError as error:
                raise PictureRefused(f"does not decode as JPEG: {error}") from error
        else:
            decoded = cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if decoded is None:
                raise PictureRefused("does not decode as WebP")
            image = decoded
        return self._square_image(image, 1.0)

    def _frame(self, frame: av.VideoFrame) -> np.ndarray:
        try:
            return self._square_frame(frame, 1.0)
        except VideoError as error:
            raise PictureRefused(str(error)) from error

    def _take_h264(self, frame: Frame) -> list[Shown]:
        if self._h264 is None:
            if not frame.keyframe:
                raise PictureRefused("is no keyframe, and there is none before it: begin with one")
            self._h264 = self._open_h264()
        packet = av.Packet(frame.data)
        packet.pts, packet.time_base = round(frame.t_s * 1e6), _US
        try:
            decoded = self._h264.decode(packet)
        except av.error.FFmpegError as error:
            # What it knew is of no use after a hole; the next keyframe begins anew.
            self._h264 = None
            raise PictureRefused(f"does not decode as H.264: {why(error)}") from error
        return [self.shown(frame.t_s if one.pts is None else one.pts / 1e6, one) for one in decoded]

    def _open_h264(self) -> av.VideoCodecContext:
        context = av.CodecContext.create("h264", "r")
        assert isinstance(context, av.VideoCodecContext)
        # One thread and no pictures held back: a stream must not take the cores of others, nor come late.
        context.thread_count = 1
        context.options = {"max_pixels": str(self._pixels_max), "flags": "low_delay", "err_detect": "explode"}
        return context

    def _check(self, width_px: int, height_px: int) -> None:
        if width_px * height_px > self._pixels_max:
            raise PictureRefused(
                f"has {width_px}×{height_px} pixels; at most {self._pixels_max} are taken: send it smaller"
            )
