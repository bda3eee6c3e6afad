"""Any video, tick by tick: at each tick of the clock the last picture that was on the screen.

Times are the container's own (presentation times, minus the first picture's), so variable rates, edit lists and starts
other than zero need no special case. Nothing is held but the picture that is on the screen.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from data_pipelines.camera import Camera, CameraError
from data_pipelines.geometry import Orientation, orientation_of_matrix, squarer
from data_pipelines.source_info import LIVE_SCHEMES, VideoError, VideoInfo, camera_index, scheme_of, why
from mmduplex_jax.clock import Clock

# libav reads any text file as terminal art; nobody means that by a video.
_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
# A recording that ends earlier than it says by more than this was cut; less is rounding of the last picture's length.
_CUT_TOLERANCE_S = 0.25
# Without the stream's own length only the file's is known, which counts other streams and is written with less care.
_CUT_TOLERANCE_FILE_S = 0.75
# A still picture for longer than this is a broken time stamp, not a video; filling it with ticks would never end.
_LONGEST_STILL_S = 3600.0
_DEFAULT_RATE_HZ = 25.0
# Time stamps that go back by less than this are inexact, by more the clock was set anew (joined recordings).
_JITTER_S = 0.1
# A title may be in any encoding. PyAV 19 takes it as it comes and does not know the word; before, it has to be told.
_ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_OPEN_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 20.0


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
        self._square = squarer(frame_px, fit)
        self.frame_px, self.fit, self._picture_px, self._keep_original = frame_px, fit, picture_px, keep_original
        self._container: av.container.InputContainer | None = None
        self._camera: Camera | None = None
        self._orientation = Orientation()
        self._started = False
        self._last_frame_s = self._shift_s = 0.0
        self.length_s = 0.0
        self._matrix: bytes | None = None
        index = source if isinstance(source, int) else camera_index(self._name)
        self._shown: Iterator[tuple[float, av.VideoFrame | np.ndarray]]
        if index is None:
            self._open_container()
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
        if self._container is not None:
            self._container.close()
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
            if t_s - last_s > _LONGEST_STILL_S:
                broken = VideoError(
                    f"{self._name}: at {last_s:.2f} s the next picture claims to be {t_s - last_s:.0f} s later; its "
                    "time stamps are broken"
                )
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

    def _open_container(self) -> None:
        name, scheme = self._name, scheme_of(self._name)
        if scheme is None:
            if not os.path.exists(name):
                raise VideoError(f"{name}: no such file (a path, a URL or the number of a camera is expected)")
            if os.path.isfile(name) and os.path.getsize(name) == 0:
                raise VideoError(f"{name}: the file is empty (0 bytes)")
        try:
            timeout_s = (_OPEN_TIMEOUT_S, _READ_TIMEOUT_S) if scheme else None
            container = av.open(name, timeout=timeout_s, **_ANY_TITLE)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{name}: cannot be opened as a video: {why(error)}") from error
        # A cover picture is no video, though libav prefers it where it is marked as the default.
        videos = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
        stream = container.streams.best("video")
        if stream not in videos:
            stream = videos[0] if videos else None
        if stream is not None and stream.codec_context.name in _TEXT_CODECS:
            container.close()
            raise VideoError(f"{name}: is text, not a video")
        if stream is None:
            kinds = sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams})
            container.close()
            raise VideoError(f"{name}: has no video stream, only {', '.join(kinds) or 'nothing'}")
        self._container = container
        live = scheme in LIVE_SCHEMES
        # Frame threads decode fastest and hold pictures back by their number: not for what is live.
        stream.thread_type = "SLICE" if live else "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        self._rate_hz = float(rate) if rate else None
        aspect = stream.sample_aspect_ratio
        self._pixel_aspect = float(aspect) if aspect else 1.0
        if stream.duration is not None:
            duration_s: float | None = _seconds(stream.duration, stream.time_base)
        else:
            duration_s = container.duration / av.time_base if container.duration else None
        context = stream.codec_context
        self.info = VideoInfo(
            name, context.width, context.height, self._rate_hz, None if live else duration_s, context.name, live
        )
        if self._pixel_aspect != 1.0:
            self.info.note(f"pixels are not square ({aspect}); they are stretched as a player does")
        if len(videos) > 1:
            self.info.note(f"several video streams; stream {stream.index} is read")
        # With the first picture the orientation is known, and that there is one.
        decoded = self._decoded(container, stream)
        try:
            self._shown = itertools.chain([next(decoded)], decoded)
        except VideoError:
            self.close()
            raise

    def _open_camera(self, index: int) -> None:
        try:
            self._camera = camera = Camera(index)
        except CameraError as error:
            raise VideoError(str(error)) from error
        self._rate_hz, self._pixel_aspect = camera.rate_hz, 1.0
        self._shown = self._camera_pictures(camera)
        self.info = VideoInfo(self._name, camera.width_px, camera.height_px, camera.rate_hz, None, "camera", live=True)

    def _camera_pictures(self, camera: Camera) -> Iterator[tuple[float, np.ndarray]]:
        try:
            yield from camera.pictures()
        except CameraError as error:
            raise VideoError(str(error)) from error

    def _decoded(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        """`(t_s, frame)` in order of presentation, the first at 0; VideoError at the end if something was broken."""
        live = self.info.live
        first_s = last_s = hole_s = None
        reached_s = file_reached_s = 0.0
        skipped, damaged, first_skip, lost = 0, 0, "", ""
        packets = container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.error.FFmpegError, OSError) as error:
                lost = why(error)
                break
            end_s = 0.0 if packet.pts is None else _seconds(packet.pts + (packet.duration or 0), packet.time_base)
            file_reached_s = max(file_reached_s, end_s)
            if packet.stream.index != stream.index:
                continue
            reached_s = max(reached_s, end_s)
            try:
                if packet.is_corrupt and not live:
                    raise av.error.InvalidDataError(0, "the packet is cut short")
                frames = packet.decode()
            except av.error.FFmpegError as error:
                stamp = packet.dts if packet.pts is None else packet.pts
                hole_s = (last_s or 0.0) if stamp is None else _seconds(stamp, packet.time_base) + self._shift_s
                skipped += 1
                first_skip = first_skip or f"near {hole_s - (first_s or 0.0):.2f} s: {why(error)}"
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)  # the packet is of a video stream
                t_s = self._time_of(frame, last_s)
                first_s = t_s if first_s is None else first_s
                last_s = t_s
                # Threads hand out pictures from before the hole after it; only a later one shows that it goes on.
                hole_s = None if hole_s is not None and t_s >= hole_s else hole_s
                damaged += frame.is_corrupt
                self._orient(frame)
                self._last_frame_s = self._length_of(frame)
                yield t_s - first_s, frame
        if first_s is None or last_s is None:
            cause = lost or first_skip
            raise VideoError(f"{self._name}: no picture decodes" + (f" ({cause})" if cause else ""))
        if damaged:
            self.info.note(f"damaged pictures, in which the decoder filled what is missing: {damaged}")
        packets_do = "1 packet does" if skipped == 1 else f"{skipped} packets do"
        skips = f"{packets_do} not decode, the first {first_skip}" if skipped else ""
        missing = "" if live else _missing(container, stream, first_s, reached_s, file_reached_s)
        unseen_s = reached_s + self._shift_s - last_s - self._last_frame_s
        if unseen_s > self._last_frame_s / 2 and not (live or lost or skips):  # libav hides what fails at the very end
            self.info.note(f"the last {unseen_s:.2f} s gave no picture")
        lost = lost and f"reading failed at {last_s - first_s:.2f} s: {lost}"
        if missing or lost or (hole_s is not None and not live):
            causes = "; ".join(cause for cause in (missing, lost, skips) if cause)
            raise VideoError(f"{self._name}: broken: {causes}. What came before stands; for the rest get a whole copy")
        if skips:
            self.info.note(skips)

    def _time_of(self, frame: av.VideoFrame, last_s: float | None) -> float:
        rate_hz = self._rate_hz or _DEFAULT_RATE_HZ
        after_s = 0.0 if last_s is None else last_s + 1 / rate_hz
        if frame.pts is None or frame.time_base is None:
            self.info.note(f"some pictures have no time stamp; {rate_hz:g} pictures a second are assumed there")
            return after_s
        t_s = float(frame.pts * frame.time_base) + self._shift_s
        if last_s is not None and last_s - _JITTER_S <= t_s < last_s:
            return last_s  # an assumed time ran ahead, or rounding; a shift for each would add up to a drift
        if last_s is not None and t_s < last_s:
            self.info.note(f"time stamps go back at {last_s:.2f} s; time goes on from there")
            self._shift_s += after_s - t_s
            return after_s
        return t_s

    def _length_of(self, frame: av.VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return min(float(frame.duration * frame.time_base), _LONGEST_STILL_S)
        return 1 / (self._rate_hz or _DEFAULT_RATE_HZ)

    def _orient(self, frame: av.VideoFrame) -> None:
        side_data: Any = frame.side_data  # PyAV 18 declares names as its only keys
        data = side_data.get(SideData.DISPLAYMATRIX)
        matrix = None if data is None else bytes(data)
        if matrix == self._matrix:
            return
        self._matrix = matrix
        self._orientation, exact = (Orientation(), True) if matrix is None else orientation_of_matrix(matrix)
        if not exact:
            self.info.note("the rotation is not a quarter turn; the nearest is used")
        self.info.turn(frame.width, frame.height, self._orientation)

    def _frame(
        self, picture: "av.VideoFrame | np.ndarray", orientation: Orientation
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The square, and the whole picture where it is to be kept."""
        image = picture if isinstance(picture, np.ndarray) else picture.to_ndarray(format="rgb24")
        original = orientation.apply(image) if self._keep_original else None
        return orientation.apply(self._square(image, self._pixel_aspect)), original

    def _picture(self, picture: "av.VideoFrame | np.ndarray") -> np.ndarray:
        height_px, width_px = picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)
        shown_w = width_px * self._pixel_aspect
        scale = min(1.0, self._picture_px / max(shown_w, height_px))
        size = max(1, round(shown_w * scale)), max(1, round(height_px * scale))
        if isinstance(picture, np.ndarray):
            return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        small = picture.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
        return self._orientation.apply(small)


def _missing(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    first_s: float,
    reached_s: float,
    file_reached_s: float,
) -> str:
    """What to say when the recording ends before the length that it claims; "" when it does not."""
    if stream.start_time is None:
        return ""  # a bare stream: its length is a guess from its bytes and its bit rate
    if stream.duration is not None:
        claimed_s = _seconds(stream.start_time + stream.duration, stream.time_base)
        if claimed_s - reached_s <= _CUT_TOLERANCE_S:
            return ""
    elif container.duration:
        claimed_s, reached_s = container.duration / av.time_base, file_reached_s
        if claimed_s - reached_s <= _CUT_TOLERANCE_FILE_S:
            return ""
    else:
        return ""
    return f"it ends at {max(0.0, reached_s - first_s):.2f} s of {claimed_s - first_s:.2f} s (cut off?)"


def _seconds(count: int, time_base: Any) -> float:
    """A count of `time_base` (a Fraction, or PyAV 19's own rational) in seconds."""
    if time_base is None:
        raise VideoError("a packet has a time stamp without a unit; write the file anew with another program")
    return float(count * time_base)
