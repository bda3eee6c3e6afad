"""What a voice has said, trimmed, at one rate and level, and remembered: the same word is the same sound every time."""

import hashlib
import json
import os
import uuid
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from data_pipelines.speech.voices import Said, Voice

# Below a hundredth of its loudest moment (-40 dB) a sound has not begun, or is over.
_SILENT = 0.01
_LOUDNESS_S = 0.005
_FADE_S = 0.005
_PEAK = 0.8  # of full scale
_REMEMBERED = 20_000  # sounds in memory; some hundred megabytes of phrases


class Studio:
    """Says texts with one voice.

    Args:
      voice: that says them.
      rate_hz: samples a second of what is said.
      folder: where what was said is kept for other processes and runs; "" for nowhere.
    """

    def __init__(self, voice: Voice, rate_hz: int, folder: str = ""):
        self._voice, self._rate_hz = voice, rate_hz
        self._said: dict[tuple[str, float], np.ndarray] = {}
        self._folder: Path | None = None
        if folder:
            facts = json.dumps([voice.facts(), rate_hz], sort_keys=True)
            self._folder = Path(folder) / hashlib.sha256(facts.encode()).hexdigest()[:16]
            self._folder.mkdir(parents=True, exist_ok=True)

    def sounds(self, wanted: Sequence[tuple[str, float]]) -> list[np.ndarray]:
        """Texts as sound.

        Args:
          wanted: texts, and how many times as fast as the voice speaks by itself.

        Returns:
          Of each int16 `[N]`, which begins with its first sound and ends with its last; N is 0 where nothing can be
          heard of it.

        Raises:
          VoiceError: the program does not run.
        """
        found = {ask: self._remembered(ask) for ask in dict.fromkeys(wanted)}
        unsaid = defaultdict(list)
        for (text, speed), sound in found.items():
            if sound is None:
                unsaid[speed].append(text)
        for speed, texts in sorted(unsaid.items()):
            # What has no letter and no digit is a dash or the like: programs stumble over it.
            sayable = [text for text in texts if any(letter.isalnum() for letter in text)]
            said = dict(zip(sayable, self._voice.say(sayable, speed), strict=True)) if sayable else {}
            for text in texts:
                found[text, speed] = self._remember((text, speed), self._trimmed(said.get(text)))
        return [found[ask] for ask in wanted]  # type: ignore[misc]  # all are there by now

    def _remembered(self, ask: tuple[str, float]) -> np.ndarray | None:
        if ask not in self._said and self._folder is not None and self._file(ask).is_file():
            self._said[ask] = np.load(self._file(ask))
        return self._said.get(ask)

    def _remember(self, ask: tuple[str, float], sound: np.ndarray) -> np.ndarray:
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[ask] = sound
        if self._folder is not None:
            temporary = self._folder / f".{uuid.uuid4().hex}.npy"
            np.save(temporary, sound)
            os.replace(temporary, self._file(ask))  # whole or not at all, whoever else says the same
        return sound

    def _file(self, ask: tuple[str, float]) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(json.dumps(ask).encode()).hexdigest()}.npy"

    def _trimmed(self, said: Said | None) -> np.ndarray:
        nothing = np.zeros(0, np.int16)
        if said is None:
            return nothing
        ratio = Fraction(self._rate_hz, said.rate_hz)
        samples = resample_poly(said.samples.astype(np.float64), ratio.numerator, ratio.denominator)
        window = max(1, round(_LOUDNESS_S * self._rate_hz))
        blocks = np.pad(samples, (0, -len(samples) % window)).reshape(-1, window)
        loudness = np.sqrt((blocks**2).mean(axis=1))
        heard = np.flatnonzero(loudness > _SILENT * loudness.max(initial=0.0))
        if not heard.size:
            return nothing
        samples = samples[heard[0] * window : (heard[-1] + 1) * window]
        samples = samples * (_PEAK * np.iinfo(np.int16).max / np.abs(samples).max())
        return np.round(faded(samples, round(_FADE_S * self._rate_hz))).astype(np.int16)


def faded(samples: np.ndarray, count: int) -> np.ndarray:
    """The samples, risen from silence over the first `count` and sunk to it over the last."""
    count = min(count, len(samples) // 2)
    ramp = np.linspace(0, 1, count, endpoint=False)
    out = samples.copy()
    out[:count] = out[:count] * ramp
    out[len(out) - count :] = out[len(out) - count :] * ramp[::-1]
    return out
