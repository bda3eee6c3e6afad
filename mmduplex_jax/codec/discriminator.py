"""The multi-scale discriminator of spectra (EnCodec, Défossez et al., 2022; Mimi): is a sound real, or decoded?

At every scale convolutions look at the real and imaginary parts of a spectrum, dilated along time, shortening
frequencies; what they find on the way is compared, too (feature matching).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.codec.spectra import spectra
from mmduplex_jax.typing import Array, Float

_SLOPE = 0.2


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Its shape; as it stands EnCodec's.

    Attributes:
      windows: samples of the scales' windows.
      filters: channels.
      dilations: along time, of the convolutions between the first and the last two.
    """

    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    filters: int = 32
    dilations: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self):
        object.__setattr__(self, "windows", tuple(self.windows))
        object.__setattr__(self, "dilations", tuple(self.dilations))


class Opinion(NamedTuple):
    """What the discriminator of a scale thinks of sounds.

    Attributes:
      logits: `[B, T, F, 1]`; above 0 it takes what it sees for real.
      features: of its convolutions, one after the other.
    """

    logits: Float[Array, "B T F 1"]
    features: tuple[Array, ...]


class Discriminator(nn.Module):
    """`[B, L]` to an opinion a scale."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, samples: Float[Array, "B L"]) -> tuple[Opinion, ...]:
        c = self.config

        def convolve(x: Array, name: str, features: int, kernel: tuple[int, int], stride: int, dilation: int) -> Array:
            init = nn.with_logical_partitioning(nn.initializers.he_normal(), (None, None, None, "feature"))
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("feature",))
            layer = nn.Conv(
                features,
                kernel,
                strides=(1, stride),
                kernel_dilation=(dilation, 1),
                kernel_init=init,
                bias_init=zeros,
                name=name,
            )
            return layer(x)

        opinions = []
        for scale, window in enumerate(c.windows):
            found = spectra(samples, window)
            x = jnp.stack([found.real, found.imag], axis=-1)
            layers = [("first", (3, 9), 1, 1)]
            layers += [(f"dilated_{n}", (3, 9), 2, dilation) for n, dilation in enumerate(c.dilations)]
            layers += [("last", (3, 3), 1, 1)]
            features = []
            for name, kernel, stride, dilation in layers:
                x = nn.leaky_relu(convolve(x, f"{name}_{scale}", c.filters, kernel, stride, dilation), _SLOPE)
                features.append(x)
            opinions.append(Opinion(convolve(x, f"logits_{scale}", 1, (3, 3), 1, 1), tuple(features)))
        return tuple(opinions)


def _mean_of_rows(values: Array, rows: Float[Array, "B"]) -> Array:
    """The mean of `[B, …]` over the rows that count, `rows` 1 or 0."""
    return (values.reshape(len(values), -1).mean(axis=1) * rows).sum() / jnp.maximum(rows.sum(), 1)


def discriminator_loss(real: tuple[Opinion, ...], made: tuple[Opinion, ...], rows: Float[Array, "B"]) -> Array:
    """Hinge: real above 1, decoded below -1; mean over scales."""
    losses = [
        _mean_of_rows(nn.relu(1 - one.logits), rows) + _mean_of_rows(nn.relu(1 + other.logits), rows)
        for one, other in zip(real, made, strict=True)
    ]
    return sum(losses[1:], losses[0]) / len(losses)


def generator_loss(made: tuple[Opinion, ...], rows: Float[Array, "B"]) -> Array:
    """Hinge: decoded above 1; mean over scales."""
    losses = [_mean_of_rows(nn.relu(1 - one.logits), rows) for one in made]
    return sum(losses[1:], losses[0]) / len(losses)


def feature_loss(real: tuple[Opinion, ...], made: tuple[Opinion, ...], rows: Float[Array, "B"]) -> Array:
    """Distance of what is found on the way, over the mean size of what is found in real sound; mean over layers."""
    losses = []
    for one, other in zip(real, made, strict=True):
        for wanted, found in zip(one.features, other.features, strict=True):
            wanted = jax.lax.stop_gradient(wanted)
            size = _mean_of_rows(jnp.abs(wanted), rows)
            losses.append(_mean_of_rows(jnp.abs(wanted - found), rows) / jnp.maximum(size, 1e-6))
    return sum(losses[1:], losses[0]) / len(losses)
