"""A causal transformer of the Llama family that runs over a whole clip or one step at a time with a cache.

RMSNorm, rotary, grouped-query attention, SwiGLU (Touvron et al., 2023); optionally, every few layers, gated
cross-attention to keys and values that somebody else projected (Flamingo, Alayrac et al., 2022: the gate starts at
zero).
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import IMPLEMENTATIONS, AttentionReadout, attend, heads_first
from mmduplex_jax.layers.dense import ACTIVATIONS, RMSNorm, check_activation, dense
from mmduplex_jax.layers.dropout import DROPOUT, check_dropout, dropout
from mmduplex_jax.layers.kv_cache import KVCache, Pair, Placed, empty_layers, empty_pair, write_pair
from mmduplex_jax.sharding import constrain_batch_sharding, in_units
from mmduplex_jax.typing import Array, Bool, Float, Int32


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """The shape of a transformer.

    Attributes:
      width, layers, heads, kv_heads, head_width, hidden: D, depth, Q, G, E, F.
      rope_scaling: Llama 3's stretching of them, `(factor, low_freq_factor, high_freq_factor,
        original_max_position_embeddings)`; empty for none.
      activation: of the gated MLP, one of `ACTIVATIONS`.
      cross_every: every n-th layer (the first of each n) has cross-attention; 0 for none.
      cross_gate: the gate's value at first; `tanh` of it multiplies what cross-attention finds.
      qk_norm: normalise queries and keys a head (Qwen3).
      num_sinks: first keys that stay for ever.
      window_steps: how far back attention reaches; sinks are at most at this distance.
      scan: one compiled layer run in a loop (accelerators), or all layers unrolled (CPU, streaming).
      remat: recompute activations in the backward pass.
      dropout: share of what a layer adds to the residual stream that is zeroed in training (Srivastava et al., 2014).
      dtype: compute dtype, "float32" or "bfloat16".
      attention: over whole clips, "einsum" or "fused" (`attention.attend`); caches are always read by einsum.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    rope_base: float = 10_000.0
    rope_scaling: tuple[float, ...] = ()
    activation: str = "silu"
    norm_epsilon: float = 1e-5
    cross_every: int = 0
    cross_gate: float = 0.0
    qk_norm: bool = False
    num_sinks: int = 0
    window_steps: int = 1 << 20
    scan: bool = False
    remat: bool = False
    dropout: float = 0.0
    dtype: str = "float32"
    attention: str = "einsum"

    def __post_init__(self):
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention is one of {', '.join(IMPLEMENTATIONS)}, not {self.attention!r}")
        check_activation(self.activation)
        check_dropout(self.dropout)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.cross_every and self.layers % self.cross_every:
            raise ValueError(f"layers ({self.layers}) must be a multiple of cross_every ({self.cross_every})")

    @property
    def heads_axis(self) -> str:
        """Logical name of the query heads' columns: heads that share keys stay together, wherever these are."""
        return in_units("heads", self.heads // self.kv_heads * self.head_width)

    @property
    def kv_heads_axis(self) -> str:
        """Logical name of the columns of keys, and of values."""
        return in_units("kv_heads", self.head_width)

    @property
    def group_size(self) -> int:
        """Layers that repeat together: one with cross-attention, the rest without."""
        return self.cross_every or 1

    @property
    def groups(self) -> int:
        return self.layers // self.group_size


class AttentionContext(NamedTuple):
    """What every layer's attention needs to know of the positions; made once a call (`attention_context`).

    Attributes:
      phase: float32 `[2, B, S, E/2]`, rotary phases of the queries and of the new keys.
      sink_phase: the same with the step clipped to the window, for attending to sinks; None without sinks.
      mask: bool `[B, S, R]`, the keys that a query attends to.
      cross_mask: bool `[B, S, N]`, those of another stream; None without cross-attention.
    """

    phase: Float[Array, "2 B S E/2"]
    sink_phase: Float[Array, "2 B S E/2"] | None
    mask: Bool[Array, "B S R"]
    cross_mask: Bool[Array, "B S N"] | None = None


def phases(config: StackConfig, step: Int32[Array, "..."]) -> Float[Array, "2 ... E/2"]:
    """Rotary phases of a stack's queries and keys at `step` (`rotary.phases`)."""
    return rotary.phases(step, config.head_width, config.rope_base, config.rope_scaling)


def attention_context(
    config: StackConfig, step: Int32[Array, "B S"], mask: Bool[Array, "B S R"], cross_mask: Array | None = None
) -> AttentionContext:
    """Computes the phases of a call's positions, once for all layers."""
    sink = phases(config, jnp.minimum(step, config.window_steps)) if config.num_sinks else None
    return AttentionContext(phases(config, step), sink, mask, cross_mask)


class SelfAttention(nn.Module):
    """`[B, S, D] -> [B, S, D]`, over itself or, where it has a cache, over what that holds."""

    config: StackConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], context: AttentionContext, entry: Any, pair: Pair | None
    ) -> tuple[Array, Pair | None]:
        c = self.config
        heads = lambda name, count, axis: rearrange(
            dense(count * c.head_width, ("embed", axis), name=name, dtype=x.dtype)(x), "b s (q e) -> b s q e", q=count
        )
        query, key = heads("query", c.heads, c.heads_axis), heads("key", c.kv_heads, c.kv_heads_axis)
        value = heads("value", c.kv_heads, c.kv_heads_axis)
        if c.qk_norm:
            query = RMSNorm(c.norm_epsilon, x.dtype, name="query_norm")(query)
            key = RMSNorm(c.norm_epsilon, x.dtype, name="key_norm")(key)
        sink_query = None if context.sink_phase is None else rotary.rotate(query, context.sink_phase)
        query, key = rotary.rotate(query, context.phase), rotary.rotate(key, context.phase)
        pair = None if pair is None else write_pair(pair, entry, key, value)
        out = attend(
            query,
            *(heads_first(key, value) if pair is None else pair),
            context.mask,
            sink_query=sink_query,
            num_sinks=c.num_sinks,
            fused=pair is None and c.attention == "fused",
        )
        out = rearrange(out, "b s q e -> b s (q e)")
        return dense(c.width, (c.heads_axis, "embed"), name="out", dtype=x.dtype)(out), pair


class CrossAttention(nn.Module):
    """Attends to another stream's keys and values, through a gate; may attend to nothing."""

    config: StackConfig

    def setup(self):
        c = self.config
        self.query = dense(c.heads * c.head_width, ("embed", c.heads_axis), name="query", dtype=jnp.dtype(c.dtype))
        self.readout = AttentionReadout(c.width, (c.heads_axis, "embed"), gate=c.cross_gate)
        nn.share_scope(self, self.readout)

    def __call__(self, x: Float[Array, "B S D"], context: AttentionContext, keys_values: Pair, fused: bool) -> Array:
        if context.cross_mask is None:
            raise ValueError("a stack with cross-attention needs a context with `cross_mask`")
        query = rearrange(self.query(x), "b s (q e) -> b s q e", q=self.config.heads)
        return self.readout(rotary.rotate(query, context.phase), *keys_values, context.cross_mask, fused)


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer, 2020), `[..., D] -> [..., D]`; the gate's activation is SiLU by default."""

    width: int
    hidden: int
    activation: str = "silu"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        gate = dense(self.hidden, ("embed", "mlp"), name="gate", dtype=x.dtype)(x)
        up = dense(self.hidden, ("embed", "mlp"), name="up", dtype=x.dtype)(x)
        return dense(self.width, ("mlp", "embed"), name="down", dtype=x.dtype)(ACTIVATIONS[self.activation](gate) * up)


class Block(nn.Module):
    """One pre-norm layer."""

    config: StackConfig
    cross: bool

    @nn.compact
    def __call__(self, x, context: AttentionContext, entry, pair: Pair | None, keys_values: Any):
        c = self.config
        norm = lambda name: RMSNorm(c.norm_epsilon, x.dtype, name=name)
        dropped = lambda added: dropout(self, added, c.dropout)
        attended, new = SelfAttention(c, name="attention")(norm("attention_norm")(x), context, entry, pair)
        x = x + dropped(attended)
        if self.cross:
            fused = pair is None and c.attention == "fused"
            crossed = CrossAttention(c, name="cross")(norm("cross_norm")(x), context, keys_values, fused)
            x = x + dropped(crossed)
        x = x + dropped(SwiGLU(c.width, c.hidden, c.activation, name="mlp")(norm("mlp_norm")(x)))
        return x, new


class Group(nn.Module):
    """`group_size` layers, of which the first may have cross-attention: what a scan repeats."""

    config: StackConfig

    @nn.compact
    def __call__(self, x, per_group, context: AttentionContext, entry):
        pairs, keys_values = per_group
        new = []
        for i in range(self.config.group_size):
            block = Block(self.config, cross=bool(self.config.cross_every) and i == 0, name=f"block_{i}")
            pair = None if pairs is None else pairs[i]
            x, pair = block(constrain_batch_sharding(x), context, entry, pair, keys_values)
            new.append(pair)
        return x, None if pairs is None else tuple(new)


class Stack(nn.Module):
    """The layers of a transformer and its last norm."""

    config: StackConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], context: AttentionContext, placed: Placed | None = None, keys_values: Any = None
    ) -> tuple[Float[Array, "B S D"], KVCache | None]:
        """Runs all layers.

        Args:
          context: their positions, and what they attend to.
          placed: when streaming, a cache of `empty_stack_cache` and where in it `x` goes; None over a whole clip.
          keys_values: with cross-attention, another stream's, a pair a group (`layer_pairs`, or the layers of a cache).

        Returns:
          The outputs `[B, S, D]` and the cache with them in it.
        """
        c = self.config
        layers, entry = (None, None) if placed is None else (placed.cache.layers, placed.entry)
        group = nn.remat(Group, prevent_cse=not c.scan) if c.remat else Group
        if c.scan:
            scanned = nn.scan(
                group,
                variable_axes={"params": 0},
                split_rngs={"params": True, DROPOUT: True},
                in_axes=(0, nn.broadcast, nn.broadcast),
                out_axes=0,
                length=c.groups,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, layers = scanned(c, name="groups")(x, (layers, keys_values), context, entry)
        else:
            new = []
            for i in range(c.groups):
                given = tuple(None if per_group is None else per_group[i] for per_group in (layers, keys_values))
                x, pairs = group(c, name=f"group_{i}")(x, given, context, entry)
                new.append(pairs)
            layers = None if layers is None else tuple(new)
        x = RMSNorm(c.norm_epsilon, x.dtype, name="norm")(constrain_batch_sharding(x))
        return x, None if placed is None else placed.cache.replace(layers=layers)


def empty_stack_cache(config: StackConfig, batch: int, size: int) -> KVCache:
    """`size` entries for the layers of a `Stack`."""
    pair = lambda: empty_pair(batch, size, config.kv_heads, config.head_width, jnp.dtype(config.dtype))
    group = lambda: tuple(pair() for _ in range(config.group_size))
    return KVCache.empty(batch, size, empty_layers(group, config.groups, config.scan), config.scan)


def empty_cross_cache(config: StackConfig, batch: int, size: int) -> KVCache:
    """`size` entries for another stream's keys and values, a pair a group of a `Stack` (its `keys_values`)."""
    pair = lambda: empty_pair(batch, size, config.kv_heads, config.head_width, jnp.dtype(config.dtype))
    return KVCache.empty(batch, size, empty_layers(pair, config.groups, config.scan), config.scan)


def layer_pairs(config: StackConfig, keys: Float[Array, "L B N G E"], values: Float[Array, "L B N G E"]) -> Any:
    """Keys and values of a whole clip as a `Stack` takes them (`keys_values`).

    Unrolled layers have a tuple: out of one array a CPU would copy them.
    """
    keys, values = jax.vmap(heads_first)(keys, values)
    return (keys, values) if config.scan else tuple(zip(keys, values))


def unstack_layers(params: dict, config: StackConfig) -> dict:
    """Turns the parameters of a scanned stack into those of an unrolled one (exactly; streaming on CPU unrolls)."""
    groups = params["groups"]
    rest = {name: value for name, value in params.items() if name != "groups"}
    return rest | {f"group_{i}": jax.tree.map(lambda a, i=i: a[i], groups) for i in range(config.groups)}
