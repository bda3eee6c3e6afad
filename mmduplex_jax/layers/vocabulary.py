"""The loss over a large vocabulary without holding its logits: some positions at a time, computed again going back.

At 49,152 words a clip of 150 steps has 30 MB of float32 logits, and its gradient as much again; the table itself is
read once a chunk. (Cut Cross-Entropy, Wijmans et al., 2024, goes further and never leaves the chip's own memory.)
"""

import jax
import jax.numpy as jnp

from mmduplex_jax.sharding import constrain_batch_sharding
from mmduplex_jax.typing import Array, Bool, Float, Int32


def token_hash(ids: Int32[Array, "... S"], factor: Array) -> Array:
    """uint32 numbers that spread over all of 32 bits, the same for the same ids and (odd) factors."""
    mixed = (ids.astype(jnp.uint32) + 1) * factor
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
    return mixed ^ (mixed >> 12)


def token_loss(
    logits: Float[Array, "B S V"], ids: Int32[Array, "B S"]
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """Each token's negative log-likelihood, in nats, and whether it was the likeliest."""
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
    return nll, logits.argmax(axis=-1) == ids


def token_loss_of(
    hidden: Float[Array, "B S D"],
    table: Float[Array, "V D"],
    ids: Int32[Array, "B S"],
    chunk: int = 0,
    vocab_size: int | None = None,
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """`token_loss` of the logits `hidden · tableᵀ`, `chunk` positions at a time.

    Args:
      hidden: the last layer, in the dtype to multiply in.
      table: the words' rows, in the dtype that their gradient is added up in.
      ids: the right words.
      chunk: positions of every row whose logits are held at once; 0 for all. The last chunk is filled up.
      vocab_size: rows of the table that are words; those behind them fill it up and are cut off. None: all are.

    Raises:
      ValueError: `chunk` is negative.
    """
    if chunk < 0:
        raise ValueError(f"chunk must be at least 1, or 0 for everything at once; got {chunk}")

    def part(x: Float[Array, "B S D"], right: Int32[Array, "B S"]) -> tuple[Array, Array]:
        # Cast here and not before: the table's gradient is then added up over chunks in the table's own dtype.
        logits = jnp.einsum("bsd,vd->bsv", x, table.astype(x.dtype), preferred_element_type=jnp.float32)
        return token_loss(constrain_batch_sharding(logits)[..., :vocab_size], right)

    batch, length, width = hidden.shape
    if not chunk or chunk >= length:
        return part(hidden, ids)
    number = -(-length // chunk)
    fill = number * chunk - length
    x = jnp.pad(hidden, ((0, 0), (0, fill), (0, 0))).reshape(batch, number, chunk, width).swapaxes(0, 1)
    right = jnp.pad(ids, ((0, 0), (0, fill))).reshape(batch, number, chunk).swapaxes(0, 1)
    # Without the checkpoint every chunk's softmax would be kept for the way back, and nothing were saved.
    again = jax.checkpoint(lambda pair: part(*pair))
    nll, correct = jax.lax.map(again, (x, right))
    joined = lambda a: a.swapaxes(0, 1).reshape(batch, number * chunk)[:, :length]
    return joined(nll), joined(correct)
