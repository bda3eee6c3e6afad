"""The codec's transformers: LayerNorm, a plain MLP and layer scale (Touvron et al., 2021) around our causal attention.

The window is of `context_frames` keys, the query's own among them, whole or streaming. moshi's ring (e6a55d2,
modules/transformer.py) holds exactly that many and writes all frames of a step before it reads, so that there, past
the context, the first frame of a step misses its oldest key; here the ring has room for the other frames of a step.
transformers before 5 had no window at all when not streaming.
"""

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import layer_norm
from mmduplex_jax.layers.encoder import Mlp
from mmduplex_jax.layers.kv_cache import KVCache, Pair
from mmduplex_jax.layers.transformer import AttentionContext, SelfAttention, attention_context, empty_stack_cache
from mmduplex_jax.sharding import constrain_batch_sharding
from mmduplex_jax.typing import Array, Bool, Float, Int32


class LayerScale(nn.Module):
    """A learned factor for every channel, `[..., D] -> [..., D]`."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.with_logical_partitioning(nn.initializers.constant(self.initial), (None,))
        return x * self.param("scale", init, x.shape[-1:]).astype(x.dtype)


class FrameBlock(nn.Module):
    """One pre-norm layer."""

    config: CodecConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], context: AttentionContext, entry: Array | None, pair: Pair | None
    ) -> tuple[Array, Pair | None]:
        c = self.config
        norm = lambda name: layer_norm(name, x.dtype, c.norm_epsilon)
        scaled = lambda name: LayerScale(c.layer_scale, name=name)
        attended, pair = SelfAttention(c.stack, name="attention")(norm("attention_norm")(x), context, entry, pair)
        x = x + scaled("attention_scale")(attended)
        mlp = Mlp(hidden=c.hidden, activation=c.activation, use_bias=False, name="mlp")
        return x + scaled("mlp_scale")(mlp(norm("mlp_norm")(x))), pair


class FrameTransformer(nn.Module):
    """`[B, L, D] -> [B, L, D]` over frames, whole or with a cache (`empty_frame_cache`). It has no last norm."""

    config: CodecConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        cache: KVCache | None = None,
        frame: Int32[Array, "B"] | None = None,
        active: Bool[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """Runs all layers.

        Args:
          cache: of a stream; None over a whole sound.
          frame: with a cache, which frame of its stream the first of `x` is.
          active: with a cache, rows that take part; of the others nothing is written.
        """
        c, (batch, length) = self.config, x.shape[:2]
        start = jnp.zeros(batch, jnp.int32) if frame is None else frame
        step = start[:, None] + jnp.arange(length, dtype=jnp.int32)
        entry, layers = None, ((None,),) * c.layers
        if cache is None:
            mask = causal_window_mask(step, step, jnp.ones_like(step, bool), c.context_frames)
        else:
            valid = jnp.ones(batch, bool) if active is None else active
            cache, entry = cache.place(step, jnp.broadcast_to(valid[:, None], step.shape))
            mask, layers = cache.mask(step, c.context_frames), cache.layers
        context, new = attention_context(c.stack, step, mask), []
        block = nn.remat(FrameBlock) if c.remat else FrameBlock
        for i, (pair,) in enumerate(layers):
            x, pair = block(c, name=f"block_{i}")(constrain_batch_sharding(x), context, entry, pair)
            new.append((pair,))
        return x, None if cache is None else cache.replace(layers=tuple(new))


def empty_frame_cache(config: CodecConfig, batch: int, steps_at_once: int = 1) -> KVCache:
    """A cache for `batch` streams that go on by at most `steps_at_once` steps a call."""
    frames = steps_at_once * config.frames_per_step
    return empty_stack_cache(config.stack, batch, config.context_frames + frames - 1)
