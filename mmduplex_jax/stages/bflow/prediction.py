"""Prediction: tokens must hold what a frozen teacher, or a small picture, shows of the frames at and after a moment.

A reader looks at the tokens up to a moment and says what will be seen: at that moment, most of whose frames were never
tokenized whole, and a little later. Targets are the pooled features of a frozen vision tower (as in MVP and I-JEPA:
features, not pixels, Assran et al., 2023) or, where there is no teacher, the frame shrunk to a few pixels (MAE, He et
al., 2022).
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.stages.bflow.event_tokens import ReaderConfig, TokenReader
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.towers.contrastive import unit
from mmduplex_jax.towers.vision import VisionConfig, VisionTower, normalise
from mmduplex_jax.typing import Array, Bool, Float, Int32, UInt8

TARGETS = ("teacher", "pixels", "none")


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """What is predicted, and how.

    Attributes:
      target: one of TARGETS.
      places: moments of a clip, drawn at random.
      horizon_ticks: how long after a moment the frames are that are predicted from it.
      reader: how tokens are read.
      frame_px: height and width of the frames.
      picture_px: height and width of the small picture, which divide the frame's. One integer: a square.
      teacher: the frozen tower; None without one.
      mean, std: an RGB channel, of pixels from 0 to 1, as the teacher is used to.
    """

    target: str
    places: int
    horizon_ticks: tuple[int, ...]
    reader: ReaderConfig
    frame_px: FrameSize
    picture_px: FrameSize = (16, 16)
    teacher: VisionConfig | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        object.__setattr__(self, "frame_px", frame_size(self.frame_px))
        object.__setattr__(self, "picture_px", frame_size(self.picture_px, "config.prediction.picture_px"))
        if self.target not in TARGETS:
            raise ValueError(f"config.loss.predict is one of {', '.join(TARGETS)}, not {self.target!r}")
        if self.places < 1 or not self.horizon_ticks or min(self.horizon_ticks) < 0:
            raise ValueError(
                f"config.prediction needs at least one place and horizon_s from 0 on, got {self.places} and "
                f"{self.horizon_ticks} ticks"
            )
        rest = [whole % part for whole, part in zip(self.frame_px, self.picture_px)]
        if self.target == "pixels" and any(rest):
            raise ValueError(
                f"config.prediction.picture_px {self.picture_px} must divide config.frame_px {self.frame_px}"
            )
        if self.target == "teacher" and (self.teacher is None or self.teacher.pool == "none"):
            raise ValueError("config.loss.predict='teacher' needs a config.teacher with a pool")

    @property
    def features(self) -> int:
        """Numbers that describe a frame."""
        return math.prod(self.picture_px) * 3 if self.teacher is None else self.teacher.embedding_width


class Moments(NamedTuple):
    """Where a clip is looked at and what is asked for there.

    Attributes:
      step: int32 `[B, X]`, where the reader stands.
      tick: int32 `[B, X, H]`, the frames that are to be predicted.
    """

    step: Int32[Array, "B X"]
    tick: Int32[Array, "B X H"]


def draw_moments(key: Array, config: PredictionConfig, batch: int, ticks: int, video_stride: int) -> Moments:
    """Moments of clips of `ticks` ticks, drawn so that every frame that is asked for lies in the clip.

    Raises:
      ValueError: the clip is shorter than what is asked for.
    """
    room = ticks - max(config.horizon_ticks)
    if room < 1:
        raise ValueError(
            f"config.prediction.horizon_s reaches {max(config.horizon_ticks)} ticks ahead, a clip has {ticks}: shorten "
            "it or lengthen config.data.clip_s"
        )
    tick = jax.random.randint(key, (batch, config.places), 0, room, jnp.int32)
    return Moments(tick * video_stride, tick[..., None] + jnp.array(config.horizon_ticks, jnp.int32))


def shrunk(frames: UInt8[Array, "... H W 3"], picture_px: FrameSize) -> Float[Array, "... F"]:
    """Frames averaged to a picture of `picture_px` with pixels from -1 to 1, as one row of numbers, float32."""
    *lead, height, width, channels = frames.shape
    rows, columns = picture_px
    cut = frames.astype(jnp.float32).reshape(*lead, rows, height // rows, columns, width // columns, channels)
    return (cut.mean(axis=(-4, -2)) / 127.5 - 1.0).reshape(*lead, -1)


class Teacher(nn.Module):
    """A frozen vision tower's view of frames, `[X, H, W, 3] -> [X, F]` of unit variance; it learns nothing."""

    config: PredictionConfig

    @nn.compact
    def __call__(self, frames: UInt8[Array, "X H W 3"]) -> Float[Array, "X F"]:
        c = self.config
        assert c.teacher is not None  # PredictionConfig refuses to go without one
        pictures = normalise(frames, c.mean, c.std)
        seen = VisionTower(c.teacher, name="tower")(pictures).embedding
        assert seen is not None  # PredictionConfig refuses towers without a pool
        return jax.lax.stop_gradient(unit(seen) * c.features**0.5)


class Predictor(nn.Module):
    """What will be seen, from the tokens up to a moment, `-> [B, X, H, F]`."""

    config: PredictionConfig

    @nn.compact
    def __call__(self, tokens: Tokens, step: Int32[Array, "B X"]) -> Float[Array, "B X H F"]:
        c = self.config
        read = layer_norm("norm")(TokenReader(c.reader, name="reader")(tokens, step)).astype(jnp.float32)
        small = nn.initializers.normal(0.02)  # the first guess is the mean of all, not noise
        out = dense(len(c.horizon_ticks) * c.features, ("feature", None), name="out", use_bias=True, init=small)(read)
        return out.reshape(*step.shape, len(c.horizon_ticks), c.features)


class Predicted(NamedTuple):
    """How well a batch was predicted, float32 scalars.

    Attributes:
      loss: the mean squared error of a number.
      explained: 1 less the error over that of always predicting the batch's mean; 0 where there is nothing to predict.
      frames: how many were predicted.
    """

    loss: Float[Array, ""]
    explained: Float[Array, ""]
    frames: Float[Array, ""]


def prediction_error(
    predicted: Float[Array, "B X H F"], target: Float[Array, "B X H F"], counted: Bool[Array, "B X H"]
) -> Predicted:
    """Compares predictions with what was to be seen, where it counts."""
    weight = counted.astype(jnp.float32)[..., None]
    number = jnp.maximum(weight.sum(), 1.0)
    mean = (target * weight).sum(axis=(0, 1, 2)) / number
    error = (jnp.square(predicted - target) * weight).sum() / (number * target.shape[-1])
    usual = (jnp.square(target - mean) * weight).sum() / (number * target.shape[-1])
    explained = jnp.where(usual > 0, 1.0 - error / jnp.maximum(usual, 1e-12), 0.0)
    return Predicted(error, explained, weight.sum())
