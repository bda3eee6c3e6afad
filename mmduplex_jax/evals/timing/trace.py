"""TRACE: utterances matched one to one, scored by what they say and when (Yu and Chai, 2025, arXiv:2505.11326).

As yukw777/tglg c5d1159 computes it (src/real_time_vlm_benchmark/eval/real_time_gen_eval.py, scripts/eval.py), and with
one difference: there a swap is weighed against pairs from before the last swap, by which two utterances can end up with
the same reference; here a swap is weighed against the pairs as they are.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mmduplex_jax.evals.timing.similarity import Similarity
from mmduplex_jax.evals.timing.utterances import Commentary
from mmduplex_jax.typing import Float

# Matching: how fast a distance in time lowers a pair's worth, and beyond what there is none.
_MATCH_TAU_S, _WINDOW_S, _PASSES = 3.0, 5.0, 5
# Scores of time: e^(-distance / 1 s); start, stop and overlap weigh 0.4, 0.4 and 0.2.
_TAU_S, _WEIGHTS = 1.0, (0.4, 0.4, 0.2)
_ALPHA = 0.5


@dataclasses.dataclass(frozen=True)
class TraceSums:
    """Of one video, or of many added up: numbers of utterances, and over the matched ones sums of scores."""

    said: int = 0
    reference: int = 0
    matched: int = 0
    accuracy: float = 0.0
    start: float = 0.0
    stop: float = 0.0
    overlap: float = 0.0

    def __add__(self, other: "TraceSums") -> "TraceSums":
        return TraceSums(
            *(mine + theirs for mine, theirs in zip(dataclasses.astuple(self), dataclasses.astuple(other)))
        )


def trace_sums(said: Commentary, reference: Commentary, similarity: Similarity) -> TraceSums:
    """What one video adds to TRACE.

    Args:
      said: when an utterance ends follows from its number of words, at 150 a minute.
      reference: what should have been said, with its own ends.
      similarity: of texts; (1 + similarity) / 2 is a pair's accuracy.
    """
    if not said or not reference:
        return TraceSums(len(said), len(reference))
    alike = similarity([one.text for one in said], [one.text for one in reference])
    starts_s = np.array([one.start_s for one in said]), np.array([one.start_s for one in reference])
    pairs = match_utterances(*starts_s, alike)
    mine, theirs = [said[i] for i, _ in pairs], [reference[j] for _, j in pairs]
    near = lambda distances_s: sum(math.exp(-abs(distance_s) / _TAU_S) for distance_s in distances_s)
    return TraceSums(
        said=len(said),
        reference=len(reference),
        matched=len(pairs),
        accuracy=sum((1 + float(alike[pair])) / 2 for pair in pairs),
        start=near(one.start_s - other.start_s for one, other in zip(mine, theirs)),
        stop=near(one.spoken_until_s - other.end_s for one, other in zip(mine, theirs)),
        overlap=near(_overlaps_s(mine)),
    )


def match_utterances(
    said_s: Float[np.ndarray, "N"], reference_s: Float[np.ndarray, "M"], alike: Float[np.ndarray, "N M"]
) -> list[tuple[int, int]]:
    """Pairs (number in `said`, number in `reference`): the nearest in time, then swapped where that makes more sense.

    Args:
      said_s, reference_s: when utterances begin.
      alike: similarity of their texts.
    """
    # It takes longer to import than a model to load, and every start of a duplex model imports this file.
    from scipy.optimize import linear_sum_assignment

    apart_s = np.abs(said_s[:, None] - reference_s[None, :])
    rows, columns = linear_sum_assignment(np.exp(-apart_s / _MATCH_TAU_S), maximize=True)
    partner = {int(row): int(column) for row, column in zip(rows, columns)}
    # Lists, since what follows looks at single values, millions of them in an hour of commentary.
    near, worth = (apart_s <= _WINDOW_S).tolist(), alike.tolist()
    for _ in range(_PASSES):
        swapped = False
        for i in partner:
            for other in partner:
                mine, theirs = partner[i], partner[other]
                if i == other or not (near[i][theirs] and near[other][mine]):
                    continue
                if worth[i][theirs] + worth[other][mine] > worth[i][mine] + worth[other][theirs]:
                    partner[i], partner[other], swapped = theirs, mine, True
        if not swapped:
            break
    return [(i, j) for i, j in partner.items() if near[i][j]]


def _overlaps_s(said: Commentary) -> list[float]:
    """For how long each is spoken while others are, summed over these."""
    starts_s = np.array([one.start_s for one in said])
    ends_s = np.array([one.spoken_until_s for one in said])
    shared_s = np.minimum(ends_s[:, None], ends_s) - np.maximum(starts_s[:, None], starts_s)
    shared_s = np.maximum(shared_s, 0.0)
    np.fill_diagonal(shared_s, 0.0)
    return [float(one_s) for one_s in shared_s.sum(axis=1)]


def trace_scores(sums: Sequence[TraceSums]) -> dict[str, float | None]:
    """TRACE over all videos together, each utterance with the same weight.

    Returns:
      `score` = α accuracy + (1 - α) timing, and `geometric` = accuracy^α timing^(1 - α), α = 0.5; `accuracy` and
      `timing`, which are means over matched utterances times F1; `f1`, `precision`, `recall` of matching; `start`,
      `stop`, `overlap`: means over matched utterances, None where there are none.
    """
    total = sum(sums, TraceSums())
    precision = total.matched / total.said if total.said else 0.0
    recall = total.matched / total.reference if total.reference else 0.0
    f1 = 2 * precision * recall / (precision + recall) if total.matched else 0.0
    mean = lambda value: value / total.matched if total.matched else None
    start, stop, overlap = mean(total.start), mean(total.stop), mean(total.overlap)
    accuracy = f1 * total.accuracy / total.matched if total.matched else 0.0
    parts = (total.start, total.stop, total.overlap)
    timed = sum(weight * part for weight, part in zip(_WEIGHTS, parts))
    timing = f1 * timed / total.matched if total.matched else 0.0
    return {
        "score": _ALPHA * accuracy + (1 - _ALPHA) * timing,
        "geometric": accuracy**_ALPHA * timing ** (1 - _ALPHA),
        "accuracy": accuracy,
        "timing": timing,
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "start": start,
        "stop": stop,
        "overlap": overlap,
    }
