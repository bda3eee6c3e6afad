"""TimeDiff and trigger F1: does speech begin when it should, and is there speech in the seconds that need it?

Proact-VL (arXiv:2603.03447) reports both (1.20 s, F1 63.25) on the Live Gaming Benchmark, where a model decides each
second whether to speak; its scoring code is not published. So the rules are stated here and are ours:

- TimeDiff is, over all utterances that should be said, the mean distance in time to the nearest begin of an utterance
  that was said.
- A second is spoken in if a word begins in it. Trigger precision, recall and F1 are of the seconds spoken in. Cohen's
  kappa stands beside them since F1 has a flaw: whoever talks all the time has recall 1 and, of commentary that hardly
  ever pauses, a high F1; kappa is 0 for them.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mmduplex_jax.evals.timing.utterances import Commentary, words_of


@dataclasses.dataclass(frozen=True)
class TriggerCounts:
    """Of one video.

    Attributes:
      distances_s: of each utterance that should be said, to the nearest begin; () where nothing was said at all.
      unanswered: utterances that should be said in a video of which nothing was said at all.
      both, said_only, reference_only, neither: seconds by who spoke in them.
    """

    distances_s: tuple[float, ...]
    unanswered: int
    both: int
    said_only: int
    reference_only: int
    neither: int


def trigger_counts(said: Commentary, reference: Commentary, duration_s: float) -> TriggerCounts:
    """What one video adds; words that begin after `duration_s` count for the last second."""
    begins_s = np.array([one.start_s for one in said])
    distances_s = tuple(float(np.abs(begins_s - one.start_s).min()) for one in reference) if said else ()
    mine, theirs = _spoken_seconds(said, duration_s), _spoken_seconds(reference, duration_s)
    return TriggerCounts(
        distances_s,
        0 if said else len(reference),
        int((mine & theirs).sum()),
        int((mine & ~theirs).sum()),
        int((~mine & theirs).sum()),
        int((~mine & ~theirs).sum()),
    )


def _spoken_seconds(commentary: Commentary, duration_s: float) -> np.ndarray:
    spoken = np.zeros(max(math.ceil(duration_s), 1), bool)
    for word in words_of(commentary):
        spoken[min(max(int(word.start_s), 0), len(spoken) - 1)] = True
    return spoken


def trigger_scores(counts: Sequence[TriggerCounts]) -> dict[str, float | None]:
    """Over all videos together.

    Returns:
      `time_diff_s` (None where nothing was said), `unanswered` (the share of utterances that TimeDiff leaves out,
      their video being silent), `f1`, `precision`, `recall`, and `kappa` (None where all agree on one answer).
    """
    distances_s = [distance_s for one in counts for distance_s in one.distances_s]
    unanswered = sum(one.unanswered for one in counts)
    both, mine, theirs, neither = (
        sum(getattr(one, name) for one in counts) for name in ("both", "said_only", "reference_only", "neither")
    )
    total = both + mine + theirs + neither
    by_chance = ((both + mine) * (both + theirs) + (neither + mine) * (neither + theirs)) / total**2 if total else 1.0
    return {
        "time_diff_s": sum(distances_s) / len(distances_s) if distances_s else None,
        "unanswered": unanswered / (unanswered + len(distances_s)) if unanswered or distances_s else None,
        "f1": 2 * both / (2 * both + mine + theirs) if both else 0.0,
        "precision": both / (both + mine) if both else 0.0,
        "recall": both / (both + theirs) if both else 0.0,
        "kappa": ((both + neither) / total - by_chance) / (1 - by_chance) if by_chance < 1 else None,
    }
