"""Causal convolutions over time, channels last, that run over whole sounds or go on where they stopped.

As in `layers/convolution.py`, a convolution is a product of what lies under its kernel with the kernel. What it must
remember of a stream is the end of its input, the *tail*: effective kernel minus stride samples (van den Oord et al.,
2016; kyutai-labs/moshi e6a55d2, modules/conv.py). A transposed convolution, whose kernel is a multiple of its stride,
is here a causal convolution over its input that gives `stride` samples at once, so its tail is of inputs, too; moshi
keeps the overlapping outputs instead, which is the same sum.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.typing import Array, Bool, Float

# A tail is zeros at the beginning of a stream, or its first sample over and over.
PADDINGS = ("zeros", "replicate")


def _kernel_axes(*names: str | None) -> nn.initializers.Initializer:
    # Small: replicated on every device of a mesh.
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=-1)
    return nn.with_logical_partitioning(init, names)


class CausalConvolution(nn.Module):
    """`[B, L, C] -> [B, L / stride, F]`: sample `t` of the result knows nothing that comes after its own input.

    Attributes:
      features: F.
      kernel: taps; a multiple of `stride`.
      stride: samples from one result to the next.
      dilation: samples from one tap to the next; with a stride of 1.
      use_bias: whether a bias is added.
      padding: one of `PADDINGS`.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    padding: str = "zeros"

    @property
    def tail(self) -> int:
        """Samples that it remembers."""
        return (self.kernel - 1) * self.dilation + 1 - self.stride

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L C"], tail: Float[Array, "B P C"] | None = None, first: Bool[Array, "B"] | None = None
    ) -> tuple[Float[Array, "B L/stride F"], Float[Array, "B P C"]]:
        """Convolves.

        Args:
          x: the input; L is a multiple of the stride.
          tail: the end of what came before; None: nothing came before.
          first: rows that begin here, whatever their tail is; needed for "replicate" with a tail.

        Returns:
          The result, and the tail for what comes next.

        Raises:
          ValueError: the kernel, the dilation or L do not fit the stride, or there is no such padding.
        """
        if self.kernel % self.stride or (self.dilation > 1 < self.stride):
            raise ValueError(
                f"a causal convolution of kernel {self.kernel}, stride {self.stride} and dilation {self.dilation}: the "
                "kernel must be a multiple of the stride, and only those of stride 1 dilate"
            )
        if self.padding not in PADDINGS:
            raise ValueError(f"a causal convolution's padding is one of {', '.join(PADDINGS)}, not {self.padding!r}")
        batch, length, channels = x.shape
        if length % self.stride:
            raise ValueError(f"{length} samples are no multiple of a convolution's stride of {self.stride}")
        if tail is None:
            tail, first = jnp.zeros((batch, self.tail, channels), x.dtype), jnp.ones(batch, bool)
        if self.padding == "replicate":
            if first is None:
                raise ValueError("a tail that is replicated must be told which rows begin (`first`)")
            tail = jnp.where(first[:, None, None], x[:, :1], tail)
        kernel = self.param(
            "kernel", _kernel_axes(None, None, "feature"), (self.kernel, channels, self.features)
        ).astype(x.dtype)
        x = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
        new_tail = x[:, x.shape[1] - self.tail :]
        # Blocks of `stride` samples, and beside each those that lie under the same kernel.
        blocks = rearrange(x, "b (l s) c -> b l (s c)", s=self.stride)
        count = length // self.stride
        shifts = range(0, self.kernel // self.stride * self.dilation, self.dilation)
        under = jnp.concatenate([blocks[:, shift : shift + count] for shift in shifts], axis=-1)
        out = under @ kernel.reshape(-1, self.features)
        return (self._biased(out) if self.use_bias else out), new_tail

    def _biased(self, x: Array) -> Array:
        bias = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros_init(), ("feature",)), x.shape[-1:]
        )
        return x + bias.astype(x.dtype)


class CausalUpsampling(nn.Module):
    """`[B, L, C] -> [B, L · stride, F]`: a transposed convolution, cut where its result would know later input.

    Attributes:
      features: F; C where `by_channel`.
      stride: results a sample.
      taps: samples that a result knows; the kernel, in PyTorch's sense, is `taps · stride`.
      by_channel: whether every channel is convolved by itself.
      use_bias: whether a bias is added.
    """

    features: int
    stride: int
    taps: int = 2
    by_channel: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L C"], tail: Float[Array, "B P C"] | None = None
    ) -> tuple[Float[Array, "B L*stride F"], Float[Array, "B P C"]]:
        """Convolves; see `CausalConvolution`."""
        batch, length, channels = x.shape
        if self.by_channel and channels != self.features:
            raise ValueError(f"upsampling {channels} channels by themselves gives as many, got {self.features}")
        tail = jnp.zeros((batch, self.taps - 1, channels), x.dtype) if tail is None else tail
        # Tap 0 is that of the oldest sample.
        shape = (self.taps, 1 if self.by_channel else channels, self.stride, self.features)
        kernel = self.param("kernel", _kernel_axes(None, None, None, "feature"), shape).astype(x.dtype)
        x = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
        new_tail = x[:, length:]
        shifted = [x[:, tap : tap + length] for tap in range(self.taps)]
        if self.by_channel:
            out = sum(part[:, :, None] * kernel[tap, 0] for tap, part in enumerate(shifted))
        else:
            out = jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, self.stride * self.features)
        out = jnp.reshape(out, (batch, length * self.stride, self.features))
        if self.use_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("feature",))
            out = out + self.param("bias", init, (self.features,)).astype(x.dtype)
        return out, new_tail


def elu(x: Array) -> Array:
    """Exponential linear unit (Clevert et al., 2016), the activation between these convolutions."""
    return jax.nn.elu(x)
