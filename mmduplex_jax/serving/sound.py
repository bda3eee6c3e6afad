"""A stream's sound on its way to one client: what waits is bounded and gives way, and joints are faded.

Words have the first right to a connection: sound that a client does not take in time is left out, oldest first, and
counted. What was left out is not sent later; after it, the sound goes on with what is said now.
"""

from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.serving.protocol import Sound
from mmduplex_jax.streaming.sound import FADE_S, SoundPiece

# What libopus takes: rates, and lengths of a packet in seconds (RFC 6716, sections 2 and 3.2; several frames a packet
# up to 120 ms).
_OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
_OPUS_PACKETS_MS = (20, 40, 60, 80, 100, 120)
# Clear speech of one channel.
_OPUS_BITS_PER_S = 32_000
# Times this close are one.
_SAME_S = 1e-3


def sounds_of(sample_rate_hz: int | None, clock: Clock) -> tuple[str, ...]:
    """What a client may ask for as `sound` of a model's voice, less a track, which is its connection's; () without."""
    if sample_rate_hz is None:
        return ()
    fits = sample_rate_hz in _OPUS_RATES_HZ and _packet_ms(clock) in _OPUS_PACKETS_MS
    return ("pcm16", "opus") if fits else ("pcm16",)


def _packet_ms(clock: Clock) -> float:
    return round(1e3 * clock.step_s, 6)


class Queued(NamedTuple):
    """A piece, and whether it follows without a gap on the one that was taken before it."""

    piece: SoundPiece
    continues: bool


class SoundQueue:
    """Sound that waits for its connection.

    Attributes:
      on_left_out: called for each piece that gives way.
    """

    def __init__(self, sample_rate_hz: int, clock: Clock, waiting_max_s: float):
        """Lets so much wait, and two ticks' pieces at the least."""
        self._waiting: deque[SoundPiece] = deque()
        self._rate_hz = sample_rate_hz
        self._waiting_max = max(2 * clock.video_stride, round(waiting_max_s / clock.step_s))
        self._last: SoundPiece | None = None
        self.on_left_out: Callable[[], None] = lambda: None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def has_room(self, pieces: int) -> bool:
        """Whether so many more let none give way."""
        return len(self._waiting) + pieces <= self._waiting_max

    def put(self, piece: SoundPiece) -> None:
        """Adds a piece; the oldest gives way where too many wait."""
        if not self.has_room(1):
            self._waiting.popleft()
            self.on_left_out()
        self._waiting.append(piece)

    def take(self) -> Queued | None:
        """The oldest piece; None where none waits."""
        if not self._waiting:
            return None
        piece, before = self._waiting.popleft(), self._last
        self._last = piece
        ended_s = None if before is None else before.t_s + len(before.samples) / self._rate_hz
        # (At a cut steps begin anew, and the sound goes on. After a reset a step, or a time, may come again.)
        follows = before is not None and piece.step in (before.step + 1, 0)
        return Queued(piece, follows and ended_s is not None and abs(piece.t_s - ended_s) < _SAME_S)

    def clear(self) -> None:
        """Lets go of what waits, since the stream begins anew: nothing is counted, and what comes follows nothing."""
        self._waiting.clear()
        self._last = None


class SoundEncoder:
    """Encodes one connection's sound, piece after piece."""

    def __init__(self, codec: str, sample_rate_hz: int, clock: Clock):
        """`codec` is "pcm16" or "opus", one of `sounds_of` this voice."""
        self._codec, self._rate_hz = codec, sample_rate_hz
        self._opus = opus_encoder(sample_rate_hz, _packet_ms(clock)) if codec == "opus" else None

    def encode(self, queued: Queued) -> Sound:
        """The piece as it is sent."""
        piece, continues = queued
        samples = pcm16(piece.samples)
        if self._opus is None:
            data = samples.astype("<i2").tobytes()
        else:
            frame = audio_frame(samples, self._rate_hz)
            data = b"".join(bytes(packet) for packet in self._opus.encode(frame))
        return Sound(piece.t_s, piece.step, self._codec, self._rate_hz, continues, data)


def opus_encoder(sample_rate_hz: int, packet_ms: float) -> av.AudioCodecContext:
    """An encoder that makes one packet of each frame of `packet_ms`."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate_hz, "mono", "s16"
    encoder.bit_rate = _OPUS_BITS_PER_S
    encoder.options = {"application": "voip", "frame_duration": f"{packet_ms:g}"}
    encoder.open()
    return encoder


def pcm16(samples: np.ndarray) -> np.ndarray:
    """Float samples as int16; what is louder than full scale is cut off there."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)


def audio_frame(samples: np.ndarray, sample_rate_hz: int, pts: int | None = None) -> av.AudioFrame:
    """Samples, int16 `[L]`, as PyAV has them; `pts` counts samples."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.time_base = sample_rate_hz, Fraction(1, sample_rate_hz)
    frame.pts = pts
    return frame


class Joined:
    """Pieces as one sound: where something was left out, it fades out before the gap and in after it.

    The last few milliseconds are held back until it is known whether the sound goes on.
    """

    def __init__(self, sample_rate_hz: int):
        self._fade = np.linspace(0.0, 1.0, max(2, round(FADE_S * sample_rate_hz)), dtype=np.float32)
        self._tail = np.zeros(0, np.float32)

    def add(self, queued: Queued) -> np.ndarray:
        """What can be heard with this piece: float32 `[L']`."""
        samples, n = np.array(queued.piece.samples, np.float32), len(self._fade)
        before = self._tail
        if not (queued.continues and len(before)):
            before = self.end()
            samples[:n] *= self._fade[: len(samples)]
        whole = np.concatenate([before, samples])
        self._tail = whole[-n:]
        return whole[:-n]

    def end(self) -> np.ndarray:
        """What was held back, faded out: nothing follows for now."""
        tail, self._tail = self._tail, np.zeros(0, np.float32)
        return tail * self._fade[::-1][-len(tail) :] if len(tail) else tail
