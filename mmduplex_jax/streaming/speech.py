"""What is heard, into a file or out of a loudspeaker, in step with the stream's time."""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from data_pipelines.decode import Tick
from mmduplex_jax.streaming.runtime import Listener
from mmduplex_jax.streaming.slot import TickResult
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.word_decoder import TimedWord

# What --speech and `recording` play on.
DEVICE = "device"
# The container and the codec of each kind of file.
FORMATS = {
    ".wav": ("wav", "pcm_s16le"),
    ".opus": ("ogg", "libopus"),
    ".ogg": ("ogg", "libopus"),
    ".m4a": ("ipod", "aac"),
}
# The rate of a codec that does not know the sound's own.
_USUAL_RATE_HZ = 48_000
# Pieces whose times differ by less from where the last one ended follow on it: rounding is no gap.
_GAP_S = 0.005
_SILENCE_SAMPLES = 1 << 16
_HELP = "pip install sounddevice (the extra `device`), and PortAudio of the system (Debian: apt install libportaudio2)"


class SoundTrack:
    """Sound in a container that is being written: each piece at its time, silence where there is none."""

    def __init__(self, container: av.container.OutputContainer, codec: str, sample_rate_hz: int):
        """Adds a stream to the container.

        Args:
          container: nothing was written to it yet.
          codec: FFmpeg's name of an encoder.
          sample_rate_hz: of the pieces.
        """
        known = av.Codec(codec, "w").audio_rates
        rate_hz = sample_rate_hz if not known or sample_rate_hz in known else _USUAL_RATE_HZ
        self._container, self._rate_hz = container, sample_rate_hz
        stream = container.add_stream(codec, rate=rate_hz)
        assert isinstance(stream, av.AudioStream)  # as its codec is one of sound
        stream.layout = "mono"
        self._stream, self._written = stream, 0

    def write(self, piece: SoundPiece) -> None:
        """Writes the next piece; what of it would be earlier than the end of the last one is left out."""
        gap = round(piece.t_s * self._rate_hz) - self._written
        samples = piece.samples
        if gap < -_GAP_S * self._rate_hz:
            samples = samples[-gap:]
        elif gap > _GAP_S * self._rate_hz or not self._written:
            for length in _parts(max(0, gap)):
                self._encode(np.zeros(length, np.float32))
        if len(samples):
            self._encode(samples)

    def finish(self) -> None:
        """Writes what the encoder still has."""
        self._container.mux(self._stream.encode(None))

    def _encode(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), "flt", "mono")
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._written
        self._written += len(samples)
        self._container.mux(self._stream.encode(frame))


def _parts(samples: int) -> Iterator[int]:
    """Lengths that add up to so many samples, none too large to hold."""
    while samples > 0:
        yield min(samples, _SILENCE_SAMPLES)
        samples -= _SILENCE_SAMPLES


class SoundListener(Listener, Protocol):
    """A listener that takes sound, too."""

    def on_sound(self, piece: SoundPiece) -> None:
        """The next piece."""


def open_speech(target: str | os.PathLike[str], sample_rate_hz: int) -> SoundListener:
    """A file of one of `FORMATS`, or the loudspeaker for "device"; ValueError where it is neither or cannot be."""
    return SoundDevice(sample_rate_hz) if target == DEVICE else SoundFile(target, sample_rate_hz)


def check_speech(target: str | os.PathLike[str]) -> None:
    """Raises ValueError for what `open_speech` does not know."""
    if target != DEVICE and Path(target).suffix.lower() not in FORMATS:
        raise ValueError(
            f"--speech={os.fspath(target)}: sound is written as {', '.join(FORMATS)}, or played ({DEVICE})"
        )


class SoundFile:
    """Writes what is heard, from the stream's time 0 on; nothing is kept."""

    def __init__(self, path: str | os.PathLike[str], sample_rate_hz: int):
        """An older file must not be taken for this one where nothing is heard; ValueError for an unknown kind."""
        check_speech(path)
        self._path, self._rate_hz = Path(path), sample_rate_hz
        self._path.unlink(missing_ok=True)
        self._container: av.container.OutputContainer | None = None
        self._track: SoundTrack | None = None

    def on_sound(self, piece: SoundPiece) -> None:
        """Writes a piece."""
        if self._track is None:
            container, codec = FORMATS[self._path.suffix.lower()]
            self._container = av.open(str(self._path), "w", format=container)
            self._track = SoundTrack(self._container, codec, self._rate_hz)
        self._track.write(piece)

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """Words are not heard."""

    def close(self, words: Sequence[TimedWord]) -> None:
        """Ends the file."""
        if self._container is None or self._track is None:
            return
        try:
            self._track.finish()
        finally:
            self._container.close()


class SoundDevice:
    """Plays what is heard on the machine's loudspeaker; a stream that runs faster than that waits for it."""

    def __init__(self, sample_rate_hz: int):
        """Opens the device; ValueError where the library, or a device, is missing."""
        # Optional, and it looks for PortAudio when it is imported.
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise ValueError(f"--speech={DEVICE} needs a library that is not there ({error}): {_HELP}") from error
        try:
            self._stream: Any = sounddevice.OutputStream(samplerate=sample_rate_hz, channels=1, dtype="float32")
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise ValueError(
                f"--speech={DEVICE}: no loudspeaker takes {sample_rate_hz} Hz ({error}); `python -m sounddevice` lists "
                "what there is. Or write a file: --speech=out.wav"
            ) from error

    def on_sound(self, piece: SoundPiece) -> None:
        """Plays a piece; waits while the device still has enough to play."""
        self._stream.write(piece.samples[:, None])

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """Words are not heard."""

    def close(self, words: Sequence[TimedWord]) -> None:
        """Plays the rest, and lets go of the device."""
        self._stream.stop()
        self._stream.close()
