"""A program: trains for a few steps on meshes of eight fake devices and prints the losses as JSON.

    JAX_NUM_CPU_DEVICES=8 \
        python -m tests.eight_devices toy|CONFIG [field=value ...]

The first entry is one device. It also saves on one mesh and goes on, on another, in the toy's case.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from mmduplex_jax.sharding import ShardingError, batch_sharding, make_mesh, replicated_axes
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.loop import fit
from mmduplex_jax.train.step import make_program
from mmduplex_jax.weights.trained import load_tokenizer
from tests.train.toy import ToyTask, make_data, toy_config

MESHES = ((8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8))
STEPS = 4


def losses(task, config, mesh, batches) -> list[float]:
    program = make_program(task, config, mesh)
    state, compiled = program.init_state(), program.compile()
    out = []
    for batch in batches:
        placed = {name: jax.device_put(batch[name], batch_sharding(mesh)) for name in program.example}
        state, metrics = compiled(state, placed)
        out.append(float(metrics["loss"]))
    return out


def config_and_task(name: str, changes: list[str]):
    """A config with `field=value` changes (values as JSON), and its task."""
    if name == "toy":
        return toy_config(), ToyTask()
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict({c.split("=", 1)[0]: json.loads(c.split("=", 1)[1]) for c in changes})
    return config, build_task(config, load_tokenizer(config))


def some_batches(task, batch_size: int) -> list[dict[str, np.ndarray]]:
    """Random batches of the task's shapes: losses are compared, nothing is learned."""
    rng = np.random.default_rng(0)
    draw = {"uint8": lambda shape: rng.integers(0, 255, shape, np.uint8), "bool": lambda shape: rng.random(shape) < 0.9}
    draw["int32"] = lambda shape: rng.integers(0, 20, shape, np.int32)
    example = task.example_batch(batch_size)
    return [{name: draw[str(leaf.dtype)](leaf.shape) for name, leaf in example.items()} for _ in range(STEPS)]


def main() -> None:
    name, *changes = sys.argv[1:]
    config, task = config_and_task(name, changes)
    batches = some_batches(task, config.data.batch_size)
    found: dict[str, object] = {"one": losses(task, config, make_mesh(devices=jax.devices()[:1]), batches)}
    # A real model takes a minute to compile for eight devices: the mesh that uses every axis is enough for it.
    for shape in MESHES if name == "toy" else ((2, 2, 2),):
        mesh = make_mesh(*shape)
        try:
            found["x".join(map(str, shape))] = losses(task, config, mesh, batches)
        except ShardingError as error:
            found["x".join(map(str, shape))] = str(error)
    found["replicated"] = replicated_axes(make_program(task, config, make_mesh(1, 1, 8)).boxed, make_mesh(1, 1, 8))
    if name == "toy":
        found["restored"] = restored_on_another_mesh()
    print(json.dumps(found))


def restored_on_another_mesh() -> list[float]:
    """Losses of a run that goes on from (8, 1, 1) on (2, 2, 2), and of one that stays."""
    last = []
    for shape in ((8, 1, 1), (2, 2, 2)):
        with tempfile.TemporaryDirectory() as folder:
            for stop_at_step, (data, fsdp, tensor) in ((5, (8, 1, 1)), (10, shape)):
                config = toy_config(train__steps=10, train__stop_at_step=stop_at_step, train__log_every=10)
                config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
                fit(ToyTask(), make_data(), config, folder, log=lambda line: None)
            last.append(json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
    return last


if __name__ == "__main__":
    main()
