"""What a fusion must do; and what `cross` and `sum` share: a causal video stream that text attends to."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import RMSNorm, dense
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, empty_stack_cache, phases
from mmduplex_jax.models.language import LanguageModel
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Float, Int32

S = TypeVar("S")


class Fusion(nn.Module, Generic[S]):
    """The way of video vectors into the text, over whole clips (`read`) and step by step (the rest), equal in both.

    Text at step `s` attends to video with `step <= s`. A fusion's modules and parameters stand in the model's own scope
    (`video_in`, `video` ...), beside those of the language model. What streams remember is a pytree `S` of arrays with
    the batch first, and of `KVCache`s, which know their layout; so rows are reset and gathered without a fusion's help.

    Attributes:
      tokenizer_config: what video vectors are made of, and how many there are.
      video_config: the shape of a video stream, for fusions that have one.
      language: the language model; its layers are run by the fusion.
      cross_attention: whether the text's layers attend to video by themselves (`StackConfig.cross_every`).
      gated: whether video comes in through gates (`StackConfig.cross_gate`).
    """

    tokenizer_config: TokenizerConfig
    video_config: StackConfig
    language: LanguageModel

    cross_attention: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    @classmethod
    def stacks(cls, video: StackConfig) -> Mapping[str, StackConfig]:
        """The transformers that the fusion has beside the text's, by the names of their parameters."""
        del video
        return {}

    @classmethod
    @abc.abstractmethod
    def video_width(cls, text: StackConfig, video: StackConfig) -> int:
        """W, the width of what `embed` makes of video tokens."""

    @abc.abstractmethod
    def embed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N W"]:
        """Video tokens as the fusion takes them; what the event memory finds is added to it."""

    @abc.abstractmethod
    def read(
        self, text: Float[Array, "B S D"], video: Float[Array, "B N W"], step: Int32[Array, "B N"], valid: Array
    ) -> Float[Array, "B S D"]:
        """Hidden states of whole clips.

        Args:
          text: what stands for the slot before each step.
          video: from `embed`.
          step: of the video tokens' ticks.
          valid: bool `[B, N]`, which of them exist.
        """

    @abc.abstractmethod
    def initial_state(self, batch: int) -> S:
        """What `batch` streams remember at first."""

    @abc.abstractmethod
    def video_step(
        self, state: S, video: Float[Array, "B M W"], step: Int32[Array, "B M"], valid: Bool[Array, "B M"]
    ) -> S:
        """Takes in a tick's video tokens; those of rows that take no part are not valid."""

    @abc.abstractmethod
    def text_step(
        self, state: S, text: Float[Array, "B 1 D"], step: Int32[Array, "B 1"], active: Bool[Array, "B 1"]
    ) -> tuple[S, Float[Array, "B 1 D"]]:
        """One step of the text stream of the rows that are active: the state and hidden states."""


class VideoStreamState(NamedTuple):
    """What `B` streams remember.

    Attributes:
      projected: keys and values that the text attends to.
    """

    video: KVCache
    projected: KVCache
    text: KVCache


class VideoStreamFusion(Fusion[VideoStreamState]):
    """Video tokens pass a causal transformer of their own; projected, they are what text attends to.

    A subclass says for how many readers they are projected (`readers`), how those are laid out (`pairs` and
    `empty_projected`), and how text attends to them (`text_hidden`).
    """

    gated: ClassVar[bool] = True

    def setup(self):
        text, dtype = self.language.config.text, jnp.dtype(self.language.config.text.dtype)
        self.video_in = dense(
            self.video_config.width, ("feature", "embed"), name="video_in", dtype=jnp.dtype(self.video_config.dtype)
        )
        self.video = Stack(self.video_config)
        self.projector_norm = RMSNorm(dtype=dtype)
        out = self.readers * 2 * text.kv_heads * text.head_width
        self.projector = dense(out, ("embed", "kv_heads"), name="projector", dtype=dtype)

    @classmethod
    def stacks(cls, video: StackConfig) -> Mapping[str, StackConfig]:
        return {"video": video}

    @classmethod
    def video_width(cls, text: StackConfig, video: StackConfig) -> int:
        return video.width

    @property
    @abc.abstractmethod
    def readers(self) -> int:
        """Layers that attend to video, each to keys and values of its own."""

    @abc.abstractmethod
    def pairs(self, keys: Float[Array, "L B N G E"], values: Float[Array, "L B N G E"]) -> Any:
        """Keys and values of a whole clip, as `text_hidden` takes them."""

    @abc.abstractmethod
    def empty_projected(self, batch: int, size: int) -> KVCache:
        """A cache for them; its layers are as `pairs` makes them."""

    @abc.abstractmethod
    def text_hidden(self, text: Array, step: Array, cross_mask: Array, pairs: Any, cache: KVCache | None, active: Any):
        """The text's cache (None over whole clips) and hidden states."""

    def embed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N W"]:
        return self.video_in(tokens)

    def read(
        self, text: Float[Array, "B S D"], video: Float[Array, "B N W"], step: Int32[Array, "B N"], valid: Array
    ) -> Float[Array, "B S D"]:
        window = self.video_config.window_steps
        mask = causal_window_mask(step, step, valid, window)
        video, _ = self.video(video, attention_context(self.video_config, step, mask))
        at = jnp.broadcast_to(jnp.arange(text.shape[1], dtype=jnp.int32), text.shape[:2])
        cross_mask = causal_window_mask(at, step, valid, window)
        return self.text_hidden(text, at, cross_mask, self.pairs(*self._project(video, step)), None, None)[1]

    def initial_state(self, batch: int) -> VideoStreamState:
        text = self.language.config.text
        size = self.tokenizer_config.ring_capacity(self.video_config.window_steps)
        return VideoStreamState(
            empty_stack_cache(self.video_config, batch, size),
            self.empty_projected(batch, size),
            empty_stack_cache(text, batch, text.num_sinks + text.window_steps),
        )

    def video_step(
        self, state: VideoStreamState, video: Float[Array, "B M W"], step: Int32[Array, "B M"], valid: Array
    ) -> VideoStreamState:
        placed = state.video.place(step, valid)
        context = attention_context(self.video_config, step, placed.cache.mask(step, self.video_config.window_steps))
        video, cache = self.video(video, context, placed)
        assert cache is not None  # a stack that is given one gives one back
        projected = state.projected.place(step, valid).write(*self._project(video, step))
        return state._replace(video=cache, projected=projected)

    def text_step(
        self,
        state: VideoStreamState,
        text: Float[Array, "B 1 D"],
        step: Int32[Array, "B 1"],
        active: Bool[Array, "B 1"],
    ) -> tuple[VideoStreamState, Float[Array, "B 1 D"]]:
        cross_mask = state.projected.mask(step, self.video_config.window_steps)
        cache, hidden = self.text_hidden(text, step, cross_mask, state.projected.layers, state.text, active)
        return state._replace(text=cache), hidden

    def _project(
        self, video: Float[Array, "B N W"], step: Int32[Array, "B N"]
    ) -> tuple[Float[Array, "L B N G E"], Float[Array, "L B N G E"]]:
        """Keys, rotated to their steps, and values."""
        text = self.language.config.text
        out = self.projector(self.projector_norm(video))
        out = rearrange(out, "b n (l two g e) -> two l b n g e", two=2, g=text.kv_heads, e=text.head_width)
        phase = phases(text, step)
        return jax.vmap(lambda key: rotary.rotate(key, phase))(out[0]), out[1]
