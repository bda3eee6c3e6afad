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
from typing import NamedTuple

import av
import cv2
import numpy as np

from data_pipelines.geometry import FrameSquarer, Orientation, rgb_of, squarer
from data_pipelines.images import decode_still
from data_pipelines.pictures import DEFAULT_RATE_HZ, LONGEST_STILL_S, PictureList, PictureStream, open_pictures
from data_pipelines.source_info import VideoError, VideoInfo, camera_index, redact
from mmduplex_jax.clock import Clock

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
      frame: uint8 [frame_px, frame_px, 3].
      pictures: the source's pictures that appeared since the previous tick, up to and with this one (only where
        `picture_px` asks for them).
      original: the picture of this tick, uint8 [H, W, 3] upright in its stored size (only where `keep_original` asks).
    """

    tick: int
    t_s: float
    frame: np.ndarray
    pictures: tuple[Picture, ...] = ()
    original: np.ndarray | None = None


class VideoReader:
    """Iterates `(tick, t_s, frame uint8 [frame_px, frame_px, 3])` over a file, a URL, a camera or numbered pictures.

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
        source: str | os.PathLike[str] | int,
        clock: Clock,
        frame_px: int,
        fit: str = "crop",
        keep_original: bool = False,
        *,
        picture_px: int | None = None,
        trusted: bool = False,
        image_rate_hz: float = DEFAULT_RATE_HZ,
    ):
        """Opens the source.

        Args:
          source: path, URL or camera index (0 or "0"); where it is trusted also a folder of pictures, their numbered
            pattern ("shots/%04d.jpg"), a named pipe, or "-" for standard input.
          frame_px: side of the square frames.
          fit: "crop" the centre, or "pad" with black.
          keep_original: also hand out each tick's picture in its own size (`ticks()`).
          picture_px: also hand out the whole pictures (`ticks()`), scaled so that the longer side is at most this.
          trusted: whoever runs the program named the source, so that it may lead to other files, as playlists do.
          image_rate_hz: of a folder of pictures.
        """
        path = str(source) if isinstance(source, int) else os.fspath(source)
        self._name = redact(path)
        self._clock = clock
        self._square, self._square_image = FrameSquarer(frame_px, fit), squarer(frame_px, fit)
        self.frame_px, self.fit, self._picture_px, self._keep_original = frame_px, fit, picture_px, keep_original
        self._stream: PictureStream | PictureList | None = None
        self._camera: Camera | None = None
        self._started = False
        self._last_frame_s = 0.0
        self.length_s = 0.0
        self._orientation, self._pixel_aspect = Orientation(), 1.0
        self._shown: Iterator[tuple[float, av.VideoFrame | np.ndarray]]
        index = source if isinstance(source, int) else camera_index(path)
        if index is not None:
            self._camera = camera = Camera(index)
            self._shown = camera.pictures()
            self.info = VideoInfo(
                self._name, camera.width_px, camera.height_px, camera.rate_hz, None, "camera", live=True, endless=True
            )
            return
        if trusted and (os.path.isdir(path) or (_NUMBER.search(path) and not os.path.exists(path))):
            self._stream = _numbered_pictures(path, self._name, image_rate_hz)
        else:
            path = "/dev/stdin" if trusted and path == "-" else path
            self._stream = open_pictures(path, self._name, trusted=trusted)
        self.info, self._pixel_aspect = self._stream.info, self._stream.pixel_aspect
        self._shown = self._stream_pictures(self._stream)

    def __iter__(self) -> Iterator[tuple[int, float, np.ndarray]]:
        for tick in self.ticks():
            yield tick.tick, tick.t_s, tick.frame

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._camera is not None:
            self._camera.close()

    def ticks(self) -> Iterator[Tick]:
        """The ticks, with the whole pictures between them where `picture_px` was given."""
        if self._started:
            raise VideoError(f"{self._name}: a VideoReader is read once; open another one for a second pass")
        self._started = True
        held: av.VideoFrame | np.ndarray | None = None
        pictures: list[Picture] = []
        tick, last_s, orientation = 0, 0.0, self._orientation
        broken: VideoError | None = None
        while True:
            try:
                t_s, picture = next(self._shown)
            except StopIteration:
                break
            except VideoError as error:
                broken = error
                break
            # The ticks before this picture still see the one that was on the screen.
            due = self._clock.ticks_in(t_s)
            if held is not None and tick < due:
                frame, original = self._frame(held, orientation)
                while tick < due:
                    yield Tick(tick, self._clock.tick_time_s(tick), frame, tuple(pictures), original)
                    pictures = []
                    tick += 1
            held, last_s, orientation = picture, t_s, self._orientation
            self.length_s = last_s + self._last_frame_s
            if self._picture_px:
                pictures.append(Picture(t_s, self._picture(picture)))
        if held is not None:
            frame, original = self._frame(held, orientation)
            while tick < self._clock.ticks_in(self.length_s):
                yield Tick(tick, self._clock.tick_time_s(tick), frame, tuple(pictures), original)
                pictures = []
                tick += 1
        if broken is not None:
            raise broken

    def _stream_pictures(self, stream: PictureStream | PictureList) -> Iterator[tuple[float, av.VideoFrame]]:
        last_s, cut_s = stream.first_s, stream.first_s
        for picture in stream.shown():
            gap_s = picture.t_s - last_s
            if gap_s > LONGEST_STILL_S:
                resumed_s = last_s - cut_s + self._last_frame_s
                self.info.note(
                    f"no picture for {gap_s / 3600:.1f} h after {last_s - cut_s:.2f} s; time goes on from there"
                )
                cut_s = picture.t_s - resumed_s
            self._orientation, self._last_frame_s, last_s = picture.orientation, picture.length_s, picture.t_s
            yield picture.t_s - cut_s, picture.frame

    def _frame(
        self, picture: "av.VideoFrame | np.ndarray", orientation: Orientation
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The square, and the whole picture where it is to be kept."""
        if isinstance(picture, np.ndarray):
            return self._square_image(picture, self._pixel_aspect), picture if self._keep_original else None
        original = orientation.apply(rgb_of(picture)) if self._keep_original else None
        return orientation.apply(self._square(picture, self._pixel_aspect)), original

    def _picture(self, picture: "av.VideoFrame | np.ndarray") -> np.ndarray:
        height_px, width_px = picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)
        shown_w = width_px * self._pixel_aspect
        scale = min(1.0, self._picture_px / max(shown_w, height_px))
        size = max(1, round(shown_w * scale)), max(1, round(height_px * scale))
        if isinstance(picture, np.ndarray):
            return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        small = picture.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
        return self._orientation.apply(small)


class Camera:
    """Pictures of local camera number `index`, as they arrive. VideoError where it is not there or stops.

    Attributes:
      width_px, height_px: size of a picture.
      rate_hz: what the driver promises, or None.
    """

    def __init__(self, index: int):
        self._capture, self.index = cv2.VideoCapture(index), index
        # Held while the driver works, which a release under it would bring down.
        self._working, self._closed = threading.Lock(), False
        if not self._capture.isOpened():
            self._capture.release()
            raise VideoError(
                f"camera {index} cannot be opened: no such device, used by another program, or no permission (on Linux "
                f"it is /dev/video{index}; `v4l2-ctl --list-devices` names what is there)"
            )
        self.width_px = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height_px = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate_hz if rate_hz > 0 else None

    def pictures(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields `(t_s, uint8 [H, W, 3] RGB)`; the first at 0."""
        first_s = None
        while True:
            with self._working:
                if self._closed:
                    return
                ok, image = self._capture.read()
            arrived_s = time.monotonic()
            if not ok:
                raise VideoError(f"camera {self.index} stopped giving pictures (unplugged?)")
            first_s = arrived_s if first_s is None else first_s
            yield arrived_s - first_s, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

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
