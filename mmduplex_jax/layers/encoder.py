"""A bidirectional transformer over patches (ViT, Dosovitskiy et al., 2020) and a cross-attention read-out."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import attend, attend_fused, heads_first
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.sharding import constrain_batch_sharding, in_units
from mmduplex_jax.typing import Array, Bool, Float

# By the names that configs use: `gelu` is the exact one, `gelu_tanh` its usual approximation, `quick_gelu` CLIP's.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


class Mlp(nn.Module):
    """`[..., D] -> [..., D]` through a layer `hidden` wide, or `expansion` times as wide where that is None."""

    expansion: int = 4
    hidden: int | None = None
    activation: str = "gelu_tanh"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        wide = self.expansion * width if self.hidden is None else self.hidden
        hidden = dense(wide, ("embed", "mlp"), name="up", dtype=x.dtype, use_bias=True)(x)
        hidden = ACTIVATIONS[self.activation](hidden)
        return dense(width, ("mlp", "embed"), name="down", dtype=x.dtype, use_bias=True)(hidden)


class Attention(nn.Module):
    """Attention of `x` to `context` (to itself where none is given), to all of it where no mask is given."""

    heads: int
    fused: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        context: Float[Array, "B P D"] | None = None,
        mask: Bool[Array, "B S P"] | None = None,
        phase: Float[Array, "2 B S E/2"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Attends.

        Args:
          x: who looks.
          context: what is looked at, in any number.
          mask: which of it each may see.
          phase: rotary phases of `x`, by which queries and keys are turned; only without `context`.
        """
        if phase is not None and context is not None:
            raise ValueError("rotary phases are of `x` alone: they cannot turn the keys of another `context`")
        context = x if context is None else context
        width = x.shape[-1]
        heads = in_units("heads", width // self.heads)
        split = lambda name, a: dense(width, ("embed", heads), name=name, dtype=x.dtype, use_bias=True)(a).reshape(
            *a.shape[:2], self.heads, width // self.heads
        )
        if mask is None and not self.fused:
            mask = jnp.ones((x.shape[0], x.shape[1], context.shape[1]), bool)
        query, key, value = split("query", x), split("key", context), split("value", context)
        if phase is not None:
            query, key = rotary.rotate(query, phase), rotary.rotate(key, phase)
        found = heads_first(key, value)
        out = attend_fused(query, *found, mask) if mask is None or self.fused else attend(query, *found, mask)
        out = out.reshape(*x.shape)
        return dense(width, (heads, "embed"), name="out", dtype=x.dtype, use_bias=True)(out)


class EncoderBlock(nn.Module):
    """A pre-norm layer: attention among `x`, then to `context` where given, then an MLP."""

    heads: int
    expansion: int = 4
    self_attention: bool = True
    hidden: int | None = None
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    fused: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        context: Float[Array, "B P D"] | None = None,
        mask: Bool[Array, "B S S"] | None = None,
        phase: Float[Array, "2 B S E/2"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Runs the layer; `mask` and `phase` are of the attention among `x` (see `Attention`)."""
        norm = lambda name: layer_norm(name, x.dtype, self.norm_epsilon)
        if self.self_attention:
            x = x + Attention(self.heads, self.fused, name="attention")(
                norm("attention_norm")(x), mask=mask, phase=phase
            )
        if context is not None:
            x = x + Attention(self.heads, self.fused, name="cross")(norm("cross_norm")(x), context)
        return x + Mlp(self.expansion, self.hidden, self.activation, name="mlp")(norm("mlp_norm")(x))


class Encoder(nn.Module):
    """`layers` blocks over patches, `[B, P, D] -> [B, P, D]`, and a norm unless `final_norm` is off."""

    layers: int
    heads: int
    hidden: int | None = None
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    final_norm: bool = True
    remat: bool = False
    fused: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B P D"],
        mask: Bool[Array, "B P P"] | None = None,
        phase: Float[Array, "2 B P E/2"] | None = None,
    ) -> Float[Array, "B P D"]:
        block = nn.remat(EncoderBlock) if self.remat else EncoderBlock
        for i in range(self.layers):
            layer = block(
                self.heads,
                hidden=self.hidden,
                activation=self.activation,
                norm_epsilon=self.norm_epsilon,
                fused=self.fused,
                name=f"block_{i}",
            )
            x = layer(constrain_batch_sharding(x), None, mask, phase)
        return layer_norm("norm", x.dtype, self.norm_epsilon)(x) if self.final_norm else x


def patchify(pictures: Array, patch_px: int) -> Array:
    """Cuts `[..., H, W, C]` into `[..., P, patch_px² · C]`, row by row."""
    *lead, height, width, channels = pictures.shape
    rows, columns = height // patch_px, width // patch_px
    cut = pictures.reshape(*lead, rows, patch_px, columns, patch_px, channels)
    return jnp.moveaxis(cut, -4, -3).reshape(*lead, rows * columns, patch_px * patch_px * channels)
