"""Hard negatives: clips that show the same things, and not what was said of them.

Backwards: what entered leaves. With another's motion: what is seen is the same, and how it moves is not.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.typing import Array, Bool, Int, Int32, UInt8


class Rows(NamedTuple):
    """Which clips of a batch are imitated, and how.

    Attributes:
      backward: int `[R]`, those that are also seen backwards.
      swapped: int `[W]`, those that are also seen with the motion of the clip after them.
    """

    backward: Int[np.ndarray, "R"]
    swapped: Int[np.ndarray, "W"]


def choose_rows(batch: int, backward_every: int, swapped_every: int) -> Rows:
    """Every n-th clip of a batch for each kind, none for 0, the kinds beginning at different clips.

    Raises:
      ValueError: there is no other clip whose motion one could have.
    """
    backward = np.arange(0, batch, backward_every) if backward_every else np.zeros(0, int)
    swapped = np.arange(min(1, batch - 1), batch, swapped_every) if swapped_every else np.zeros(0, int)
    if len(swapped) and batch < 2:
        raise ValueError(
            "a batch of one clip has no other whose motion it could have: set config.data.batch_size to 2 or more, or "
            "config.hard_negatives.swapped_every=0"
        )
    return Rows(backward, swapped)


def backwards(frames: UInt8[Array, "B T H W 3"], end_tick: Int32[Array, "B"]) -> UInt8[Array, "B T H W 3"]:
    """Clips played backwards; what stands from `end_tick` on, past a clip's end, stays where it is."""
    tick = jnp.arange(frames.shape[1], dtype=jnp.int32)
    source = jnp.where(tick < end_tick[:, None], end_tick[:, None] - 1 - tick, tick)
    return jnp.take_along_axis(frames, source[..., None, None, None], axis=1)


def mirrored_moments(
    centre_step: Int[np.ndarray, "X"], event_step: Int[np.ndarray, "Y"], end_step: Int32[Array, "B"], window_steps: int
) -> Bool[Array, "B X Y"]:
    """Which event tokens of the clip played backwards look at the frames of a moment.

    Args:
      centre_step: of the moments, in the clip as it is.
      event_step: where event tokens stand.
      end_step: the step of each clip's last frame, which is the first one backwards.
      window_steps: how far back event tokens look.
    """
    mirrored = end_step[:, None] - jnp.asarray(centre_step, jnp.int32)
    since = jnp.asarray(event_step, jnp.int32) - mirrored[..., None]
    return (since >= 0) & (since < window_steps)


def known_end(slot_valid: Bool[Array, "B S"], video_stride: int) -> Int32[Array, "B"]:
    """The tick after the last one of which something is known: a clip's end where black frames fill it up."""
    at = jnp.arange(1, slot_valid.shape[1] + 1, dtype=jnp.int32)
    return -(-jnp.where(slot_valid, at, 0).max(axis=1) // video_stride)
