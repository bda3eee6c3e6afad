"""Commentators whose worth is known beforehand; a score means something only beside theirs.

oracle           the data's own commentator, packed into slots at the delay of the evaluation: what can be reached
oracle_late_3s   the same three seconds later: right words at the wrong time are worth nothing
other_clip       what the model said of another clip: what the words alone can guess
always_talking   phrases drawn from this data's own events, back to back: what talking alone can guess
always_silent    nothing
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.schema import Event
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.timing import PHRASE_S

NAMES = ("oracle", "oracle_late_3s", "other_clip", "always_talking", "always_silent")
LATE_S = 3.0


def control_phrases(
    events: Sequence[Sequence[Event]],
    durations_s: Sequence[float],
    said: Sequence[Sequence[Phrase]],
    oracle: Sequence[Sequence[Phrase]],
    seed: int = 0,
) -> dict[str, list[list[Phrase]]]:
    """What each control says of each clip.

    Args:
      events: of each clip, what happened.
      durations_s: of each clip.
      said: what the model said of each clip.
      oracle: what the data's commentator said of each clip, timed as the model's phrases are.
      seed: of what `always_talking` says.

    Returns:
      For each of `NAMES`, the phrases of each clip. With a single clip, `other_clip` says nothing.
    """
    if not len(events) == len(durations_s) == len(said) == len(oracle):
        raise ValueError(f"clips differ in number: {len(events)}, {len(durations_s)}, {len(said)}, {len(oracle)}")
    clips = len(events)
    return {
        "oracle": [list(phrases) for phrases in oracle],
        "oracle_late_3s": [
            [Phrase(phrase.attributes, phrase.start_s + LATE_S, phrase.text) for phrase in phrases]
            for phrases in oracle
        ],
        "other_clip": [list(said[(i + 1) % clips]) if clips > 1 else [] for i in range(clips)],
        "always_talking": always_talking(events, durations_s, seed),
        "always_silent": [[] for _ in range(clips)],
    }


def always_talking(
    events: Sequence[Sequence[Event]], durations_s: Sequence[float], seed: int = 0, phrase_s: float = PHRASE_S
) -> list[list[Phrase]]:
    """A phrase every `phrase_s`, drawn as often as its event occurs in this data: the best guess without eyes."""
    rng = np.random.default_rng(seed)
    heard = [event.attributes for clip in events for event in clip]
    if not heard:
        return [[] for _ in events]
    said = []
    for duration_s in durations_s:
        starts_s = np.arange(0.0, duration_s, phrase_s)
        drawn = rng.integers(len(heard), size=len(starts_s))
        said.append([Phrase(heard[k], float(t_s), " ".join(heard[k])) for k, t_s in zip(drawn, starts_s)])
    return said
