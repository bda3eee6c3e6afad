"""A bidirectional transformer over patches (ViT, Dosovitskiy et al., 2020) and a cross-attention read-out."""

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.layers.attention import attend
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.typing import Array, Bool, Float


class Mlp(nn.Module):
    """`[..., D] -> [..., D]` through a GELU layer `expansion` times as wide."""

    expansion: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        hidden = dense(self.expansion * width, ("embed", "mlp"), name="up", dtype=x.dtype, use_bias=True)(x)
        return dense(width, ("mlp", "embed"), name="down", dtype=x.dtype, use_bias=True)(nn.gelu(hidden))


class Attention(nn.Module):
    """Attention of `x` to `context` (to itself where none is given), to all of it where no mask is given."""

    heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        context: Float[Array, "B P D"] | None = None,
        mask: Bool[Array, "B S P"] | None = None,
    ) -> Float[Array, "B S D"]:
        context = x if context is None else context
        width = x.shape[-1]
        split = lambda name, a: dense(width, ("embed", "heads"), name=name, dtype=x.dtype, use_bias=True)(a).reshape(
            *a.shape[:2], self.heads, width // self.heads
        )
        if mask is None:
            mask = jnp.ones((x.shape[0], x.shape[1], context.shape[1]), bool)
        out = attend(split("query", x), split("key", context), split("value", context), mask)
        out = out.reshape(*x.shape)
        return dense(width, ("heads", "embed"), name="out", dtype=x.dtype, use_bias=True)(out)


class EncoderBlock(nn.Module):
    """A pre-norm layer: attention among `x`, then to `context` where given, then an MLP."""

    heads: int
    expansion: int = 4
    self_attention: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], context: Float[Array, "B P D"] | None = None) -> Float[Array, "B S D"]:
        if self.self_attention:
            x = x + Attention(self.heads, name="attention")(layer_norm("attention_norm", x.dtype)(x))
        if context is not None:
            x = x + Attention(self.heads, name="cross")(layer_norm("cross_norm", x.dtype)(x), context)
        return x + Mlp(self.expansion, name="mlp")(layer_norm("mlp_norm", x.dtype)(x))


class Encoder(nn.Module):
    """`layers` blocks over patches, `[B, P, D] -> [B, P, D]`."""

    layers: int
    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        for i in range(self.layers):
            x = EncoderBlock(self.heads, name=f"block_{i}")(x)
        return layer_norm("norm", x.dtype)(x)


def patchify(pictures: Array, patch_px: int) -> Array:
    """Cuts `[..., H, W, C]` into `[..., P, patch_px² · C]`, row by row."""
    *lead, height, width, channels = pictures.shape
    rows, columns = height // patch_px, width // patch_px
    cut = pictures.reshape(*lead, rows, patch_px, columns, patch_px, channels)
    return jnp.moveaxis(cut, -4, -3).reshape(*lead, rows * columns, patch_px * patch_px * channels)
