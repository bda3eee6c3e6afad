"""Zero-shot classification on the world: which colour, which shape, what happened, on which side?

The answers of a question ("red", "green", ...) are described by the commentator's own phrases: every phrase that says
"red", whatever else it says. An answer's vector is the mean of its phrases' (the prompt ensemble of CLIP).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import Event
from data_pipelines.world import WorldConfig
from data_pipelines.world.commentator import PATTERNS, SIDES, phrase
from mmduplex_jax.typing import Float

ATTRIBUTES = ("colour", "shape", "kind", "side")
_SIDED = ("enters", "leaves")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A phrase, and what it answers: attribute to value, for those of ATTRIBUTES that it speaks of."""

    words: tuple[str, ...]
    answers: Mapping[str, str]


def answers_of(event: Event) -> dict[str, str]:
    """What is true of an event; a side only of what enters or leaves."""
    colour, shape = event.subject.split()
    answers = {"colour": colour, "shape": shape, "kind": event.kind}
    return answers | ({"side": event.detail} if event.kind in _SIDED else {})


def world_prompts(look: str) -> list[Prompt]:
    """Every phrase that the commentator of a look may say.

    Raises:
      ValueError: the look is unknown.
    """
    dynamics = WorldConfig(look=look).dynamics
    subjects = [f"{colour} {shape}" for colour in dynamics.colours for shape in dynamics.shapes]
    prompts = []
    for kind in dynamics.kinds:
        pattern = PATTERNS[kind][0]
        for subject in subjects:
            details: Sequence[str] = ("",)
            if "{side}" in pattern:
                details = SIDES
            elif "{o}" in pattern:
                details = [other for other in subjects if other != subject]
            elif "{c}" in pattern:
                details = [colour for colour in dynamics.colours if colour != subject.split()[0]]
            events = [Event(0.0, kind, subject, detail) for detail in details]
            prompts += [
                Prompt(phrase(event, variant), answers_of(event))
                for event in events
                for variant in range(dynamics.variants)
            ]
    return prompts


def classify(
    clips: Float[np.ndarray, "N F"],
    events: Sequence[Event],
    prompts: Sequence[Prompt],
    vectors: Float[np.ndarray, "P F"],
) -> dict[str, Any]:
    """How often the nearest answer is the right one, by attribute.

    Args:
      clips: embeddings of length 1, each of a clip around an event.
      events: these events.
      prompts: phrases.
      vectors: their embeddings, of length 1.

    Returns:
      By attribute: `accuracy`, `chance` (one over the number of answers), `most_frequent` (what always giving the most
      frequent answer would reach), `events`, and `by_answer`, the accuracy among the events of each answer. An
      attribute that no event has is left out.

    Raises:
      ValueError: an event has a value that no prompt speaks of.
    """
    report = {}
    for attribute in ATTRIBUTES:
        rows = [row for row, event in enumerate(events) if attribute in answers_of(event)]
        if not rows:
            continue
        truth = np.array([answers_of(events[row])[attribute] for row in rows])
        classes = sorted({prompt.answers[attribute] for prompt in prompts if attribute in prompt.answers})
        unknown = sorted(set(truth) - set(classes))
        if unknown:
            raise ValueError(
                f"{attribute} {str(unknown[0])!r} is in the clips and in no prompt: name the look they are of"
            )
        means = [
            vectors[[prompt.answers.get(attribute) == name for prompt in prompts]].mean(axis=0) for name in classes
        ]
        centres = np.stack([mean / np.linalg.norm(mean) for mean in means])
        said = np.array(classes)[(clips[rows] @ centres.T).argmax(axis=1)]
        counts = {name: int((truth == name).sum()) for name in classes}
        report[attribute] = {
            "accuracy": float((said == truth).mean()),
            "chance": 1 / len(classes),
            "most_frequent": max(counts.values()) / len(rows),
            "events": len(rows),
            "by_answer": {name: float((said[truth == name] == name).mean()) for name, count in counts.items() if count},
        }
    return report
