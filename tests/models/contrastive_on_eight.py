"""A program: the contrastive losses in chunks on eight fake devices beside the whole matrix; prints JSON.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.models.contrastive_on_eight

Of every case it tells the largest difference of a value and of a gradient, and whether the compiled program of a device
holds an array as large as the whole matrix, in its forward or its backward pass.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.models.contrastive_loss import KINDS, Pairs, chunked_loss, plain_loss
from mmduplex_jax.sharding import batch_sharding, make_mesh, replicated
from mmduplex_jax.towers.contrastive import unit

MESHES = ((8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8), (1, 2, 4))
BATCH, WIDTH = 40, 24


def pairs_of(rng: np.random.Generator, holes: bool) -> Pairs:
    """Random embeddings; with `holes` some rows are no pairs and some texts come several times."""
    image, text = rng.normal(size=(2, BATCH, WIDTH)).astype(np.float32)
    valid, label = np.ones(BATCH, bool), np.arange(BATCH, dtype=np.int32)
    if holes:
        valid[rng.permutation(BATCH)[:9]] = False
        label = rng.integers(0, 25, BATCH).astype(np.int32)
        text = text[label]
    return Pairs(jnp.asarray(image), jnp.asarray(text + 0.5 * image), jnp.asarray(valid), jnp.asarray(label))


def main() -> None:
    rng = np.random.default_rng(0)
    found = {}
    scale, bias = jnp.float32(7.0), jnp.float32(-3.0)
    for holes in (False, True):
        pairs = pairs_of(rng, holes)

        def with_gradients(loss, pairs=pairs):
            def of(image, text, valid, label, scale, bias):
                agreement = loss(Pairs(unit(image), unit(text), valid, label), scale, bias)
                return agreement.loss, agreement

            return jax.value_and_grad(of, argnums=(0, 1, 4, 5), has_aux=True)

        for kind in KINDS:
            whole = with_gradients(lambda p, s, b, kind=kind: plain_loss(kind, p, s, b))
            wanted = jax.jit(whole)(*pairs, scale, bias)
            for shape in MESHES:
                mesh = make_mesh(*shape)
                chunked = with_gradients(lambda p, s, b, kind=kind, m=mesh: chunked_loss(kind, p, s, b, m))
                rows = batch_sharding(mesh)
                compiled = (
                    jax.jit(chunked, in_shardings=(*[rows] * 4, *[replicated(mesh)] * 2))
                    .lower(*pairs, scale, bias)
                    .compile()
                )
                placed = [jax.device_put(array, rows) for array in pairs]
                ((_, values), grads) = compiled(*placed, *jax.device_put((scale, bias), replicated(mesh)))
                difference = lambda ours, theirs: max(
                    float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(ours, theirs)
                )
                sizes = [
                    int(np.prod([int(n) for n in dims.split(",")]))
                    for dims in re.findall(r"f32\[([0-9,]+)\]", compiled.as_text())
                    if dims.count(",") == 1
                ]
                name = f"{kind} {'x'.join(map(str, shape))} {'holes' if holes else 'full'}"
                found[name] = {
                    "values": difference(values, wanted[0][1]),
                    "gradients": difference(grads, wanted[1]),
                    "ways": shape[0] * shape[1],
                    "whole": sum(size >= BATCH * BATCH for size in sizes),
                    "loss": float(values.loss),
                }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
