"""A program: what a small stack's gradient sends where a mesh splits heads over four of eight fake devices.

    JAX_NUM_CPU_DEVICES=8 python -m tests.placed_heads KV_HEADS

Prints, as JSON, bytes by kind of collective, of all parameters, and of one layer's activations on one device.
"""

import dataclasses
import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.transformer import Stack, attention_context
from mmduplex_jax.planning.collectives import collectives
from mmduplex_jax.sharding import batch_sharding, make_mesh, tree_shardings
from tests import placed_rows

ROWS, LENGTH, WIDTH, HEADS = 16, 64, placed_rows.WIDTH, 8


def main() -> None:
    """Compiles and prints."""
    config = dataclasses.replace(placed_rows.CONFIG, heads=HEADS, kv_heads=int(sys.argv[1]))
    mesh = make_mesh(1, 2, 4)
    model = Stack(config)

    def look(rows):
        step = jnp.broadcast_to(jnp.arange(LENGTH), (rows, LENGTH))
        return attention_context(config, step, causal_window_mask(step, step, jnp.ones(step.shape, bool), LENGTH))

    x = jax.ShapeDtypeStruct((ROWS, LENGTH, WIDTH), jnp.float32, sharding=batch_sharding(mesh))
    begin = lambda key: model.init(key, jnp.zeros((1, LENGTH, WIDTH)), look(1))
    boxed = jax.eval_shape(begin, jax.random.key(0))["params"]
    placed = tree_shardings(boxed, mesh)
    params = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), nn.unbox(boxed), placed
    )

    def gradient(params, x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(lambda p: (model.apply({"params": p}, x, look(ROWS))[0] ** 2).mean())(params)

    compiled = jax.jit(gradient, out_shardings=placed).lower(params, x).compile()
    found = {
        "sent": {kind: moved.bytes for kind, moved in collectives(compiled.as_text()).traffic.items()},
        "parameters": sum(leaf.size * 4 for leaf in jax.tree.leaves(params)),
        "activations": ROWS * LENGTH * WIDTH * 4 // 2,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
