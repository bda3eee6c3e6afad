"""The text stream against the clock: the delay, and what goes in and is asked for at each step."""

import jax
import jax.numpy as jnp

from mmduplex_jax.typing import Array, Bool, Float, Int32


def delayed(slots: Int32[Array, "B S"], delay: Int32[Array, "B"], pad_id: int) -> Int32[Array, "B S"]:
    """Moves the text stream `delay` steps behind the picture (Moshi's delayed streams).

    Args:
      slots: slots packed at delay 0 (see `data_pipelines/packing.py`).
      delay: steps, one a row.
      pad_id: what stands in the first `delay` slots.

    Returns:
      The slots with `slots[s - delay]` at step `s`; the last `delay` fall out of the clip.
    """
    steps = jnp.arange(slots.shape[1])[None] - delay[:, None]
    moved = jnp.take_along_axis(slots, jnp.maximum(steps, 0), axis=1)
    return jnp.where(steps >= 0, moved, pad_id)


def shifted(slots: Int32[Array, "B S"], start_id: int) -> Int32[Array, "B S"]:
    """What the model is given at each step: the slot of the step before; the start mark at step 0."""
    return jnp.concatenate([jnp.full_like(slots[:, :1], start_id), slots[:, :-1]], axis=1)


def future_word_counts(
    slots: Int32[Array, "B S"], spoken: Bool[Array, "B S"], horizon_steps: int, vocab_size: int
) -> Float[Array, "B S V"]:
    """How often each id is said in the `horizon_steps` slots from each step on, of those slots that are `spoken`."""
    said = jax.nn.one_hot(slots, vocab_size) * spoken[..., None]
    total = jnp.cumsum(jnp.pad(said, [(0, 0), (1, horizon_steps - 1), (0, 0)]), axis=1)
    return total[:, horizon_steps:] - total[:, : slots.shape[1]]


def sample_delays(key: Array, batch: int, low: int, high: int) -> Int32[Array, "B"]:
    """A delay a row, uniform in `low … high`, both included."""
    return jax.random.randint(key, (batch,), low, high + 1, jnp.int32)
