"""A program: the small model of stage `codec`, three steps on one device and on eight fake ones, as JSON.

JAX_NUM_CPU_DEVICES=8 python -m tests.codec.stage_on_eight
"""

import json

import jax
import numpy as np

from mmduplex_jax.sharding import batch_sharding, make_mesh
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.step import make_program
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests.codec import tiny_stage

STEPS = 3


def run(mesh) -> dict[str, object]:
    """The losses, and every averaged array after the last step."""
    config = tiny_stage.config(warmup_steps=0)
    # The discriminator is like any other module, and compiling it for two meshes takes long.
    config.loss.update(quantizer_dropout=0.5, exact_rate=0.0, adversarial_weight=0.0, feature_weight=0.0)
    program = make_program(build_task(config, load_tokenizer(config)), config, mesh)
    state, compiled, losses = program.init_state(), program.compile(), []
    for seed in range(STEPS):
        placed = {name: jax.device_put(a, batch_sharding(mesh)) for name, a in tiny_stage.batch(seed).items()}
        state, metrics = compiled(state, placed)
        losses.append(float(metrics["loss"]))
    quantizer = flatten(jax.device_get(state.params["codec"]["quantizer"]))
    books = {name: np.asarray(a).tolist() for name, a in quantizer.items() if not name.endswith("kernel")}
    moments = [name for name in flatten_names(state.opt_state) if "sums" in name or "usage" in name]
    return {"losses": losses, "books": books, "moments": moments}


def flatten_names(tree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def main() -> None:
    one = make_mesh(devices=jax.devices()[:1])
    found = {"one": run(one), "2x2x2": run(make_mesh(2, 2, 2))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
