"""Event tokens: about one a second, read out of the video tokens of the last seconds by learned queries.

A query knows the step it stands at and looks back only, so that an event token can be made while a video is watched:
from whole clips and from a stream they are the same. (Learned queries as in Perceiver, Jaegle et al., 2021; times are
rotary.)
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import AttentionReadout, causal_window_mask, heads_first
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.encoder import Mlp
from mmduplex_jax.layers.kv_cache import KVCache, Pair, empty_pair
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.sharding import in_units
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Float, Int, Int32


@dataclasses.dataclass(frozen=True)
class ReaderConfig:
    """How video tokens are read at a moment.

    Attributes:
      width: of what is given out.
      queries: learned ones; what they find is joined.
      heads, head_width: of their attention.
      hidden: width of the MLP after it.
      window_steps: how far back they look.
      rope_base: base of the rotary frequencies.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    width: int
    queries: int
    heads: int
    head_width: int
    hidden: int
    window_steps: int
    rope_base: float = 10_000.0
    dtype: str = "float32"

    def __post_init__(self):
        if min(self.width, self.queries, self.heads, self.head_width, self.hidden, self.window_steps) < 1:
            raise ValueError(f"all sizes of a reader of video tokens must be at least 1, got {self}")
        if self.head_width % 2:
            raise ValueError(f"head_width must be even for rotary positions, got {self.head_width}")


class TokenReader(nn.Module):
    """Learned queries that look at the video tokens of the seconds before a step, `-> [B, X, width]`."""

    config: ReaderConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        heads = c.heads * c.head_width
        partitioned = lambda init, *axes: nn.with_logical_partitioning(init, axes)
        unit = partitioned(nn.initializers.normal(1.0), "slots", None, None)
        self.query = self.param("query", unit, (c.queries, c.heads, c.head_width))
        # What is read where there is nothing to see: seconds without a token are what a budget is for.
        self.nothing = self.param("nothing", partitioned(nn.initializers.normal(0.1), "feature"), (c.width,))
        self.norm = layer_norm("norm", dtype)
        axis = in_units("heads", c.head_width)
        self.key = dense(heads, ("feature", axis), name="key", dtype=dtype)
        self.value = dense(heads, ("feature", axis), name="value", dtype=dtype)
        self.readout = AttentionReadout(c.width, (axis, "feature"), queries=c.queries)
        nn.share_scope(self, self.readout)
        self.mlp_norm = layer_norm("mlp_norm", dtype)
        self.mlp = Mlp(hidden=c.hidden)

    def __call__(self, tokens: Tokens, step: Int32[Array, "B X"]) -> Float[Array, "B X D"]:
        """Reads a clip's tokens.

        Args:
          tokens: of whole clips.
          step: where to stand; tokens of that step are seen, later ones are not.
        """
        keys, values = self._keys_values(tokens)
        mask = causal_window_mask(step, tokens.step, tokens.valid, self.config.window_steps)
        return self._read(step, heads_first(keys, values), mask)

    def initial_state(self, batch: int, size: int) -> KVCache:
        """An empty cache of `size` entries for `batch` streams."""
        c = self.config
        return KVCache.empty(batch, size, empty_pair(batch, size, c.heads, c.head_width, jnp.dtype(c.dtype)))

    def step(self, cache: KVCache, tokens: Tokens, now: Int32[Array, "B"]) -> tuple[KVCache, Float[Array, "B D"]]:
        """Takes in a tick's tokens (`BFlow.step`) and reads what can be seen `now`."""
        cache = cache.place(tokens.step, tokens.valid).write(*self._keys_values(tokens))
        step = now[:, None]
        return cache, self._read(step, cache.layers, cache.mask(step, self.config.window_steps))[:, 0]

    def _keys_values(self, tokens: Tokens) -> tuple[Float[Array, "B N Q E"], Float[Array, "B N Q E"]]:
        c = self.config
        normed = self.norm(tokens.values)
        split = lambda a: rearrange(a, "b n (q e) -> b n q e", q=c.heads)
        phase = rotary.phases(tokens.step, c.head_width, c.rope_base)
        return rotary.rotate(split(self.key(normed)), phase), split(self.value(normed))

    def _read(self, step: Int32[Array, "B X"], pair: Pair, mask: Bool[Array, "B X N"]) -> Float[Array, "B X D"]:
        c = self.config
        dtype = pair[1].dtype
        # Every query stands at every place.
        query = repeat(self.query.astype(dtype), "n q e -> b (x n) q e", b=step.shape[0], x=step.shape[1])
        at, mask = repeat(step, "b x -> b (x n)", n=c.queries), repeat(mask, "b x r -> b (x n) r", n=c.queries)
        query = rotary.rotate(query, rotary.phases(at, c.head_width, c.rope_base))
        x = self.readout(query, *pair, mask) + self.nothing.astype(dtype)
        return x + self.mlp(self.mlp_norm(x))


@dataclasses.dataclass(frozen=True)
class EventConfig:
    """Where event tokens stand and how they are read.

    Attributes:
      interval_ticks: ticks from one to the next.
      reader: how each is read.
    """

    interval_ticks: int
    reader: ReaderConfig

    def __post_init__(self):
        if self.interval_ticks < 1:
            raise ValueError(f"events.interval_s must be at least a tick, got {self.interval_ticks} ticks")

    def ticks(self, ticks: int) -> Int[np.ndarray, "X"]:
        """The ticks of a clip of `ticks` ticks that end with an event token: the last of every whole interval."""
        return np.arange(self.interval_ticks - 1, ticks, self.interval_ticks)

    def steps(self, ticks: int, clock: Clock) -> Int[np.ndarray, "X"]:
        """The same as steps of the clock."""
        return np.array([clock.step_of_tick(int(tick)) for tick in self.ticks(ticks)], np.int32)

    def ring_size(self, tokenizer: TokenizerConfig) -> int:
        """Entries that hold every video token of the window, by the budget."""
        return tokenizer.ring_capacity(self.reader.window_steps)


class EventReader(nn.Module):
    """Event tokens `[B, X, D]` of clips, or of a stream as they come."""

    config: EventConfig

    def setup(self):
        self.reader = TokenReader(self.config.reader)

    def __call__(self, tokens: Tokens, step: Int[np.ndarray, "X"]) -> Float[Array, "B X D"]:
        """The event tokens of clips that stand at `step` (`EventConfig.steps`)."""
        return self.reader(tokens, jnp.broadcast_to(jnp.asarray(step, jnp.int32), (len(tokens.step), len(step))))

    def initial_state(self, batch: int, tokenizer: TokenizerConfig) -> KVCache:
        return self.reader.initial_state(batch, self.config.ring_size(tokenizer))

    def step(
        self, state: KVCache, tokens: Tokens, now: Int32[Array, "B"], active: Bool[Array, "B"], clock: Clock
    ) -> tuple[KVCache, Float[Array, "B D"], Bool[Array, "B"]]:
        """One tick of `B` streams.

        Args:
          state: from `initial_state` or the last call.
          tokens: of this tick; those of streams that take no part are not valid.
          now: each stream's step.
          active: streams that take part.
          clock: of steps and ticks.

        Returns:
          The new state, what is read, and for which streams it is an event token: where an interval ends.
        """
        state, read = self.reader.step(state, tokens, now)
        ends = (now // clock.video_stride) % self.config.interval_ticks == self.config.interval_ticks - 1
        return state, read, ends & active
