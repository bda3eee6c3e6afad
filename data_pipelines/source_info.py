"""What is known about a video source before and while it is read, and the error that says why it cannot be."""

import dataclasses
import os
import re
from typing import TYPE_CHECKING

import av

if TYPE_CHECKING:
    from data_pipelines.geometry import Orientation

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp"})
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]+://[^\s'\"<>]+", re.IGNORECASE)
# Who signs in: all before the last "@" of the host, also where a password has a character that should be escaped.
_SIGN_IN = re.compile(r"://(?:[^/?#]*@|[^/?#:@\[]*:(?!\d*[/?#]).*@)")
_SECRET = re.compile(r"([\w.-]*(?:pass|pwd|token|secret|key|sig|auth|credential)[\w.-]*)=[^&;,|)]+", re.IGNORECASE)


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
