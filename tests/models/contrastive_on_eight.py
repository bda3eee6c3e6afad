"""A program: the contrastive losses in chunks on eight fake devices beside the whole matrix; prints JSON.

    JAX_NUM_CPU_DEVICES=8 python -m tests.models.contrastive_on_eight

Of every case it tells the largest difference of a value and of a gradient, and the largest matrix that a device holds
in the forward or the backward pass.
"""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.sharding import batch_sharding, make_mesh, replicated
from mmduplex_jax.stages.clip.task import KINDS, Agreement, Pairs, chunked_loss, plain_loss
from mmduplex_jax.towers.contrastive import unit

MESHES = ((8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8))
BATCH, WIDTH = 40, 24  # of fewer numbers than the matrix of logits, which so can be told from the embeddings


def pairs_of(rng: np.random.Generator) -> Pairs:
    """Random embeddings; some rows are no pairs, and some texts come several times."""
    image = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    valid = np.ones(BATCH, bool)
    valid[rng.permutation(BATCH)[:9]] = False
    label = rng.integers(0, 25, BATCH).astype(np.int32)
    text = rng.normal(size=(25, WIDTH)).astype(np.float32)[label] + 0.5 * image
    return Pairs(jnp.asarray(image), jnp.asarray(text), jnp.asarray(valid), jnp.asarray(label))


def with_gradients(loss: Callable[..., Agreement]) -> Callable:
    """Value, `Agreement` and gradients of a loss of vectors that are first brought to length 1."""

    def of(image, text, valid, label, scale, bias):
        agreement = loss(Pairs(unit(image), unit(text), valid, label), scale, bias)
        return agreement.loss, agreement

    return jax.value_and_grad(of, argnums=(0, 1, 4, 5), has_aux=True)


def difference(ours: Any, theirs: Any) -> float:
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(ours, theirs))


def largest_matrix(compiled: Any) -> int:
    """Numbers in the largest float32 matrix of a compiled program, as one device runs it."""
    shapes = re.findall(r"f32\[(\d+),(\d+)\]", compiled.as_text())
    return max(int(rows) * int(columns) for rows, columns in shapes)


def main() -> None:
    inputs = (*pairs_of(np.random.default_rng(0)), jnp.float32(7.0), jnp.float32(-3.0))
    found = {}
    for kind in KINDS:
        wanted = jax.jit(with_gradients(functools.partial(plain_loss, kind)))(*inputs)
        for shape in MESHES:
            mesh = make_mesh(*shape)
            places = (*[batch_sharding(mesh)] * 4, *[replicated(mesh)] * 2)
            chunked = with_gradients(functools.partial(chunked_loss, kind, mesh=mesh))
            compiled = jax.jit(chunked, in_shardings=places).lower(*inputs).compile()
            (_, values), grads = compiled(*jax.device_put(inputs, places))
            found[f"{kind} {'x'.join(map(str, shape))}"] = {
                "values": difference(values, wanted[0][1]),
                "gradients": difference(grads, wanted[1]),
                "ways": shape[0] * shape[1],
                "largest": largest_matrix(compiled),
                "whole": BATCH * BATCH,
                "loss": float(values.loss),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
