"""Speakers of known worth: a timing metric means something only beside theirs.

silent           says nothing
always_talking   sentences of this data's own, drawn at random, back to back at 150 words a minute
oracle           the reference itself
oracle_late_3s   the same three seconds later
shuffled         the reference's times, with the texts of others
"""

from collections.abc import Sequence

import numpy as np

from mmduplex_jax.evals.timing.utterances import Commentary, Utterance, moved, utterance_at

SPEAKERS = ("silent", "always_talking", "oracle", "oracle_late_3s", "shuffled")
LATE_S = 3.0


def speakers(
    reference: Sequence[Commentary], durations_s: Sequence[float], seed: int = 0
) -> dict[str, list[Commentary]]:
    """What each of `SPEAKERS` says of each video.

    Args:
      reference: what should be said of each.
      durations_s: of each.
      seed: of what is drawn.
    """
    return {
        "silent": [() for _ in reference],
        "always_talking": always_talking(reference, durations_s, seed),
        "oracle": list(reference),
        "oracle_late_3s": [moved(commentary, LATE_S) for commentary in reference],
        "shuffled": _shuffled(reference, seed),
    }


def always_talking(reference: Sequence[Commentary], durations_s: Sequence[float], seed: int = 0) -> list[Commentary]:
    """Utterances of all videos, drawn at random, one after another without a pause until each video is over."""
    rng = np.random.default_rng(seed)
    texts = [one.text for commentary in reference for one in commentary]
    said: list[Commentary] = []
    for duration_s in durations_s:
        spoken: list[Utterance] = []
        until_s = 0.0
        while texts and until_s < duration_s:
            spoken.append(utterance_at(texts[rng.integers(len(texts))], until_s))
            until_s = spoken[-1].spoken_until_s
        said.append(spoken)
    return said


def _shuffled(reference: Sequence[Commentary], seed: int) -> list[Commentary]:
    """Each utterance at its time with the text of another, of any of the videos."""
    texts = [one.text for commentary in reference for one in commentary]
    left = iter(np.random.default_rng(seed).permutation(len(texts)))
    return [[utterance_at(texts[next(left)], one.start_s, one.end_s) for one in commentary] for commentary in reference]
