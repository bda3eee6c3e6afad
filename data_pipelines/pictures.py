"""The pictures of a container in order of presentation, with the container's own times; and jumps to a given time.

What is no video is an error at once, what breaks in the middle gives what it has first, and what is damaged is said.
Nothing but VideoError leaves this module, whatever a file holds.
"""

import bisect
import contextlib
import functools
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from av.format import Flags as FormatFlags
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData

from data_pipelines.geometry import Orientation, orientation_of_matrix
from data_pipelines.images import decode_animation
from data_pipelines.video_source import (
    LIBAV_ERRORS,
    LIVE_SCHEMES,
    Pipe,
    Video,
    VideoError,
    VideoInfo,
    is_indexed,
    is_pipe,
    may_restart,
    open_container,
    redact,
    scheme_of,
    video_stream,
    why,
)
from mmduplex_jax.interruptible import run_interruptibly

# A recording that ends earlier than it says by more than this was cut; less is rounding of the last picture's length.
CUT_TOLERANCE_S = 0.25
# Without the stream's own length only the file's is known, which counts other streams and is written with less care.
_CUT_TOLERANCE_FILE_S = 0.75
# A picture that stays for longer is a gap between recordings (or a broken time stamp), not a still.
LONGEST_STILL_S = 3600.0
DEFAULT_RATE_HZ = 25.0
# Time stamps that go back by less than this are inexact, by more the clock was set anew (joined recordings).
_JITTER_S = 0.1
# Of an address that sends something, but no picture.
_FIRST_PICTURE_TIMEOUT_S = 30.0
# How far before a time to look for a picture from which decoding can begin, if the index leads behind that time.
_SEEK_BACK_S = (0.0, 2.0, 10.0, 60.0)
_WITHOUT_TIMES: Any = FormatFlags.no_timestamps
# Pictures are stored at most 16 away from their place in the order of presentation (H.264 and HEVC allow no more).
_REORDERED_PACKETS = 34


class DecodedPicture(NamedTuple):
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


class _Packet(NamedTuple):
    """A packet with its pictures, or why it gives none; `is_picture`: it is of the stream that is read."""

    packet: av.Packet
    is_picture: bool
    frames: Sequence[av.VideoFrame] = ()
    failure: str = ""


class PictureStream:
    """The pictures of a file or a URL. Opening decodes the first one.

    One thread reads; `close` may be called from any other.

    Attributes:
      info: VideoInfo; its `notes` grow while reading.
      first_s: when the first picture appears, by the container's clock.
      origin_s: when the recording begins, by the container's clock: its first picture or its first sound.
      rate_hz: average pictures a second, if known.
      pixel_aspect: width of a pixel over its height.
      is_needed: whether anything samples the screen from one time to another, by the container's clock. Set it, and
        pictures that nothing samples need not be decoded: they are left out where no other picture is built on them.
    """

    is_needed: Callable[[float, float], bool] | None = None

    def __init__(self, video: Video, name: str, threads: int | None = None, *, trusted: bool = False):
        """Opens it.

        Args:
          video: path, URL, the file's bytes, or a binary file that can seek.
          name: what messages call it.
          threads: for decoding; None leaves it to libav, which takes as many as there are cores.
          trusted: whoever runs the program named it: it may be a pipe, or a playlist, which leads to other files.

        Raises:
          VideoError: it is no video, or no picture decodes.
        """
        self._name, self._threads, self._trusted = redact(name), threads, trusted
        path = os.fspath(video) if isinstance(video, str | os.PathLike) else ""
        self._scheme = scheme_of(path)
        self._pipe = Pipe(path) if trusted and is_pipe(path) else None
        self._video: Video | Pipe = video if self._pipe is None else self._pipe
        # Held while libav works: a container that is closed under it takes the process down.
        self._working, self._closed = threading.Lock(), False
        self._opened = False
        self._container: av.container.InputContainer
        if not (self._scheme or trusted):
            self._open()
            return
        try:
            run_interruptibly(self._open, "open")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes it: at once, or where a thread waits for data, when libav gives that up (20 s at most)."""
        self._closed = True
        if self._pipe is not None:
            self._pipe.stop()
        if self._working.acquire(blocking=False):
            self._release()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[bool]:
        """Holds `close` back while libav works; whether it may still: what is closed must not be asked anything."""
        self._working.acquire()
        try:
            yield not self._closed
        finally:
            self._release()

    def _release(self) -> None:
        """Ends a piece of libav's work, or of waiting for its end."""
        if self._closed:
            if self._opened:
                self._container.close()
            if self._pipe is not None:
                self._pipe.close()
        self._working.release()

    @property
    def has_audio(self) -> bool:
        return self._container.streams.best("audio") is not None

    @property
    def can_seek(self) -> bool:
        """Whether `seek` finds other times; where it does not, reading through is all there is."""
        return not self.info.endless and is_indexed(self._container)

    def claimed_end_s(self) -> float | None:
        """When the stream says that its last picture ends, by the container's clock; None if it does not say.

        Where times may start anew what it says is of the last part alone, and None.
        """
        stream = self._stream
        if stream.start_time is None or stream.duration is None or may_restart(self._container):
            return None
        return _seconds(stream.start_time + stream.duration, stream.time_base)

    def shown(self) -> Iterator[DecodedPicture]:
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
        except (*LIBAV_ERRORS, VideoError):
            return False  # what is wrong there is said when it is read from further ahead, or from the start
        self._shown = itertools.chain([first], decoded)
        return first.t_s <= t_s

    def _open(self) -> None:
        name = self._name
        self._matrix: bytes | None = None
        self._orientation = Orientation()
        self._size_px = (0, 0)
        self._shift_s = 0.0  # what is added to time stamps since they went back
        self._lost = ""  # why reading ended before the end
        with self._at_work():
            try:
                self._container = open_container(self._video, name, trusted=self._trusted)
                self._opened = True
                self._stream, choices = video_stream(self._container, self._video, name)
                self._describe(choices)
            except VideoError:
                self._closed = True
                raise
            except LIBAV_ERRORS as error:  # a header with values that contradict each other
                self._closed = True
                raise VideoError(f"{name}: cannot be opened as a video: {why(error)}") from error
        try:
            # With the first picture the orientation is known, and that there is one.
            decoded = self._decoded()
            first = next(decoded, None)
            if first is None:
                raise VideoError(f"{name}: was closed while it was opened")
        except VideoError:
            self.close()
            raise
        self._shown = itertools.chain([first], decoded)
        self.first_s = self.origin_s = first.t_s
        with self._at_work() as may_ask:
            sound = self._container.streams.best("audio") if may_ask and not self._by_arrival else None
            if sound is not None and sound.start_time is not None:
                self.origin_s = min(first.t_s, _seconds(sound.start_time, sound.time_base))

    def _describe(self, choices: int) -> None:
        container, stream = self._container, self._stream
        formats = set(container.format.name.split(","))
        if stream.duration is not None:
            duration_s: float | None = _seconds(stream.duration, stream.time_base)
        else:
            duration_s = container.duration / av.time_base if container.duration else None
        live = self._scheme in LIVE_SCHEMES
        in_segments = duration_s is None and bool(formats & {"hls", "dash"})
        without_size = (self._scheme is not None or self._pipe is not None) and (container.size or 0) <= 0
        endless = live or in_segments or (duration_s is None and without_size)
        clockless = bool(container.format.flags & _WITHOUT_TIMES.value)
        clockless = clockless or any(one.endswith("_pipe") for one in formats)
        self._by_arrival = endless and clockless
        live = live or self._by_arrival
        # Frame threads decode fastest and hold pictures back by their number: not for what is live.
        stream.thread_type = "SLICE" if live else "AUTO"
        if self._threads is not None:
            stream.thread_count = self._threads
        rate = stream.average_rate or stream.guessed_rate
        # What libav says of a stream without a clock is its own invention.
        self.rate_hz = float(rate) if rate and not self._by_arrival else None
        aspect = stream.sample_aspect_ratio
        self.pixel_aspect = float(aspect) if aspect else 1.0
        context = stream.codec_context
        self.info = VideoInfo(
            self._name, context.width, context.height, self.rate_hz, None if endless else duration_s, context.name,
            live, endless=endless, in_segments=in_segments,
        )  # fmt: skip
        if self._by_arrival:
            self.info.note("the source has no clock: each picture has the time at which it arrived")
        if self.pixel_aspect != 1.0:
            self.info.note(f"pixels are not square ({aspect}); they are stretched as a player does")
        if choices > 1:
            self.info.note(f"several video streams; stream {stream.index} is read")

    def _read(self, packets: Iterator["_TimedPacket"]) -> "_Packet | None":
        """The next packet with its pictures, and why it gives none; None at the end, which `_lost` explains."""
        with self._at_work() as may_read:
            if not may_read:
                return None
            try:
                packet, on_screen = next(packets)
            except StopIteration:
                return None
            except LIBAV_ERRORS as error:
                self._lost = why(error)
                return None
            if packet.stream.index != self._stream.index:
                return _Packet(packet, False)
            if packet.has_sidedata("encryption_info"):
                raise VideoError(f"{self._name}: cannot decode: the video is encrypted; get a copy without DRM")
            try:
                if packet.is_corrupt and not (self.info.live or self._is_counted):
                    raise av.error.InvalidDataError(0, "the packet is cut short")
                context = self._stream.codec_context
                # (Where libav has not seen yet that pictures change places, it would learn it too late.)
                needed = True
                if on_screen is not None and self.is_needed is not None and context.has_b_frames:
                    needed = self.is_needed(*on_screen)
                context.skip_frame = "DEFAULT" if needed else "NONREF"
                return _Packet(packet, True, packet.decode())
            except LIBAV_ERRORS as error:
                return _Packet(packet, True, failure=why(error))

    def _decoded(self, after_seek: bool = False) -> Iterator[DecodedPicture]:
        """The pictures in order of presentation; VideoError at the end if something was broken."""
        endless = self.info.endless
        opened_s = time.monotonic()
        first_s = None if not after_seek else self.first_s
        last_s = hole_s = key_s = None
        reached_s = file_reached_s = shown_until_s = length_s = 0.0
        skipped = damaged = counter_breaks = 0
        first_skip = damage = ""
        unsure = -1
        packets = self._demuxed()
        while (read := self._read(packets)) is not None:
            packet, is_picture, frames, failure = read
            if last_s is None and self._scheme and time.monotonic() - opened_s > _FIRST_PICTURE_TIMEOUT_S:
                raise VideoError(f"{self._name}: no picture came within {_FIRST_PICTURE_TIMEOUT_S:.0f} s")
            end_s = 0.0 if packet.pts is None else _seconds(packet.pts + (packet.duration or 0), packet.time_base)
            file_reached_s = max(file_reached_s, end_s)
            if not is_picture:
                continue
            reached_s, shown_until_s = max(reached_s, end_s), max(shown_until_s, end_s + self._shift_s)
            # libav marks the picture before the break or the one after it. Where recordings are joined a key picture
            # follows; what else follows refers to what is lost.
            unsure = 2 if packet.is_corrupt and self._is_counted else 0 if packet.is_keyframe else max(-1, unsure - 1)
            counter_breaks += packet.is_corrupt and self._is_counted
            if unsure == 0 and not packet.is_keyframe:
                damage = damage or f"near {end_s + self._shift_s - (first_s or 0.0):.2f} s: packets are missing"
            if after_seek and key_s is None and packet.pts is not None:
                key_s = _seconds(packet.pts, packet.time_base)
            if failure:
                stamp = packet.dts if packet.pts is None else packet.pts
                hole_s = (last_s or 0.0) if stamp is None else _seconds(stamp, packet.time_base) + self._shift_s
                skipped += 1
                cause = f"near {hole_s - (first_s or 0.0):.2f} s: {failure}"
                first_skip, damage = first_skip or cause, damage or cause
            for frame in frames:
                t_s = time.monotonic() if self._by_arrival else self._time_of(frame, last_s)
                if key_s is not None and t_s < key_s:
                    continue  # it refers to pictures before the one where decoding began, which are not there
                first_s = t_s if first_s is None else first_s
                last_s = t_s
                # Threads hand out pictures from before the hole after it; only a later one shows that it goes on.
                hole_s = None if hole_s is not None and t_s >= hole_s else hole_s
                damaged += frame.is_corrupt
                if frame.is_corrupt:
                    damage = damage or f"near {t_s - first_s:.2f} s: a damaged picture, filled by the decoder"
                self._describe_frame(frame, t_s - first_s)
                length_s = self._length_of(frame)
                # What follows a hole refers to what is lost, up to the next picture that refers to none.
                whole = not damage or (frame.key_frame and not frame.is_corrupt and hole_s is None)
                yield DecodedPicture(t_s, length_s, frame, self._orientation, damage, whole)
                damage = "" if whole else damage
        with self._at_work() as may_ask:
            if not may_ask:
                return
            missing = "" if endless or first_s is None else self._missing(first_s, reached_s, file_reached_s)
        lost = self._lost
        if first_s is None or last_s is None:
            cause = lost or first_skip
            raise VideoError(f"{self._name}: no picture decodes" + (f" ({cause})" if cause else ""))
        if damaged:
            self.info.note(f"damaged pictures, in which the decoder filled what is missing: {damaged}")
        if counter_breaks:
            self.info.note(f"breaks of the packets' counter (joined or lost pieces): {counter_breaks}")
        packets_do = "1 packet does" if skipped == 1 else f"{skipped} packets do"
        skips = f"{packets_do} not decode, the first {first_skip}" if skipped else ""
        unseen_s = shown_until_s - last_s - length_s
        if unseen_s > length_s / 2 and not (endless or lost or skips):  # libav hides what fails at the very end
            self.info.note(f"the last {unseen_s:.2f} s gave no picture")
        lost = lost and f"reading failed at {last_s - first_s:.2f} s: {lost}"
        if missing or lost or (hole_s is not None and not endless):
            causes = "; ".join(cause for cause in (missing, lost, skips) if cause)
            raise VideoError(f"{self._name}: broken: {causes}. What came before stands; for the rest get a whole copy")
        if skips:
            self.info.note(skips)

    def _demuxed(self) -> Iterator["_TimedPacket"]:
        """The packets from here on; nothing of what is closed."""
        with self._at_work() as may_ask:
            if not may_ask:
                return iter(())
            packets = self._container.demux()
            return with_display_intervals(packets, self._stream.index) if self._can_leave_out() else _untimed(packets)

    def _missing(self, first_s: float, reached_s: float, file_reached_s: float) -> str:
        """What to say when the recording ends before the length that it claims; "" when it does not."""
        stream, container = self._stream, self._container
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

    @property
    def _is_counted(self) -> bool:
        return may_restart(self._container)

    def _can_leave_out(self) -> bool:
        """Whether pictures that nothing samples may be left out.

        In H.264 a picture says of itself that no other is built on it. A thread alone decodes a picture when it gets
        it; and with times from an index a picture that is missing cannot be taken for an error.
        """
        context = self._stream.codec_context
        return self._threads == 1 and context.name == "h264" and self.can_seek

    def _time_of(self, frame: av.VideoFrame, last_s: float | None) -> float:
        rate_hz = self.rate_hz or DEFAULT_RATE_HZ
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
        if self._by_arrival:
            return 0.0
        if frame.duration and frame.time_base:
            return min(_seconds(frame.duration, frame.time_base), LONGEST_STILL_S)
        return 1 / (self.rate_hz or DEFAULT_RATE_HZ)

    def _describe_frame(self, frame: av.VideoFrame, t_s: float) -> None:
        """Orientation and size, where they change."""
        # (Not the frame's own, which the frame would hold and be held by: frames by the hundred would wait, with their
        # pictures, until Python looks for such circles.)
        container: Any = SideDataContainer  # PyAV 18 declares it without its argument
        data = container(frame).get(SideData.DISPLAYMATRIX)
        matrix = None if data is None else bytes(data)
        size_px = frame.width, frame.height
        if self._size_px not in ((0, 0), size_px):
            self.info.note(
                "at {:.2f} s the pictures' size changes from {}x{} to {}x{}".format(t_s, *self._size_px, *size_px)
            )
        if matrix == self._matrix and size_px == self._size_px:
            return
        self._orientation, exact = (Orientation(), True) if matrix is None else orientation_of_matrix(matrix)
        if not exact:
            self.info.note("the rotation is not a quarter turn; the nearest is used")
        if self._size_px == (0, 0) or matrix != self._matrix:
            self.info.turn(*size_px, self._orientation)
        self._matrix, self._size_px = matrix, size_px


class PictureList:
    """Still pictures one after another, with the interface of a PictureStream that cannot seek.

    A picture that does not decode is left out and noted.
    """

    pixel_aspect, has_audio, can_seek, first_s, origin_s = 1.0, False, False, 0.0, 0.0
    is_needed: Callable[[float, float], bool] | None = None

    def __init__(self, name: str, codec: str, pictures: Sequence[Callable[[], np.ndarray]], lengths_s: Sequence[float]):
        """Decodes the first picture.

        Args:
          name: what messages call it.
          codec: what VideoInfo calls its kind.
          pictures: each gives uint8 [H, W, 3] upright RGB, or raises VideoError.
          lengths_s: how long each is on the screen.

        Raises:
          VideoError: no picture, or none that decodes.
        """
        self._name, self._pictures, self._lengths_s = redact(name), pictures, lengths_s
        self._skipped, self._first_skip = 0, ""
        duration_s = float(sum(lengths_s))
        self.rate_hz = len(pictures) / duration_s if duration_s > 0 else None
        self.info = VideoInfo(self._name, 0, 0, self.rate_hz, duration_s, codec, live=False)
        decoded = self._decoded()
        first = next(decoded, None)
        if first is None:
            raise VideoError(f"{self._name}: no picture decodes" + (f" ({self._first_skip})" if self._skipped else ""))
        self.info.width_px, self.info.height_px = first.frame.width, first.frame.height
        self._shown = itertools.chain([first], decoded)

    def close(self) -> None:
        """Nothing is open between two pictures."""

    def claimed_end_s(self) -> float:
        """When the last picture ends."""
        return float(sum(self._lengths_s))

    def shown(self) -> Iterator[DecodedPicture]:
        """The pictures."""
        return self._shown

    def seek(self, t_s: float) -> None:
        """VideoError: `can_seek` is not so."""
        raise VideoError(f"{self._name}: has no index of times, it can only be read through")

    def _decoded(self) -> Iterator[DecodedPicture]:
        t_s, damage = 0.0, ""
        for picture, length_s in zip(self._pictures, self._lengths_s):
            try:
                frame = av.VideoFrame.from_ndarray(picture(), format="rgb24")
                yield DecodedPicture(t_s, length_s, frame, Orientation(), damage, True)
                damage = ""
            except (*LIBAV_ERRORS, VideoError) as error:
                damage = f"near {t_s:.2f} s: {why(error)}"
                self._skipped, self._first_skip = self._skipped + 1, self._first_skip or damage
            t_s += length_s
        if self._skipped:
            self.info.note(f"pictures that do not decode: {self._skipped}, the first {self._first_skip}")


def open_pictures(
    video: Video, name: str, threads: int | None = None, *, trusted: bool = False
) -> PictureStream | PictureList:
    """The pictures of any video: as PictureStream has them, and of an animated WebP, which libav does not read."""
    animation = _animated_webp(video)
    if animation is None:
        return PictureStream(video, name, threads, trusted=trusted)
    try:
        frames, lengths_s = decode_animation(animation)
    except ValueError as error:
        raise VideoError(f"{name}: cannot be opened as a video: {why(error)}") from error
    return PictureList(name, "webp", [functools.partial(lambda image: image, frame) for frame in frames], lengths_s)


def _animated_webp(video: Video) -> bytes | None:
    """The bytes of an animated WebP; None of anything else."""
    is_animated = lambda head: head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:21] and head[20] & 2)
    if isinstance(video, bytes):
        return video if is_animated(video[:21]) else None
    if isinstance(video, str | os.PathLike):
        if not os.path.isfile(video):
            return None
        with open(video, "rb") as file:
            return _animated_webp(file)
    video.seek(0)
    head = video.read(21)
    data = head + video.read() if is_animated(head) else None
    video.seek(0)
    return data


_TimedPacket = tuple[av.Packet, tuple[float, float] | None]


def _untimed(packets: Iterator[av.Packet]) -> Iterator[_TimedPacket]:
    return ((packet, None) for packet in packets)


def with_display_intervals(packets: Iterator[av.Packet], stream_index: int) -> Iterator[_TimedPacket]:
    """The packets in their order, and for those of the stream when their picture appears and when the next one does.

    None where either is not known: without a time stamp, for what is not shown, and for the last picture. An error of
    the reader comes after the packets that were read before it.
    """
    waiting: deque[av.Packet] = deque()
    of_stream = 0
    stamps: list[int] = []  # in order; of the packets that wait, and of some before them
    arrived: deque[int] = deque()
    failure: Exception | None = None

    def hand_out() -> _TimedPacket:
        nonlocal of_stream
        packet = waiting.popleft()
        if packet.stream.index != stream_index:
            return packet, None
        of_stream -= 1
        if packet.pts is None or packet.time_base is None or packet.is_discard:
            return packet, None
        after = bisect.bisect_right(stamps, packet.pts)
        if after == len(stamps):
            return packet, None
        unit = packet.time_base
        begin_s, end_s = (stamp * unit.numerator / unit.denominator for stamp in (packet.pts, stamps[after]))
        return packet, (begin_s, end_s)

    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except LIBAV_ERRORS as error:
            failure = error
            break
        waiting.append(packet)
        if packet.stream.index == stream_index:
            of_stream += 1
            if packet.pts is not None and not packet.is_discard:
                bisect.insort(stamps, packet.pts)
                arrived.append(packet.pts)
        if len(arrived) > 2 * _REORDERED_PACKETS:
            del stamps[bisect.bisect_left(stamps, arrived.popleft())]
        while of_stream > _REORDERED_PACKETS:
            yield hand_out()
    while waiting:
        yield hand_out()
    if failure is not None:
        raise failure


def _seconds(count: int, time_base: Any) -> float:
    """A count of `time_base` (a Fraction, or PyAV 19's own rational) in seconds."""
    if time_base is None:
        raise VideoError("a packet has a time stamp without a unit; write the file anew with another program")
    return count * time_base.numerator / time_base.denominator
