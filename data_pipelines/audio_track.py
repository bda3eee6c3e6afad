"""The sound of a stretch of a file, as a small encoded track of its own."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class AudioFormat:
    """How sound is kept: mono.

    Attributes:
      format: "opus" (in Ogg) or "pcm" (16 bits, in WAV).
      rate_hz: samples a second; Opus knows 8000, 12000, 16000, 24000 and 48000.
      bitrate_kbps: of Opus.
    """

    format: str = "opus"
    rate_hz: int = 24000
    bitrate_kbps: int = 32
