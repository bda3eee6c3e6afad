"""A language model: an embedding, the text stack, a head.

By itself it reads texts; with something else to attend to it is the text stream of `dual_stream.py`, under the same
parameter names, so that a language model can be imported, checked against where it came from, and put into a model that
watches.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.reduced import scored
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, empty_stack_cache
from mmduplex_jax.layers.vocabulary import token_loss_of
from mmduplex_jax.typing import Array, Bool, Float, Int32

HEADS = ("tied", "own", "none")


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """The shape of a language model.

    Attributes:
      vocab_size: V, ids that there are.
      head: where logits come from: "tied" (the embedding), "own" (a table of its own) or "none".
      vocab_rows: rows of the tables, of which those from `vocab_size` on only fill them up and have no logits; 0 for as
        many as there are ids.
    """

    text: StackConfig
    vocab_size: int
    head: str = "tied"
    vocab_rows: int = 0

    def __post_init__(self):
        if self.head not in HEADS:
            raise ValueError(f"head is one of {', '.join(HEADS)}, not {self.head!r}")
        if self.vocab_rows and self.vocab_rows < self.vocab_size:
            raise ValueError(f"vocab_rows ({self.vocab_rows}) must be at least vocab_size ({self.vocab_size})")

    @property
    def rows(self) -> int:
        """Rows of the embedding."""
        return self.vocab_rows or self.vocab_size


class LanguageState(NamedTuple):
    """What streams of tokens remember.

    Attributes:
      step: int32 `[B]`, the position of the next token.
    """

    cache: KVCache
    step: Int32[Array, "B"]

    def gather(self, rows: Int32[Array, "N"]) -> "LanguageState":
        """The state of `N` streams, each a copy of that of a row."""
        return LanguageState(self.cache.gather(rows), self.step[rows])


class LanguageModel(nn.Module):
    """Tokens to hidden states, over a whole text or one token at a time."""

    config: LanguageConfig

    def setup(self):
        c = self.config
        normal = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.embedding = self.param("embedding", normal, (c.rows, c.text.width))
        if c.head == "own":
            self.head = self.param("head", normal, (c.rows, c.text.width))
        self.text = Stack(c.text)

    def __call__(self, tokens: Int32[Array, "B S"], valid: Bool[Array, "B S"] | None = None) -> Float[Array, "B S D"]:
        """Hidden states after the last norm.

        Args:
          tokens: the text; positions are counted from 0.
          valid: which tokens are attended to (those of padding are not); all where it is not given.
        """
        return self.read(self.embed(tokens), valid)

    def embed(self, tokens: Int32[Array, "B S"]) -> Float[Array, "B S D"]:
        """What stands for tokens in a sequence."""
        return self.embedding[tokens].astype(jnp.dtype(self.config.text.dtype))

    def read(
        self,
        x: Float[Array, "B S D"],
        valid: Bool[Array, "B S"] | None = None,
        cross_mask: Bool[Array, "B S N"] | None = None,
        keys_values: Any = None,
    ) -> Float[Array, "B S D"]:
        """Hidden states of a sequence of vectors, be they of tokens (`embed`) or of something else.

        Args:
          x: the sequence; positions are counted from 0.
          valid: which of it is attended to; all where it is not given.
          cross_mask, keys_values: of another stream, for layers with cross-attention (see `Stack`).
        """
        text = self.config.text
        step = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
        valid = jnp.ones_like(step, bool) if valid is None else valid
        mask = causal_window_mask(step, step, valid, text.window_steps, text.num_sinks)
        return self.text(x, attention_context(text, step, mask, cross_mask), None, keys_values)[0]

    def logits(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """float32 logits of hidden states; ValueError for a model without a head."""
        return scored(hidden, self.table())[..., : self.config.vocab_size]

    def token_nll_of(
        self, hidden: Float[Array, "B S D"], target: Int32[Array, "B S"], chunk: int = 0
    ) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
        """Each target's negative log-likelihood in nats, and whether it was the likeliest (`token_loss_of`)."""
        return token_loss_of(hidden, self.table(), target, chunk, self.config.vocab_size)

    def table(self) -> Float[Array, "V D"]:
        """The rows that logits are products with; ValueError for a model without a head."""
        if self.config.head == "none":
            raise ValueError("this language model has no head: it gives hidden states only")
        return self.head if self.config.head == "own" else self.embedding

    def initial_state(self, batch: int, size: int) -> LanguageState:
        """Empty caches of `size` entries for `batch` streams."""
        return LanguageState(empty_stack_cache(self.config.text, batch, size), jnp.zeros((batch,), jnp.int32))

    def step(self, state: LanguageState, token: Int32[Array, "B"]) -> tuple[LanguageState, Float[Array, "B D"]]:
        """The hidden state of one more token of every stream."""
        state, x = self.extend(state, self.embed(token[:, None]))
        return state, x[:, 0]

    def extend(self, state: LanguageState, x: Float[Array, "B S D"]) -> tuple[LanguageState, Float[Array, "B S D"]]:
        """Hidden states of `S` more vectors of every stream at once.

        More than one is only right while the rings have not wrapped: all of `S` are written before any of them looks
        back, and what a wrap takes away, the first of them would still have attended to.
        """
        step = state.step[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)
        cache, x = self.append(state.cache, x, step, jnp.ones_like(step, bool))
        return LanguageState(cache, state.step + step.shape[1]), x

    def append(
        self,
        cache: KVCache,
        x: Float[Array, "B S D"],
        step: Int32[Array, "B S"],
        valid: Bool[Array, "B S"],
        *,
        sinks: bool = True,
        cross_mask: Bool[Array, "B S N"] | None = None,
        keys_values: Any = None,
    ) -> tuple[KVCache, Float[Array, "B S D"]]:
        """Hidden states of vectors at `step`, and the cache with those of them that are valid.

        Args:
          sinks: whether they are text, whose first tokens stay in the cache for ever.
          cross_mask, keys_values: see `read`.
        """
        text = self.config.text
        placed = cache.place(step, valid, text.num_sinks, sinks)
        mask = placed.cache.mask(step, text.window_steps, text.num_sinks)
        x, cache = self.text(x, attention_context(text, step, mask, cross_mask), placed, keys_values)
        assert cache is not None  # a stack that is given one gives one back
        return cache, x
