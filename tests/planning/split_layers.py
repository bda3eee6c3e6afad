"""A program: what six scanned layers send whose weights are split over eight devices, as a compiler here writes it.

JAX_NUM_CPU_DEVICES=8 python -m tests.planning.split_layers
"""

import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmduplex_jax.planning.collectives import collectives
from mmduplex_jax.sharding import make_mesh


def main() -> None:
    mesh = make_mesh(1, 8, 1)
    whole = NamedSharding(mesh, P())

    def layer(h, w):
        return jax.lax.with_sharding_constraint(jnp.tanh(h @ w), whole), None

    weights = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp")))
    h = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=whole)
    compiled = jax.jit(lambda w, h: jax.lax.scan(layer, h, w)[0], out_shardings=whole).lower(weights, h).compile()
    sent = collectives(compiled.as_text()).traffic
    print(json.dumps({kind: (moved.count, moved.bytes) for kind, moved in sent.items()}))


if __name__ == "__main__":
    main()
