"""The backbone and the neck of YOLOX (Ge et al., 2021), a convolutional tower that has learned where things are.

CSPDarknet and PAFPN, which YOLOX took over from YOLOv5 (as it stands YOLOX-Nano: 0.9 million parameters with its head,
which is not here). Batch norms are folded into the convolutions before them: there are kernels and biases only.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.layers.convolution import Convolution, max_pool
from mmduplex_jax.typing import Array, Float

STRIDES = (8, 16, 32)
OUTPUTS = (*(f"backbone_{stride}" for stride in STRIDES), *(f"neck_{stride}" for stride in STRIDES))
PADDING = 114.0  # the grey that YOLOX puts beside pictures
_SPATIAL_PYRAMID_PX = 5  # the smallest window of spatial pyramid pooling; the next are of 9 and 13


@dataclasses.dataclass(frozen=True)
class YoloxConfig:
    """The shape of the tower; as it stands YOLOX-Nano's.

    Attributes:
      image_px: side of the pictures that it was trained on; it takes any size.
      stem: channels of the first convolution; stages have 2, 4, 8 and 16 times as many.
      repeats: bottlenecks in each of the four stages of the backbone.
      neck_repeats: bottlenecks in each block of the neck.
      depthwise: whether kernels of 3 px are depthwise ones with one of 1 px behind (YOLOX-Nano alone).
      output: whose map comes out: the backbone's or the neck's, at a stride of 8, 16 or 32 px; layers that have no part
        in it are not there.
      remat: recompute activations of the blocks in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    kind: ClassVar[str] = "yolox"
    # Of pixels from 0 to 1: it takes bytes as they are.
    mean: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.0)
    std: ClassVar[tuple[float, float, float]] = (1 / 255,) * 3

    image_px: int = 416
    stem: int = 16
    repeats: tuple[int, int, int, int] = (1, 3, 3, 1)
    neck_repeats: int = 1
    depthwise: bool = True
    output: str = "neck_16"
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "repeats", tuple(self.repeats))
        if self.output not in OUTPUTS:
            raise ValueError(f"output of a yolox is one of {', '.join(OUTPUTS)}, not {self.output!r}")
        if len(self.repeats) != 4:
            raise ValueError(f"repeats of a yolox are four numbers, one for each stage of the backbone: {self.repeats}")

    @property
    def stride(self) -> int:
        """Pixels of the picture along a side of a cell of the map."""
        return int(self.output.rpartition("_")[2])

    @property
    def width(self) -> int:
        """F, channels of the map."""
        return self.stem * self.stride // 2

    def map_size(self, image_px: FrameSize) -> tuple[int, int]:
        """Rows and columns of the map of a picture, which is padded to a multiple of 32."""
        rows, columns = (-(-side // STRIDES[-1]) * STRIDES[-1] // self.stride for side in image_px)
        return rows, columns

    def build(self, name: str | None = None) -> "Yolox":
        """The module."""
        return Yolox(self, name=name)


def _convolution(features: int, kernel_px: int = 1, stride: int = 1, *, name: str) -> Convolution:
    return Convolution(features, kernel_px, stride, padding="centred", activation="silu", name=name)


class Spatial(nn.Module):
    """A convolution with a kernel of 3 px: a depthwise one and one of 1 px, or an ordinary one (`full`)."""

    features: int
    stride: int
    depthwise: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        if not self.depthwise:
            return _convolution(self.features, 3, self.stride, name="full")(x)
        each = Convolution(
            x.shape[-1], 3, self.stride, depthwise=True, padding="centred", activation="silu", name="depthwise"
        )
        return _convolution(self.features, name="pointwise")(each(x))


class CrossStagePartial(nn.Module):
    """A block of which one half goes through bottlenecks and the other past them (Wang et al., 2020)."""

    features: int
    repeats: int
    shortcut: bool
    depthwise: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        half = self.features // 2
        through = _convolution(half, name="through")(x)
        past = _convolution(half, name="past")(x)
        for i in range(self.repeats):
            inside = _convolution(half, name=f"bottleneck_{i}_narrow")(through)
            inside = Spatial(half, 1, self.depthwise, name=f"bottleneck_{i}_spatial")(inside)
            through = through + inside if self.shortcut else inside
        return _convolution(self.features, name="join")(jnp.concatenate([through, past], axis=-1))


class SpatialPyramid(nn.Module):
    """What is largest in windows of three sizes, beside each place (He et al., 2014)."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        maps = [_convolution(x.shape[-1] // 2, name="narrow")(x)]
        for _ in range(3):
            maps.append(max_pool(maps[-1], _SPATIAL_PYRAMID_PX))  # of 5 px, twice 9, three times 13
        return _convolution(self.features, name="join")(jnp.concatenate(maps, axis=-1))


def _doubled(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H 2W C"]:
    return x.repeat(2, axis=1).repeat(2, axis=2)


class Yolox(nn.Module):
    """Pictures to a map of features; its mean over the places is the pooled vector."""

    config: YoloxConfig

    @nn.compact
    def __call__(self, pictures: Float[Array, "B H W 3"]) -> Float[Array, "B h w F"]:
        """Looks at pictures of one size: RGB, bytes as numbers from 0 to 255.

        Sizes that are no multiples of 32 are padded at the right and the bottom, as YOLOX does it.
        """
        return self.maps(pictures)[self.config.output]

    @nn.compact
    def maps(self, pictures: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B h w F"]]:
        """The map that is asked for and those on the way to it, by the names of `OUTPUTS`."""
        c = self.config
        block = nn.remat(CrossStagePartial) if c.remat else CrossStagePartial
        partial = lambda name, features, repeats, shortcut: block(features, repeats, shortcut, c.depthwise, name=name)
        down = lambda name, features: Spatial(features, 2, c.depthwise, name=name)
        neck = lambda name, features: partial(name, features, c.neck_repeats, False)
        right, below = (-size % STRIDES[-1] for size in (pictures.shape[2], pictures.shape[1]))
        x = jnp.pad(pictures, ((0, 0), (0, below), (0, right), (0, 0)), constant_values=PADDING)
        x = x.astype(jnp.dtype(c.dtype))
        # The four pixels of each square side by side: first its left column, then its right one.
        x = jnp.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], axis=-1)
        x = _convolution(c.stem, 3, name="stem")(x)
        maps: dict[str, Float[Array, "B h w F"]] = {}
        for number, (stride, repeats) in enumerate(zip((4, *STRIDES), c.repeats, strict=True), start=2):
            width = c.stem * stride // 2
            x = down(f"down_{number}", width)(x)
            last = stride == STRIDES[-1]
            if last:
                x = SpatialPyramid(width, name="pyramid")(x)
            x = partial(f"stage_{number}", width, repeats, not last)(x)
            maps[f"backbone_{stride}"] = x
            if c.output in maps:
                return maps
        # Downwards: what is coarse is told to what is fine.
        coarse, middle, fine = (maps[f"backbone_{stride}"] for stride in reversed(STRIDES))
        coarse = _convolution(8 * c.stem, name="lateral_32")(coarse)
        middle = neck("top_down_16", 8 * c.stem)(jnp.concatenate([_doubled(coarse), middle], axis=-1))
        middle = _convolution(4 * c.stem, name="lateral_16")(middle)
        maps["neck_8"] = fine = neck("top_down_8", 4 * c.stem)(jnp.concatenate([_doubled(middle), fine], axis=-1))
        if c.output in maps:
            return maps
        # And up again.
        middle = jnp.concatenate([down("down_neck_16", 4 * c.stem)(fine), middle], axis=-1)
        maps["neck_16"] = middle = neck("bottom_up_16", 8 * c.stem)(middle)
        if c.output in maps:
            return maps
        coarse = jnp.concatenate([down("down_neck_32", 8 * c.stem)(middle), coarse], axis=-1)
        maps["neck_32"] = neck("bottom_up_32", 16 * c.stem)(coarse)
        return maps
