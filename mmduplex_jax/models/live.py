"""The model live: one pure step for `B` streams, each at its own time."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.models.audio_stream import AudioState, Spoken
from mmduplex_jax.models.dual_stream import DualStream, DualStreamConfig, LiveState
from mmduplex_jax.tokenizer.bflow import ANCHOR, Tokens
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8


class TokenReport(NamedTuple):
    """What the tokenizer spent at a step, and where; all zero at steps without a tick.

    Attributes:
      valid: bool `[B, M]`.
      is_anchor: bool `[B]`, whether the frame was tokenized whole.
      n_tokens: int32 `[B]`.
      centre_px: int32 `[B, M, 2]`, (row, column) in the model's frame.
      size_px: int32 `[B, M]`, side of what a token shows.
      kind: int32 `[B, M]`, FLOW or ANCHOR.
    """

    valid: Bool[Array, "B M"]
    is_anchor: Bool[Array, "B"]
    n_tokens: Int32[Array, "B"]
    centre_px: Int32[Array, "B M 2"]
    size_px: Int32[Array, "B M"]
    kind: Int32[Array, "B M"]


class StepOutput(NamedTuple):
    """What a step gives.

    Attributes:
      token: int32 `[B]`, the slot chosen.
      step: int32 `[B]`, the step that was done.
      logits: float32 `[B, V]`.
      report: the tokens of the step's tick.
      spoken: the step's sound; None where nobody speaks.
      sound: float32 `[B, L]`, what is heard of it; None where no codec makes it heard (`streaming/sound.py`).
    """

    token: Int32[Array, "B"]
    step: Int32[Array, "B"]
    logits: Float[Array, "B V"]
    report: TokenReport
    spoken: Spoken | None = None
    sound: Float[Array, "B L"] | None = None


@dataclasses.dataclass(frozen=True)
class LiveModel:
    """Pure functions over (params, state) of one model; hashable, so that jit can close over it."""

    config: DualStreamConfig

    @property
    def module(self) -> DualStream:
        return DualStream(self.config)

    def init_state(self, params: PyTree, batch: int) -> LiveState:
        """The state of `batch` streams that begin."""
        return self.module.apply({"params": params}, batch, method="initial_state")

    def live_step(
        self,
        params: PyTree,
        state: LiveState,
        frame: UInt8[Array, "B H W 3"],
        active: Bool[Array, "B"],
        delay: Int32[Array, "B"],
        pad_bias: Float[Array, "B"],
        *,
        forced: Int32[Array, "B"] | None = None,
        cap: Int32[Array, "B"] | None = None,
        speaking: Bool[Array, "B"] | None = None,
        forced_codes: Int32[Array, "B K"] | None = None,
    ) -> tuple[LiveState, StepOutput]:
        """One text step of every active row, after one tick of those whose step begins one.

        Args:
          state: from `init_state` or the last step.
          frame: what each stream shows now; rows whose step begins no tick ignore it.
          active: rows that take part; the others keep their state.
          delay: steps that the text runs behind the picture.
          pad_bias: added to PAD's logit, on top of the model's own: more is quieter.
          forced: slots to take instead of choosing (teacher forcing).
          cap: video tokens a second at most, where fewer than configured are wanted (a machine under load).
          speaking: rows that are heard, of a model with an audio stream. None: nobody is, and no part of that stream is
            computed; what is written is then what the same parameters without it write, bit for bit.
          forced_codes: codes to take instead of the likeliest ones; `depth.UNGENERATED`: choose.
        """
        apply = lambda *args, method: self.module.apply({"params": params}, *args, method=method)
        tick = active & (state.step % self.config.clock.video_stride == 0)
        state, tokens = jax.lax.cond(
            tick.any(),
            lambda s: apply(s, frame, tick, cap, method="video_step"),
            lambda s: (s, self._no_tokens(len(frame))),
            state,
        )
        done = state.step
        state, token, logits, spoken = self.say(
            params,
            state,
            active,
            delay,
            pad_bias,
            forced=forced,
            speaking=speaking,
            forced_codes=forced_codes,
        )
        return state, StepOutput(token, done, logits, self._report(tokens), spoken)

    def say(
        self,
        params: PyTree,
        state: LiveState,
        active: Bool[Array, "B"],
        delay: Int32[Array, "B"],
        pad_bias: Float[Array, "B"],
        *,
        forced: Int32[Array, "B"] | None = None,
        speaking: Bool[Array, "B"] | None = None,
        forced_codes: Int32[Array, "B K"] | None = None,
    ) -> tuple[LiveState, Int32[Array, "B"], Float[Array, "B V"], Spoken | None]:
        """`live_step` without its tick: the text of a step, and its sound; arguments as there.

        Returns:
          The state, the slot chosen, logits, and the sound.
        """
        apply = lambda *args, method: self.module.apply({"params": params}, *args, method=method)
        done, hidden, spoken = state.step, None, None
        if speaking is None:
            state, logits = apply(state, delay, active, method="text_step")
        else:
            state, logits, hidden = apply(state, delay, active, speaking, method="heard_text_step")
        biased = logits.at[:, self.config.pad_id].add(pad_bias + self.config.pad_bias)
        # The start mark opens a stream and is never said.
        biased = biased.at[:, self.config.start_id].set(-jnp.inf)
        if forced is not None:
            token = forced
        else:
            token = jnp.argmax(biased, axis=-1).astype(jnp.int32)
        state = state._replace(token=jnp.where(active, token, state.token))
        if isinstance(state.audio, AudioState) and speaking is None:
            state = state._replace(audio=state.audio.unheard(active))
        if hidden is not None:
            sounding = (done - delay, active, speaking, forced_codes)
            state, spoken = apply(state, hidden, token, *sounding, method="sound_step")
        return state, token, logits, spoken

    def reset_row(self, params: PyTree, state: LiveState, row: Int32[Array, ""]) -> LiveState:
        """Begins the stream of a row anew; nothing of what it was is left in the state.

        Only that row is written, so that where the state is donated, streams that come and go cost the others nothing.
        """

        def put(new: PyTree, old: PyTree) -> PyTree:
            if isinstance(old, KVCache):
                return old.reset(row)
            return jax.lax.dynamic_update_slice_in_dim(old, new, row, 0)

        fresh = self.init_state(params, 1)
        return jax.tree.map(put, fresh, state, is_leaf=lambda node: isinstance(node, KVCache))

    def _no_tokens(self, batch: int) -> Tokens:
        c = self.config.tokenizer
        zeros = lambda *shape, dtype=jnp.int32: jnp.zeros((batch, c.slots, *shape), dtype)
        return Tokens(zeros(c.width, dtype=jnp.dtype(c.dtype)), zeros(dtype=bool), zeros(), zeros(), zeros(2), zeros())

    def _report(self, tokens: Tokens) -> TokenReport:
        c = self.config.tokenizer
        size = jnp.where(tokens.kind == ANCHOR, max(c.frame_px), c.flow.crop_px * tokens.scale)
        is_anchor = (tokens.valid & (tokens.kind == ANCHOR)).any(axis=1)
        mask = lambda a: jnp.where(tokens.valid.reshape(*tokens.valid.shape, *[1] * (a.ndim - 2)), a, 0)
        return TokenReport(
            tokens.valid,
            is_anchor,
            tokens.valid.sum(axis=1, dtype=jnp.int32),
            mask(tokens.centre_px),
            mask(size),
            mask(tokens.kind),
        )
