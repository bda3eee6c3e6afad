"""Event memory: one token a second, kept for an hour, so that what comes back is known again.

The tokenizer's tokens of a *period* (about a second) are read by a learned query into one event token (as Perceiver
reads, Jaegle et al., 2021); periods without a token are not written. New video tokens look at what was kept, by
content alone and not by when: a thing seen ten minutes ago looks as it did ten seconds ago, and what is learned on
clips of half a minute holds for longer. What the video stream's window still holds is not looked at, or a thing that
enters would know itself.

A step costs the same for ever: the ring is as long as the memory reaches, and is only looked at at ticks.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers.attention import MASKED, AttentionReadout, attend, heads_first
from mmduplex_jax.layers.dense import RMSNorm, dense
from mmduplex_jax.layers.kv_cache import EMPTY, KVCache, Pair, empty_pair
from mmduplex_jax.sharding import in_units
from mmduplex_jax.typing import Array, Bool, Float, Int32


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """How far back memory reaches, and how it is written and looked at.

    Attributes:
      clock: steps and ticks.
      period_ticks: ticks that become one event token.
      capacity_steps: how far back it reaches.
      recent_steps: what is not older than this is not looked at.
      heads: of what reads a period, and of what looks at the memory; Q.
      kv_heads, head_width: of what is kept, G and E.
      gate: of what is found, at first; `tanh` of it multiplies it.
      dtype: of computing and of what is kept, "float32" or "bfloat16".
    """

    clock: Clock
    period_ticks: int
    capacity_steps: int
    recent_steps: int
    heads: int
    kv_heads: int
    head_width: int
    gate: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        if self.period_ticks < 1 or self.capacity_steps < self.period_steps:
            raise ValueError(
                "config.memory: a period is a tick at least and the capacity a period, got "
                f"{self.period_ticks} ticks and {self.capacity_steps} steps"
            )
        # A period that is not over must not be looked at.
        if not self.period_steps <= self.recent_steps < self.capacity_steps:
            raise ValueError(
                f"config.memory.recent_s must be a period ({self.period_steps} steps) at least and less than the "
                f"capacity ({self.capacity_steps} steps), got {self.recent_steps} steps"
            )
        if min(self.heads, self.kv_heads, self.head_width) < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"config.memory.heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads}), both positive"
            )

    @property
    def period_steps(self) -> int:
        return self.period_ticks * self.clock.video_stride

    @property
    def ring_size(self) -> int:
        """R: event tokens that the capacity holds, and the one that is not old enough to matter."""
        return -(-self.capacity_steps // self.period_steps) + 1

    @property
    def bytes_a_stream(self) -> int:
        """What a stream keeps: keys and values, and their steps."""
        kept = 2 * self.kv_heads * self.head_width * jnp.dtype(self.dtype).itemsize
        return self.ring_size * (kept + jnp.dtype(jnp.int32).itemsize)


class MemoryState(NamedTuple):
    """What `B` streams remember.

    Attributes:
      top, total, read: float32 `[B, Q]`, `[B, Q]`, `[B, Q, E]`: the present period so far, as a softmax that goes on
        (largest logit, sum of weights, weighted sum of values; Milakov and Gimelshein, 2018).
      cache: event tokens, by the steps at which their periods ended.
    """

    top: Float[Array, "B Q"]
    total: Float[Array, "B Q"]
    read: Float[Array, "B Q E"]
    cache: KVCache


class EventMemory(nn.Module):
    """What tokens find of the past, `[B, N, D] -> [B, N, width]`; the caller adds it to what they are themselves."""

    config: MemoryConfig
    width: int

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        partitioned = lambda init, *axes: nn.with_logical_partitioning(init, axes)
        columns, shared = in_units("heads", c.head_width), in_units("heads", c.heads // c.kv_heads * c.head_width)
        into = lambda name, axis: dense(c.heads * c.head_width, ("feature", axis), name=name, dtype=dtype)
        self.norm = RMSNorm(dtype=dtype)
        self.reader = self.param(
            "reader", partitioned(nn.initializers.normal(1.0), "heads", None), (c.heads, c.head_width)
        )
        self.part_key, self.part_value = into("part_key", columns), into("part_value", columns)
        self.event_norm = RMSNorm(dtype=dtype)
        stored = in_units("kv_heads", c.head_width)
        kept = lambda name: dense(c.kv_heads * c.head_width, ("feature", stored), name=name, dtype=dtype)
        self.key, self.value = kept("key"), kept("value")
        self.query = into("query", shared)
        self.readout = AttentionReadout(self.width, (shared, "embed"), gate=c.gate)
        nn.share_scope(self, self.readout)

    def __call__(
        self, values: Float[Array, "B N D"], step: Int32[Array, "B N"], valid: Bool[Array, "B N"], num_steps: int
    ) -> Float[Array, "B N W"]:
        """What every token of whole clips finds in the periods before it.

        Args:
          step: of their ticks.
        """
        c = self.config
        periods = -(-num_steps // c.period_steps)
        number = jnp.arange(periods, dtype=jnp.int32)
        member = valid[:, None] & (step[:, None] // c.period_steps == number[:, None])  # [B, P, N]
        normed = self.norm(values)
        keys, parts = heads_first(*self._parts(normed))
        reader = jnp.broadcast_to(self.reader.astype(keys.dtype), (len(step), periods, *self.reader.shape))
        kept = heads_first(*self._kept(attend(reader, keys, parts, member)))
        ended = jnp.broadcast_to(self._last_step(number), (len(step), periods))
        return self._recall(normed, step, ended, member.any(axis=-1), kept)

    def initial_state(self, batch: int) -> MemoryState:
        """Nothing remembered."""
        c = self.config
        return MemoryState(
            jnp.full((batch, c.heads), MASKED, jnp.float32),
            jnp.zeros((batch, c.heads), jnp.float32),
            jnp.zeros((batch, c.heads, c.head_width), jnp.float32),
            KVCache.empty(
                batch, c.ring_size, empty_pair(batch, c.ring_size, c.kv_heads, c.head_width, jnp.dtype(c.dtype))
            ),
        )

    def step(
        self,
        state: MemoryState,
        values: Float[Array, "B M D"],
        valid: Bool[Array, "B M"],
        now: Int32[Array, "B"],
        active: Bool[Array, "B"],
    ) -> tuple[MemoryState, Float[Array, "B M W"]]:
        """One tick of `B` streams: what its tokens find, and the memory with them.

        Args:
          state: from `initial_state` or the last call.
          values: the tick's tokens.
          valid: which of them exist; of streams that take no part, none.
          now: each stream's step.
          active: streams that take part; the others' state does not change.
        """
        c = self.config
        normed = self.norm(values)
        cache = state.cache
        step = jnp.broadcast_to(now[:, None], valid.shape)
        recalled = self._recall(normed, step, cache.step, cache.step >= 0, cache.layers)
        state = self._taken_in(state, normed, valid)
        ends = active & (now % c.period_steps == self._last_step(0))
        held = state.total.min(axis=-1) > 0
        event = (state.read / jnp.maximum(state.total, 1e-30)[..., None]).astype(normed.dtype)
        cache = cache.place(now[:, None], (ends & held)[:, None]).write(*self._kept(event[:, None]))
        begin = lambda new, old: jnp.where(ends.reshape(-1, *[1] * (old.ndim - 1)), new, old)
        return MemoryState(begin(MASKED, state.top), begin(0.0, state.total), begin(0.0, state.read), cache), recalled

    def _last_step(self, number: Int32[Array, "..."] | int) -> Int32[Array, "..."] | int:
        """The step of the last tick of the `number`-th period."""
        return (number + 1) * self.config.period_steps - self.config.clock.video_stride

    def _parts(self, normed: Float[Array, "B N D"]) -> tuple[Float[Array, "B N Q E"], Float[Array, "B N Q E"]]:
        """Keys and values by which a period is read."""
        split = lambda a: rearrange(a, "b n (q e) -> b n q e", q=self.config.heads)
        return split(self.part_key(normed)), split(self.part_value(normed))

    def _kept(self, event: Float[Array, "B P Q E"]) -> tuple[Float[Array, "B P G E"], Float[Array, "B P G E"]]:
        """Keys and values of event tokens."""
        normed = self.event_norm(rearrange(event, "b p q e -> b p (q e)"))
        split = lambda a: rearrange(a, "b p (g e) -> b p g e", g=self.config.kv_heads)
        return split(self.key(normed)), split(self.value(normed))

    def _taken_in(self, state: MemoryState, normed: Array, valid: Bool[Array, "B M"]) -> MemoryState:
        """The present period with a tick's tokens."""
        keys, parts = self._parts(normed)
        reader = self.reader.astype(keys.dtype) * self.config.head_width**-0.5
        logits = jnp.einsum("bnqe,qe->bqn", keys, reader, preferred_element_type=jnp.float32)
        logits = jnp.where(valid[:, None], logits, MASKED)
        top = jnp.maximum(state.top, logits.max(axis=-1))
        # Where nothing has come yet both are `MASKED`, and the factor is of a sum of zero.
        fade = jnp.exp(state.top - top)
        weights = jnp.where(valid[:, None], jnp.exp(logits - top[..., None]), 0.0)
        new = jnp.einsum("bqn,bnqe->bqe", weights.astype(parts.dtype), parts, preferred_element_type=jnp.float32)
        total = state.total * fade + weights.sum(axis=-1)
        return state._replace(top=top, total=total, read=state.read * fade[..., None] + new)

    def _recall(self, normed: Array, step: Array, ended: Array, exists: Array, kept: Pair) -> Float[Array, "B N W"]:
        """What tokens at `step [B, N]` read out of event tokens that stand at `ended [B, P]`, where those exist."""
        c = self.config
        query = rearrange(self.query(normed), "b n (q e) -> b n q e", q=c.heads)
        age = step[..., None] - ended[:, None]
        mask = exists[:, None] & (age >= c.recent_steps) & (age < c.capacity_steps)
        return self.readout(query, *kept, mask)


def emptied(state: MemoryState) -> MemoryState:
    """The same streams with nothing kept: a control that shows what memory is worth."""
    cache = state.cache
    return state._replace(
        cache=cache.replace(step=jnp.full_like(cache.step, EMPTY), cursor=jnp.zeros_like(cache.cursor))
    )
