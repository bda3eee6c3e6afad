"""A model that needs no training: it reads what to say off the picture. For tests of everything around a model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class State(NamedTuple):
    step: jax.Array
    token: jax.Array


class Report(NamedTuple):
    n_tokens: jax.Array


class Output(NamedTuple):
    token: jax.Array
    report: Report


class ScriptedLive:
    """Says at step `s` what the pixels (0, s % stride) of the tick's frame hold, and spends what pixel (1, 0) holds."""

    def __init__(self, stride: int, pad_id: int):
        self.stride, self.pad_id = stride, pad_id

    def init_state(self, params, batch):
        return State(jnp.zeros((batch,), jnp.int32), jnp.full((batch,), -1, jnp.int32))

    def live_step(self, params, state, frame, active, delay, pad_bias):
        rows = jnp.arange(frame.shape[0])
        token = frame[rows, 0, state.step % self.stride, 0].astype(jnp.int32)
        token = jnp.where(pad_bias >= 100, self.pad_id, token)
        spent = jnp.where(state.step % self.stride == 0, frame[:, 1, 0, 0].astype(jnp.int32), 0)
        return State(state.step + active, token), Output(token, Report(spent))


def scripted_frames(slots, stride: int, px: int, spent: int = 3) -> np.ndarray:
    """Frames `[T, px, px, 3]` from which `ScriptedLive` reads `slots` `[T * stride]`."""
    ticks = len(slots) // stride
    frames = np.zeros((ticks, px, px, 3), np.uint8)
    frames[:, 0, :stride] = np.asarray(slots).reshape(ticks, stride, 1)
    frames[:, 1, 0] = spent
    return frames
