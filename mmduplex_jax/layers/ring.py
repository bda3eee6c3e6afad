"""A ring of keys and values: bounded memory for a stream without end, with an attention sink at its head.

The index of a ring (which entry holds which step) is shared by all layers; the buffers are one pair a layer. The first
`num_sinks` entries are written once, by the text slots of the first steps, and never overwritten.
"""

from typing import NamedTuple

import jax.numpy as jnp

from mmduplex_jax.typing import Array, Bool, Float, Int32

EMPTY = -(2**30)  # a step before every window

# Keys and values, both laid out so that a step multiplies them as they lie: turned around in every step, as
# `[B, R, G, E]`, they cost a CPU several times the product itself.
Buffers = tuple[Float[Array, "B G R E"], Float[Array, "B G R E"]]


class RingIndex(NamedTuple):
    """Where things stand in a ring.

    Attributes:
      step: int32 `[B, R]`, the step that an entry was written for; `EMPTY` where none was.
      cursor: int32 `[B]`, the next entry behind the sinks, counted from the first of them.
    """

    step: Int32[Array, "B R"]
    cursor: Int32[Array, "B"]


def empty_index(batch: int, size: int) -> RingIndex:
    """The index of `batch` rings of `size` entries, nothing written."""
    return RingIndex(jnp.full((batch, size), EMPTY, jnp.int32), jnp.zeros((batch,), jnp.int32))


def place(
    index: RingIndex, step: Int32[Array, "B M"], valid: Bool[Array, "B M"], num_sinks: int = 0, sinks: bool = False
) -> tuple[RingIndex, Int32[Array, "B M"]]:
    """Assigns entries to `M` new items, in order.

    Args:
      index: the ring's index.
      step: the items' steps.
      valid: which items exist; the others are not written.
      num_sinks: entries reserved at the head.
      sinks: whether these items, at steps below `num_sinks`, are the sinks.

    Returns:
      The new index, and the entries to write, `R` (out of range, dropped by `write`) where there is nothing to write.

    Raises:
      ValueError: one call would write an entry twice.
    """
    size = index.step.shape[1]
    room = size - num_sinks
    if step.shape[1] > (size if sinks else room):
        raise ValueError(
            f"{step.shape[1]} items at once do not fit a ring of {size} entries, {num_sinks} of them sinks"
        )
    is_sink = valid & (step < num_sinks) if sinks else jnp.zeros_like(valid)
    in_ring = valid & ~is_sink
    offset = jnp.cumsum(in_ring, axis=1, dtype=jnp.int32) - 1
    entry = num_sinks + (index.cursor[:, None] + offset) % room
    entry = jnp.where(is_sink, step, jnp.where(in_ring, entry, size))
    cursor = (index.cursor + in_ring.sum(axis=1, dtype=jnp.int32)) % room
    return RingIndex(write(index.step, entry, step), cursor), entry


def write(buffer: Array, entry: Int32[Array, "B M"], values: Array) -> Array:
    """Writes `values [B, M, ...]` to `buffer [B, R, ...]` at `entry`; entries out of range are dropped."""
    rows = jnp.arange(buffer.shape[0])[:, None]
    return buffer.at[rows, entry].set(values.astype(buffer.dtype), mode="drop")


def empty_buffers(batch: int, size: int, kv_heads: int, head_width: int, dtype) -> Buffers:
    """Zeroed keys and values."""
    shape = (batch, kv_heads, size, head_width)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def write_pair(
    buffers: Buffers, entry: Int32[Array, "B M"], key: Float[Array, "B M G E"], value: Float[Array, "B M G E"]
) -> Buffers:
    """Writes new keys and values to a ring's buffers at `entry`; entries out of range are dropped."""
    batch, heads = buffers[0].shape[:2]
    # Indices of all leading axes: with a slice between them XLA turns the whole buffer around to scatter into it.
    at = jnp.arange(batch)[:, None, None], jnp.arange(heads), entry[..., None]

    def written(buffer: Array, new: Array) -> Array:
        return buffer.at[at].set(new.astype(buffer.dtype), mode="drop")

    return written(buffers[0], key), written(buffers[1], value)
