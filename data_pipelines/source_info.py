"""What is known about a video source before and while it is read, and the error that says why it cannot be."""

import dataclasses
import os
import re

import av

from data_pipelines.geometry import Orientation

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp"})
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class VideoError(ValueError):
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
      rotation_deg: the turn anticlockwise from the stored picture to the shown one: 0, 90, 180 or 270.
    """

    source: str
    width_px: int
    height_px: int
    rate_hz: float | None
    duration_s: float | None
    codec: str
    live: bool
    notes: list[str] = dataclasses.field(default_factory=list)
    rotation_deg: int = 0

    def note(self, text: str) -> None:
        """Adds a note; a repeated kind (same words but for numbers) is kept once, so that notes stay bounded."""
        kind = re.sub(r"[\d.]+", "#", text)
        if all(re.sub(r"[\d.]+", "#", known) != kind for known in self.notes):
            self.notes.append(text)

    def turn(self, width_px: int, height_px: int, orientation: Orientation) -> None:
        """Sets the shown size of stored pictures under a rotation, and says which it is."""
        self.width_px, self.height_px = (height_px, width_px) if orientation.transpose else (width_px, height_px)
        # A swap of rows and columns mirrors too, so a turn is a swap with one mirror, or two mirrors, or nothing.
        if orientation.transpose:
            self.rotation_deg = 90 if orientation.flip_y else 270
        else:
            self.rotation_deg = 180 if orientation.flip_x and orientation.flip_y else 0
        if orientation.transpose == (orientation.flip_x == orientation.flip_y):
            self.note("the container mirrors the picture, besides turning it")


def scheme_of(source: str) -> str | None:
    """The scheme of a URL, as `https`; None for a path."""
    match = _SCHEME.match(source)
    return match.group(1).lower() if match else None


def camera_index(source: str) -> int | None:
    """The number of a camera, unless a file of that name exists."""
    return int(source) if source.isdecimal() and not os.path.exists(source) else None


def why(error: Exception) -> str:
    """The cause in an error of libav without its number and path."""
    if isinstance(error, av.error.ExitError):
        return "no data came in time"  # libav itself says "Immediate exit requested" of its time limit
    return getattr(error, "strerror", None) or str(error)
