"""Encoded pictures of a client to ticks of the model: sampled by the clock, decoded where a tick shows them, compared.

Runs in the processes of `decoding.py`; a picture is decoded only where a tick shows it or a later one refers to it.
"""

import dataclasses
import functools
import struct
import time
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np
import simplejpeg

from data_pipelines.geometry import FrameFitter, fitter
from data_pipelines.video_source import VideoError, why
from mmduplex_jax.clock import Clock, TickSampler
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.serving.limits import Bucket
from mmduplex_jax.serving.protocol import PREDICTED, Frame

_US = Fraction(1, 1_000_000)
# A progressive JPEG repeats the whole picture in every scan; real ones have about ten.
_SCANS_MAX = 64
_SCAN = b"\xff\xda"
_VP8_START = b"\x9d\x01\x2a"
_ANIMATED = 0x02
_NAMES = {"h264": "H.264", "vp8": "VP8"}
# OpenCV would turn a picture as its metadata says; the protocol takes it as stored.
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# Green is most of brightness; a change below this is noise and compression.
_CHANGED = 16
# Times that go back by less are pictures out of order, which are left out; by more, the client's clock was set anew.
CLOCK_SET_BACK_S = 0.5


class PictureRefused(ValueError):
    """An encoded picture that is none, or is larger than it may be."""


class Shown(NamedTuple):
    """A picture that was on the screen from `t_s` on.

    Attributes:
      t_s: on the client's clock.
      frame: decodes it once, uint8 [H, W, 3] of the model; PictureRefused where it does not decode.
    """

    t_s: float
    frame: Callable[[], np.ndarray]


class PictureDecoder:
    """Decodes the pictures of one stream. One thread at a time may use it."""

    def __init__(self, frame_px: FrameSize, fit: str, pixels_max: int):
        self._fit_image, self._fit_frame = fitter(frame_px, fit), FrameFitter(frame_px, fit)
        self._pixels_max = pixels_max
        self._video: av.VideoCodecContext | None = None

    def take(self, frame: Frame) -> list[Shown]:
        """The pictures that this message shows: a still itself; of H.264 and VP8 those that are complete now.

        Raises:
          PictureRefused: it does not decode, or is too large.
        """
        if frame.codec in PREDICTED:
            return self._take_video(frame)
        size = jpeg_size(frame.data) if frame.codec == "jpeg" else webp_size(frame.data)
        self._check(*size)
        return [Shown(frame.t_s, functools.cache(lambda: self._still(frame)))]

    def _still(self, frame: Frame) -> np.ndarray:
        if frame.codec == "jpeg":
            try:
                image = simplejpeg.decode_jpeg(frame.data, "RGB")
            except ValueError as error:
                raise PictureRefused(f"does not decode as JPEG: {error}") from error
        else:
            try:
                decoded = cv2.imdecode(np.frombuffer(frame.data, np.uint8), _AS_STORED)
            except cv2.error as error:
                raise PictureRefused(f"does not decode as WebP: {error.err}") from error
            if decoded is None:
                raise PictureRefused("does not decode as WebP")
            image = decoded
        return self._fit_image(image, 1.0)

    def _frame(self, frame: av.VideoFrame) -> np.ndarray:
        try:
            return self._fit_frame(frame, 1.0)
        except VideoError as error:
            raise PictureRefused(str(error)) from error

    def _take_video(self, frame: Frame) -> list[Shown]:
        if frame.codec == "vp8" and (frame.keyframe or is_vp8_keyframe(frame.data)):
            # libav allocates before it compares with its own limit; what the sender calls it does not count.
            self._check(*vp8_size(frame.data))
        if self._video is None or self._video.name != frame.codec:
            if not frame.keyframe:
                raise PictureRefused("is no keyframe, and there is none before it: begin with one")
            self._video = self._open(frame.codec)
        packet = av.Packet(frame.data)
        packet.pts, packet.time_base = round(frame.t_s * 1e6), _US
        try:
            decoded = self._video.decode(packet)
        except av.error.FFmpegError as error:
            # Its references are of no use after a hole; the next keyframe begins anew.
            self._video = None
            raise PictureRefused(f"does not decode as {_NAMES[frame.codec]}: {why(error)}") from error
        shown = []
        for one in decoded:
            self._check(one.width, one.height)
            t_s = frame.t_s if one.pts is None else one.pts / 1e6
            shown.append(Shown(t_s, functools.cache(lambda one=one: self._frame(one))))
        return shown

    def _open(self, codec: str) -> av.VideoCodecContext:
        context = av.CodecContext.create(codec, "r")
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


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG; PictureRefused where it is none or would take long to decode for its size."""
    try:
        height_px, width_px, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise PictureRefused(f"is no JPEG: {error}") from error
    if data.count(_SCAN) > _SCANS_MAX:
        raise PictureRefused(f"is a JPEG of more than {_SCANS_MAX} scans")
    return width_px, height_px


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a still WebP, the larger of its canvas and its picture; PictureRefused where it is none.

    The format is that of RFC 9649.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise PictureRefused("is no WebP")
    width_px = height_px = 0
    at, found = 12, False
    while at + 8 <= len(data) and not found:
        name, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        chunk = data[at + 8 : at + 8 + min(length, 16)]
        if name == b"VP8X" and len(chunk) >= 10:
            if chunk[0] & _ANIMATED:
                raise PictureRefused("is an animated WebP; send stills")
            width_px = 1 + int.from_bytes(chunk[4:7], "little")
            height_px = 1 + int.from_bytes(chunk[7:10], "little")
        elif name == b"VP8 " and len(chunk) >= 10 and chunk[3:6] == _VP8_START:
            wide, high = struct.unpack_from("<HH", chunk, 6)
            width_px, height_px, found = max(width_px, wide & 0x3FFF), max(height_px, high & 0x3FFF), True
        elif name == b"VP8L" and len(chunk) >= 5 and chunk[0] == 0x2F:
            bits = int.from_bytes(chunk[1:5], "little")
            wide, high = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            width_px, height_px, found = max(width_px, wide), max(height_px, high), True
        at += 8 + length + length % 2
    if not found or not width_px or not height_px:
        raise PictureRefused("is a WebP without a picture")
    return width_px, height_px


def is_vp8_keyframe(data: bytes) -> bool:
    """Whether a picture of VP8 says that it is a keyframe (RFC 6386, 9.1)."""
    return bool(data) and not data[0] & 1


def vp8_size(data: bytes) -> tuple[int, int]:
    """Width and height that a keyframe of VP8 claims (RFC 6386, 9.1); PictureRefused where it is none."""
    if len(data) < 10 or not is_vp8_keyframe(data) or data[3:6] != _VP8_START:
        raise PictureRefused("is no keyframe of VP8")
    width_px, height_px = struct.unpack_from("<HH", data, 6)
    return width_px & 0x3FFF, height_px & 0x3FFF


class Tick(NamedTuple):
    """A tick for the model.

    Attributes:
      t_s: its time.
      frame: uint8 [H, W, 3], `frame_px` large.
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
      fit: how a picture of another shape becomes a frame.
      pixels_max: of a picture, width × height.
      gap_s: how long a picture is repeated when none comes.
      ticks_hz, ticks_burst: the rate of ticks that are decoded, and how many at once; None decodes all.
    """

    clock: Clock
    frame_px: FrameSize
    fit: str
    pixels_max: int
    gap_s: float
    ticks_hz: float | None = None
    ticks_burst: float = 1.0


class IntakeState(NamedTuple):
    """What an `Intake` remembers between two pictures, but for what H.264 and VP8 refer to.

    Of one that is lost the frames are not known: the next one begins after a gap.

    Attributes:
      last_s: the time of its last picture; None where it had taken none.
      late, too_fast: as `Taken` has them.
      set_back_s: as `Taken` is still to have it: where the clock was set back no picture has been taken.
      shown: the frame on the screen, uint8 [H, W, 3] of the model; None where there is none.
      before: the last tick's frame; None before the first.
    """

    last_s: float | None = None
    late: int = 0
    too_fast: int = 0
    set_back_s: float | None = None
    shown: np.ndarray | None = None
    before: np.ndarray | None = None


class Intake:
    """From pictures to ticks. One thread at a time may use it, and it may block for as long as decoding takes."""

    def __init__(
        self, config: IntakeConfig, begun: IntakeState | None = None, now: Callable[[], float] = time.monotonic
    ):
        """Begins, or goes on for the intake whose `state` or `saved` is `begun`."""
        self._config = config
        rate_hz = config.ticks_hz
        self._bucket = None if rate_hz is None else Bucket(rate_hz, config.ticks_burst, now)
        begun = begun or IntakeState()
        self._late, self._too_fast = begun.late, begun.too_fast
        self._before: np.ndarray | None = None
        self.reset()
        last_s, shown = begun.last_s, begun.shown
        self._set_back_s = begun.set_back_s
        if last_s is not None:
            self._sampler.begin_after(last_s, None if shown is None else Shown(last_s, lambda: shown))
            self._before = begun.before

    @property
    def state(self) -> IntakeState:
        """What the next one needs if this one is lost: all but the frames."""
        return IntakeState(self._sampler.last_s, self._late, self._too_fast, self._set_back_s)

    def saved(self) -> IntakeState:
        """All of it, with which the next one shows what this one would."""
        held = self._sampler.held
        try:
            shown = None if held is None else held.frame()
        except PictureRefused:
            shown = None
        return self.state._replace(shown=shown, before=self._before)

    def reset(self) -> None:
        """Begins anew, with any time; counts go on."""
        config = self._config
        self._decoder = PictureDecoder(config.frame_px, config.fit, config.pixels_max)
        # (Kept where the picture is refused with which the clock was set back: whoever takes the next one must know.)
        self._set_back_s = None
        self._begin()

    def _begin(self) -> None:
        self._sampler: TickSampler[Shown] = TickSampler(self._config.clock, self._config.gap_s)
        self._before = None

    def take(self, picture: Frame) -> Taken:
        """Takes a picture and returns the ticks that are known with it.

        Raises:
          PictureRefused: one that does not decode or is too large; the stream may go on.
        """
        ticks: list[Tick] = []
        gap_s = None
        for one in self._decoder.take(picture):
            last_s = self._sampler.last_s
            if last_s is not None and one.t_s <= last_s:
                if last_s - one.t_s < CLOCK_SET_BACK_S:
                    self._late += 1
                    continue
                self._set_back_s, ticks = last_s - one.t_s, []
                self._begin()
            elif last_s is not None and self._sampler.held is not None and one.t_s - last_s > self._config.gap_s:
                gap_s = one.t_s - last_s
            for t_s, at_tick in self._sampler.push(one.t_s, one):
                if self._bucket is not None and not self._bucket.take():
                    self._too_fast += 1
                    continue
                frame = at_tick.frame()
                ticks.append(Tick(t_s, frame, changed_share(self._before, frame)))
                self._before = frame
        set_back_s, self._set_back_s = self._set_back_s, None
        return Taken(ticks, self._late, self._too_fast, set_back_s, gap_s)

    def jump(self) -> None:
        """The stream stood still on purpose: its last picture is not repeated up to the next one."""
        self._sampler.jump()


def changed_share(before: np.ndarray | None, frame: np.ndarray) -> float:
    """The share of the pixels that differ between two ticks, 0 to 1; 0 where there is none before.

    Args:
      before, frame: uint8 [H, W, 3].
    """
    if before is None or before is frame:
        return 0.0
    green, green_before = frame[..., 1].astype(np.int16), before[..., 1].astype(np.int16)
    return float(np.mean(np.abs(green - green_before) > _CHANGED))
