"""Zero-shot retrieval (does a clip find its text, and a text its clip?) and classification on the built-in world.

Which colour, which shape, what happened, on which side? The answers of a question ("red", "green",
...) are described by the commentator's own phrases: every phrase that says "red", whatever else it says. An answer's
vector is the mean of its phrases' (the prompt ensemble of CLIP).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import Event
from data_pipelines.world import WorldConfig
from data_pipelines.world.commentator import PATTERNS, SIDES, phrase
from mmduplex_jax.typing import Float, Int

AT = (1, 5, 10)  # R@k
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


def ranks(scores: Float[np.ndarray, "N M"], right: Float[np.ndarray, "N M"]) -> Int[np.ndarray, "N"]:
    """The place, from 1, of the best right answer of each row; who is as good as it stands before it.

    Args:
      scores: of every row with every candidate.
      right: bool, which candidates are right answers; at least one a row.

    Raises:
      ValueError: a score is not finite, or a row has no right answer.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite: the model's parameters or inputs are not")
    if not right.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(right.any(axis=1)))} has no right answer")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best) & ~right).sum(axis=1)


def retrieval(
    clips: Float[np.ndarray, "N F"], texts: Float[np.ndarray, "N F"], labels: Int[np.ndarray, "N"]
) -> dict[str, Any]:
    """R@1, 5, 10 and the mean rank both ways, each with what guessing reaches.

    Args:
      clips: embeddings of length 1.
      texts: those of the texts that belong to them.
      labels: rows of one label have the same text; each is as right as the other.

    Returns:
      By direction ("clip_to_text", "text_to_clip"): `r_at_1`, …, `mean_rank`, and under `chance` the same for
      candidates in random order. Candidates are counted as they are, the same text as often as it comes.
    """
    right = labels[:, None] == labels
    scores = clips @ texts.T
    directions = {"clip_to_text": scores, "text_to_clip": scores.T}
    return {"pairs": len(labels)} | {
        name: _summary(ranks(values, right)) | {"chance": _chance(right)} for name, values in directions.items()
    }


def _summary(found: np.ndarray) -> dict[str, float]:
    return {f"r_at_{k}": float((found <= k).mean()) for k in AT} | {"mean_rank": float(found.mean())}


def _chance(right: np.ndarray) -> dict[str, float]:
    """The same numbers, expected of a random order: of `m` candidates `r` are right."""
    candidates, answers = right.shape[1], right.sum(axis=1)
    missed = np.ones(len(right))
    at = {}
    for place in range(min(max(AT), candidates)):
        # All of the first `place + 1` are wrong if the first `place` are and one of the other wrong ones comes next.
        missed = missed * np.clip(candidates - answers - place, 0, None) / (candidates - place)
        at[place + 1] = float((1 - missed).mean())
    last = at[max(at)]
    return {f"r_at_{k}": at.get(k, last) for k in AT} | {
        # Of wrong candidates, one in `r + 1` stands before the best right one.
        "mean_rank": float((1 + (candidates - answers) / (answers + 1)).mean())
    }
