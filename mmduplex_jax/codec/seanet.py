"""SEANet (Tagliasacchi et al., 2020; causal as in EnCodec, Défossez et al., 2022): sound to frames and back.

Every convolution of a stream has its tail (`convolution.py`); they are given and returned in the order in which the
convolutions run.
"""

import itertools
from collections.abc import Iterator

import flax.linen as nn

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.codec.convolution import CausalConvolution, CausalUpsampling, elu
from mmduplex_jax.typing import Array, Float

Tails = tuple[Float[Array, "B P C"], ...]


def _from(tails: Tails | None) -> Iterator[Array | None]:
    """The tails one by one; None for each where there are none."""
    return itertools.repeat(None) if tails is None else iter(tails)


class ResidualBlock(nn.Module):
    """`[B, L, C] -> [B, L, C]`: what two convolutions make of the input, added to it."""

    config: CodecConfig
    dilation: int

    @nn.compact
    def __call__(self, x: Float[Array, "B L C"], tails: Tails | None = None) -> tuple[Array, Tails]:
        c, given, channels = self.config, _from(tails), x.shape[-1]
        narrow = CausalConvolution(channels // c.compress, c.residual_kernel, dilation=self.dilation, name="narrow")
        inside, first = narrow(elu(x), next(given))
        inside, second = CausalConvolution(channels, name="widen")(elu(inside), next(given))
        return x + inside, (first, second)


def _residual(config: CodecConfig) -> type[ResidualBlock]:
    return nn.remat(ResidualBlock) if config.remat else ResidualBlock


class SeanetEncoder(nn.Module):
    """Sound to frames, `[B, L, 1] -> [B, L / hop, D]`."""

    config: CodecConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L 1"], tails: Tails | None = None) -> tuple[Array, Tails]:
        c, given, new = self.config, _from(tails), list[Array]()

        def keep(result: tuple[Array, Array]) -> Array:
            new.append(result[1])
            return result[0]

        channels = c.filters
        x = keep(CausalConvolution(channels, c.kernel, name="first")(x, next(given)))
        for stage, ratio in enumerate(reversed(c.ratios)):
            for layer in range(c.residual_layers):
                block = _residual(c)(c, c.dilation_base**layer, name=f"residual_{stage}_{layer}")
                x, both = block(x, None if tails is None else (next(given), next(given)))
                new += both
            channels *= 2
            shorten = CausalConvolution(channels, 2 * ratio, ratio, name=f"shorten_{stage}")
            x = keep(shorten(elu(x), next(given)))
        x = keep(CausalConvolution(c.width, c.last_kernel, name="last")(elu(x), next(given)))
        return x, tuple(new)


class SeanetDecoder(nn.Module):
    """Frames to sound, `[B, L, D] -> [B, L · hop, 1]`."""

    config: CodecConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], tails: Tails | None = None) -> tuple[Array, Tails]:
        c, given, new = self.config, _from(tails), list[Array]()

        def keep(result: tuple[Array, Array]) -> Array:
            new.append(result[1])
            return result[0]

        channels = (c.decoder_filters or c.filters) * 2 ** len(c.ratios)
        x = keep(CausalConvolution(channels, c.kernel, name="first")(x, next(given)))
        for stage, ratio in enumerate(c.ratios):
            channels //= 2
            x = keep(CausalUpsampling(channels, ratio, name=f"lengthen_{stage}")(elu(x), next(given)))
            for layer in range(c.residual_layers):
                block = _residual(c)(c, c.dilation_base**layer, name=f"residual_{stage}_{layer}")
                x, both = block(x, None if tails is None else (next(given), next(given)))
                new += both
        x = keep(CausalConvolution(1, c.last_kernel, name="last")(elu(x), next(given)))
        return x, tuple(new)
