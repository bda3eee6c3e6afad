"""A video's source: what is known of it, how it is opened, which stream is the video; and why it cannot be.

A source is a file, an address, bytes or a pipe. Whatever is wrong with one is a VideoError.
"""

import dataclasses
import io
import os
import re
import select
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av
from av.stream import Disposition

if TYPE_CHECKING:
    from data_pipelines.geometry import Orientation

Video = str | os.PathLike[str] | bytes | BinaryIO

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp"})
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]+://[^\s'\"<>]+", re.IGNORECASE)
# Who signs in: all before the last "@" of the host, also where a password has a character that should be escaped.
_SIGN_IN = re.compile(r"://(?:[^/?#]*@|[^/?#:@\[]*:(?!\d*[/?#]).*@)")
_SECRET = re.compile(r"([\w.-]*(?:pass|pwd|token|secret|key|sig|auth|credential)[\w.-]*)=[^&;,|)]+", re.IGNORECASE)
# What libav and PyAV raise of a file's content: UnicodeDecodeError is a ValueError, OverflowError an ArithmeticError.
LIBAV_ERRORS = (av.error.FFmpegError, OSError, EOFError, ValueError, ArithmeticError, LookupError, MemoryError)
# libav reads any text file as terminal art; nobody means that by a video.
_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
# Formats that name other files or addresses to be read. They are opened at addresses, and as a file of one of these
# suffixes that whoever runs the program names; never in a folder of data, an archive, or on a server's behalf.
_REFERRING = frozenset({"hls", "dash", "concat", "imf", "sdp", "rtsp", "rtp", "sap", "vobsub", "lavfi"})
_REFERRING_SUFFIXES = frozenset({".m3u8", ".m3u", ".mpd", ".sdp", ".ffconcat"})
_SELF_CONTAINED = ",".join(sorted(set(av.formats_available) - _REFERRING))
# A title may be in any encoding. PyAV 19 takes it as it comes and does not know the word; before, it has to be told.
_ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_OPEN_TIMEOUT_S, _READ_TIMEOUT_S = 10.0, 20.0
# Containers that know where each time lies, and whose times do not start anew in the middle. Others are read through.
_INDEXED = frozenset({"mov", "mp4", "matroska", "webm"})
# Containers that count their packets: where a count is missing libav marks the picture there, which may be whole.
_COUNTED = frozenset({"mpegts", "mpeg", "hls", "rtp_mpegts"})
_ENCRYPTED_TAGS = frozenset({"encv", "drmi"})


class VideoError(ValueError):
    """A source that is no video, has no picture, or is broken; the message names it, where, and why."""


@dataclasses.dataclass
class VideoInfo:
    """Facts about a source.

    Attributes:
      source: path, URL or camera index, without passwords.
      width_px, height_px: size as shown (after rotation).
      rate_hz: average pictures a second, if known.
      duration_s: what the container claims, if anything.
      codec: its name.
      live: has no end and cannot wait.
      notes: what had to be assumed, each said once.
      endless: no end is known, as of whatever is live, a playlist that grows, or a pipe.
      in_segments: endless, and delivered in pieces of some seconds, each at once.
    """

    source: str
    width_px: int
    height_px: int
    rate_hz: float | None
    duration_s: float | None
    codec: str
    live: bool
    notes: list[str] = dataclasses.field(default_factory=list)
    endless: bool = False
    in_segments: bool = False

    def __post_init__(self):
        self.endless = self.endless or self.live

    def __str__(self) -> str:
        """Codec, size, rate and length in a few words, as far as they are known."""
        length = f", {self.duration_s:.1f} s" if self.duration_s else ""
        rate = f" at {self.rate_hz:.4g} Hz" if self.rate_hz else ""
        return f"{self.codec} {self.width_px}x{self.height_px}{rate}{length}"

    def note(self, text: str) -> None:
        """Adds a note; a repeated kind (same words but for numbers) is kept once, so that notes stay bounded."""
        kind = re.sub(r"[\d.]+", "#", text)
        if all(re.sub(r"[\d.]+", "#", known) != kind for known in self.notes):
            self.notes.append(text)

    def turn(self, width_px: int, height_px: int, orientation: "Orientation") -> None:
        """Sets the shown size of stored pictures under a rotation."""
        self.width_px, self.height_px = (height_px, width_px) if orientation.transpose else (width_px, height_px)
        # A swap of rows and columns mirrors too, so a turn is a swap with one mirror, or two mirrors, or nothing.
        if orientation.transpose == (orientation.flip_x == orientation.flip_y):
            self.note("the container mirrors the picture, besides turning it")


def scheme_of(source: str) -> str | None:
    """The scheme of a URL, as `https`; None for a path."""
    match = _SCHEME.match(source)
    return match.group(1).lower() if match else None


def camera_index(source: str) -> int | None:
    """The number of a camera, unless a file of that name exists."""
    return int(source) if source.isdecimal() and not os.path.exists(source) else None


def redact(text: str) -> str:
    """A text with `***` for who signs in at its addresses, and for the passwords, keys and tokens asked of them.

    Whatever shows a source to somebody (output, reports, errors, logs) passes through here first.
    """
    return _ADDRESS.sub(lambda address: _SECRET.sub(r"\1=***", _SIGN_IN.sub("://***@", address[0])), text)


def why(error: BaseException) -> str:
    """The cause in an error of libav without its number and path."""
    if isinstance(error, av.error.ExitError | TimeoutError):
        return "no data came in time"  # libav itself says "Immediate exit requested" of its time limit
    return redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def open_container(video: "Video | Pipe", name: str, *, trusted: bool = False) -> av.container.InputContainer:
    """Opens a path, a URL, bytes or a binary file that can seek; VideoError says why it cannot.

    Args:
      video: what to open.
      name: what messages call it.
      trusted: whoever runs the program named it: it may be a playlist, which leads to other files.
    """
    source: Any
    timeout_s = None
    options = {"format_whitelist": _SELF_CONTAINED}
    if isinstance(video, bytes):
        source, size = io.BytesIO(video), len(video)
    elif isinstance(video, Pipe):
        source, size = video, -1
    elif isinstance(video, str | os.PathLike):
        source = os.fspath(video)
        is_address = scheme_of(source) is not None
        size = -1 if is_address else _size_of_file(source, name)
        if is_address or (trusted and Path(source).suffix.lower() in _REFERRING_SUFFIXES):
            timeout_s, options = (_OPEN_TIMEOUT_S, _READ_TIMEOUT_S), {}
    else:
        source, size = video, video.seek(0, os.SEEK_END)
        video.seek(0)
    if size == 0:
        raise VideoError(f"{name}: the file is empty (0 bytes)")
    try:
        return av.open(source, timeout=timeout_s, container_options=options, **_ANY_TITLE)
    except LIBAV_ERRORS as error:
        cause = why(error)
        if options and isinstance(error, av.error.ArgumentError):
            cause = "a playlist or a list of other files, which is only played where you name it as --source"
        raise VideoError(f"{name}: cannot be opened as a video: {cause}") from error


def _size_of_file(path: str, name: str) -> int:
    """Bytes of a regular file; VideoError for all else: a pipe or a device may never give a byte."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise VideoError(f"{name}: no such file (a path, a URL or the number of a camera is expected)") from error
        raise VideoError(f"{name}: cannot be opened as a video: {why(error)}") from error
    if stat.S_ISREG(facts.st_mode):
        return facts.st_size
    if stat.S_ISDIR(facts.st_mode):
        raise VideoError(f"{name}: cannot be opened as a video: it is a directory; name one file in it")
    kind = "a pipe" if stat.S_ISFIFO(facts.st_mode) else "a device or a socket"
    raise VideoError(f"{name}: cannot be opened as a video: it is {kind}, not a file (a camera is given by its number)")


class Pipe(io.RawIOBase):
    """A named pipe as a binary file whose reads end in time: with TimeoutError, or at once where it is closed."""

    def __init__(self, path: str):
        super().__init__()
        self.name = path
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._written = self._stopped = False

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; none where the writer has ended."""
        until_s = time.monotonic() + (_READ_TIMEOUT_S if self._written else _OPEN_TIMEOUT_S)
        while not self._stopped and time.monotonic() < until_s:
            # Before its first writer a pipe can be read at once, and holds nothing.
            if select.select([self._pipe], [], [], 0.2)[0]:
                data = os.read(self._pipe, 1 << 16 if size < 0 else size)
                self._written = self._written or bool(data)
                if self._written:
                    return data
                time.sleep(0.05)
        raise TimeoutError("no data came in time")

    def stop(self) -> None:
        """Ends a read that waits; from any thread."""
        self._stopped = True

    def close(self) -> None:
        """Closes the pipe."""
        if not self.closed:
            os.close(self._pipe)
        super().close()


def is_pipe(path: str) -> bool:
    """Whether a path is that of a named pipe."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def video_stream(
    container: av.container.InputContainer, video: "Video | Pipe", name: str
) -> tuple[av.VideoStream, int]:
    """The stream that a player would show, and how many there are to choose from; VideoError if there is none."""
    # A cover picture is no video, though libav prefers it where it is marked as the default.
    videos = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    if not videos:
        kinds = sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams})
        raise VideoError(f"{name}: has no video stream, only {', '.join(kinds) or 'nothing'}")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        codec = _stored_codec(video)
        if codec in _ENCRYPTED_TAGS:
            raise VideoError(f"{name}: cannot decode: the video is encrypted ({codec}); get a copy without DRM")
        raise VideoError(f"{name}: cannot decode: libav has no decoder for its codec ({codec or 'unknown'})")
    stream = container.streams.best("video")
    if stream not in decodable:
        stream = decodable[0]
    if stream.codec_context.name in _TEXT_CODECS:
        raise VideoError(f"{name}: is text, not a video")
    assert isinstance(stream, av.VideoStream)  # it is one of `videos`
    return stream, len(videos)


def _stored_codec(video: "Video | Pipe") -> str:
    """The name by which an MP4 or Matroska header calls a codec that libav does not know; "" where none is found."""
    if isinstance(video, Pipe):
        return ""
    if isinstance(video, str | os.PathLike):
        if scheme_of(os.fspath(video)) is not None or not os.path.isfile(video):
            return ""
        with open(video, "rb") as file:
            return _stored_codec(file)
    if not isinstance(video, bytes):
        # Headers lie at the begin or the end.
        video.seek(0)
        data = video.read(1 << 22)
        video.seek(max(len(data), video.seek(0, os.SEEK_END) - (1 << 22)))
        video = data + video.read()
    tags = re.findall(rb"stsd.{12}([ -~]{4})|\x86[\x81-\xbf](V_[A-Z0-9/_.]+)", video, re.DOTALL)
    names = [(mp4 or matroska).decode("ascii") for mp4, matroska in tags]
    return next((one for one in names if one in _ENCRYPTED_TAGS), names[0] if names else "")


def is_indexed(container: av.container.InputContainer) -> bool:
    """Whether a container knows where each time lies."""
    return bool(_INDEXED.intersection(container.format.name.split(",")))


def may_restart(container: av.container.InputContainer) -> bool:
    """Whether a container is of packets with a counter, whose files can be joined end to end: times may start anew."""
    return bool(_COUNTED.intersection(container.format.name.split(",")))
