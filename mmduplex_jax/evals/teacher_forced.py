"""Negative log-likelihood of the commentator's own words, each given the true ones before it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.models.streams import shifted
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8

# `(params, frames, slots_in, delay) -> logits`: a model's teacher-forced pass over whole clips.
Forward = Callable[[PyTree, Array, Array, Array], Float[Array, "B S V"]]


def make_word_nll(forward: Forward, pad_id: int, word_id: int, start_id: int) -> Callable[..., tuple[float, int]]:
    """A compiled function `(params, frames, slots, counted, delay_steps) -> (summed NLL in nats, number of tokens)`.

    `slots` int32 `[B, S]` are what should be said, with the delay in them; `counted` bool `[B]` says which rows count.
    Of those, the words' tokens do, PAD and the marks before words do not; so training has it in its `word_nll`.
    """

    @jax.jit
    def run(
        params: PyTree,
        frames: UInt8[Array, "B T H W C"],
        slots: Int32[Array, "B S"],
        counted: Bool[Array, "B"],
        delay: Int32[Array, "B"],
    ) -> tuple[Float[Array, ""], Int32[Array, ""]]:
        logits = forward(params, frames, shifted(slots, start_id), delay).astype(jnp.float32)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), slots[..., None], axis=-1)[..., 0]
        words = (slots != pad_id) & (slots != word_id) & counted[:, None]
        return jnp.where(words, nll, 0.0).sum(), words.sum(dtype=jnp.int32)

    def word_nll(
        params: PyTree, frames: np.ndarray, slots: np.ndarray, counted: np.ndarray, delay_steps: int
    ) -> tuple[float, int]:
        total, count = run(params, frames, slots, counted, jnp.full((len(frames),), delay_steps, jnp.int32))
        return float(total), int(count)

    return word_nll


def mean_nll(parts: Sequence[tuple[float, int]]) -> float | None:
    """Nats a token over all batches; None where no word was spoken."""
    tokens = sum(count for _, count in parts)
    return sum(total for total, _ in parts) / tokens if tokens else None
