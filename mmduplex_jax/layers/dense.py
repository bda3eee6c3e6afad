"""A dense layer whose kernel names its logical axes, so that no parameter lacks a sharding rule; activations."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.typing import Array

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


def dense(
    features: int,
    axes: tuple[str | None, str | None],
    *,
    name: str,
    dtype=jnp.float32,
    use_bias: bool = False,
    init: Callable = DEFAULT_INIT,
) -> nn.Dense:
    """A `nn.Dense` over the last axis: `[..., in] -> [..., features]`, computed in `dtype`, stored in float32.

    Args:
      features: output width.
      axes: logical names of the kernel's two axes (see `mmduplex_jax/sharding.py`).
      name: parameter name.
      dtype: compute dtype.
      use_bias: whether a bias (zeros at first) is added.
      init: initializer of the kernel.
    """
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(init, axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[-1:]),
        name=name,
    )
