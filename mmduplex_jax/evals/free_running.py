"""Free running: the model hears its own words, step after step, over a batch of clips; nothing is teacher-forced.

It is the live step that a stream runs, scanned under one jit, so a score here is one of what a viewer would see.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8


class Live(Protocol):
    """What is needed of a live model: `mmduplex_jax.models.live.LiveModel` has it."""

    def init_state(self, params: PyTree, batch: int) -> PyTree:
        """The state before the first step."""

    def live_step(
        self,
        params: PyTree,
        state: PyTree,
        frame: UInt8[Array, "B H W C"],
        active: Bool[Array, "B"],
        delay: Int32[Array, "B"],
        pad_bias: Float[Array, "B"],
    ) -> tuple[PyTree, Any]:
        """One text step of each row, the likeliest slot taken: the new state, and an output as `StepOutput`."""


class Decoded(NamedTuple):
    """What a batch said and spent.

    Attributes:
      slots: int32 `[B, S]`, the token of each step, on the stream's clock (the delay is in it).
      video_tokens: int32 `[B, T]`, tokens spent on each tick.
    """

    slots: np.ndarray
    video_tokens: np.ndarray


def make_decoder(live: Live, clock: Clock) -> Callable[..., Decoded]:
    """A function `decode(params, frames, delay_steps, pad_bias=0.0) -> Decoded`, greedy, compiled once a batch shape.

    `frames` is uint8 `[B, T, H, W, C]`, one a tick; each is shown for `clock.video_stride` steps, so `S = T * stride`.
    """

    @jax.jit
    def run(
        params: PyTree, frames: UInt8[Array, "B T H W C"], delay: Int32[Array, "B"], pad_bias: Float[Array, "B"]
    ) -> tuple[Int32[Array, "B S"], Int32[Array, "B T"]]:
        batch = frames.shape[0]
        active = jnp.ones((batch,), bool)

        def tick(state: PyTree, frame: Array) -> tuple[PyTree, tuple[Array, Array]]:
            def step(state: PyTree, _: None) -> tuple[PyTree, tuple[Array, Array]]:
                state, output = live.live_step(params, state, frame, active, delay, pad_bias)
                return state, (output.token, output.report.n_tokens)

            state, (tokens, spent) = jax.lax.scan(step, state, None, length=clock.video_stride)
            return state, (tokens, spent.sum(axis=0))  # steps between ticks spend nothing

        _, (tokens, spent) = jax.lax.scan(tick, live.init_state(params, batch), jnp.moveaxis(frames, 1, 0))
        return jnp.moveaxis(tokens, 2, 0).reshape(batch, -1), spent.T

    def decode(params: PyTree, frames: np.ndarray, delay_steps: int, pad_bias: float = 0.0) -> Decoded:
        if frames.ndim != 5 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 [B, T, H, W, C], got {frames.dtype} {list(frames.shape)}")
        batch = frames.shape[0]
        slots, spent = run(
            params, frames, jnp.full((batch,), delay_steps, jnp.int32), jnp.full((batch,), pad_bias, jnp.float32)
        )
        return Decoded(np.asarray(slots, np.int32), np.asarray(spent, np.int32))

    return decode
