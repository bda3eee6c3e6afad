"""A vision and a text tower whose embeddings are compared: CLIP (Radford et al., 2021), SigLIP (Zhai et al., 2023)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.towers.text import TextTower, TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig, VisionOutput, VisionTower
from mmduplex_jax.typing import Array, Bool, Float, Int32


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Two towers with embeddings of one width.

    Attributes:
      vision, text: the towers.
      scale_init: logarithm of the factor of the cosines, at first (CLIP: log(1 / 0.07), SigLIP: log(10)).
      bias_init: what is added to the logits, at first (SigLIP: -10); None: there is no bias (CLIP, PE).
    """

    vision: VisionConfig
    text: TextTowerConfig
    scale_init: float = math.log(1 / 0.07)
    bias_init: float | None = None

    def __post_init__(self):
        if self.vision.pool == "none":
            raise ValueError("the vision tower of a contrastive pair needs a pool")
        if self.vision.embedding_width != self.text.embedding_width:
            raise ValueError(
                f"embeddings must be of one width, vision's is {self.vision.embedding_width} and text's "
                f"{self.text.embedding_width}: set `projection` of one of them"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ContrastiveConfig":
        """The inverse of `dataclasses.asdict`, as a checkpoint's metadata holds it."""
        towers = {"vision": VisionConfig(**values["vision"]), "text": TextTowerConfig(**values["text"])}
        return cls(**{**values, **towers})


class Compared(NamedTuple):
    """What a contrastive pair gives; the loss decides what is compared with what.

    Attributes:
      image: `[B, F]`, of length 1, float32.
      text: `[B', F]`, of length 1, float32.
      scale: `[]`, the factor of the cosines (not its logarithm), float32.
      bias: `[]`, float32; zero where the pair has none.
    """

    image: Float[Array, "B F"]
    text: Float[Array, "B F"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]

    @property
    def logits(self) -> Float[Array, "B B"]:
        """Logits an image (rows) and a text (columns)."""
        return jnp.matmul(self.image, self.text.T, precision="highest") * self.scale + self.bias


class Contrastive(nn.Module):
    """Pictures and texts to embeddings of length 1."""

    config: ContrastiveConfig

    def setup(self):
        c = self.config
        self.vision = VisionTower(c.vision)
        self.text = TextTower(c.text)
        scalar = lambda value: nn.with_logical_partitioning(nn.initializers.constant(value), ())
        self.logit_scale = self.param("logit_scale", scalar(c.scale_init), ())
        if c.bias_init is not None:
            self.logit_bias = self.param("logit_bias", scalar(c.bias_init), ())

    def __call__(self, pictures: Float[Array, "B H W C"], ids: Int32[Array, "B S"]) -> Compared:
        """Embeds pictures and texts; their numbers may differ."""
        return self.compare(self.encode_image(pictures), self.encode_text(ids))

    def encode_image(self, pictures: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        return _embedding(self.vision(pictures))

    def encode_patches(
        self, patches: Float[Array, "B P patch"], grid: Int32[Array, "B 2"], mask: Bool[Array, "B P"]
    ) -> Float[Array, "B F"]:
        """As `encode_image`, of padded lists of patches (`VisionTower.from_patches`)."""
        return _embedding(self.vision.from_patches(patches, grid, mask))

    def encode_text(self, ids: Int32[Array, "B S"]) -> Float[Array, "B F"]:
        return unit(self.text(ids).embedding)

    def compare(self, image: Float[Array, "B F"], text: Float[Array, "B F"]) -> Compared:
        """Puts embeddings together with the learned scale and bias."""
        bias = jnp.zeros(()) if self.config.bias_init is None else self.logit_bias
        return Compared(image, text, jnp.exp(self.logit_scale), bias)


def _embedding(seen: VisionOutput) -> Float[Array, "B F"]:
    if seen.embedding is None:
        raise ValueError("a vision tower without a pool has no embedding to compare")
    return unit(seen.embedding)


def unit(x: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """Scales vectors to length 1, in float32."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
