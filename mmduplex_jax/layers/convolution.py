"""Convolutions, channels last, as products and shifted sums.

A convolution over several channels is a product of what lies under its kernel with the kernel; one of each channel by
itself (depthwise) is a sum of the shifted picture times the kernel's numbers. On a CPU XLA's own grouped convolution is
5 to 90 times slower than that sum, which is moreover the same, bit for bit, in a batch of any size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.dense import ACTIVATIONS
from mmduplex_jax.typing import Array, Float

# A name scope: its multiplications are what a depthwise convolution costs (`planning/traced.py`).
DEPTHWISE = "depthwise_products"
PADDINGS = ("same", "centred")


def padding_of(size: int, kernel_px: int, stride: int, how: str) -> tuple[int, int]:
    """Zeros before and after a line of `size` pixels.

    Args:
      size: its length.
      kernel_px: of the kernel along it.
      stride: of the kernel's steps.
      how: "same": as TensorFlow, as many as `ceil(size / stride)` results need, the odd one after; "centred": as
        PyTorch with padding `kernel_px // 2`, the same on both sides whatever the size is.

    Raises:
      ValueError: there is no such padding.
    """
    if how not in PADDINGS:
        raise ValueError(f"a convolution's padding is one of {', '.join(PADDINGS)}, not {how!r}")
    if how == "centred":
        return kernel_px // 2, kernel_px // 2
    total = max((-(-size // stride) - 1) * stride + kernel_px - size, 0)
    return total // 2, total - total // 2


def shifts(
    x: Float[Array, "B H W C"], kernel_px: int, stride: int, how: str, fill: float = 0.0
) -> list[Float[Array, "B h w C"]]:
    """What lies under each of the kernel's places, row by row: `kernel_px²` pictures."""
    rows, columns = (padding_of(size, kernel_px, stride, how) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=fill)
    last = lambda first, size: first + (size - kernel_px) // stride * stride + 1
    return [
        x[:, row : last(row, x.shape[1]) : stride, column : last(column, x.shape[2]) : stride]
        for row in range(kernel_px)
        for column in range(kernel_px)
    ]


def max_pool(x: Float[Array, "B H W C"], size_px: int) -> Float[Array, "B H W C"]:
    """The largest of the `size_px`² pixels around each; beyond the picture there is nothing."""
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (size_px // 2, size_px // 2)
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        lines = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(size_px)]
        x = lines[0]
        for line in lines[1:]:
            x = jnp.maximum(x, line)
    return x


class Convolution(nn.Module):
    """`[B, H, W, C] -> [B, h, w, F]`: a convolution, its bias (a folded batch norm's too), an activation.

    Attributes:
      features: F; C of a depthwise one.
      kernel_px: side of the kernel.
      stride: of its steps.
      depthwise: whether each channel is convolved by itself.
      padding: see `padding_of`.
      activation: one of `layers.dense.ACTIVATIONS`, or "" for none.
    """

    features: int
    kernel_px: int = 1
    stride: int = 1
    depthwise: bool = False
    padding: str = "same"
    activation: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        channels = x.shape[-1]
        if self.depthwise and channels != self.features:
            raise ValueError(
                f"a depthwise convolution of {channels} channels has as many features, got {self.features}"
            )
        # Small: replicated on every device of a mesh.
        init = nn.with_logical_partitioning(nn.initializers.he_normal(), (None, None, "patch", "feature"))
        shape = (self.kernel_px, self.kernel_px, 1 if self.depthwise else channels, self.features)
        kernel = self.param("kernel", init, shape).astype(x.dtype)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros_init(), ("feature",)), shape[-1:])
        under = shifts(x, self.kernel_px, self.stride, self.padding)
        if self.depthwise:
            with jax.named_scope(DEPTHWISE):
                products = [part * number for part, number in zip(under, kernel.reshape(-1, channels), strict=True)]
            x = sum(products[1:], products[0])
        else:
            x = jnp.concatenate(under, axis=-1) @ kernel.reshape(-1, self.features)
        x = x + bias.astype(x.dtype)
        return ACTIVATIONS[self.activation](x) if self.activation else x
