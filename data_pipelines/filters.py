"""Filters: which clips are worth training on. What is refused is counted by its cause."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import Word
from data_pipelines.sources import Rejected


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

    def rejects(
        self, words: Sequence[Word], timing: str, duration_s: float, language: str, words_from_s: float = 0.0
    ) -> Rejected | None:
        """Why a clip is refused, or None; `words_from_s` is where its own speech begins (see `windows.Window`)."""
        return self.rejects_video(duration_s, language) or self.rejects_speech(words, timing, duration_s - words_from_s)

    def rejects_video(self, duration_s: float, language: str) -> Rejected | None:
        """Why a video is refused for its length or its language, or None."""
        raise NotImplementedError

    def rejects_speech(self, words: Sequence[Word], timing: str, duration_s: float) -> Rejected | None:
        """Why the words of `duration_s` are refused for their rate or their gaps, or None."""
        raise NotImplementedError


def filters_of(config: Mapping[str, Any]) -> Filters:
    """The filters of a configuration's `filters`; ValueError for an unknown name or limits that exclude everything."""
    raise NotImplementedError
