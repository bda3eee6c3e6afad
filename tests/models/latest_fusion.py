"""A toy fusion, as CONTRIBUTING.md tells how to add one: the newest video token is added to the text embedding."""

from typing import NamedTuple

import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.transformer import StackConfig, empty_stack_cache
from mmduplex_jax.models.fusion import Fusion
from mmduplex_jax.typing import Array, Bool, Float, Int32

FOR_EVER = 1 << 30


class LatestState(NamedTuple):
    """The text's cache, and the newest video token `[B, W]`, zeros before the first."""

    text: KVCache
    newest: Float[Array, "B W"]


class Latest(Fusion[LatestState]):
    """There is no video stream, and nothing is attended to."""

    def setup(self):
        text = self.language.config.text
        self.video_in = dense(text.width, ("feature", "embed"), name="video_in", dtype=jnp.dtype(text.dtype))

    @classmethod
    def video_width(cls, text: StackConfig, video: StackConfig) -> int:
        return text.width

    def embed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N W"]:
        return self.video_in(tokens)

    def read(
        self, text: Float[Array, "B S D"], video: Float[Array, "B N W"], step: Int32[Array, "B N"], valid: Array
    ) -> Float[Array, "B S D"]:
        at = jnp.broadcast_to(jnp.arange(text.shape[1], dtype=jnp.int32), text.shape[:2])
        past = causal_window_mask(at, step, valid, FOR_EVER)
        last = jnp.where(past, jnp.arange(video.shape[1]), -1).max(axis=-1)
        newest = jnp.take_along_axis(video, jnp.maximum(last, 0)[..., None], axis=1)
        return self.language.read(text + jnp.where(last[..., None] >= 0, newest, 0))

    def initial_state(self, batch: int) -> LatestState:
        text = self.language.config.text
        cache = empty_stack_cache(text, batch, text.num_sinks + text.window_steps)
        return LatestState(cache, jnp.zeros((batch, text.width), jnp.dtype(text.dtype)))

    def video_step(
        self, state: LatestState, video: Float[Array, "B M W"], step: Int32[Array, "B M"], valid: Bool[Array, "B M"]
    ) -> LatestState:
        last = jnp.where(valid, jnp.arange(video.shape[1]), -1).max(axis=-1)
        newest = jnp.take_along_axis(video, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
        return state._replace(newest=jnp.where(last[:, None] >= 0, newest, state.newest))

    def text_step(
        self, state: LatestState, text: Float[Array, "B 1 D"], step: Int32[Array, "B 1"], active: Bool[Array, "B 1"]
    ) -> tuple[LatestState, Float[Array, "B 1 D"]]:
        cache, hidden = self.language.append(state.text, text + state.newest[:, None], step, active)
        return state._replace(text=cache), hidden
