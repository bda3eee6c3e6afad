"""A causal video stream whose vectors become keys and values for text: what `cross` and `sum` share."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.norms import RMSNorm
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, empty_stack_cache, phases
from mmduplex_jax.models.fusion.protocol import Fusion
from mmduplex_jax.typing import Array, Bool, Float, Int32


class VideoStreamState(NamedTuple):
    """What `B` streams remember.

    Attributes:
      video: the video stream's cache.
      projected: keys and values that the text attends to.
      text: the text stream's cache.
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
