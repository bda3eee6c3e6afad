"""Any video, tick by tick: at each tick of the clock the last picture that was on the screen.

Times are the container's own (presentation times, minus the first picture's), so variable rates, edit lists and starts
other than zero need no special case. Nothing is held but the picture that is on the screen.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import av
import cv2
import numpy as np

from data_pipelines.camera import Camera, CameraError
from data_pipelines.frame_pixels import FrameSquarer, rgb_of
from data_pipelines.geometry import Orientation, squarer
from data_pipelines.pictures import PictureStream
from data_pipelines.source_info import VideoError, VideoInfo, camera_index
from mmduplex_jax.clock import Clock


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
    """Iterates `(tick, t_s, frame uint8 [frame_px, frame_px, 3])` over a file, a URL or a camera.

    For every tick in the video's length, the last picture presented at or before it. One pass. Decoding stops when the
    iterator is closed; `close()` also ends it. Opening decodes the first picture, and raises VideoError for what is no
    video. A file that breaks in the middle gives all the ticks that decode and raises VideoError at the end, with the
    time and the cause; a hole after which it goes on is skipped and noted.

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
    ):
        """Opens the source.

        Args:
          source: path, URL or camera index (0 or "0").
          frame_px: side of the square frames.
          fit: "crop" the centre, or "pad" with black.
          keep_original: also hand out each tick's picture in its own size (`ticks()`).
          picture_px: also hand out the whole pictures (`ticks()`), scaled so that the longer side is at most this.
        """
        self._name = str(source) if isinstance(source, int) else os.fspath(source)
        self._clock = clock
        self._square, self._square_image = FrameSquarer(frame_px, fit), squarer(frame_px, fit)
        self.frame_px, self.fit, self._picture_px, self._keep_original = frame_px, fit, picture_px, keep_original
        self._stream: PictureStream | None = None
        self._camera: Camera | None = None
        self._started = False
        self._last_frame_s = 0.0
        self.length_s = 0.0
        self._orientation, self._pixel_aspect = Orientation(), 1.0
        index = source if isinstance(source, int) else camera_index(self._name)
        self._shown: Iterator[tuple[float, av.VideoFrame | np.ndarray]]
        if index is None:
            self._stream = stream = PictureStream(self._name, self._name)
            self.info, self._pixel_aspect = stream.info, stream.pixel_aspect
            self._shown = self._stream_pictures(stream)
        else:
            self._open_camera(index)

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

    def _open_camera(self, index: int) -> None:
        try:
            self._camera = camera = Camera(index)
        except CameraError as error:
            raise VideoError(str(error)) from error
        self._shown = self._camera_pictures(camera)
        self.info = VideoInfo(self._name, camera.width_px, camera.height_px, camera.rate_hz, None, "camera", live=True)

    def _camera_pictures(self, camera: Camera) -> Iterator[tuple[float, np.ndarray]]:
        try:
            yield from camera.pictures()
        except CameraError as error:
            raise VideoError(str(error)) from error

    def _stream_pictures(self, stream: PictureStream) -> Iterator[tuple[float, av.VideoFrame]]:
        for picture in stream.shown():
            self._orientation, self._last_frame_s = picture.orientation, picture.length_s
            yield picture.t_s - stream.first_s, picture.frame

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
