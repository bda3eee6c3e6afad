"""One vision transformer that is CLIP's, SigLIP's, SigLIP 2's (fixed and NaFlex) or the Perception Encoder's by config.

ViT (Dosovitskiy et al., 2020) in the forms of CLIP (Radford et al., 2021: a class token, a norm before the layers),
SigLIP (Zhai et al., 2023: pooling by attention), SigLIP 2 NaFlex (Tschannen et al., 2025: pictures of any proportions
as padded lists of patches) and PE-Core (Bolya et al., 2025: absolute positions and rotary ones in the plane).
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.layers.attention import IMPLEMENTATIONS
from mmduplex_jax.layers.dense import check_activation, dense, layer_norm
from mmduplex_jax.layers.encoder import Attention, Encoder, Mlp, patchify
from mmduplex_jax.layers.resample import linear_weights, resize_grid
from mmduplex_jax.layers.rotary import phases_2d
from mmduplex_jax.typing import Array, Bool, Float, Int32, UInt8

POOLS = ("class", "attention", "mean", "none")
NORMS = ("tokens", "pooled")
POSITIONS = ("fixed", "bilinear", "bicubic", "naflex")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The shape of a vision tower.

    Attributes:
      image_px: height and width of the pictures that it was trained on; with `patch_px` it says how many positions it
        has. One integer: a square.
      patch_px: side of a patch.
      width, layers, heads, hidden: D, depth, Q, F.
      channels: C.
      activation: of the MLPs, one of `layers.dense.ACTIVATIONS`.
      norm_epsilon: of the LayerNorms.
      class_token: a learned token before the patches.
      patch_bias: whether the patch embedding has a bias.
      pre_norm: a norm before the first layer.
      last_norm: "tokens": every token is normalised, then pooled; "pooled": only what is pooled (CLIP).
      rotary: 2-D rotary positions as well as absolute ones; patches count from 1 where there is a class token, at 0.
      rope_base: base of the rotary frequencies.
      positions: how the table of positions is fitted to another grid of patches: "fixed" (an error), "bilinear",
        "bicubic" (as PyTorch without antialiasing) or "naflex" (bilinear with antialiasing, each picture its own grid).
      pool: "class", "attention" (a learned query, then an MLP), "mean" (of all tokens) or "none".
      pool_heads, pool_hidden: heads and MLP width of the attention pool; as of the layers where 0.
      projection: width of the embedding; 0 for the pooled vector as it is.
      projection_bias: whether the projection has one.
      remat: recompute activations in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
      attention: among the tokens, "einsum" or "fused" (`layers/attention.attend`).
    """

    kind: ClassVar[str] = "vit"
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)

    image_px: FrameSize
    patch_px: int
    width: int
    layers: int
    heads: int
    hidden: int
    channels: int = 3
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    class_token: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    last_norm: str = "tokens"
    rotary: bool = False
    rope_base: float = 10_000.0
    positions: str = "fixed"
    pool: str = "attention"
    pool_heads: int = 0
    pool_hidden: int = 0
    projection: int = 0
    projection_bias: bool = False
    remat: bool = False
    dtype: str = "float32"
    attention: str = "einsum"

    def __post_init__(self):
        object.__setattr__(self, "image_px", frame_size(self.image_px, "image_px"))
        for name, known in (
            ("attention", IMPLEMENTATIONS),
            ("pool", POOLS),
            ("last_norm", NORMS),
            ("positions", POSITIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        check_activation(self.activation)
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.pool == "attention" and self.width % (self.pool_heads or self.heads):
            raise ValueError(f"width ({self.width}) must be a multiple of pool_heads ({self.pool_heads})")
        if not 0 < self.patch_px <= min(self.image_px):
            raise ValueError(f"patch_px ({self.patch_px}) must be from 1 to image_px ({self.image_px})")
        if self.pool == "class" and not self.class_token:
            raise ValueError("pool 'class' needs class_token=True")
        if self.pool == "none" and (self.projection or self.last_norm == "pooled"):
            raise ValueError("without a pool there is nothing that a projection or last_norm='pooled' is of")
        if self.rotary and self.width // self.heads % 4:
            raise ValueError(f"rotary needs heads of a multiple of 4 wide, not {self.width // self.heads}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid of patches that positions were learned for."""
        return self.map_size(self.image_px)

    @property
    def patches(self) -> int:
        """How many patches positions were learned for."""
        return self.grid[0] * self.grid[1]

    def map_size(self, image_px: FrameSize) -> tuple[int, int]:
        """Rows and columns of whole patches in a picture."""
        return image_px[0] // self.patch_px, image_px[1] // self.patch_px

    @property
    def embedding_width(self) -> int:
        return self.projection or self.width

    def build(self, name: str | None = None) -> "VisionTower":
        """The module."""
        return VisionTower(self, name=name)


def normalise(frames: UInt8[Array, "... 3"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "... 3"]:
    """Bytes as a tower takes them: from 0 to 1, less `mean`, over `std`, an RGB channel; float32."""
    middle, deviation = np.array(mean), np.array(std)
    # In this form mean and deviation 0.5 are `bytes / 127.5 - 1` to the last bit.
    shift = (middle / deviation).astype(np.float32)
    return frames.astype(jnp.float32) / (255.0 * deviation).astype(np.float32) - shift


class VisionOutput(NamedTuple):
    """What a vision tower gives.

    Attributes:
      tokens: `[B, P, D]`, the class token first where there is one; after the last norm if that is of the tokens.
      pooled: `[B, D]`, after the last norm; None without a pool.
      embedding: `[B, projection]`, or `pooled` where there is no projection.
    """

    tokens: Float[Array, "B P D"]
    pooled: Float[Array, "B D"] | None
    embedding: Float[Array, "B F"] | None


class AttentionPool(nn.Module):
    """A learned query attends to all tokens, then an MLP, `[B, P, D] -> [B, D]` (Zhai et al., 2022)."""

    heads: int
    hidden: int
    activation: str
    norm_epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"], mask: Bool[Array, "B P"] | None = None) -> Float[Array, "B D"]:
        init = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), (None, "embed"))
        probe = self.param("probe", init, (1, x.shape[-1])).astype(x.dtype)
        query = jnp.broadcast_to(probe, (x.shape[0], *probe.shape))
        seen = Attention(self.heads, name="attention")(query, x, None if mask is None else mask[:, None])
        normed = layer_norm("norm", x.dtype, self.norm_epsilon)(seen)
        return (seen + Mlp(hidden=self.hidden, activation=self.activation, name="mlp")(normed))[:, 0]


class VisionTower(nn.Module):
    """Pictures to vectors; `__call__` takes pictures, `from_patches` lists of patches, which may be padded."""

    config: VisionConfig

    def __call__(self, pictures: Float[Array, "B H W C"]) -> VisionOutput:
        """Looks at pictures of one size.

        Args:
          pictures: normalised as `towers/preprocessing.py` does. A border at the right and the bottom that is narrower
            than a patch is not looked at, as by a convolution without padding (SigLIP so400m: 384 px, patches of 14).

        Raises:
          ValueError: they need other positions than "fixed" allows.
        """
        side = self.config.patch_px
        rows, columns = self.config.map_size((pictures.shape[1], pictures.shape[2]))
        return self.from_patches(patchify(pictures[:, : rows * side, : columns * side], side), (rows, columns))

    @nn.compact
    def from_patches(
        self,
        patches: Float[Array, "B P patch"],
        grid: tuple[int, int] | Int32[Array, "B 2"],
        mask: Bool[Array, "B P"] | None = None,
    ) -> VisionOutput:
        """Looks at patches, row by row (`layers/encoder.patchify`).

        Args:
          patches: `patch = patch_px² · C`, a row of pixels after the other, channels last.
          grid: rows and columns: of all pictures, or (positions "naflex") of each.
          mask: which patches are not padding; needed where each picture has its own grid.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if not isinstance(grid, tuple) and (c.positions != "naflex" or mask is None):
            raise ValueError("pictures that each have their own grid need positions='naflex' and a mask")
        x = dense(c.width, ("patch", "embed"), name="patch", dtype=dtype, use_bias=c.patch_bias)(patches.astype(dtype))
        normal = nn.initializers.normal(c.width**-0.5)
        table = self.param(
            "position",
            nn.with_logical_partitioning(normal, ("position", "embed")),
            (c.patches + c.class_token, c.width),
        )
        places = table[c.class_token :].reshape(*c.grid, c.width)
        rows, columns = grid if isinstance(grid, tuple) else (grid[:, :1], grid[:, 1:])
        # Padding stands at the first place, as in transformers; nobody looks at it.
        index = jnp.arange(patches.shape[1], dtype=jnp.int32)[None]
        index = jnp.where(index < rows * columns, index, 0)
        row, column = index // columns, index % columns
        if isinstance(grid, tuple):
            x = x + _fit(places, grid, c.positions).astype(dtype)
        else:
            x = x + _fit_each(places, grid, row, column).astype(dtype)
        if c.class_token:
            first = self.param("class_token", nn.with_logical_partitioning(normal, ("embed",)), (c.width,))
            first = jnp.broadcast_to((first + table[0]).astype(dtype), (x.shape[0], 1, c.width))
            x = jnp.concatenate([first, x], axis=1)
            row, column = (jnp.pad(place + 1, ((0, 0), (1, 0))) for place in (row, column))
            mask = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        if c.pre_norm:
            x = layer_norm("pre_norm", dtype, c.norm_epsilon)(x)
        phase = phases_2d(row, column, c.width // c.heads, c.rope_base) if c.rotary else None
        among = None if mask is None else jnp.broadcast_to(mask[:, None], (*mask.shape, mask.shape[1]))
        x = Encoder(
            c.layers,
            c.heads,
            hidden=c.hidden,
            activation=c.activation,
            norm_epsilon=c.norm_epsilon,
            final_norm=False,
            remat=c.remat,
            fused=c.attention == "fused",
            name="encoder",
        )(x, among, phase)
        return self._pooled(x, mask)

    def _pooled(self, x: Float[Array, "B P D"], mask: Bool[Array, "B P"] | None) -> VisionOutput:
        c = self.config
        norm = layer_norm("norm", x.dtype, c.norm_epsilon)
        if c.last_norm == "tokens":
            x = norm(x)
        if c.pool == "none":
            return VisionOutput(x, None, None)
        if c.pool == "class":
            pooled = x[:, 0]
        elif c.pool == "mean":
            pooled = jnp.mean(x, axis=1, where=None if mask is None else mask[..., None])
        else:
            pooled = AttentionPool(
                c.pool_heads or c.heads, c.pool_hidden or c.hidden, c.activation, c.norm_epsilon, name="pool"
            )(x, mask)
        if c.last_norm == "pooled":
            pooled = norm(pooled)
        if not c.projection:
            return VisionOutput(x, pooled, pooled)
        project = dense(
            c.projection, ("embed", "feature"), name="projection", dtype=x.dtype, use_bias=c.projection_bias
        )
        return VisionOutput(x, pooled, project(pooled))


def _fit(places: Float[Array, "Y X D"], grid: tuple[int, int], how: str) -> Float[Array, "1 P D"]:
    """Positions of a grid of patches, row by row."""
    if places.shape[:2] != grid:
        if how == "fixed":
            raise ValueError(
                f"the tower has positions for {places.shape[0]}x{places.shape[1]} patches, the picture has "
                f"{grid[0]}x{grid[1]}: resize the picture, or set positions='bicubic'"
            )
        method = "bicubic" if how == "bicubic" else "bilinear"
        places = resize_grid(places, *grid, method, antialias=how == "naflex")
    return places.reshape(1, -1, places.shape[-1])


def _fit_each(places: Float[Array, "Y X D"], grid: Int32[Array, "B 2"], row: Array, column: Array) -> Array:
    """Positions of patches where each picture has its own grid, `[B, P, D]`."""
    down = linear_weights(row, grid[:, :1], places.shape[0])
    across = linear_weights(column, grid[:, 1:], places.shape[1])
    both = (down[..., :, None] * across[..., None, :]).reshape(*row.shape, -1)
    return jnp.matmul(both, places.reshape(-1, places.shape[-1]).astype(jnp.float32), precision="highest")
