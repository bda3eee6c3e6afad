"""How well pictures and texts find each other: CLIP's loss and SigLIP's, whole or in chunks over a mesh.

Softmax: each picture must pick its text among all, and each text its picture (Radford et al., 2021). Sigmoid: every
pair is a question by itself (Zhai et al., 2023), and so needs no sum over the whole batch.

In chunks, each device holds its pictures and its texts; the texts go round the ring of devices, and every device
compares its pictures with those that are there (the "efficient chunked implementation" of Zhai et al., 2023). With
the softmax, a text carries the sum over the pictures that it has met, and is home again at the end. A device so
holds `(B / n)²` logits at a time and never the `B²` of all; the backward pass computes them again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mmduplex_jax.layers.attention import MASKED
from mmduplex_jax.sharding import BATCH_AXES
from mmduplex_jax.typing import Array, Bool, Float, Int32

KINDS = ("sigmoid", "softmax")


class Pairs(NamedTuple):
    """Embeddings of pictures and of their texts, row by row.

    Attributes:
      image: of length 1, float32.
      text: of length 1, float32.
      valid: rows that are pairs; others are compared with nothing.
      label: texts of the same label are the same text: no picture is told that its neighbour's is wrong.
    """

    image: Float[Array, "B F"]
    text: Float[Array, "B F"]
    valid: Bool[Array, "B"]
    label: Int32[Array, "B"]


class Agreement(NamedTuple):
    """What a loss says of a batch, float32 scalars.

    Attributes:
      loss: a mean over pairs; 0 where there are none.
      matched: share of pictures whose own text is the nearest of all (0 where there are none).
      pairs: how many there are.
    """

    loss: Float[Array, ""]
    matched: Float[Array, ""]
    pairs: Float[Array, ""]


class _Met(NamedTuple):
    """What rows have gathered: `loss`, and `total`, the logarithm of their sum of exponentials, both `[b]`."""

    loss: Array
    total: Array


def plain_loss(kind: str, pairs: Pairs, scale: Float[Array, ""], bias: Float[Array, ""]) -> Agreement:
    """The loss with the whole matrix at once.

    Args:
      kind: one of KINDS.
      pairs: the batch.
      scale: factor of the cosines.
      bias: added to the logits; the softmax is not changed by it.
    """
    own = jnp.eye(len(pairs.image), dtype=bool)
    logits, counted = _compare(pairs, pairs, own, scale, bias)
    mine = jnp.diagonal(logits)
    if kind == "sigmoid":
        each = _questions(logits, counted, own).sum(axis=1)
    else:
        masked = jnp.where(counted, logits, MASKED)
        rows, columns = jax.nn.logsumexp(masked, axis=1), jax.nn.logsumexp(masked, axis=0)
        each = (rows + columns) / 2 - mine
    best_other = jnp.where(counted & ~own, logits, MASKED).max(axis=1)
    count = pairs.valid.sum().astype(jnp.float32)
    share = lambda values: jnp.where(pairs.valid, values, 0.0).sum() / jnp.maximum(count, 1.0)
    return Agreement(share(each), share((mine > best_other).astype(jnp.float32)), count)


def chunked_loss(kind: str, pairs: Pairs, scale: Float[Array, ""], bias: Float[Array, ""], mesh: Mesh) -> Agreement:
    """The same over a mesh whose batch axes split the rows, as `plain_loss` computes it up to float32's rounding.

    Args:
      kind: one of KINDS.
      pairs: the whole batch; its size is a multiple of the devices along the batch axes.
      scale: factor of the cosines.
      bias: added to the logits.
      mesh: with the axes of `mmduplex_jax/sharding.py`.
    """
    ways = mesh.shape[BATCH_AXES[0]] * mesh.shape[BATCH_AXES[1]]
    onward = [(device, (device - 1) % ways) for device in range(ways)]

    def on_a_device(pairs: Pairs, scale: Array, bias: Array) -> Agreement:
        varying = lambda value: jax.lax.pcast(jnp.full(pairs.valid.shape, value), BATCH_AXES, to="varying")
        mine = (pairs.image * pairs.text).sum(axis=-1) * scale + bias

        @jax.checkpoint
        def meet(theirs: Pairs, rows: _Met, columns: _Met, best: Array, own: Array) -> tuple[_Met, _Met, Array]:
            logits, counted = _compare(pairs, theirs, own, scale, bias)
            best = jnp.maximum(best, jnp.where(counted & ~own, logits, MASKED).max(axis=1))
            if kind == "sigmoid":
                return _Met(rows.loss + _questions(logits, counted, own).sum(axis=1), rows.total), columns, best
            masked = jnp.where(counted, logits, MASKED)
            add = lambda met, axis: _Met(met.loss, jnp.logaddexp(met.total, jax.nn.logsumexp(masked, axis=axis)))
            return add(rows, 1), add(columns, 0), best

        def go_on(carried: tuple, at: Array) -> tuple[tuple, None]:
            theirs, rows, columns, best = carried
            own = jnp.eye(len(pairs.valid), dtype=bool) & (at == 0)
            rows, columns, best = meet(theirs, rows, columns, best, own)
            # Texts are the same ring of devices further on, with what they have gathered.
            theirs, columns = jax.lax.ppermute((theirs, columns), BATCH_AXES, onward)
            return (theirs, rows, columns, best), None

        nothing = _Met(varying(0.0), varying(MASKED))
        (_, rows, columns, best), _ = jax.lax.scan(go_on, (pairs, nothing, nothing, varying(MASKED)), jnp.arange(ways))
        each = rows.loss if kind == "sigmoid" else (rows.total + columns.total) / 2 - mine
        count = jax.lax.psum(pairs.valid.sum().astype(jnp.float32), BATCH_AXES)
        share = lambda values: (
            jax.lax.psum(jnp.where(pairs.valid, values, 0.0).sum(), BATCH_AXES) / jnp.maximum(count, 1.0)
        )
        return Agreement(share(each), share((mine > best).astype(jnp.float32)), count)

    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(on_a_device, mesh=mesh, in_specs=(split, whole, whole), out_specs=whole)(pairs, scale, bias)


def _compare(ours: Pairs, theirs: Pairs, own: Array, scale: Array, bias: Array) -> tuple[Array, Array]:
    """Logits of our pictures (rows) with their texts, and which of them count; `own` says which are of one pair."""
    logits = jnp.matmul(ours.image, theirs.text.T, precision="highest") * scale + bias
    counted = ours.valid[:, None] & theirs.valid & (own | (ours.label[:, None] != theirs.label))
    return logits, counted


def _questions(logits: Array, counted: Array, own: Array) -> Array:
    """Of every pair, how surprising it is that it belongs together (`own`) or that it does not; `[b, b]`."""
    return jnp.where(counted, -jax.nn.log_sigmoid(jnp.where(own, logits, -logits)), 0.0)
