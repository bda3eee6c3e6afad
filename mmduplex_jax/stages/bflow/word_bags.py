"""Bags of timed words: what is said about a moment, without order.

Words are timed to a second at best (subtitles are late, commentators are early), so a moment is matched with all words
that begin near it. A bag has no order, as the sum of Deep Sets has none (Zaheer et al., 2017); learned queries attend
to its words.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mmduplex_jax.layers.attention import AttentionReadout, heads_first
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.encoder import Mlp
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.layers.vocabulary import token_hash
from mmduplex_jax.sharding import in_units
from mmduplex_jax.towers.contrastive import unit
from mmduplex_jax.typing import Array, Bool, Float, Int, Int32


@dataclasses.dataclass(frozen=True)
class BagConfig:
    """How words become a vector.

    Attributes:
      vocab_rows: rows of their table, at least as many as there are ids.
      width: of a word.
      heads, head_width: of the attention that joins them.
      hidden: width of the MLPs.
      embedding: width of the vector.
    """

    vocab_rows: int
    width: int
    heads: int
    head_width: int
    hidden: int
    embedding: int


@dataclasses.dataclass(frozen=True)
class Marks:
    """Ids that are no words: silence, and what stands before every word."""

    pad_id: int
    word_id: int
    start_id: int


class Bags(NamedTuple):
    """Which slots' tokens belong to each moment of a clip.

    Attributes:
      member: bool `[B, X, S]`.
      said: bool `[B, X]`, whether anything is said and all that is said is known.
      known: bool `[B, X]`, whether all that is said is known: silence is then silence.
      label: int32 `[B, X]`, the same for bags of the same tokens (others agree by chance once in 4 · 10⁹).
    """

    member: Bool[Array, "B X S"]
    said: Bool[Array, "B X"]
    known: Bool[Array, "B X"]
    label: Int32[Array, "B X"]


def gather_bags(
    slots: Int32[Array, "B S"],
    slot_valid: Bool[Array, "B S"],
    centre_step: Int[np.ndarray, "X"],
    reach_steps: int,
    marks: Marks,
) -> Bags:
    """The bags of words that begin within `reach_steps` of each centre (the later end left out).

    Args:
      slots: text slots, packed at delay 0: a word begins where its mark stands.
      slot_valid: slots of which it is known what is said in them. A bag with one that is not known is not known itself.
      centre_step: of the bags; what lies outside the clip takes no part.
      reach_steps: to either side.
      marks: ids that are no words.
    """
    at = jnp.arange(slots.shape[1], dtype=jnp.int32)
    begun = jax.lax.cummax(jnp.where(slots == marks.word_id, at, -1), axis=1)  # -1: its mark lies before the clip
    text = (slots != marks.pad_id) & (slots != marks.word_id) & (slots != marks.start_id) & (begun >= 0) & slot_valid
    low = jnp.asarray(centre_step, jnp.int32)[:, None] - reach_steps
    near = lambda step: (step >= low) & (step < low + 2 * reach_steps)
    member = near(begun[:, None]) & text[:, None]
    known = ~(near(at[None])[None] & ~slot_valid[:, None]).any(axis=-1)
    hashed = token_hash(slots, jnp.uint32(0x9E3779B1))
    label = jnp.where(member, hashed[:, None], 0).sum(axis=-1, dtype=jnp.uint32)
    return Bags(member, member.any(axis=-1) & known, known, jax.lax.bitcast_convert_type(label, jnp.int32))


class BagEncoder(nn.Module):
    """Bags of tokens to vectors of length 1, `-> [B, X, embedding]`."""

    config: BagConfig

    def setup(self):
        c = self.config
        partitioned = lambda init, *axes: nn.with_logical_partitioning(init, axes)
        table = partitioned(nn.initializers.normal(1.0), "vocab", "embed")
        self.embedding = self.param("embedding", table, (c.vocab_rows, c.width))
        self.query = self.param("query", partitioned(nn.initializers.normal(1.0), None, None), (c.heads, c.head_width))
        heads = c.heads * c.head_width
        self.word_norm = layer_norm("word_norm")
        axis = in_units("heads", c.head_width)
        self.key = dense(heads, ("embed", axis), name="key")
        self.value = dense(heads, ("embed", axis), name="value")
        self.readout = AttentionReadout(c.width, (axis, "embed"), null=False, name_out="join")
        nn.share_scope(self, self.readout)
        self.join_norm = layer_norm("join_norm")
        self.mlp = Mlp(hidden=c.hidden)
        self.out_norm = layer_norm("out_norm")
        self.out = dense(c.embedding, ("embed", "feature"), name="out")

    def __call__(self, ids: Int32[Array, "B S"], member: Bool[Array, "B X S"]) -> Float[Array, "B X F"]:
        """Embeds bags.

        Args:
          ids: tokens.
          member: which of them are in each bag; an empty bag has the same vector as every other.
        """
        c = self.config
        words = self.word_norm(self.embedding[ids])
        split = lambda a: rearrange(a, "b s (q e) -> b s q e", q=c.heads)
        query = jnp.broadcast_to(self.query, (*member.shape[:2], *self.query.shape))
        x = self.readout(query, *heads_first(split(self.key(words)), split(self.value(words))), member)
        x = x + self.mlp(self.join_norm(x))
        # Nothing said is no direction; a constant one, since the gradient of a length of 0 is not a number.
        return unit(jnp.where(member.any(axis=-1, keepdims=True), self.out(self.out_norm(x)), 1.0))

    def named(self, x: Float[Array, "B X D"]) -> Float[Array, "B X V"]:
        """Logits of every word for vectors of the words' width."""
        return jnp.einsum("bxd,vd->bxv", x, self.embedding) / self.config.width**0.5
