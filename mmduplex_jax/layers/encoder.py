"""A bidirectional transformer over patches (ViT, Dosovitskiy et al., 2020) and a cross-attention read-out."""

import functools
from collections.abc import Callable

import flax.linen as nn
from einops import rearrange

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import attend, heads_first
from mmduplex_jax.layers.dense import ACTIVATIONS, DEFAULT_INIT, dense, held_gradient, layer_norm
from mmduplex_jax.sharding import constrain_batch_sharding, in_units
from mmduplex_jax.typing import Array, Bool, Float


class Mlp(nn.Module):
    """`[..., D] -> [..., D]` through a layer `hidden` wide, or `expansion` times as wide where that is None."""

    expansion: int = 4
    hidden: int | None = None
    activation: str = "gelu_tanh"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        wide = self.expansion * width if self.hidden is None else self.hidden
        layer = functools.partial(dense, dtype=x.dtype, use_bias=self.use_bias, joined=True)
        hidden = ACTIVATIONS[self.activation](layer(wide, ("embed", "mlp"), name="up")(x))
        return layer(width, ("mlp", "embed"), name="down")(hidden)


class Attention(nn.Module):
    """Attention of `x` to `context` (to itself where none is given), to all of it where no mask is given."""

    heads: int
    fused: bool = False
    # Of the kernel that gives the result, `[D, D]`.
    out_init: Callable = DEFAULT_INIT

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
          x: what attends.
          context: what is attended to, in any number.
          mask: which of it each attends to.
          phase: rotary phases of `x`, by which queries and keys are turned; only without `context`.
        """
        if phase is not None and context is not None:
            raise ValueError("rotary phases are of `x` alone: they cannot turn the keys of another `context`")
        context = x if context is None else context
        width = x.shape[-1]
        heads = in_units("heads", width // self.heads)
        layer = functools.partial(dense, width, dtype=x.dtype, use_bias=True, joined=True)
        into = lambda name: layer(("embed", heads), name=name)
        split = lambda name, a: rearrange(into(name)(a), "b s (q e) -> b s q e", q=self.heads)
        query, key, value = split("query", x), split("key", context), split("value", context)
        if phase is not None:
            query, key = rotary.rotate(query, phase), rotary.rotate(key, phase)
        out = rearrange(attend(query, *heads_first(key, value), mask, fused=self.fused), "b s q e -> b s (q e)")
        return layer((heads, "embed"), name="out", init=self.out_init)(out)


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
        norm = lambda name: lambda x: layer_norm(name, x.dtype, self.norm_epsilon)(held_gradient(x))
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
    return rearrange(pictures, "... (y i) (x j) c -> ... (y x) (i j c)", i=patch_px, j=patch_px)
