"""Where the video tokens went: tokens a second, and whether seconds with more motion got more of them."""

from collections.abc import Sequence

import numpy as np

from mmduplex_jax.clock import Clock


def motion_by_tick(frames: np.ndarray) -> np.ndarray:
    """Mean absolute change of luma since the tick before, in grey levels: float32 `[T]` of uint8 `[T, H, W, 3]`."""
    luma = frames.astype(np.float32).mean(axis=-1)
    change = np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))
    return np.concatenate([[0.0], change]).astype(np.float32)


def tokens_per_s(tokens: Sequence[np.ndarray], clock: Clock) -> float:
    """Video tokens a second over all clips, each int `[T]` a tick."""
    ticks = sum(len(clip) for clip in tokens)
    return sum(int(clip.sum()) for clip in tokens) / (ticks * clock.tick_s) if ticks else 0.0


def tokens_per_s_by_motion_quartile(
    tokens: Sequence[np.ndarray], motion: Sequence[np.ndarray], clock: Clock
) -> list[float]:
    """Mean tokens a second in the quarter of seconds with least motion, the next, and so on; four numbers.

    Args:
      tokens: of each clip, int `[T]` a tick.
      motion: of each clip, `motion_by_tick`.
      clock: which second a tick is in. The first second is left out: everything in it is new, moving or not.
    """
    spent, moved = [], []
    for clip_tokens, clip_motion in zip(tokens, motion, strict=True):
        second = np.array([int(clock.tick_time_s(tick)) for tick in range(len(clip_tokens))])
        for s in range(1, int(len(clip_tokens) * clock.tick_s)):
            inside = second == s
            # A second holds one tick more or less than the next where the rates do not divide: count by its ticks.
            spent.append(clip_tokens[inside].mean() / clock.tick_s)
            moved.append(clip_motion[inside].mean())
    order = np.argsort(moved, kind="stable")
    return [float(np.mean(part)) if len(part) else 0.0 for part in np.array_split(np.array(spent)[order], 4)]
