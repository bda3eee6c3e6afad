"""Zero-shot retrieval: does a clip find its text among all texts, and a text its clip?"""

from typing import Any

import numpy as np

from mmduplex_jax.typing import Float, Int

AT = (1, 5, 10)


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
