"""Pace: words a second, how much of the time is silent, and whether speech is too fast to be spoken.

No scores: figures to be held against the reference's own, which `scores.py` puts beside them. A speaker can have all
of them right and say nothing true.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from mmduplex_jax.evals.timing.utterances import Commentary


@dataclasses.dataclass(frozen=True)
class PaceCounts:
    """Of one video: words, its length, the seconds in which somebody speaks, and what is left over if read out."""

    words: int
    duration_s: float
    spoken_s: float
    read_out_s: float
    overlap_s: float


def pace_counts(said: Commentary, duration_s: float) -> PaceCounts:
    """What one video adds.

    Speech lasts from an utterance's begin to its end, and what is after the video's end does not count. Self-overlap
    supposes that a person reads each utterance out from its begin on, at 150 words a minute: what of it is still being
    read when another one begins overlaps.
    """
    read_out = [(one.start_s, one.spoken_until_s) for one in said]
    read_out_s = sum(end_s - start_s for start_s, end_s in read_out)
    within = [(max(one.start_s, 0.0), min(one.end_s, duration_s)) for one in said]
    return PaceCounts(
        words=sum(len(one.words) for one in said),
        duration_s=duration_s,
        spoken_s=_covered_s(within),
        read_out_s=read_out_s,
        overlap_s=read_out_s - _covered_s(read_out),
    )


def _covered_s(spans_s: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans; a span that ends before it begins is empty."""
    covered_s, until_s = 0.0, float("-inf")
    for start_s, end_s in sorted(spans_s):
        covered_s += max(end_s - max(start_s, until_s), 0.0)
        until_s = max(until_s, end_s)
    return covered_s


def pace_figures(counts: Sequence[PaceCounts]) -> dict[str, float | None]:
    """Over all videos together: `words_per_s`; `silence`, the share of time; `self_overlap`, the share of what is read
    out that overlaps, None where nothing is said.
    """
    duration_s = sum(one.duration_s for one in counts)
    read_out_s = sum(one.read_out_s for one in counts)
    return {
        "words_per_s": sum(one.words for one in counts) / duration_s if duration_s else None,
        "silence": 1 - sum(one.spoken_s for one in counts) / duration_s if duration_s else None,
        "self_overlap": sum(one.overlap_s for one in counts) / read_out_s if read_out_s else None,
    }
