"""Repetition: does a speaker say the same again? By whole utterances, and by four words in a row.

`utterances` is the share of utterances that say, word for word, what an earlier one of the same video says, as
MMDuet2's reward counts repetition without its language model (PINTO0309/MMDuet2 cd3854d). `four_words` is the share
of rows of four words that stood before (seq-rep-4: Welleck et al., 2020, arXiv:1908.04319). Case and punctuation do
not matter. Commentators repeat themselves, so both are to be held against the reference's own.
"""

import dataclasses
from collections.abc import Sequence

from mmduplex_jax.evals.timing.utterances import Commentary, plain, words_of

_ROW = 4


@dataclasses.dataclass(frozen=True)
class RepetitionCounts:
    """Of one video: utterances and those that repeat one, rows of four words and those that stood before."""

    utterances: int
    repeated_utterances: int
    rows: int
    repeated_rows: int


def repetition_counts(said: Commentary) -> RepetitionCounts:
    """What one video adds."""
    texts = [" ".join(plain(word.text) for word in one.words) for one in said]
    words = [plain(word.text) for word in words_of(said)]
    rows = [tuple(words[begin : begin + _ROW]) for begin in range(len(words) - _ROW + 1)]
    return RepetitionCounts(len(texts), len(texts) - len(set(texts)), len(rows), len(rows) - len(set(rows)))


def repetition_figures(counts: Sequence[RepetitionCounts]) -> dict[str, float | None]:
    """Over all videos together: `utterances` and `four_words`, each None where there are none."""
    said, rows = sum(one.utterances for one in counts), sum(one.rows for one in counts)
    return {
        "utterances": sum(one.repeated_utterances for one in counts) / said if said else None,
        "four_words": sum(one.repeated_rows for one in counts) / rows if rows else None,
    }
