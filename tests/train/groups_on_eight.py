"""A program: groups of parameters, trained for five steps on one device and on meshes of eight; prints the meshes.

JAX_NUM_CPU_DEVICES=8 python -m tests.train.groups_on_eight
"""

import json

import jax
import numpy as np

from mmduplex_jax.sharding import batch_sharding, make_mesh
from mmduplex_jax.train.step import make_program
from tests.train.test_groups import config_with
from tests.train.toy import ToyTask, make_data

MESHES = (((1, 1, 1), 1), ((2, 2, 2), 8), ((1, 8, 1), 8))


def main() -> None:
    found = []
    for shape, devices in MESHES:
        mesh, data = make_mesh(*shape, devices=jax.devices()[:devices]), make_data()
        groups = dict(layers=dict(match="stack$|down", start_step=2), gates=dict(match="embed/", start_step=-1))
        program = make_program(ToyTask(), config_with(groups), mesh)
        state, compiled = program.init_state(), program.compile()
        begun = jax.device_get(state.params)
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(program.shardings), strict=True):
            assert leaf.sharding == sharding
        split = [
            leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim and not leaf.sharding.is_fully_replicated
        ]
        assert devices == 1 or len(split) >= 6, len(split)
        for step in range(5):
            batch = next(data)
            placed = {name: jax.device_put(batch[name], batch_sharding(mesh)) for name in program.example}
            state, _ = compiled(state, placed)
            params = jax.device_get(state.params)
            assert params["embed"]["kernel"].tobytes() == begun["embed"]["kernel"].tobytes()
            # The first step of a warm-up goes nowhere.
            assert (params["stack"].tobytes() == begun["stack"].tobytes()) == (step < 3), step
        found.append(params)
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found[0], other)
    print(json.dumps(MESHES))


if __name__ == "__main__":
    main()
