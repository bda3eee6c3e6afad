"""Every kind of vision tower behind one interface: what a configuration may name as one, and what any of them gives.

To add a kind: a frozen dataclass with the names of `TowerConfig`, whose module maps pictures to a `VisionOutput` or to
a map of features, and its name in `KINDS` and in `AnyTower`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn

from mmduplex_jax.frame_size import FrameSize, size_text
from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.vision import VisionConfig, VisionOutput
from mmduplex_jax.towers.yolox import YoloxConfig
from mmduplex_jax.typing import Array, Float


class TowerConfig(Protocol):
    """The shape of a tower; hashable.

    Attributes:
      kind: names the dataclass in configurations.
      mean, std: an RGB channel, of pixels from 0 to 1, as its pictures are normalised unless a configuration says else.
    """

    kind: ClassVar[str]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]

    @property
    def image_px(self) -> int | FrameSize:
        """Height and width of the pictures that it was trained on. One integer: a square."""

    @property
    def width(self) -> int:
        """F of its tokens."""

    @property
    def dtype(self) -> str:
        """It computes in."""

    def map_size(self, image_px: FrameSize) -> tuple[int, int]:
        """Rows and columns of the places that it tells of in a picture."""

    def build(self, name: str | None = None) -> nn.Module:
        """Its module: normalised pictures `[B, H, W, 3]` to a `VisionOutput`, or to a map `[B, Y, X, F]`."""


AnyTower = VisionConfig | EfficientNetLiteConfig | YoloxConfig
KINDS: Mapping[str, type[AnyTower]] = {kind.kind: kind for kind in (VisionConfig, EfficientNetLiteConfig, YoloxConfig)}


def tower_from_mapping(values: Mapping[str, Any], **defaults: Any) -> AnyTower:
    """The tower that a mapping (a ConfigDict) tells of by `kind`, "vit" where it does not say, and its fields.

    Args:
      values: of the configuration.
      defaults: of fields that are not in `values`; those that the kind has not are left out.

    Raises:
      ValueError: there is no such kind.
      TypeError: the kind has no such field.
    """
    values = dict(values)
    kind = values.pop("kind", VisionConfig.kind)
    if kind not in KINDS:
        raise ValueError(f"a tower's kind is one of {', '.join(KINDS)}, not {kind!r}")
    fields = {field.name for field in dataclasses.fields(KINDS[kind])}
    return KINDS[kind](**{name: value for name, value in defaults.items() if name in fields} | values)


def pooled_width(tower: AnyTower) -> int:
    """F of the one vector that a tower makes of a picture; 0 where it makes none."""
    if isinstance(tower, VisionConfig):
        return 0 if tower.pool == "none" else tower.embedding_width
    return tower.width


def without_pool(tower: AnyTower) -> AnyTower:
    """A tower for its tokens alone: of a transformer, the last norm is of every token, and nothing comes after it."""
    if not isinstance(tower, VisionConfig):
        return tower
    plain = VisionConfig(image_px=(1, 1), patch_px=1, width=1, layers=1, heads=1, hidden=1)
    reset = {name: getattr(plain, name) for name in ("pool_heads", "pool_hidden", "projection", "projection_bias")}
    return dataclasses.replace(tower, pool="none", last_norm="tokens", **reset)


def features_shape(tower: AnyTower, image_px: FrameSize, pooled: bool) -> tuple[int, int]:
    """P and F of the features of a picture: of all places, or of the whole, which is one."""
    if pooled:
        return 1, pooled_width(tower)
    places = math.prod(tower.map_size(image_px))
    return places + (isinstance(tower, VisionConfig) and tower.class_token), tower.width


def check_picture(tower: AnyTower, image_px: FrameSize, what: str, picture: str, remedy: str) -> None:
    """ValueError, naming the tower, the `picture` and a `remedy`, where it cannot look at pictures of this size."""
    if not isinstance(tower, VisionConfig):
        return
    places, learned = tower.map_size(image_px), tower.grid
    if 0 in places or (tower.positions == "fixed" and places != learned):
        raise ValueError(
            f"{what} has positions for {learned[0]}x{learned[1]} patches of {tower.patch_px} px, {picture} "
            f"({size_text(image_px)}) has {places[0]}x{places[1]}: {remedy}"
        )


class Features(NamedTuple):
    """What a tower of whatever kind tells of pictures.

    Attributes:
      tokens: `[B, P, F]`, of each place, row by row; a class token first where there is one.
      pooled: `[B, F]`, of the whole; None where the tower has no pool. Of a map its mean.
    """

    tokens: Float[Array, "B P F"]
    pooled: Float[Array, "B F"] | None


def features_of(output: Any) -> Features:
    """The features in what a tower's module gives, a `VisionOutput` or a map `[B, Y, X, F]`."""
    if isinstance(output, VisionOutput):
        return Features(output.tokens, output.embedding)
    return Features(output.reshape(len(output), -1, output.shape[-1]), output.mean(axis=(1, 2)))
