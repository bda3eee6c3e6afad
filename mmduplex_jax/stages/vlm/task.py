"""The stage `vlm`: a picture, or a short clip, is a few tokens before its caption in one language model.

The classic way to let a language model see (LLaVA, Liu et al., 2023), at its cheapest: the pooled head of a CLIP-like
tower is *one* token a frame. It is the baseline that watching while talking must beat, and what gives the duplex a
language model that already knows its words. The towers have the parameter names of the stages `clip` and `duplex`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.pairs import PairFormat
from mmduplex_jax.layers.dense import ACTIVATIONS, check_activation, dense, layer_norm
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig, LanguageModel, LanguageState
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.towers.vision import VisionConfig, VisionTower, normalise
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8

# The embedding table is padded to a multiple of this, as the duplex's is, so that it can be sharded.
_ROWS_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """What makes tokens of the vector of a frame.

    Attributes:
      tokens: of a frame.
      hidden: F, of its MLP.
      activation: of the MLP: "gelu", "gelu_tanh" or "quick_gelu".
    """

    tokens: int
    hidden: int
    activation: str = "gelu_tanh"

    def __post_init__(self):
        if self.tokens < 1 or self.hidden < 1:
            raise ValueError(f"projector.tokens and hidden must be at least 1, got {self.tokens} and {self.hidden}")
        check_activation(self.activation, "projector.activation")


@dataclasses.dataclass(frozen=True)
class VlmConfig:
    """The shape of the model.

    Attributes:
      vision: the tower; with a pool.
      projector: between the two.
      language: the language model.
      frames: T, of a clip; 1 for a picture.
      length: S, the most tokens of a caption, its end mark included.
    """

    vision: VisionConfig
    projector: ProjectorConfig
    language: LanguageConfig
    frames: int
    length: int

    def __post_init__(self):
        if self.vision.pool == "none":
            raise ValueError("vision.pool is 'none': the pooled vector is what becomes a token")
        if self.language.head == "none":
            raise ValueError("a language model without a head writes no captions")
        if self.frames < 1 or self.length < 2:
            raise ValueError(
                f"time.frames must be at least 1 and caption.length 2 (a word and the end mark), got {self.frames} and "
                f"{self.length}"
            )
        text = self.language.text
        if self.prefix + self.length - 1 > text.window_steps:
            raise ValueError(
                f"{self.prefix} tokens of frames and {self.length} of text do not fit a window of {text.window_steps}"
            )

    @property
    def prefix(self) -> int:
        """Tokens before the caption."""
        return self.frames * self.projector.tokens


class Projector(nn.Module):
    """Vectors of frames to vectors of tokens, `[B, T, F] -> [B, T · tokens, D]`, frame by frame."""

    config: ProjectorConfig
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B T F"]) -> Float[Array, "B K D"]:
        c, dtype = self.config, jnp.dtype(self.dtype)
        # How long a tower's vectors are differs by orders of magnitude between towers.
        x = layer_norm("norm", dtype)(x)
        x = dense(c.hidden, ("embed", "mlp"), name="up", dtype=dtype, use_bias=True)(x)
        x = ACTIVATIONS[c.activation](x)
        x = dense(c.tokens * self.width, ("mlp", "embed"), name="down", dtype=dtype, use_bias=True)(x)
        return x.reshape(x.shape[0], -1, self.width)


class VlmModel(LanguageModel):
    """A language model (`config`) that reads what a vision tower saw before it writes."""

    vision_config: VisionConfig
    projector_config: ProjectorConfig

    def setup(self):
        super().setup()
        self.vision = VisionTower(self.vision_config)
        self.projector = Projector(self.projector_config, self.config.text.width, self.config.text.dtype)

    def caption_logits(self, clips: Float[Array, "B T H W 3"], ids: Int32[Array, "B S"]) -> Float[Array, "B S V"]:
        """float32 logits of every token of the captions: the first follows from the frames alone."""
        return self.logits(self._before(clips, ids))

    def mixed_logits(self, clips: Float[Array, "B T H W 3"], sequence: Int32[Array, "B S"]) -> Float[Array, "B S-1 V"]:
        """float32 logits of every token but the first of sequences in which text stands between frames, too.

        Args:
          clips: the frames.
          sequence: ids of text, and -1 - k for the k-th of the frames' tokens (`embed_frames`).
        """
        before = sequence[:, :-1]
        seen = jnp.take_along_axis(self.embed_frames(clips), jnp.maximum(-1 - before, 0)[..., None], axis=1)
        text = self.embed(jnp.maximum(before, 0))
        return self.logits(self.read(jnp.where(before[..., None] < 0, seen, text)))

    def token_nll(
        self, clips: Float[Array, "B T H W 3"], ids: Int32[Array, "B S"], chunk: int = 0
    ) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
        """Each token's negative log-likelihood in nats and whether it was the likeliest, `chunk` at a time (0: all)."""
        return self.token_nll_of(self._before(clips, ids), ids, chunk)

    def _before(self, clips: Float[Array, "B T H W 3"], ids: Int32[Array, "B S"]) -> Float[Array, "B S D"]:
        """The hidden state that each token is predicted from."""
        prefix = self.embed_frames(clips)
        hidden = self.read(jnp.concatenate([prefix, self.embed(ids[:, :-1])], axis=1))
        return hidden[:, prefix.shape[1] - 1 :]

    def embed_frames(self, clips: Float[Array, "B T H W 3"]) -> Float[Array, "B K D"]:
        """The tokens of the frames, in their order."""
        embedding = self.vision(clips.reshape(-1, *clips.shape[2:])).embedding
        assert embedding is not None  # VlmConfig refuses towers without a pool
        return self.projector(embedding.reshape(*clips.shape[:2], -1))

    def begin(self, clips: Float[Array, "B T H W 3"], length: int) -> tuple[LanguageState, Float[Array, "B V"]]:
        """Looks at clips and is ready to write at most `length` tokens about each.

        Returns:
          A memory with room for them, and float32 logits of the first.
        """
        prefix = self.embed_frames(clips)
        # The last token is never read.
        memory, hidden = self.extend(self.initial_state(len(prefix), prefix.shape[1] + length - 1), prefix)
        return memory, self.logits(hidden[:, -1:])[:, 0]

    def write(self, memory: LanguageState, token: Int32[Array, "B"]) -> tuple[LanguageState, Float[Array, "B V"]]:
        """Reads one more token of every caption; float32 logits of the next."""
        memory, hidden = self.step(memory, token)
        return memory, self.logits(hidden[:, None])[:, 0]


@dataclasses.dataclass(frozen=True)
class VlmTask:
    """Loss and shapes of the stage (see `mmduplex_jax/train/task.py`).

    Attributes:
      mean, std: an RGB channel, of pixels from 0 to 1.
      loss_chunk: tokens of a caption whose logits are held at once; 0 for all.
    """

    config: VlmConfig
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    loss_chunk: int = 0

    @property
    def model(self) -> VlmModel:
        c = self.config
        return VlmModel(c.language, c.vision, c.projector)

    def init(self, rng: Array) -> PyTree:
        """Parameters, boxed with their logical axes."""
        batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in self.example_batch(1).items()}
        return self.model.init(rng, self.normalised(batch["frames"]), batch["ids"], method="caption_logits")["params"]

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        c = self.config
        return {
            "frames": jax.ShapeDtypeStruct((batch_size, c.frames, *c.vision.image_px, 3), jnp.uint8),
            "ids": jax.ShapeDtypeStruct((batch_size, c.length), jnp.int32),
            "id_valid": jax.ShapeDtypeStruct((batch_size, c.length), jnp.bool_),
        }

    def normalised(self, frames: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
        """Pixels as the vision tower takes them."""
        return normalise(frames, self.mean, self.std)

    def loss(self, params: PyTree, batch: Any, rng: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Cross-entropy of the captions' tokens and end marks, in nats a token; a row without a text weighs nothing.

        Metrics: `accuracy`, the share of tokens that are the likeliest after those before them; `captions`, rows with a
          text.
        """
        del rng  # nothing is drawn
        ids, id_valid = batch["ids"], batch["id_valid"]
        inputs = (self.normalised(batch["frames"]), ids, self.loss_chunk)
        nll, correct = self.model.apply({"params": params}, *inputs, method="token_nll")
        total = id_valid.sum().astype(jnp.float32)
        mean = lambda values: jnp.where(id_valid, values, 0.0).sum() / jnp.maximum(total, 1.0)
        return mean(nll), {
            "loss_weight": total,
            "accuracy": mean(correct),
            "captions": id_valid.any(axis=1).sum().astype(jnp.float32),
            "tokens": self.config.prefix * len(ids) + total,
        }


def build_task(config: Any, tokenizer: TextTokenizer) -> VlmTask:
    """The task of an experiment's config (see `configs/vlm_quickstart.py`).

    Raises:
      ValueError: the config contradicts itself.
    """
    text = dict(config.text)
    head = "tied" if text.pop("tied", True) else "own"
    rows = -(-max(tokenizer.vocab_size, config.vocab_rows_min) // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    model = VlmConfig(
        vision=VisionConfig(image_px=config.frame_px, **config.vision),
        projector=ProjectorConfig(**config.projector),
        language=LanguageConfig(StackConfig(**text), tokenizer.vocab_size, head, rows),
        frames=config.time.frames,
        length=config.caption.length,
    )
    return VlmTask(
        model,
        tuple(config.pixels.mean),
        tuple(config.pixels.std),
        loss_chunk=(config.get("loss") or {}).get("chunk", 0),
    )


def pair_format(config: Any) -> PairFormat:
    """What a sample is: some frames and a text."""
    data = config.data
    return PairFormat(config.time.frames, config.caption.length, data.text, data.pause_s, data.shift_s)
