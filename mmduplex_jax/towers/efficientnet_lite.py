"""EfficientNet-Lite, a convolutional tower that a CPU can run: 4.7 million parameters and 0.4 GFLOP for 112x112 px.

EfficientNet (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6 (Google, 2020, for phones). Batch norms
are folded into the convolutions before them, so there is nothing but kernels and biases.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.layers.convolution import Convolution
from mmduplex_jax.typing import Array, Float

HEAD = "head"


class Blocks(NamedTuple):
    """A stage of a network: inverted residual blocks (Sandler et al., 2018) one after the other.

    Attributes:
      repeats: how many.
      kernel_px: side of their depthwise kernels.
      stride: of the first one.
      expansion: how many times wider they are inside.
      width: F, channels that come out.
    """

    repeats: int
    kernel_px: int
    stride: int
    expansion: int
    width: int


LITE0 = (
    Blocks(1, 3, 1, 1, 16),
    Blocks(2, 3, 2, 6, 24),
    Blocks(2, 5, 2, 6, 40),
    Blocks(3, 3, 2, 6, 80),
    Blocks(3, 5, 1, 6, 112),
    Blocks(4, 5, 2, 6, 192),
    Blocks(1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig:
    """The shape of the tower; as it stands Lite0's.

    Attributes:
      image_px: side of the pictures that it was trained on; it takes any size.
      stages: of the network, each as `Blocks` has its fields.
      stem: channels of the first convolution, whose stride is 2.
      head: channels of the last one.
      output: whose map comes out: "stage_1", "stage_2", … or "head"; later layers are not there.
      remat: recompute the blocks' activations in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    kind: ClassVar[str] = "efficientnet_lite"
    # Of pixels from 0 to 1: (byte - 127) / 128.
    mean: ClassVar[tuple[float, float, float]] = (127 / 255,) * 3
    std: ClassVar[tuple[float, float, float]] = (128 / 255,) * 3

    image_px: int = 224
    stages: tuple[Blocks, ...] = LITE0
    stem: int = 32
    head: int = 1280
    output: str = HEAD
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        # A config file and JSON have them as plain lists of numbers.
        object.__setattr__(self, "stages", tuple(Blocks(*stage) for stage in self.stages))
        if self.output not in self.outputs:
            raise ValueError(f"output of an efficientnet_lite is one of {', '.join(self.outputs)}, not {self.output!r}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `output` may be."""
        return (*(f"stage_{number}" for number in range(1, len(self.stages) + 1)), HEAD)

    @property
    def used_stages(self) -> tuple[Blocks, ...]:
        count = len(self.stages) if self.output == HEAD else self.outputs.index(self.output) + 1
        return self.stages[:count]

    @property
    def width(self) -> int:
        """F, channels of the map."""
        return self.head if self.output == HEAD else self.used_stages[-1].width

    @property
    def stride(self) -> int:
        """Pixels of the picture along a side of a cell of the map."""
        stride = 2
        for stage in self.used_stages:
            stride *= stage.stride
        return stride

    def map_size(self, image_px: FrameSize) -> tuple[int, int]:
        """Rows and columns of the map of a picture."""
        return -(-image_px[0] // self.stride), -(-image_px[1] // self.stride)

    def build(self, name: str | None = None) -> "EfficientNetLite":
        """The module."""
        return EfficientNetLite(self, name=name)


class InvertedResidual(nn.Module):
    """`[B, H, W, C] -> [B, h, w, F]`: wider, a depthwise convolution, narrower; added to what came in where it fits."""

    blocks: Blocks
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        c, channels = self.blocks, x.shape[-1]
        wide = channels * c.expansion
        inside = x
        if c.expansion != 1:
            inside = Convolution(wide, activation="relu6", name="expand")(inside)
        inside = Convolution(wide, c.kernel_px, self.stride, depthwise=True, activation="relu6", name="depthwise")(
            inside
        )
        inside = Convolution(c.width, name="project")(inside)
        return x + inside if self.stride == 1 and channels == c.width else inside


class EfficientNetLite(nn.Module):
    """Pictures to a map of features; its mean over the places is the pooled vector."""

    config: EfficientNetLiteConfig

    @nn.compact
    def __call__(self, pictures: Float[Array, "B H W 3"]) -> Float[Array, "B h w F"]:
        """Looks at pictures of one size, whatever it is: RGB, `(byte - 127) / 128`."""
        c = self.config
        block_class = nn.remat(InvertedResidual) if c.remat else InvertedResidual
        x = Convolution(c.stem, 3, 2, activation="relu6", name="stem")(pictures.astype(jnp.dtype(c.dtype)))
        number = 0
        for stage in c.used_stages:
            for i in range(stage.repeats):
                x = block_class(stage, stage.stride if i == 0 else 1, name=f"block_{number}")(x)
                number += 1
        if c.output == HEAD:
            x = Convolution(c.head, activation="relu6", name="head")(x)
        return x
