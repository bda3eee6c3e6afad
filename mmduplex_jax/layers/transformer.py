"""A causal transformer of the Llama family that runs over a whole clip or one step at a time with rings.

RMSNorm, rotary, grouped-query attention, SwiGLU (Touvron et al., 2023); optionally, every few layers, gated
cross-attention to keys and values that somebody else projected (Flamingo, Alayrac et al., 2022: the gate starts at
zero).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers import ring, rotary
from mmduplex_jax.layers.attention import IMPLEMENTATIONS, attend, attend_fused, heads_first
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.norms import RMSNorm
from mmduplex_jax.sharding import constrain_batch_sharding, in_units
from mmduplex_jax.typing import Array, Bool, Float, Int32

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """The shape of a transformer.

    Attributes:
      width, layers, heads, kv_heads, head_width, hidden: D, depth, Q, G, E, F.
      rope_base: base of the rotary frequencies.
      rope_scaling: Llama 3's stretching of them, `(factor, low_freq_factor, high_freq_factor,
        original_max_position_embeddings)`; empty for none.
      activation: of the gated MLP, one of `ACTIVATIONS`.
      norm_epsilon: of the RMSNorms.
      cross_every: every n-th layer (the first of each n) has cross-attention; 0 for none.
      cross_gate: the gate's value at first; `tanh` of it multiplies what video says.
      qk_norm: normalise queries and keys a head (Qwen3).
      num_sinks: first keys that stay for ever.
      window_steps: how far back attention reaches; sinks are seen at most at this distance.
      scan: one compiled layer run in a loop (accelerators), or all layers unrolled (CPU, streaming).
      remat: recompute activations in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
      attention: over whole clips, "einsum" or "fused" (`attention.attend_fused`); rings are always read plainly.
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
    dtype: str = "float32"
    attention: str = "einsum"

    def __post_init__(self):
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention is one of {', '.join(IMPLEMENTATIONS)}, not {self.attention!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")
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
    """What every layer needs to know to look around; made once a call.

    Attributes:
      phase: float32 `[2, B, S, E/2]`, rotary phases of the queries and of the new keys.
      sink_phase: the same with the step clipped to the window, for looking at sinks; None without sinks.
      mask: bool `[B, S, R]`, the keys a query sees.
      entry: int32 `[B, S]`, where new keys go in the rings; None when there are no rings.
      cross_phase: phases of the queries when they look at video.
      cross_mask: bool `[B, S, N]`.
    """

    phase: Float[Array, "2 B S E/2"]
    sink_phase: Float[Array, "2 B S E/2"] | None
    mask: Bool[Array, "B S R"]
    entry: Int32[Array, "B S"] | None = None
    cross_phase: Float[Array, "2 B S E/2"] | None = None
    cross_mask: Bool[Array, "B S N"] | None = None


def phases(config: StackConfig, step: Int32[Array, "..."]) -> Float[Array, "2 ... E/2"]:
    """Rotary phases of a stack's queries and keys at `step` (`rotary.phases`)."""
    return rotary.phases(step, config.head_width, config.rope_base, config.rope_scaling)


def attention_context(
    config: StackConfig, step: Int32[Array, "B S"], mask: Bool[Array, "B S R"], **kwargs
) -> AttentionContext:
    """Computes the phases of a call's positions, once for all layers."""
    phase = phases(config, step)
    sink = phases(config, jnp.minimum(step, config.window_steps)) if config.num_sinks else None
    return AttentionContext(phase, sink, mask, cross_phase=phase, **kwargs)


class SelfAttention(nn.Module):
    """`[B, S, D] -> [B, S, D]`, over itself or, streaming, over a ring of keys and values."""

    config: StackConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], look: AttentionContext, buffers: Any = None) -> tuple[Array, Any]:
        c = self.config
        heads = lambda name, count, axis: dense(count * c.head_width, ("embed", axis), name=name, dtype=x.dtype)(
            x
        ).reshape(*x.shape[:2], count, c.head_width)
        query, key = heads("query", c.heads, c.heads_axis), heads("key", c.kv_heads, c.kv_heads_axis)
        value = heads("value", c.kv_heads, c.kv_heads_axis)
        if c.qk_norm:
            query = RMSNorm(c.norm_epsilon, x.dtype, name="query_norm")(query)
            key = RMSNorm(c.norm_epsilon, x.dtype, name="key_norm")(key)
        sink_query = None if look.sink_phase is None else rotary.rotate(query, look.sink_phase)
        query, key = rotary.rotate(query, look.phase), rotary.rotate(key, look.phase)
        if buffers is not None:
            if look.entry is None:
                raise ValueError("rings are given, but not where the new keys go: make the lookup with `entry`")
            buffers = ring.write_pair(buffers, look.entry, key, value)
        keys, values = heads_first(key, value) if buffers is None else buffers
        attention = attend_fused if buffers is None and c.attention == "fused" else attend
        out = attention(query, keys, values, look.mask, sink_query=sink_query, num_sinks=c.num_sinks)
        out = out.reshape(*x.shape[:2], -1)
        return dense(c.width, (c.heads_axis, "embed"), name="out", dtype=x.dtype)(out), buffers


class CrossAttention(nn.Module):
    """Looks at another stream's keys and values, through a gate; may look at nothing."""

    config: StackConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], look: AttentionContext, keys_values: tuple[Array, Array]) -> Array:
        c = self.config
        if look.cross_phase is None or look.cross_mask is None:
            raise ValueError("a stack with cross-attention needs a lookup with `cross_mask`")
        query = dense(c.heads * c.head_width, ("embed", c.heads_axis), name="query", dtype=x.dtype)(x)
        query = rotary.rotate(query.reshape(*x.shape[:2], c.heads, c.head_width), look.cross_phase)
        zeros = nn.initializers.zeros_init()
        null = self.param("null", nn.with_logical_partitioning(zeros, (None,)), (c.heads,))
        # Without rings: over a whole clip.
        attention = attend_fused if look.entry is None and c.attention == "fused" else attend
        out = attention(query, *keys_values, look.cross_mask, null_logit=null).reshape(*x.shape[:2], -1)
        out = dense(c.width, (c.heads_axis, "embed"), name="out", dtype=x.dtype)(out)
        gate_init = nn.with_logical_partitioning(nn.initializers.constant(c.cross_gate), (None,))
        gate = self.param("gate", gate_init, (1,))
        return out * jnp.tanh(gate).astype(x.dtype)


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer, 2020), `[..., D] -> [..., D]`; the gate's activation is SiLU unless told otherwise."""

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
    def __call__(self, x, look: AttentionContext, buffers, keys_values):
        c = self.config
        norm = lambda name: RMSNorm(c.norm_epsilon, x.dtype, name=name)
        attended, buffers = SelfAttention(c, name="attention")(norm("attention_norm")(x), look, buffers)
        x = x + attended
        if self.cross:
            x = x + CrossAttention(c, name="cross")(norm("cross_norm")(x), look, keys_values)
        x = x + SwiGLU(c.width, c.hidden, c.activation, name="mlp")(norm("mlp_norm")(x))
        return x, buffers


class Group(nn.Module):
    """`group_size` layers, of which the first may have cross-attention: what a scan repeats."""

    config: StackConfig

    @nn.compact
    def __call__(self, x, per_group, look: AttentionContext):
        buffers, keys_values = per_group
        new = []
        for i in range(self.config.group_size):
            block = Block(self.config, cross=bool(self.config.cross_every) and i == 0, name=f"block_{i}")
            x, kept = block(constrain_batch_sharding(x), look, None if buffers is None else buffers[i], keys_values)
            new.append(kept)
        return x, None if buffers is None else tuple(new)


class Stack(nn.Module):
    """The layers of a transformer and its last norm."""

    config: StackConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], look: AttentionContext, buffers: Any = None, keys_values: Any = None
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Runs all layers.

        Args:
          x: inputs.
          look: what to see (`attention_context`).
          buffers: None over a whole clip; when streaming, what `empty_stack_buffers` made.
          keys_values: with cross-attention, pairs `[B, G, N, E]`: a tuple of one a group when unrolled (out of a stack
            a CPU would copy them), stacked over groups when scanned.

        Returns:
          The outputs `[B, S, D]` and the new buffers.
        """
        c = self.config
        group = nn.remat(Group, prevent_cse=not c.scan) if c.remat else Group
        if c.scan:
            scanned = nn.scan(
                group,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                out_axes=0,
                length=c.groups,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, buffers = scanned(c, name="groups")(x, (buffers, keys_values), look)
        else:
            new = []
            for i in range(c.groups):
                given = tuple(None if per_group is None else per_group[i] for per_group in (buffers, keys_values))
                x, kept = group(c, name=f"group_{i}")(x, given, look)
                new.append(kept)
            buffers = None if buffers is None else tuple(new)
        return RMSNorm(c.norm_epsilon, x.dtype, name="norm")(constrain_batch_sharding(x)), buffers


def empty_stack_buffers(config: StackConfig, batch: int, size: int) -> Any:
    """Zeroed rings of every layer: a tuple a group when unrolled, stacked over groups when scanned."""
    pair = lambda: ring.empty_buffers(batch, size, config.kv_heads, config.head_width, jnp.dtype(config.dtype))
    group = lambda: tuple(pair() for _ in range(config.group_size))
    if config.scan:
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (config.groups, *a.shape)), group())
    return tuple(group() for _ in range(config.groups))


def unstack_layers(params: dict, config: StackConfig) -> dict:
    """Turns the parameters of a scanned stack into those of an unrolled one (exactly; streaming on CPU unrolls)."""
    groups = params["groups"]
    rest = {name: value for name, value in params.items() if name != "groups"}
    return rest | {f"group_{i}": jax.tree.map(lambda a, i=i: a[i], groups) for i in range(config.groups)}
