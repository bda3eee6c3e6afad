"""The pictures of a container in order of presentation, with the container's own times; and jumps to a given time.

What is no video is an error at once, what breaks in the middle gives what it has first, and what is damaged is said.
"""

import io
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import av
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from data_pipelines.geometry import Orientation, orientation_of_matrix
from data_pipelines.packets_ahead import with_ends
from data_pipelines.source_info import LIVE_SCHEMES, VideoError, VideoInfo, scheme_of, why

Video = str | os.PathLike[str] | bytes | BinaryIO

# libav reads any text file as terminal art; nobody means that by a video.
_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
# A recording that ends earlier than it says by more than this was cut; less is rounding of the last picture's length.
CUT_TOLERANCE_S = 0.25
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
# Containers that know where each time lies, and whose times do not start anew in the middle. Others are read through.
_INDEXED = frozenset({"mov", "mp4", "matroska", "webm"})
# How far before a time to look for a picture from which decoding can begin, if the index leads behind that time.
_SEEK_BACK_S = (0.0, 2.0, 10.0, 60.0)


class Shown(NamedTuple):
    """A picture that is on the screen from `t_s` on.

    Attributes:
      t_s: by the container's clock.
      length_s: how long it says that it stays.
      frame: as decoded.
      orientation: how it is turned for display.
      damage: what broke since the last undamaged picture, in libav's words; "" for nothing.
      whole: the picture itself is right (`damage` lies before it).
    """

    t_s: float
    length_s: float
    frame: av.VideoFrame
    orientation: Orientation
    damage: str
    whole: bool


def open_container(video: Video, name: str) -> av.container.InputContainer:
    """Opens a path, a URL, bytes or a binary file that can seek; VideoError says why it cannot."""
    source: str | BinaryIO
    timeout_s = None
    if isinstance(video, bytes):
        source, size = io.BytesIO(video), len(video)
    elif isinstance(video, str | os.PathLike):
        source, size = os.fspath(video), -1
        if scheme_of(source) is not None:
            timeout_s = (_OPEN_TIMEOUT_S, _READ_TIMEOUT_S)
        elif not os.path.exists(source):
            raise VideoError(f"{name}: no such file (a path, a URL or the number of a camera is expected)")
        elif os.path.isfile(source):
            size = os.path.getsize(source)
    else:
        source, size = video, video.seek(0, os.SEEK_END)
        video.seek(0)
    if size == 0:
        raise VideoError(f"{name}: the file is empty (0 bytes)")
    try:
        return av.open(source, timeout=timeout_s, **_ANY_TITLE)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{name}: cannot be opened as a video: {why(error)}") from error


def video_stream(container: av.container.InputContainer, name: str) -> tuple[av.VideoStream, int]:
    """The stream that a player would show, and how many there are to choose from; VideoError if there is none."""
    # A cover picture is no video, though libav prefers it where it is marked as the default.
    videos = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    stream = container.streams.best("video")
    if stream not in videos:
        stream = videos[0] if videos else None
    if stream is not None and stream.codec_context.name in _TEXT_CODECS:
        raise VideoError(f"{name}: is text, not a video")
    if stream is None:
        kinds = sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams})
        raise VideoError(f"{name}: has no video stream, only {', '.join(kinds) or 'nothing'}")
    assert isinstance(stream, av.VideoStream)  # it is one of `videos`
    return stream, len(videos)


class PictureStream:
    """The pictures of a file or a URL. Opening decodes the first one.

    Attributes:
      info: VideoInfo; its `notes` grow while reading.
      first_s: when the first picture appears, by the container's clock.
      origin_s: when the recording begins, by the container's clock: its first picture or its first sound.
      rate_hz: average pictures a second, if known.
      pixel_aspect: width of a pixel over its height.
      wanted: whether anything looks at the screen from one time to another, by the container's clock. Set it, and
        pictures that nothing looks at need not be decoded: they are left out where no other picture is built on them.
    """

    wanted: Callable[[float, float], bool] | None = None

    def __init__(self, video: Video, name: str, threads: int | None = None):
        """Opens it.

        Args:
          video: path, URL, the file's bytes, or a binary file that can seek.
          name: what messages call it.
          threads: for decoding; None leaves it to libav, which takes as many as there are cores.

        Raises:
          VideoError: it is no video, or no picture decodes.
        """
        self._video, self._name, self._threads = video, name, threads
        self._open()

    def close(self) -> None:
        self._container.close()

    @property
    def has_audio(self) -> bool:
        return self._container.streams.best("audio") is not None

    @property
    def can_seek(self) -> bool:
        """Whether `seek` finds other times; where it does not, reading through is all there is."""
        return not self.info.live and bool(_INDEXED.intersection(self._container.format.name.split(",")))

    def claimed_end_s(self) -> float | None:
        """When the stream says that its last picture ends, by the container's clock; None if it does not say."""
        stream = self._stream
        if stream.start_time is None or stream.duration is None:
            return None
        return _seconds(stream.start_time + stream.duration, stream.time_base)

    def shown(self) -> Iterator[Shown]:
        """The pictures from here on; VideoError at the end if something broke and did not go on."""
        return self._shown

    def seek(self, t_s: float) -> None:
        """Goes to a picture that is shown at or before `t_s` by the container's clock, or to the first one.

        Ask for `shown()` anew after it. VideoError where `can_seek` is not so.
        """
        if not self.can_seek:
            raise VideoError(f"{self._name}: has no index of times, it can only be read through")
        for back_s in _SEEK_BACK_S:
            if t_s - back_s > self.first_s and self._seek_once(t_s, t_s - back_s):
                return
        self._container.close()
        self._open()

    def _seek_once(self, t_s: float, near_s: float) -> bool:
        """Looks for a place before `near_s`; whether the pictures now go on from one at or before `t_s`."""
        if self._stream.time_base is None:
            return False
        try:
            self._container.seek(int(near_s / self._stream.time_base), stream=self._stream)
            decoded = self._decoded(after_seek=True)
            first = next(decoded)
        except (av.error.FFmpegError, VideoError):
            return False  # what is wrong there is said when it is read from further ahead, or from the start
        self._shown = itertools.chain([first], decoded)
        return first.t_s <= t_s

    def _open(self) -> None:
        name = self._name
        self._matrix: bytes | None = None
        self._orientation = Orientation()
        self._shift_s = 0.0  # what is added to time stamps since they went back
        self._container = container = open_container(self._video, name)
        try:
            self._stream, choices = video_stream(container, name)
            self._describe(choices)
            # With the first picture the orientation is known, and that there is one.
            decoded = self._decoded()
            first = next(decoded)
        except VideoError:
            container.close()
            raise
        self._shown = itertools.chain([first], decoded)
        self.first_s = self.origin_s = first.t_s
        sound = container.streams.best("audio")
        if sound is not None and sound.start_time is not None:
            self.origin_s = min(first.t_s, _seconds(sound.start_time, sound.time_base))

    def _describe(self, choices: int) -> None:
        container, stream = self._container, self._stream
        live = isinstance(self._video, str | os.PathLike) and scheme_of(os.fspath(self._video)) in LIVE_SCHEMES
        # Frame threads decode fastest and hold pictures back by their number: not for what is live.
        stream.thread_type = "SLICE" if live else "AUTO"
        if self._threads is not None:
            stream.thread_count = self._threads
        rate = stream.average_rate or stream.guessed_rate
        self.rate_hz = float(rate) if rate else None
        aspect = stream.sample_aspect_ratio
        self.pixel_aspect = float(aspect) if aspect else 1.0
        if stream.duration is not None:
            duration_s: float | None = _seconds(stream.duration, stream.time_base)
        else:
            duration_s = container.duration / av.time_base if container.duration else None
        context = stream.codec_context
        self.info = VideoInfo(
            self._name, context.width, context.height, self.rate_hz, None if live else duration_s, context.name, live
        )
        if self.pixel_aspect != 1.0:
            self.info.note(f"pixels are not square ({aspect}); they are stretched as a player does")
        if choices > 1:
            self.info.note(f"several video streams; stream {stream.index} is read")

    def _decoded(self, after_seek: bool = False) -> Iterator[Shown]:
        """The pictures in order of presentation; VideoError at the end if something was broken."""
        container, stream, live = self._container, self._stream, self.info.live
        context = stream.codec_context
        first_s = None if not after_seek else self.first_s
        last_s = hole_s = key_s = None
        reached_s = file_reached_s = length_s = 0.0
        skipped, damaged, first_skip, lost, damage = 0, 0, "", "", ""
        packets: Iterator[tuple[av.Packet, tuple[float, float] | None]]
        packets = ((packet, None) for packet in container.demux())
        if self._can_leave_out():
            packets = with_ends(container.demux(), stream.index)
        while True:
            try:
                packet, on_screen = next(packets)
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
            if after_seek and key_s is None and packet.pts is not None:
                key_s = _seconds(packet.pts, packet.time_base)
            try:
                if packet.is_corrupt and not live:
                    raise av.error.InvalidDataError(0, "the packet is cut short")
                # (Where libav has not seen yet that pictures change places, it would learn it too late.)
                seen = True
                if on_screen is not None and self.wanted is not None and context.has_b_frames:
                    seen = self.wanted(*on_screen)
                context.skip_frame = "DEFAULT" if seen else "NONREF"
                frames = packet.decode()
            except av.error.FFmpegError as error:
                stamp = packet.dts if packet.pts is None else packet.pts
                hole_s = (last_s or 0.0) if stamp is None else _seconds(stamp, packet.time_base) + self._shift_s
                skipped += 1
                cause = f"near {hole_s - (first_s or 0.0):.2f} s: {why(error)}"
                first_skip, damage = first_skip or cause, damage or cause
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)  # the packet is of a video stream
                t_s = self._time_of(frame, last_s)
                if key_s is not None and t_s < key_s:
                    continue  # it refers to pictures before the one where decoding began, which are not there
                first_s = t_s if first_s is None else first_s
                if last_s is not None and t_s - last_s > _LONGEST_STILL_S:
                    raise VideoError(
                        f"{self._name}: at {last_s - first_s:.2f} s the next picture claims to be {t_s - last_s:.0f} s "
                        "later; its time stamps are broken"
                    )
                last_s = t_s
                # Threads hand out pictures from before the hole after it; only a later one shows that it goes on.
                hole_s = None if hole_s is not None and t_s >= hole_s else hole_s
                damaged += frame.is_corrupt
                if frame.is_corrupt:
                    damage = damage or f"near {t_s - first_s:.2f} s: a damaged picture, filled by the decoder"
                self._orient(frame)
                length_s = self._length_of(frame)
                # What follows a hole refers to what is lost, up to the next picture that refers to none.
                whole = not damage or (frame.key_frame and not frame.is_corrupt and hole_s is None)
                yield Shown(t_s, length_s, frame, self._orientation, damage, whole)
                damage = "" if whole else damage
        if first_s is None or last_s is None:
            cause = lost or first_skip
            raise VideoError(f"{self._name}: no picture decodes" + (f" ({cause})" if cause else ""))
        if damaged:
            self.info.note(f"damaged pictures, in which the decoder filled what is missing: {damaged}")
        packets_do = "1 packet does" if skipped == 1 else f"{skipped} packets do"
        skips = f"{packets_do} not decode, the first {first_skip}" if skipped else ""
        missing = "" if live else _missing(container, stream, first_s, reached_s, file_reached_s)
        unseen_s = reached_s + self._shift_s - last_s - length_s
        if unseen_s > length_s / 2 and not (live or lost or skips):  # libav hides what fails at the very end
            self.info.note(f"the last {unseen_s:.2f} s gave no picture")
        lost = lost and f"reading failed at {last_s - first_s:.2f} s: {lost}"
        if missing or lost or (hole_s is not None and not live):
            causes = "; ".join(cause for cause in (missing, lost, skips) if cause)
            raise VideoError(f"{self._name}: broken: {causes}. What came before stands; for the rest get a whole copy")
        if skips:
            self.info.note(skips)

    def _can_leave_out(self) -> bool:
        """Whether pictures that are not looked at may be left out.

        In H.264 a picture says of itself that no other is built on it. A thread alone decodes a picture when it gets
        it; and with times from an index a picture that is missing cannot be taken for an error.
        """
        context = self._stream.codec_context
        return self._threads == 1 and context.name == "h264" and self.can_seek

    def _time_of(self, frame: av.VideoFrame, last_s: float | None) -> float:
        rate_hz = self.rate_hz or _DEFAULT_RATE_HZ
        after_s = 0.0 if last_s is None else last_s + 1 / rate_hz
        if frame.pts is None or frame.time_base is None:
            self.info.note(f"some pictures have no time stamp; {rate_hz:g} pictures a second are assumed there")
            return after_s
        t_s = _seconds(frame.pts, frame.time_base) + self._shift_s
        if last_s is not None and last_s - _JITTER_S <= t_s < last_s:
            return last_s  # an assumed time ran ahead, or rounding; a shift for each would add up to a drift
        if last_s is not None and t_s < last_s:
            self.info.note(f"time stamps go back at {last_s:.2f} s; time goes on from there")
            self._shift_s += after_s - t_s
            return after_s
        return t_s

    def _length_of(self, frame: av.VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return min(_seconds(frame.duration, frame.time_base), _LONGEST_STILL_S)
        return 1 / (self.rate_hz or _DEFAULT_RATE_HZ)

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
        if claimed_s - reached_s <= CUT_TOLERANCE_S:
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
    return count * time_base.numerator / time_base.denominator
