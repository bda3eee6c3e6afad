"""Any video, tick by tick: at each tick of the clock the last picture that was on the screen.

Times are the container's own (presentation times, minus the first picture's), so variable rates, edit lists and starts
other than zero need no special case. Nothing is held but the picture that is on the screen.
"""

import functools
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import cv2
import numpy as np

from data_pipelines.geometry import FrameFitter, Orientation, rgb_of
from data_pipelines.images import decode_still
from data_pipelines.pictures import (
    DEFAULT_RATE_HZ,
    LONGEST_STILL_S,
    DecodedPicture,
    PictureList,
    PictureStream,
    open_pictures,
)
from data_pipelines.video_source import VideoError, VideoInfo, camera_index, redact
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
_NUMBER = re.compile(r"%(?:0?\d+)?d")


class Picture(NamedTuple):
    """A picture as shown: when, and uint8 [H, W, 3] RGB upright."""

    t_s: float
    image: np.ndarray


class Tick(NamedTuple):
    """What a tick sees.

    Attributes:
      tick: index on the clock.
      t_s: its time.
      frame: uint8 [H, W, 3], `frame_px` large.
      pictures: the source's pictures that appeared since the previous tick, up to and with this one (only where
        `picture_px` asks for them).
    """

    tick: int
    t_s: float
    frame: np.ndarray
    pictures: tuple[Picture, ...] = ()


class VideoReader:
    """Iterates `(tick, t_s, frame uint8 [H, W, 3])` over a file, a URL, a camera or numbered pictures.

    For every tick in the video's length, the last picture presented at or before it. One pass. Decoding stops when the
    iterator is closed; `close()` also ends it, from any thread. Opening decodes the first picture, and raises
    VideoError for what is no video. A file that breaks in the middle gives all the ticks that decode and raises
    VideoError at the end, with the time and the cause; a hole after which it goes on is skipped and noted, and so is a
    gap of over an hour (motion-triggered recordings), after which time goes on as if it had not been.

    Attributes:
      info: VideoInfo; its `notes` grow while reading (a guess that was made is said there).
      length_s: from the first picture to the end of the last one decoded so far.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | int | BinaryIO,
        clock: Clock,
        frame_px: FrameSize,
        fit: str = "crop",
        *,
        picture_px: int | None = None,
        trusted: bool = False,
        image_rate_hz: float = DEFAULT_RATE_HZ,
    ):
        """Opens the source.

        Args:
          source: path, URL, camera index (0 or "0") or an open file that can seek; where it is trusted also a folder of
            pictures, their numbered pattern ("shots/%04d.jpg"), a named pipe, or "-" for standard input.
          frame_px: height and width of the frames.
          fit: "crop" the centre, or "pad" with black.
          picture_px: also hand out the whole pictures (`ticks()`), scaled so that the longer side is at most this.
          trusted: whoever runs the program named the source, so that it may lead to other files, as playlists do.
          image_rate_hz: of a folder of pictures.
        """
        opened: BinaryIO | None = None
        if isinstance(source, int):
            path = str(source)
        elif isinstance(source, str | os.PathLike):
            path = os.fspath(source)
        else:
            opened, path = source, source.name
        self._name, self._clock = redact(path), clock
        self._fitted = FrameFitter(frame_px, fit)
        self.frame_px, self.fit, self._picture_px = frame_size(frame_px), fit, picture_px
        self._started = False
        self.length_s = 0.0
        index = source if isinstance(source, int) else camera_index(path)
        self._stream: PictureStream | PictureList | Camera
        if opened is not None:
            self._stream = open_pictures(opened, self._name)
        elif index is not None:
            self._stream = Camera(index)
        elif trusted and (os.path.isdir(path) or (_NUMBER.search(path) and not os.path.exists(path))):
            self._stream = _numbered_pictures(path, self._name, image_rate_hz)
        else:
            path = "/dev/stdin" if trusted and path == "-" else path
            self._stream = open_pictures(path, self._name, trusted=trusted)
        self.info = self._stream.info

    def __iter__(self) -> Iterator[tuple[int, float, np.ndarray]]:
        for tick in self.ticks():
            yield tick.tick, tick.t_s, tick.frame

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def ticks(self) -> Iterator[Tick]:
        """The ticks, with the whole pictures between them where `picture_px` was given."""
        if self._started:
            raise VideoError(f"{self._name}: a VideoReader is read once; open another one for a second pass")
        self._started = True
        on_screen: DecodedPicture | None = None
        pictures: list[Picture] = []
        tick = 0

        def ticks_until(until_s: float) -> Iterator[Tick]:
            """The ticks that see the picture that is on the screen until then."""
            nonlocal tick, pictures
            due = self._clock.ticks_in(until_s)
            if on_screen is None or tick >= due:
                return
            frame = self._fitted(on_screen.frame, self._stream.pixel_aspect, on_screen.orientation)
            while tick < due:
                yield Tick(tick, self._clock.tick_time_s(tick), frame, tuple(pictures))
                pictures = []
                tick += 1

        broken: VideoError | None = None
        shown = self._without_gaps()
        while True:
            try:
                picture = next(shown)
            except StopIteration:
                break
            except VideoError as error:
                broken = error
                break
            yield from ticks_until(picture.t_s)
            on_screen, self.length_s = picture, picture.t_s + picture.length_s
            if self._picture_px:
                pictures.append(Picture(picture.t_s, self._whole(picture)))
        yield from ticks_until(self.length_s)
        if broken is not None:
            raise broken

    def _without_gaps(self) -> Iterator[DecodedPicture]:
        """The pictures with times from the first one on; a gap of over an hour is closed."""
        begin_s = last_s = self._stream.first_s
        length_s = 0.0
        for picture in self._stream.shown():
            gap_s = picture.t_s - last_s
            if gap_s > LONGEST_STILL_S:
                at_s = last_s - begin_s
                self.info.note(f"no picture for {gap_s / 3600:.1f} h after {at_s:.2f} s; time goes on from there")
                begin_s = picture.t_s - at_s - length_s
            last_s, length_s = picture.t_s, picture.length_s
            yield picture._replace(t_s=last_s - begin_s)

    def _whole(self, picture: DecodedPicture) -> np.ndarray:
        """The whole picture, at most `picture_px` large."""
        width_px, height_px = picture.frame.width * self._stream.pixel_aspect, picture.frame.height
        scale = min(1.0, (self._picture_px or 0) / max(width_px, height_px))
        size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        return picture.orientation.apply(rgb_of(picture.frame, *size))


class Camera:
    """Pictures of local camera number `index`, as they arrive; VideoError where it is not there or stops.

    Attributes:
      info, pixel_aspect, first_s: as PictureStream has them.
    """

    pixel_aspect, first_s = 1.0, 0.0

    def __init__(self, index: int):
        self._capture, self._name = cv2.VideoCapture(index), f"camera {index}"
        # Held while the driver works, which a release under it would bring down.
        self._working, self._closed = threading.Lock(), False
        if not self._capture.isOpened():
            self._capture.release()
            raise VideoError(
                f"{self._name} cannot be opened: no such device, used by another program, or no permission (on Linux "
                f"it is /dev/video{index}; `v4l2-ctl --list-devices` names what is there)"
            )
        width_px = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height_px = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)  # what the driver promises
        self.info = VideoInfo(
            str(index), width_px, height_px, rate_hz if rate_hz > 0 else None, None, "camera", live=True
        )

    def shown(self) -> Iterator[DecodedPicture]:
        """The pictures with the time at which they arrived, the first at 0."""
        begin_s = None
        while True:
            with self._working:
                if self._closed:
                    return
                arrived, image = self._capture.read()
            now_s = time.monotonic()
            if not arrived:
                raise VideoError(f"{self._name} stopped giving pictures (unplugged?)")
            begin_s = now_s if begin_s is None else begin_s
            frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="bgr24")
            yield DecodedPicture(now_s - begin_s, 0.0, frame, Orientation(), "", True)

    def close(self) -> None:
        """Frees the camera, after the picture that another thread waits for (or with the process)."""
        self._closed = True
        if self._working.acquire(timeout=1.0):
            self._capture.release()
            self._working.release()


def _numbered_pictures(path: str, name: str, rate_hz: float) -> PictureList:
    """A folder of pictures, or those of a pattern such as "shots/%04d.jpg", in the order of their numbers."""
    if not rate_hz > 0:
        raise ValueError(f"pictures a second must be more than 0, got {rate_hz:g}")
    folder, pattern = (path, "") if os.path.isdir(path) else os.path.split(path)
    numbers = lambda file: [int(digits) for digits in re.findall(r"\d+", file)]
    try:
        listed = sorted(os.listdir(folder or "."), key=lambda file: (re.sub(r"\d+", "#", file), numbers(file), file))
    except OSError as error:
        raise VideoError(f"{name}: the folder of these pictures cannot be read: {error.strerror}") from error
    if pattern:
        named = re.compile(r"(\d+)".join(re.escape(part) for part in _NUMBER.split(pattern)))
        files = [file for file in listed if named.fullmatch(file)]
    else:
        files = [file for file in listed if Path(file).suffix.lower() in _IMAGE_SUFFIXES]
    if not files:
        kind = f"has no file of the pattern {pattern}" if pattern else "is a folder without pictures"
        raise VideoError(f"{name}: {kind}; a source is one video, or a folder of numbered pictures")
    load = lambda file: decode_still(Path(folder, file).read_bytes())
    pictures = [functools.partial(load, file) for file in files]
    stream = PictureList(name, Path(files[0]).suffix[1:].lower(), pictures, [1 / rate_hz] * len(files))
    stream.info.note(f"{len(files)} pictures; {rate_hz:g} a second are assumed")
    return stream
