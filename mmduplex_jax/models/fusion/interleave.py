"""`interleave`: video and text are one sequence, video before text within a step (as LiveCC joins them)."""

import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.transformer import StackConfig, attention_context, empty_stack_cache
from mmduplex_jax.models.fusion.protocol import Fusion
from mmduplex_jax.typing import Array, Bool, Float, Int32


class Interleave(Fusion[KVCache]):
    """There is no video stream: the text's layers run over both, and video also attends to text."""

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
        c, length = self.language.config.text, text.shape[1]
        slot = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), text.shape[:2])
        at = jnp.concatenate([slot, step], axis=1)
        order = jnp.concatenate([2 * slot + 1, 2 * step], axis=1)
        exists = jnp.concatenate([jnp.ones_like(slot, bool), valid], axis=1)
        mask = causal_window_mask(at, at, exists, c.window_steps, c.num_sinks, query_order=order, key_order=order)
        x, _ = self.language.text(jnp.concatenate([text, video], axis=1), attention_context(c, at, mask))
        return x[:, :length]

    def initial_state(self, batch: int) -> KVCache:
        text = self.language.config.text
        size = text.num_sinks + text.window_steps + self.tokenizer_config.ring_capacity(text.window_steps)
        return empty_stack_cache(text, batch, size)

    def video_step(
        self, state: KVCache, video: Float[Array, "B M W"], step: Int32[Array, "B M"], valid: Bool[Array, "B M"]
    ) -> KVCache:
        return self.language.append(state, video, step, valid, sinks=False)[0]

    def text_step(
        self, state: KVCache, text: Float[Array, "B 1 D"], step: Int32[Array, "B 1"], active: Bool[Array, "B 1"]
    ) -> tuple[KVCache, Float[Array, "B 1 D"]]:
        return self.language.append(state, text, step, active)
