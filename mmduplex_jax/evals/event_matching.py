"""Do event tokens find their words? Which moment of its video is a phrase about, and which way does time run?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmduplex_jax.typing import Bool, Float, Int

# Events whose words are wrong of the clip played backwards: what enters, leaves; what stops, starts; what appears,
# vanishes. What bounces, collides, swerves or passes behind something does so either way; and "red square turns blue"
# and "blue square turns red" are the same words: a bag has no order.
TELL_DIRECTION = ("appears", "enters", "leaves", "starts", "stops", "vanishes")


def right_windows(
    centres_s: Float[np.ndarray, "X"], phrases: Sequence[str], middles_s: Sequence[float], reach_s: float
) -> Bool[np.ndarray, "P X"]:
    """Which windows of a video each of its phrases is about: those whose bag of words holds its middle.

    Args:
      centres_s: the middles of the windows' bags.
      phrases: what is said in the video; where the same is said twice, either time is right.
      middles_s: of the phrases.
      reach_s: how far a bag reaches to either side.
    """
    near = np.abs(np.asarray(middles_s)[:, None] - centres_s) <= reach_s
    said = np.array(phrases, dtype=object)
    return np.array([near[said == phrase].any(axis=0) for phrase in phrases]).reshape(near.shape)


def in_video(scores: Sequence[Float[np.ndarray, "X"]], right: Sequence[Bool[np.ndarray, "X"]]) -> dict[str, Any]:
    """How often a phrase's best window of its video is one that it is about.

    Args:
      scores: of every phrase, those of the windows of its video.
      right: of every phrase, which of them it is about; a phrase without any takes no part.

    Returns:
      `r_at_1` (of windows that are equally good, each is taken with equal chance), `chance`, the same for a window
      drawn at random, `windows`, how many there are on average, and `phrases`, how many took part; the first three None
      where that is 0.
    """
    pairs = [(score, truth) for score, truth in zip(scores, right, strict=True) if truth.any()]
    if not pairs:
        return {"r_at_1": None, "chance": None, "windows": None, "phrases": 0}
    hits = [float(truth[score == score.max()].mean()) for score, truth in pairs]
    return {
        "r_at_1": float(np.mean(hits)),
        "chance": float(np.mean([truth.mean() for _, truth in pairs])),
        "windows": float(np.mean([len(truth) for _, truth in pairs])),
        "phrases": len(pairs),
    }


def after(event_steps: Int[np.ndarray, "X"], step: int, window_steps: int) -> Int[np.ndarray, "Y"]:
    """Which event tokens see what happens at `step`: those that stand there or less than `window_steps` after it."""
    since = event_steps - step
    return np.flatnonzero((since >= 0) & (since < window_steps))


def direction_scores(
    forward: Float[np.ndarray, "X"],
    backward: Float[np.ndarray, "X"],
    event_steps: Int[np.ndarray, "X"],
    step: int,
    last_step: int,
    window_steps: int,
) -> tuple[float, float] | None:
    """How well a phrase fits an event as it happened, and the event played backwards: the best of as many windows each.

    Args:
      forward: how well each window of the clip fits the phrase.
      backward: the same of the clip played backwards.
      event_steps: where windows end.
      step: when it happened.
      last_step: the step of the clip's last frame, which is the first one backwards.
      window_steps: how far back a window looks.

    Returns:
      Two scores; None where no window sees it one way or the other.
    """
    seen, seen_backward = (after(event_steps, at, window_steps) for at in (step, last_step - step))
    number = min(len(seen), len(seen_backward))
    if not number:
        return None
    return float(forward[seen[:number]].max()), float(backward[seen_backward[:number]].max())


def two_way(scores: Sequence[tuple[float, float]], kinds: Sequence[str]) -> dict[str, Any]:
    """How often the clip as it was is preferred to the clip played backwards; half a point where both are as good.

    What looks at a clip without regard to the order of its frames has 0.5: both clips are the same to it.

    Args:
      scores: of every event, as `direction_scores` gives them.
      kinds: of the events.

    Returns:
      `accuracy` (None where there are no events), `chance`, `events`, and `by_kind`, of each kind.
    """
    points = np.array([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scores])
    named = np.array(kinds, dtype=object)
    return {
        "accuracy": float(points.mean()) if len(points) else None,
        "chance": 0.5,
        "events": len(points),
        "by_kind": {kind: float(points[named == kind].mean()) for kind in sorted(set(kinds))},
    }
