"""Dense layers, norms and activations. Parameters name their logical axes, so that none lacks a sharding rule."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.reduced import dense_product, promote_dtype
from mmduplex_jax.typing import Array, Float

# By the names that configs use: `gelu` is the exact one, `gelu_tanh` its usual approximation, `quick_gelu` CLIP's.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": nn.silu,
}


def check_activation(name: str, what: str = "activation") -> None:
    """ValueError, naming `what`, for an activation that there is not."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{what} is one of {', '.join(ACTIVATIONS)}, not {name!r}")


# Truncated normal scaled by fan-in (LeCun): keeps activations at unit scale whatever the width.
DEFAULT_INIT = nn.initializers.lecun_normal()


def scaled_init(scale: float) -> Callable:
    """`DEFAULT_INIT` made `scale` times as large: of a residual branch, which says at first so little of what it is."""
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


def joined_product(inputs: Array, kernel: Any, dims: Any, precision: Any = None) -> Array:
    """`dense_product` with all axes before the last made one.

    Of `[B, S, D]` the gradient of a kernel sums over two axes, for which XLA for CPUs writes the output's gradient down
    transposed, and computes again all that it is the sum of, in that order. Of a matrix it multiplies it as it is.
    """
    del dims  # the last axis by the first
    rows = inputs.reshape(-1, inputs.shape[-1])
    out = dense_product(rows, kernel, (((1,), (0,)), ((), ())), precision=precision)
    return out.reshape(*inputs.shape[:-1], out.shape[-1])


def dense(
    features: int,
    axes: tuple[str | None, str | None],
    *,
    name: str,
    dtype=jnp.float32,
    use_bias: bool = False,
    init: Callable = DEFAULT_INIT,
    joined: bool = False,
) -> nn.Dense:
    """A `nn.Dense` over the last axis: `[..., in] -> [..., features]`, computed in `dtype`, stored in float32.

    A `Reduced` table may stand for its kernel.

    Args:
      axes: logical names of the kernel's two axes (see `mmduplex_jax/sharding.py`).
      use_bias: whether a bias (zeros at first) is added.
      joined: whether it multiplies all rows as one matrix (`joined_product`).
    """
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(init, axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[-1:]),
        promote_dtype=promote_dtype,
        dot_general=joined_product if joined else dense_product,
        name=name,
    )


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


@jax.custom_vjp
def held_gradient(x: Array) -> Array:
    """`x`, as a norm takes it, with a gradient that is written down once.

    Else XLA for CPUs computes it again, from the last layer on, in everything that reads it.
    """
    return x


held_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (jax.lax.optimization_barrier(gradient),))
