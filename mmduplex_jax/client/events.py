"""What a stream on a server tells its client, and how it may end."""

from typing import NamedTuple


class Refused(ConnectionError):
    """The server refuses or has ended the stream, and why.

    Attributes:
      code: one of the error codes or reasons in docs/protocol.md, or "http" where there was no WebSocket.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class StreamLost(ConnectionError):
    """The connection dropped, and the server could not be reached again while it kept the stream."""


class Word(NamedTuple):
    """A word that was said; times in seconds on the client's own clock (that of the pictures)."""

    seq: int
    text: str
    t_video_s: float
    t_emit_s: float


class Status(NamedTuple):
    """What the tick at `t_video_s` did; all words that it gave came before. Fields as in docs/protocol.md."""

    t_video_s: float
    step: int
    lag_s: float
    dropped_frames: int
    late_frames: int
    tokens: int
    tokens_per_s: int
    anchor: bool
    places: list[list[int]]
    change: float


class Notice(NamedTuple):
    """Something that does not end the stream: an error's code, "config" (new settings), "connection" or "missed"."""

    code: str
    message: str


Event = Word | Status | Notice
