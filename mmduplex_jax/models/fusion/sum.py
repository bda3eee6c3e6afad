"""`sum`: one vector of video a step is added to the text embedding, as Moshi sums its streams.

What is summed is made by attention pooling: a learned query attends to the projected video stream.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import AttentionReadout, heads_first
from mmduplex_jax.layers.kv_cache import KVCache, Pair, empty_pair
from mmduplex_jax.layers.transformer import StackConfig, phases
from mmduplex_jax.models.fusion.protocol import VideoStreamFusion
from mmduplex_jax.typing import Array, Bool, Float, Int32


class VideoPool(nn.Module):
    """One vector a step, `[B, S, D]`: a learned query attends to video, through a gate; it may attend to nothing."""

    config: StackConfig

    def setup(self):
        c = self.config
        normal = nn.with_logical_partitioning(nn.initializers.normal(1.0), (None, None))
        self.query = self.param("query", normal, (c.heads, c.head_width))
        self.readout = AttentionReadout(c.width, (c.heads_axis, "embed"), gate=c.cross_gate)
        nn.share_scope(self, self.readout)

    def __call__(self, step: Int32[Array, "B S"], mask: Bool[Array, "B S N"], pair: Pair) -> Float[Array, "B S D"]:
        query = jnp.broadcast_to(self.query.astype(pair[0].dtype), (*step.shape, *self.query.shape))
        return self.readout(rotary.rotate(query, phases(self.config, step)), *pair, mask)


class Sum(VideoStreamFusion):
    """The text's layers know nothing of video; their input does."""

    def setup(self):
        super().setup()
        self.pool = VideoPool(self.language.config.text)

    @property
    def readers(self) -> int:
        return 1

    def pairs(self, keys: Array, values: Array) -> tuple[Pair]:
        return (heads_first(keys[0], values[0]),)

    def empty_projected(self, batch: int, size: int) -> KVCache:
        text = self.language.config.text
        pair = empty_pair(batch, size, text.kv_heads, text.head_width, jnp.dtype(text.dtype))
        return KVCache.empty(batch, size, (pair,))

    def text_hidden(self, text: Array, step: Array, cross_mask: Array, pairs: Any, cache: KVCache | None, active: Any):
        text = text + self.pool(step, cross_mask, pairs[0])
        if cache is None:
            return None, self.language.read(text)
        return self.language.append(cache, text, step, active)
