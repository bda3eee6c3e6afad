"""Bounds that a server sets to everybody, as flags of its command; and a bucket that measures rates."""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

AnyBounds = TypeVar("AnyBounds", bound="Bounds")


def limit(default: float, help: str) -> Any:
    """A field of `Bounds`: what holds where no flag says otherwise, and what it bounds."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Limits of a server, each more than 0 and a flag `--limit_NAME`. Subclasses have the fields, made by `limit`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"--limit_{field.name} must be more than 0, got {getattr(self, field.name)}")


def add_limit_flags(flags: argparse.ArgumentParser, bounds: type[Bounds], title: str) -> None:
    """A group of flags, one for each limit."""
    group = flags.add_argument_group(title)
    for field in dataclasses.fields(bounds):
        text = f"{field.metadata['help']} (%(default)s)"
        group.add_argument(f"--limit_{field.name}", type=type(field.default), default=field.default, help=text)


def limits_of(args: argparse.Namespace, bounds: type[AnyBounds]) -> AnyBounds:
    """What these flags say; ValueError for a limit that is none."""
    return bounds(**{field.name: getattr(args, f"limit_{field.name}") for field in dataclasses.fields(bounds)})


@dataclasses.dataclass(frozen=True)
class Limits(Bounds):
    """Bounds that hold for every client. Each one is a flag of `launch.serve`; its help says what it bounds."""

    connections: int = limit(1024, "open sockets, streams or not")
    message_bytes: int = limit(2 << 20, "of a picture's message")
    text_bytes: int = limit(64 << 10, "of a text message, and of an HTTP request's body")
    pixels: int = limit(1920 * 1200, "of a picture, width × height")
    frame_rate_hz: float = limit(
        60.0, "pictures a second that a live stream may send, with a second's worth at once; more are dropped"
    )
    messages_hz: float = limit(20.0, "text messages a second, with two seconds' worth at once; more end the stream")
    bad_frames: int = limit(20, "pictures in a row that do not decode; more end the stream")
    decode_s: float = limit(0.5, "of a processor's time for decoding one picture; more ends its decoder")
    lost_decoders: int = limit(3, "decoders that a stream may lose at once, and in a minute from then on; more end it")
    inbox_frames: int = limit(8, "pictures that wait to be decoded; of a live stream the oldest are dropped beyond it")
    file_ticks: int = limit(4, "ticks of a file that wait for the model; the client is made to wait beyond it")
    hello_s: float = limit(10.0, "from a connection to its hello")
    idle_s: float = limit(120.0, "without any message or picture")
    resume_s: float = limit(
        30.0, "how long a stream waits for a client that was cut off, and a finished one for its last words"
    )
    send_s: float = limit(10.0, "how long a client may take to read what is sent to it")
    replay_words: int = limit(4096, "words kept for a client that comes back, and for a slow reader")
    sound_s: float = limit(
        0.5, "sound that waits for a client that does not take it; the oldest is left out beyond it, a file's waits"
    )
    feeds: int = limit(8, "readers of one stream's words beside its client")
    gap_s: float = limit(2.0, "a picture is repeated over a gap of at most this long; a longer gap is jumped over")


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
