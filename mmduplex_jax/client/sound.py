"""The model's voice as a client hears it: decoded samples of each step."""

from typing import Any, NamedTuple

import numpy as np

from mmduplex_jax.serving.protocol import Sound

# libopus decodes to this rate, whatever the encoder was given.
_OPUS_HZ = 48_000


class Heard(NamedTuple):
    """Sound of one step.

    Attributes:
      t_s: when its first sample is to be heard, on the client's own clock (that of the pictures).
      step: the model's step, as `step` of a status counts.
      samples: float32 `[L]` from -1 to 1, one channel.
      sample_rate_hz: of them.
      continues: it follows without a gap on the piece before it. Where it does not, something was left out: fade out
        and in there, or leave silence for what is missing.
    """

    t_s: float
    step: int
    samples: np.ndarray
    sample_rate_hz: int
    continues: bool


class SoundDecoder:
    """Decodes one connection's sound, piece after piece. Opus needs PyAV."""

    def __init__(self) -> None:
        self._opus: Any = None

    def decode(self, sound: Sound) -> Heard:
        """The samples of a piece; ValueError where they cannot be decoded."""
        if sound.codec == "pcm16":
            samples, rate_hz = np.frombuffer(sound.data, "<i2").astype(np.float32) / 32767, sound.sample_rate_hz
        else:
            samples, rate_hz = self._decode_opus(sound.data), _OPUS_HZ
        return Heard(sound.t_s, sound.step, samples, rate_hz, sound.continues)

    def _decode_opus(self, packet: bytes) -> np.ndarray:
        import av

        if self._opus is None:
            self._opus = av.CodecContext.create("libopus", "r")
            self._opus.sample_rate, self._opus.layout = _OPUS_HZ, "mono"
        frames = self._opus.decode(av.Packet(packet))
        return np.concatenate([frame.to_ndarray()[0].astype(np.float32) / 32768 for frame in frames])
