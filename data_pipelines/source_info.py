"""What is known about a video source before and while it is read, and the error that says why it cannot be."""

import dataclasses
import os
import re

from data_pipelines.geometry import Orientation

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp"})
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class VideoError(Exception):
    """A source that is no video, has no picture, or is broken; the message names it, where, and why."""


@dataclasses.dataclass
class VideoInfo:
    """Facts about a source.

    Attributes:
      source: path, URL or camera index as given.
      width_px, height_px: size as shown (after rotation).
      rate_hz: average pictures a second, if known.
      duration_s: what the container claims, if anything.
      codec: its name.
      live: has no end and cannot wait.
      notes: what had to be assumed, each said once.
    """

    source: str
    width_px: int
    height_px: int
    rate_hz: float | None
    duration_s: float | None
    codec: str
    live: bool
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds a note; a repeated kind (same words but for numbers) is kept once, so that notes stay bounded."""
        kind = re.sub(r"[\d.]+", "#", text)
        if all(re.sub(r"[\d.]+", "#", known) != kind for known in self.notes):
            self.notes.append(text)

    def turn(self, width_px: int, height_px: int, orientation: Orientation) -> None:
        """Sets the shown size of stored pictures under a rotation."""
        self.width_px, self.height_px = (height_px, width_px) if orientation.transpose else (width_px, height_px)


def scheme_of(source: str) -> str | None:
    """"https" of a URL; None for a path."""
    match = _SCHEME.match(source)
    return match.group(1).lower() if match else None


def camera_index(source: str) -> int | None:
    """The number of a camera, unless a file of that name exists."""
    return int(source) if source.isdecimal() and not os.path.exists(source) else None


def why(error: Exception) -> str:
    """The cause in an error of libav without its number and path."""
    return getattr(error, "strerror", None) or str(error)
