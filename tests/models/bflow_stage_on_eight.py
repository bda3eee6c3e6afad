"""A program: the small model of stage `bflow`, trained for two steps on meshes of eight fake devices; losses as JSON.

JAX_NUM_CPU_DEVICES=8 python -m tests.models.bflow_stage_on_eight
"""

import json

import jax

from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.stages.bflow.task import BFlowTask
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny_events
from tests.eight_devices import losses

MESHES = ((8, 1, 1), (2, 2, 2))


def main() -> None:
    config = tiny_events.config()
    config.data.batch_size = 8
    config.train.update(warmup_steps=0, learning_rate=1e-3)
    task = build_task(config, load_tokenizer(config))
    assert isinstance(task, BFlowTask)
    batches = [tiny_events.batch(task, 8, seed) for seed in range(2)]
    found = {"one": losses(task, config, make_mesh(devices=jax.devices()[:1]), batches)}
    for shape in MESHES:
        found["x".join(map(str, shape))] = losses(task, config, make_mesh(*shape), batches)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
