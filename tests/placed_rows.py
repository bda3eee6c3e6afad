"""A program: what a small stack's gradient sends between eight fake devices that split batch and parameters alike.

    JAX_NUM_CPU_DEVICES=8 python -m tests.placed_rows

Prints, as JSON, bytes by kind of collective, with the mesh in use (`sharding.constrain_batch_sharding`) and without.
"""

import contextlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context
from mmduplex_jax.layers.vocabulary import token_loss_of
from mmduplex_jax.planning.collectives import collectives
from mmduplex_jax.sharding import batch_sharding, make_mesh, tree_shardings

ROWS, LENGTH, WIDTH, VOCAB = 16, 64, 32, 256
CONFIG = StackConfig(
    width=WIDTH, layers=2, heads=2, kv_heads=2, head_width=16, hidden=64, window_steps=LENGTH, scan=True, remat=True
)


class Model(nn.Module):
    """Words through a stack, to the loss of the next ones."""

    @nn.compact
    def __call__(self, ids):
        init = nn.with_logical_partitioning(nn.initializers.normal(), ("vocab", "embed"))
        table = self.param("table", init, (VOCAB, WIDTH))
        step = jnp.broadcast_to(jnp.arange(LENGTH), ids.shape)
        seen = causal_window_mask(step, step, jnp.ones(ids.shape, bool), LENGTH)
        x, _ = Stack(CONFIG, name="stack")(table[ids], attention_context(CONFIG, step, seen))
        return token_loss_of(x, table, ids)[0].mean()


def main() -> None:
    """Compiles both and prints."""
    mesh = make_mesh(1, 8, 1)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=batch_sharding(mesh))
    boxed = jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]
    placed = tree_shardings(boxed, mesh)
    params = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), nn.unbox(boxed), placed
    )
    found = {"parameters": sum(leaf.size * 4 for leaf in jax.tree.leaves(params))}
    for name, use in (("placed", jax.sharding.use_abstract_mesh), ("left", lambda mesh: contextlib.nullcontext())):

        def gradient(params, ids, use=use):
            with use(mesh.abstract_mesh):
                return jax.grad(lambda p: Model().apply({"params": p}, ids))(params)

        compiled = jax.jit(gradient, out_shardings=placed).lower(params, ids).compile()
        found[name] = {kind: moved.bytes for kind, moved in collectives(compiled.as_text()).traffic.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
