"""What a client may ask of the server, and a bucket that measures rates."""

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds that hold for every client. Each one is a flag of `launch.serve`.

    Attributes:
      connections: open sockets, streams or not.
      message_bytes: of a picture's message.
      text_bytes: of a text message, and of an HTTP request's body.
      pixels: of a picture, width × height.
      frame_rate_hz: pictures a second that a live stream may send, with a second's worth at once; more are dropped.
      messages_hz: text messages a second, with two seconds' worth at once; more end the stream.
      bad_frames: pictures in a row that do not decode; more end the stream.
      inbox_frames: pictures that wait to be decoded; of a live stream the oldest are dropped beyond it.
      file_ticks: ticks of a file that wait for the model; the client is made to wait beyond it.
      hello_s: from a connection to its hello.
      idle_s: without any message or picture.
      resume_s: how long a stream waits for a client that was cut off, and a finished one for its last words.
      send_s: how long a client may take to read what is sent to it.
      replay_words: words kept for a client that comes back, and for a slow reader.
      feeds: readers of one stream's words beside its client.
      gap_s: a picture is repeated over a gap of at most this long; a longer gap is jumped over.
    """

    connections: int = 1024
    message_bytes: int = 2 << 20
    text_bytes: int = 64 << 10
    pixels: int = 1920 * 1200
    frame_rate_hz: float = 60.0
    messages_hz: float = 20.0
    bad_frames: int = 20
    inbox_frames: int = 8
    file_ticks: int = 4
    hello_s: float = 10.0
    idle_s: float = 120.0
    resume_s: float = 30.0
    send_s: float = 10.0
    replay_words: int = 4096
    feeds: int = 8
    gap_s: float = 2.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"limits.{field.name} must be more than 0, got {getattr(self, field.name)}")


class Bucket:
    """A token bucket: `take` says whether one more fits the rate now."""

    def __init__(self, rate_hz: float, burst: float, now: Callable[[], float] = time.monotonic):
        self._rate_hz, self._burst, self._now = rate_hz, max(1.0, burst), now
        self._left, self._at_s = self._burst, now()

    def take(self) -> bool:
        """Takes one; False where none is left."""
        now_s = self._now()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._rate_hz)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
