"""How well is speech understood, and is it in time? Word error and onsets, of what a recogniser heard of spoken words.

The figures are of everything together, not means over clips. Their intervals are bootstraps over clips, since what is
heard within a clip hangs together.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mmduplex_jax.evals.captions import words_of

# Sets of as many clips that are drawn for an interval, and how much of them lies within it.
_RESAMPLES, _LEVEL = 1000, 0.95


class JiwerMissing(ValueError):
    """jiwer, which lines up what was said with what was heard, is not installed."""


class SaidWord(NamedTuple):
    """A word that speech is to say.

    Attributes:
      text: as written.
      t_s: when its text was there, in the time of the sound; None where that is not known.
    """

    text: str
    t_s: float | None = None


class HeardWord(NamedTuple):
    """A word that a recogniser heard, and from when to when, in the time of the sound."""

    text: str
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class HeardClip:
    """A clip's speech as it was heard beside what it was to say.

    Attributes:
      words: W, words that were to be said.
      substitutions, deletions, insertions: errors: another word was heard, none was, one more was.
      onsets_s: of each word that was heard as it was said and has a time: when its sound begins less that time.
      wrong: what was said and what was heard instead ("" for nothing), of each error.
    """

    words: int
    substitutions: int
    deletions: int
    insertions: int
    onsets_s: tuple[float, ...] = ()
    wrong: tuple[tuple[str, str], ...] = ()

    @property
    def errors(self) -> int:
        """All of them."""
        return self.substitutions + self.deletions + self.insertions


def plain(words: Sequence[SaidWord]) -> list[SaidWord]:
    """The words as recognisers spell them: lower case, no punctuation; one that holds several is several."""
    return [SaidWord(part, word.t_s) for word in words for part in words_of(word.text)]


def compare(said: Sequence[SaidWord], heard: Sequence[HeardWord]) -> HeardClip:
    """Lines up words that were to be said with those that were heard, with the fewest errors (Levenshtein).

    Raises:
      JiwerMissing: jiwer is not installed.
    """
    right = plain(said)
    found = [HeardWord(part, word.start_s, word.end_s) for word in heard for part in words_of(word.text)]
    if not right:  # jiwer wants at least one
        return HeardClip(0, 0, 0, len(found), wrong=tuple(("", word.text) for word in found))
    onsets_s: list[float] = []
    wrong: list[tuple[str, str]] = []
    counts = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for kind, said_span, heard_span in _alignment([word.text for word in right], [word.text for word in found]):
        mine, theirs = right[slice(*said_span)], found[slice(*heard_span)]
        counts[kind] += max(len(mine), len(theirs))
        if kind == "equal":
            onsets_s += [other.start_s - word.t_s for word, other in zip(mine, theirs) if word.t_s is not None]
        elif kind == "substitute":
            wrong += [(word.text, other.text) for word, other in zip(mine, theirs, strict=True)]
        else:
            wrong += [(word.text, "") for word in mine] + [("", word.text) for word in theirs]
    errors = (counts["substitute"], counts["delete"], counts["insert"])
    return HeardClip(len(right), *errors, onsets_s=tuple(onsets_s), wrong=tuple(wrong))


def heard_report(clips: Sequence[HeardClip], seed: int = 0) -> dict[str, Any]:
    """The figures of a row.

    Args:
      clips: at least one.
      seed: of the bootstrap.

    Returns:
      `word_error` (errors over words), `onset_p50_s`, `onset_p95_s` (sound less text), each `None` where there is
      nothing to count; `intervals`: low and high of the same; `clips`, `words`, `substitutions`, `deletions`,
      `insertions`, `onsets`: counts; `wrong`: pairs said, heard, and how often, the most frequent first.
    """
    if not clips:
        raise ValueError("there is no clip whose speech could be judged")
    draws = np.random.default_rng(seed).integers(len(clips), size=(_RESAMPLES, len(clips)))
    each = [_figures([clips[i] for i in draw]) for draw in draws]
    report: dict[str, Any] = _figures(clips)
    report["intervals"] = {name: _interval([figures[name] for figures in each]) for name in report}
    report |= {"clips": len(clips), "onsets": sum(len(clip.onsets_s) for clip in clips)}
    for name in ("words", "substitutions", "deletions", "insertions"):
        report[name] = sum(getattr(clip, name) for clip in clips)
    pairs = [pair for clip in clips for pair in clip.wrong]
    report["wrong"] = sorted(
        ([said, heard, pairs.count((said, heard))] for said, heard in set(pairs)), key=lambda row: (-row[2], *row[:2])
    )
    return report


def word_error(clips: Sequence[HeardClip]) -> float | None:
    """Errors over words that were to be said, above 1 where more is heard than was said; None where nothing was."""
    words = sum(clip.words for clip in clips)
    return sum(clip.errors for clip in clips) / words if words else None


def _figures(clips: Sequence[HeardClip]) -> dict[str, float | None]:
    onsets_s = [onset_s for clip in clips for onset_s in clip.onsets_s]
    p50_s, p95_s = np.percentile(onsets_s, [50, 95]).tolist() if onsets_s else (None, None)
    return {"word_error": word_error(clips), "onset_p50_s": p50_s, "onset_p95_s": p95_s}


def _interval(drawn: Sequence[float | None]) -> list[float] | None:
    """Of a figure of sets of clips; None where no set has it."""
    values = [value for value in drawn if value is not None]
    if not values:
        return None
    return [float(edge) for edge in np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])]


def _alignment(said: list[str], heard: list[str]) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Spans of equal words, of substitutions, deletions and insertions, in order."""
    try:
        jiwer = importlib.import_module("jiwer")
    except ModuleNotFoundError as error:
        raise JiwerMissing("word error needs the package jiwer: pip install 'mmduplex-jax[recognise]'") from error
    chunks = jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]
    return [
        (chunk.type, (chunk.ref_start_idx, chunk.ref_end_idx), (chunk.hyp_start_idx, chunk.hyp_end_idx))
        for chunk in chunks
    ]
