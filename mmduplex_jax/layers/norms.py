"""Normalisation, computed in float32 whatever the compute dtype."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.typing import Array, Float


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, 2019), `[..., D] -> [..., D]`."""

    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones_init(), (None,)), (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * scale).astype(self.dtype)


def layer_norm(name: str, dtype=jnp.float32, epsilon: float = 1e-6) -> nn.LayerNorm:
    """LayerNorm with its parameters' axes named, `[..., D] -> [..., D]` (vision towers use it)."""
    return nn.LayerNorm(
        epsilon=epsilon,
        use_fast_variance=False,  # E[x²] - E[x]² loses digits where the mean is large: streams and clips then differ
        dtype=dtype,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones_init(), (None,)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), (None,)),
        name=name,
    )
