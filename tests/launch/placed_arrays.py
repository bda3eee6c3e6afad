"""A program: arrays that a run begins with come to lie on eight devices as its own do; prints how many did.

JAX_NUM_CPU_DEVICES=8 python -m tests.launch.placed_arrays
"""

import json

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.weights.init_from import placed

SPECS = (P(), P("tensor"), P(("data", "fsdp")), P("tensor", "fsdp"), P(None, ("fsdp", "tensor")))
ROWS = (15, 12, 10, 3, 0)


def main() -> None:
    mesh, count = make_mesh(2, 2, 2), 0
    old, new = np.arange(96, dtype=np.float32).reshape(12, 8), -np.arange(80, dtype=np.float32).reshape(10, 8)
    for spec in SPECS:
        sharding = NamedSharding(mesh, spec)
        for rows in ROWS:
            given = np.concatenate([new, new])[:rows]
            around = given.mean(axis=0) if rows else 0
            wanted = np.concatenate([given, old[rows:] + around])[:12]
            found = placed(jax.device_put(old, sharding), given)
            assert found.sharding == sharding, spec
            np.testing.assert_array_equal(np.asarray(found), wanted)
            for shard in found.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), wanted[shard.index])
            count += 1
    scalar = placed(jax.device_put(np.float32(1), NamedSharding(mesh, P())), np.float32(2))
    assert scalar.shape == ()
    assert float(scalar) == 2
    print(json.dumps(count))


if __name__ == "__main__":
    main()
