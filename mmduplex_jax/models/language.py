"""A language model by itself: an embedding, the text stack, a head.

It is the text stream of `dual_stream.py` without anything to watch, under the same parameter names, so that a language
model can be imported, checked against where it came from, and put into a model that watches.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers import ring
from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, empty_stack_buffers
from mmduplex_jax.typing import Array, Bool, Float, Int32

HEADS = ("tied", "own", "none")


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """The shape of a language model.

    Attributes:
      text: its layers; without cross-attention.
      vocab_size: V, rows of the embedding.
      head: where logits come from: "tied" (the embedding), "own" (a table of its own) or "none".
    """

    text: StackConfig
    vocab_size: int
    head: str = "tied"

    def __post_init__(self):
        if self.head not in HEADS:
            raise ValueError(f"head is one of {', '.join(HEADS)}, not {self.head!r}")
        if self.text.cross_every:
            raise ValueError("a language model by itself has nothing to look at: text.cross_every must be 0")


class KVCache(NamedTuple):
    """What a stream of tokens remembers.

    Attributes:
      ring_index: where things stand in the rings.
      buffers: keys and values of every layer.
      step: int32 `[B]`, the position of the next token.
    """

    ring_index: ring.RingIndex
    buffers: Any
    step: Int32[Array, "B"]


class LanguageModel(nn.Module):
    """Tokens to hidden states, over a whole text or one token at a time."""

    config: LanguageConfig

    def setup(self):
        c = self.config
        table = lambda name: self.param(
            name,
            nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed")),
            (c.vocab_size, c.text.width),
        )
        self.embedding = table("embedding")
        if c.head == "own":
            self.head = table("head")
        self.text = Stack(c.text)

    def __call__(self, tokens: Int32[Array, "B S"], valid: Bool[Array, "B S"] | None = None) -> Float[Array, "B S D"]:
        """Hidden states after the last norm.

        Args:
          tokens: the text; positions are counted from 0.
          valid: which tokens are seen (those of padding are not); all where it is not given.
        """
        return self.read(self.embed(tokens), valid)

    def embed(self, tokens: Int32[Array, "B S"]) -> Float[Array, "B S D"]:
        """What stands for tokens in a sequence."""
        return self.embedding[tokens].astype(jnp.dtype(self.config.text.dtype))

    def read(self, x: Float[Array, "B S D"], valid: Bool[Array, "B S"] | None = None) -> Float[Array, "B S D"]:
        """Hidden states of a sequence of vectors, be they of tokens (`embed`) or of something else.

        Args:
          x: the sequence; positions are counted from 0.
          valid: which of it is seen; all where it is not given.
        """
        text = self.config.text
        step = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
        valid = jnp.ones_like(step, bool) if valid is None else valid
        mask = causal_window_mask(step, step, step, step, valid, text.window_steps, text.num_sinks)
        return self.text(x, attention_context(text, step, mask))[0]

    def logits(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """float32 logits of hidden states; ValueError for a model without a head."""
        return jnp.einsum("bsd,vd->bsv", hidden, self.table().astype(hidden.dtype), preferred_element_type=jnp.float32)

    def table(self) -> Float[Array, "V D"]:
        """The rows that logits are products with; ValueError for a model without a head."""
        if self.config.head == "none":
            raise ValueError("this language model has no head: it gives hidden states only")
        return self.head if self.config.head == "own" else self.embedding

    def memory(self, batch: int, size: int) -> KVCache:
        """Empty rings of `size` entries for `batch` streams."""
        text = self.config.text
        zeros = jnp.zeros((batch,), jnp.int32)
        return KVCache(ring.empty_index(batch, size), empty_stack_buffers(text, batch, size), zeros)

    def step(self, memory: KVCache, token: Int32[Array, "B"]) -> tuple[KVCache, Float[Array, "B D"]]:
        """The hidden state of one more token of every stream."""
        memory, x = self.extend(memory, self.embed(token[:, None]))
        return memory, x[:, 0]

    def extend(self, memory: KVCache, x: Float[Array, "B S D"]) -> tuple[KVCache, Float[Array, "B S D"]]:
        """Hidden states of `S` more vectors of every stream at once.

        More than one is only right while the rings have not wrapped: all of `S` are written before any of them looks
        back, and what a wrap takes away, the first of them would still have seen.
        """
        text = self.config.text
        step = memory.step[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)
        index, entry = ring.place(memory.ring_index, step, jnp.ones_like(step, bool), text.num_sinks, sinks=True)
        mask = causal_window_mask(
            step, index.step, step, index.step, index.step >= 0, text.window_steps, text.num_sinks
        )
        x, buffers = self.text(x, attention_context(text, step, mask, entry=entry), memory.buffers)
        return KVCache(index, buffers, memory.step + step.shape[1]), x


def gather_cache(config: LanguageConfig, memory: KVCache, rows: Int32[Array, "N"]) -> KVCache:
    """The memory of `N` streams, each a copy of that of a row."""
    axis = 1 if config.text.scan else 0  # scanned layers stand before the streams
    return KVCache(
        jax.tree.map(lambda a: a[rows], memory.ring_index),
        jax.tree.map(lambda a: jnp.take(a, rows, axis=axis), memory.buffers),
        memory.step[rows],
    )
