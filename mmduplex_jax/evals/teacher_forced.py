"""Negative log-likelihood of the commentator's own words, each given the true ones before it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.models.streams import delayed, shifted
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8

# `(params, frames, slots_in, delay) -> logits`: a model's teacher-forced pass over whole clips.
Forward = Callable[[PyTree, Array, Array, Array], Float[Array, "B S V"]]


def make_word_nll(forward: Forward, pad_id: int, start_id: int) -> Callable[..., tuple[float, int]]:
    """A compiled function `(params, frames, slots, valid, delay_steps) -> (summed NLL in nats, number of tokens)`.

    Counted are all slots that are not PAD (the marks before words and the words' tokens), as the training loss has it in
    `word_nll`. `slots` int32 `[B, S]` are packed at delay 0, `valid` bool `[B]` says which rows count.
    """

    @jax.jit
    def run(
        params: PyTree,
        frames: UInt8[Array, "B T H W C"],
        slots: Int32[Array, "B S"],
        valid: Bool[Array, "B"],
        delay: Int32[Array, "B"],
    ) -> tuple[Float[Array, ""], Int32[Array, ""]]:
        target = delayed(slots, delay, pad_id)
        logits = forward(params, frames, shifted(target, start_id), delay)
        said = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), target[..., None], axis=-1)[..., 0]
        counted = (target != pad_id) & valid[:, None]
        return -jnp.where(counted, said, 0.0).sum(), counted.sum(dtype=jnp.int32)

    def word_nll(
        params: PyTree, frames: np.ndarray, slots: np.ndarray, valid: np.ndarray, delay_steps: int
    ) -> tuple[float, int]:
        total, count = run(params, frames, slots, valid, jnp.full((len(frames),), delay_steps, jnp.int32))
        return float(total), int(count)

    return word_nll


def mean_nll(parts: Sequence[tuple[float, int]]) -> float | None:
    """Nats a token over all batches; None where no word was spoken."""
    tokens = sum(count for _, count in parts)
    return sum(total for total, _ in parts) / tokens if tokens else None


def forward_of(module: Any) -> Forward:
    """The teacher-forced pass of a `DualStream`, in the form that `make_word_nll` takes."""
    return lambda params, frames, slots, delay: module.apply({"params": params}, frames, slots, delay)[0]
