"""Filters: which clips are worth training on. What is refused is counted by its cause."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import Word
from data_pipelines.sources import Rejected
from data_pipelines.sources.causes import LANGUAGE, SPEECH_RATE, TOO_LONG, TOO_SHORT, WORD_GAP


@dataclasses.dataclass(frozen=True)
class Filters:
    """Limits, each inclusive; None is no limit.

    Attributes:
      words_per_s_min, words_per_s_max: how fast is spoken; a caption's words are not spoken, and pass.
      gap_max_s: the longest silence between two words.
      duration_min_s, duration_max_s: how long.
      languages: as the source names them; "" stands for one that is not known.
    """

    words_per_s_min: float | None = None
    words_per_s_max: float | None = None
    gap_max_s: float | None = None
    duration_min_s: float | None = None
    duration_max_s: float | None = None
    languages: tuple[str, ...] | None = None

    def __post_init__(self):
        for low, high in (("words_per_s_min", "words_per_s_max"), ("duration_min_s", "duration_max_s")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"filters.{low} is {least:g}, above filters.{high}, {most:g}: nothing would pass")

    def rejects_video(self, duration_s: float, language: str) -> Rejected | None:
        """Why a video is refused for its length or its language, or None."""
        if self.languages is not None and language not in self.languages:
            wanted = ", ".join(repr(one) for one in self.languages)
            is_so = f"is {language!r}" if language else "is not known"
            return Rejected(LANGUAGE, f"the language {is_so}, wanted are {wanted}")
        if self.duration_min_s is not None and duration_s < self.duration_min_s:
            return Rejected(TOO_SHORT, f"{duration_s:.2f} s, at least {self.duration_min_s:g} s are wanted")
        if self.duration_max_s is not None and duration_s > self.duration_max_s:
            return Rejected(TOO_LONG, f"{duration_s:.2f} s, at most {self.duration_max_s:g} s are wanted")
        return None

    def rejects_speech(self, words: Sequence[Word], timing: str, duration_s: float) -> Rejected | None:
        """Why the words of `duration_s` are refused for their rate or their gaps, or None."""
        if timing == "clip" or not words:
            return None
        low, high = self.words_per_s_min, self.words_per_s_max
        rate_hz = len(words) / duration_s if duration_s > 0 else math.inf
        if (low is not None and rate_hz < low) or (high is not None and rate_hz > high):
            limits = f"{0 if low is None else low:g} to {math.inf if high is None else high:g}"
            return Rejected(SPEECH_RATE, f"{len(words)} words in {duration_s:.2f} s, wanted are {limits} a second")
        if self.gap_max_s is not None:
            for before, after in zip(words, words[1:]):
                silent_from_s = before.start_s if before.end_s is None else before.end_s
                gap_s = after.start_s - silent_from_s
                if gap_s > self.gap_max_s:
                    where = f"after {before.text!r} at {before.start_s:.2f} s"
                    return Rejected(WORD_GAP, f"{gap_s:.2f} s {where}, at most {self.gap_max_s:g} s are wanted")
        return None


def filters_of(config: Mapping[str, Any]) -> Filters:
    """The filters of a configuration's `filters`; ValueError for an unknown name or limits that exclude everything."""
    known = [field.name for field in dataclasses.fields(Filters)]
    unknown = sorted(config.keys() - set(known))
    if unknown:
        raise ValueError(f"config.filters.{unknown[0]} is unknown, there are {known}")
    given = dict(config)
    if given.get("languages") is not None:
        given["languages"] = tuple(given["languages"])
    return Filters(**given)
