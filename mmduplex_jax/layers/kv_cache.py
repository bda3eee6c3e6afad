"""A cache of keys and values: rings of fixed size for streams without end, with an attention sink at their head.

Which entry holds which step is shared by all layers of a cache; their keys and values are one pair a layer. The first
`num_sinks` entries are written once, by the text slots of the first steps, and never overwritten.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.typing import Array, Bool, Float, Int32

EMPTY = -(2**30)  # a step before every window

# A layer's keys and values, both laid out so that a step multiplies them as they lie: turned around in every step, as
# `[B, R, G, E]`, they cost a CPU several times the product itself.
Pair = tuple[Float[Array, "B G R E"], Float[Array, "B G R E"]]


def empty_pair(batch: int, size: int, kv_heads: int, head_width: int, dtype: Any) -> Pair:
    """Zeroed keys and values of one layer."""
    shape = (batch, kv_heads, size, head_width)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def write_pair(
    pair: Pair, entry: Int32[Array, "B M"], key: Float[Array, "B M G E"], value: Float[Array, "B M G E"]
) -> Pair:
    """Writes new keys and values of one layer at `entry`; entries out of range are dropped (`KVCache.place`)."""
    batch, heads = pair[0].shape[:2]
    # Indices of all leading axes: with a slice between them XLA turns the whole buffer around to scatter into it.
    at = jnp.arange(batch)[:, None, None], jnp.arange(heads), entry[..., None]
    put = lambda old, new: old.at[at].set(new.astype(old.dtype), mode="drop", wrap_negative_indices=False)
    return put(pair[0], key), put(pair[1], value)


class KVCache(flax.struct.PyTreeNode):
    """Keys and values of `B` streams, in rings of `R` entries.

    Attributes:
      step: int32 `[B, R]`, the step that an entry was written for; `EMPTY` where none was.
      cursor: int32 `[B]`, the next entry behind the sinks, counted from the first of them.
      layers: a tree of pairs, `Pair` each, as whoever made the cache lays its layers out.
      stacked: whether the pairs are of layers that a scan runs, stacked before the batch: `[layers, B, G, R, E]`.
    """

    step: Int32[Array, "B R"]
    cursor: Int32[Array, "B"]
    layers: Any
    stacked: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def empty(cls, batch: int, size: int, layers: Any, stacked: bool = False) -> "KVCache":
        """`size` entries for `batch` streams, nothing written, over zeroed pairs (`empty_pair`, `empty_layers`)."""
        return cls(jnp.full((batch, size), EMPTY, jnp.int32), jnp.zeros((batch,), jnp.int32), layers, stacked)

    def place(
        self, step: Int32[Array, "B M"], valid: Bool[Array, "B M"], num_sinks: int = 0, sinks: bool = False
    ) -> "Placed":
        """Assigns entries to `M` new items, in order; the layers then write theirs (`Placed.write`, `Stack`).

        Args:
          step: the items' steps.
          valid: which items exist; the others are not written.
          num_sinks: entries reserved at the head.
          sinks: whether these items, at steps below `num_sinks`, are the sinks.

        Raises:
          ValueError: one call would write an entry twice.
        """
        size = self.step.shape[1]
        room = size - num_sinks
        if step.shape[1] > (size if sinks else room):
            raise ValueError(f"{step.shape[1]} items at once do not fit a ring of {size} entries ({num_sinks} sinks)")
        is_sink = valid & (step < num_sinks) if sinks else jnp.zeros_like(valid)
        in_ring = valid & ~is_sink
        offset = jnp.cumsum(in_ring, axis=1, dtype=jnp.int32) - 1
        entry = num_sinks + (self.cursor[:, None] + offset) % room
        entry = jnp.where(is_sink, step, jnp.where(in_ring, entry, size))
        cursor = (self.cursor + in_ring.sum(axis=1, dtype=jnp.int32)) % room
        rows = jnp.arange(len(step))[:, None]
        return Placed(self.replace(step=self.step.at[rows, entry].set(step, mode="drop"), cursor=cursor), entry)

    def mask(self, step: Int32[Array, "B S"], window_steps: int, num_sinks: int = 0) -> Bool[Array, "B S R"]:
        """Which entries queries at `step` attend to (`causal_window_mask`)."""
        return causal_window_mask(step, self.step, self.step >= 0, window_steps, num_sinks)

    def reset(self, row: Int32[Array, ""]) -> "KVCache":
        """Empties the rings of one row; only that row is written."""

        def put(old: Array, value: int, axis: int) -> Array:
            new = jnp.full_like(jax.lax.slice_in_dim(old, 0, 1, axis=axis), value)
            return jax.lax.dynamic_update_slice_in_dim(old, new, row, axis)

        layers = jax.tree.map(lambda a: put(a, 0, int(self.stacked)), self.layers)
        return self.replace(step=put(self.step, EMPTY, 0), cursor=put(self.cursor, 0, 0), layers=layers)

    def gather(self, rows: Int32[Array, "N"]) -> "KVCache":
        """The rings of `N` streams, each a copy of those of a row."""
        layers = jax.tree.map(lambda a: jnp.take(a, rows, axis=int(self.stacked)), self.layers)
        return self.replace(step=self.step[rows], cursor=self.cursor[rows], layers=layers)


class Placed(NamedTuple):
    """A cache whose next items have their entries; `R` (out of range) where there is nothing to write."""

    cache: KVCache
    entry: Int32[Array, "B M"]

    def write(self, key: Float[Array, "... B M G E"], value: Float[Array, "... B M G E"]) -> KVCache:
        """The cache with the items of a single layer, or of layers that lie before the batch, one after the other."""
        cache, layers = self.cache, self.cache.layers
        if key.ndim == 4:
            return cache.replace(layers=write_pair(layers, self.entry, key, value))
        if cache.stacked:
            return cache.replace(layers=jax.vmap(write_pair, (0, None, 0, 0))(layers, self.entry, key, value))
        written = tuple(write_pair(pair, self.entry, *new) for pair, *new in zip(layers, key, value, strict=True))
        return cache.replace(layers=written)


def empty_layers(one: Callable[[], Any], layers: int, stacked: bool) -> Any:
    """What `one` makes (`empty_pair`) for each of `layers`: a tuple, or stacked before the batch."""
    if stacked:
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (layers, *a.shape)), one())
    return tuple(one() for _ in range(layers))  # each its own, since they are donated one by one
