"""Clips out of a video: the frames and the sound of given windows, in one pass over the file.

A file's time counts from its first picture or its first sound, whichever comes first, as players and transcripts count.
"""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.audio_track import AudioFormat, AudioTrack
from data_pipelines.geometry import FrameFitter
from data_pipelines.pictures import (
    CUT_TOLERANCE_S,
    LONGEST_STILL_S,
    DecodedPicture,
    PictureList,
    PictureStream,
    open_pictures,
)
from data_pipelines.sources import Rejected
from data_pipelines.sources.causes import CANNOT_DECODE
from data_pipelines.video_source import LIBAV_ERRORS, Video, VideoError, may_restart, open_container, video_stream, why
from data_pipelines.windows import Window
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

__all__ = ["AudioFormat", "Clip", "Video", "VideoLength", "probe", "read_clips"]

# Shorter stretches between windows are decoded through: a jump lands some seconds early anyway.
_SEEK_OVER_S = 10.0
# Sound that begins by less than this before the first picture (encoders' delays) does not put off the begin of a video.
_BEGIN_TOLERANCE_S = 0.08
_EPSILON_S = 1e-6
# Packets that are decoded by more than this before the last one are of another recording, joined to it.
_RESTART_S = 0.1


@dataclasses.dataclass(frozen=True)
class Clip:
    """A window as the model sees it.

    Attributes:
      window: where it is in the file.
      frames: uint8 [T, px, px, 3] RGB; T ticks begin in the window.
      tick_times_s: float64 [T], when the picture of each tick was presented, from the window's start on. At most the
        tick's own time, and negative where a picture stays from before the window; but before the file's first picture
        there is none, and ticks there see that one.
      audio: the encoded sound with its own header, exactly as long as the window; None where the file has no sound or
        none is asked for.
    """

    window: Window
    frames: np.ndarray
    tick_times_s: np.ndarray
    audio: bytes | None


@dataclasses.dataclass(frozen=True)
class VideoLength:
    """What is known of a video before it is decoded.

    Attributes:
      begin_s, end_s: when the first picture appears and when the last one ends, in the file's time. `begin_s` is 0
        unless the sound begins much earlier.
      has_audio: there is a sound stream.
    """

    begin_s: float
    end_s: float
    has_audio: bool

    @property
    def duration_s(self) -> float:
        return self.end_s - self.begin_s


def probe(video: Video, name: str = "") -> VideoLength:
    """Length and streams of a video, from its header where that has them, and from its packets where it has not.

    Args:
      video: a path, the file's bytes, or an open binary file that can seek.
      name: what messages call it; a path says it itself.

    Raises:
      VideoError: it is no video, or its first picture does not decode; the message names it and says why.
    """
    name = _name_of(video, name)
    pictures = open_pictures(video, name, threads=1)
    try:
        end_s = pictures.claimed_end_s()
        has_audio = pictures.has_audio
    finally:
        pictures.close()
    if end_s is None:
        end_s = _end_of_packets_s(video, name)
    if end_s is None:
        raise VideoError(f"{name}: says neither its length nor its pictures' times; put it into a container that does")
    begin_s = pictures.first_s - pictures.origin_s
    return VideoLength(begin_s if begin_s > _BEGIN_TOLERANCE_S else 0.0, end_s - pictures.origin_s, has_audio)


def read_clips(
    video: Video,
    windows: Sequence[Window],
    clock: Clock,
    frame_px: FrameSize,
    fit: str = "crop",
    audio: AudioFormat | None = None,
    name: str = "",
) -> Iterator[Clip | Rejected]:
    """Reads windows in one pass, seeking over what lies between them.

    Yields exactly one item for each window, in the windows' order: a Clip, or Rejected ("cannot decode" with libav's
    words) where the video breaks in that window, ends before it does, or is no video at all. Decodes in one thread, for
    many files are read at once.

    Args:
      video: a path, the file's bytes, or an open binary file that can seek.
      windows: with starts in ascending order; they may overlap.
      clock: its ticks count from each window's start; tick k sees the last picture presented at or before it.
      frame_px, fit: as `decode.VideoReader` has them.
      audio: how to keep the sound; None leaves it.
      name: what messages call the video; a path says it itself.

    Raises:
      ValueError: the windows are not in order, or `frame_px` or `fit` is not possible.
    """
    if any(one.start_s > other.start_s for one, other in zip(windows, windows[1:])):
        raise ValueError("windows must come in the order of their starts")
    name = _name_of(video, name)
    fitted = FrameFitter(frame_px, fit)
    try:
        pictures = open_pictures(video, name, threads=1)
    except VideoError as error:
        yield from (Rejected(CANNOT_DECODE, str(error)) for _ in windows)
        return
    with contextlib.ExitStack() as stack:
        stack.callback(pictures.close)
        track = None
        if audio is not None and pictures.has_audio:
            try:
                track = AudioTrack(video, name, pictures.origin_s, audio)
            except VideoError as error:
                yield from (Rejected(CANNOT_DECODE, str(error)) for _ in windows)
                return
            stack.callback(track.close)
        sheets = [_Sheet(window, clock, frame_size(frame_px)) for window in windows]
        framed = lambda shown: fitted(shown.frame, pictures.pixel_aspect, shown.orientation)
        for sheet in _filled(pictures, sheets, framed, name):
            yield sheet.clip(track)


class _Sheet:
    """A window that is being filled, tick by tick."""

    def __init__(self, window: Window, clock: Clock, frame_px: FrameSize):
        self.window = window
        self._ticks = clock.ticks_in(window.duration_s)
        if self._ticks < 1:
            raise ValueError(f"no tick begins in {window}")
        # A picture that appears up to a microsecond after a tick is seen by it, as `Clock` rounds.
        self._until_s = [window.start_s + clock.tick_time_s(tick) + _EPSILON_S for tick in range(self._ticks)]
        self._frame_px = frame_px
        self._frames: np.ndarray | None = None
        self._times_s = np.empty(self._ticks)
        self._filled = 0
        self.damage = ""

    def due(self, until_s: float) -> int:
        """Ticks to fill that begin before `until_s`, in the file's time."""
        if self._filled == self._ticks or until_s <= self._until_s[self._filled]:
            return 0
        return bisect.bisect_left(self._until_s, until_s) - self._filled

    def samples(self, begin_s: float, end_s: float) -> bool:
        """Whether a tick sees what is on the screen from `begin_s` to `end_s`, in the file's time."""
        first = bisect.bisect_left(self._until_s, begin_s)
        return first < self._ticks and self._until_s[first] < end_s + 2 * _EPSILON_S

    @property
    def missing(self) -> bool:
        return self._filled < self._ticks

    def fill(self, count: int, frame: np.ndarray, shown_s: float) -> None:
        if self._frames is None:
            self._frames = np.empty((self._ticks, *self._frame_px, 3), np.uint8)
        some = slice(self._filled, self._filled + count)
        self._frames[some] = frame
        self._times_s[some] = shown_s - self.window.start_s
        self._filled += count

    def clip(self, track: AudioTrack | None) -> Clip | Rejected:
        frames, self._frames = self._frames, None
        if self.damage or frames is None:
            return Rejected(CANNOT_DECODE, self.damage)
        sound = None
        if track is not None:
            try:
                sound = track.read(self.window.start_s, self.window.end_s)
            except VideoError as error:
                return Rejected(CANNOT_DECODE, str(error))
        return Clip(self.window, frames, self._times_s, sound)


class _OnScreen:
    """A picture on the screen from `at_s` on, in the file's time; the frame is made when a tick asks for it."""

    def __init__(self, shown: DecodedPicture, at_s: float, framed: Callable[[DecodedPicture], np.ndarray], name: str):
        self.name, self.at_s, self.end_s = name, at_s, at_s + shown.length_s
        self.damage = "" if shown.whole else shown.damage
        self._shown, self._framed = shown, framed

    @functools.cached_property
    def frame(self) -> np.ndarray:
        return self._framed(self._shown)


def _filled(
    pictures: PictureStream | PictureList,
    sheets: list[_Sheet],
    framed: Callable[[DecodedPicture], np.ndarray],
    name: str,
) -> Iterator[_Sheet]:
    """The sheets in order, each when nothing more can come to it."""
    queue = deque(sheets)

    def is_needed(begin_s: float, end_s: float) -> bool:
        begin_s, end_s = begin_s - pictures.origin_s, end_s - pictures.origin_s
        starting = itertools.takewhile(lambda sheet: sheet.window.start_s <= end_s, queue)
        return any(sheet.samples(begin_s, end_s) for sheet in starting)

    pictures.is_needed = is_needed
    shown = pictures.shown()
    on_screen: _OnScreen | None = None
    reached_s, sought, broken = pictures.first_s - pictures.origin_s, None, ""
    while queue:
        first = queue[0]
        try:
            if first is not sought and pictures.can_seek and first.window.start_s - reached_s > _SEEK_OVER_S:
                pictures.seek(first.window.start_s + pictures.origin_s)
                shown, on_screen, sought = pictures.shown(), None, first
            picture = next(shown)
        except StopIteration:
            break
        except VideoError as error:
            broken = str(error)
            break
        before, reached_s = on_screen, picture.t_s - pictures.origin_s
        if before is not None and reached_s - before.at_s > LONGEST_STILL_S:
            # Whether nothing was recorded or a time stamp is wrong: what the clip showed there is not known.
            gap = f"{name}: no picture from {before.end_s:.2f} to {reached_s:.2f} s"
            _damage(queue, before.end_s, reached_s, gap)
        on_screen = _OnScreen(picture, reached_s, framed, name)
        if picture.damage:
            since_s = -math.inf if before is None else before.at_s if before.damage else before.end_s
            _damage(queue, min(since_s, reached_s), reached_s, f"{name}: broken {picture.damage}")
        _fill(queue, before or on_screen, reached_s)  # before the file's first picture is none: ticks there see it
        while queue and queue[0].window.end_s <= reached_s:
            yield queue.popleft()
    if on_screen is not None:
        reached_s = on_screen.end_s
        _fill([sheet for sheet in queue if sheet.window.end_s <= reached_s + CUT_TOLERANCE_S], on_screen, math.inf)
        if on_screen.damage:
            _damage(queue, on_screen.at_s, reached_s, f"{name}: broken {on_screen.damage}")
    for sheet in queue:
        if sheet.missing:
            end = f"{name}: the pictures end at {reached_s:.2f} s, the window at {sheet.window.end_s:.2f} s"
            sheet.damage = broken or sheet.damage or end
        yield sheet


def _fill(sheets: Iterable[_Sheet], picture: _OnScreen, until_s: float) -> None:
    """Gives a picture to the ticks that see it: those which begin before `until_s` and have none yet."""
    for sheet in sheets:
        if sheet.window.start_s > until_s:
            break
        due = sheet.due(until_s)
        if due > 0 and not sheet.damage:
            try:
                sheet.fill(due, picture.frame, picture.at_s)
            except VideoError as error:
                sheet.damage = f"{picture.name}: at {picture.at_s:.2f} s {error}"


def _damage(sheets: Iterable[_Sheet], begin_s: float, end_s: float, damage: str) -> None:
    for sheet in sheets:
        if sheet.window.start_s < end_s and begin_s < sheet.window.end_s:
            sheet.damage = sheet.damage or damage


def _end_of_packets_s(video: Video, name: str) -> float | None:
    """When the last picture ends by the container's clock; None where packets have no times.

    Where times start anew (joined recordings) they go on from there, as in PictureStream.
    """
    container = open_container(video, name)
    end_s, shift_s, last_s = -math.inf, 0.0, -math.inf
    try:
        stream, _ = video_stream(container, video, name)
        restarts = may_restart(container)
        for packet in container.demux(stream):
            if packet.pts is None or packet.time_base is None:
                continue
            unit_s = packet.time_base.numerator / packet.time_base.denominator
            decoded_s = (packet.pts if packet.dts is None else packet.dts) * unit_s + shift_s
            if restarts and decoded_s < last_s - _RESTART_S:
                shift_s += end_s - (packet.pts * unit_s + shift_s)
                decoded_s = end_s
            last_s = decoded_s
            end_s = max(end_s, (packet.pts + (packet.duration or 0)) * unit_s + shift_s)
    except LIBAV_ERRORS as error:
        raise VideoError(f"{name}: cannot be read to its end: {why(error)}") from error
    finally:
        container.close()
    return end_s if end_s > -math.inf else None


def _name_of(video: Video, name: str) -> str:
    if name:
        return name
    return os.fspath(video) if isinstance(video, str | os.PathLike) else "a video in memory"
