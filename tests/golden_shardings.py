"""Where every parameter of a config of the repository lies on a mesh, kept as JSON so that a change is seen in review.

    python -m tests.golden_shardings     rewrites tests/golden/shardings_*.json

Shapes only: a model of any size costs nothing.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from mmduplex_jax.sharding import MESH_AXES, abstract_mesh, array_name, logical_names, tree_shardings
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.trained import load_tokenizer

GOLDEN = Path(__file__).parent / "golden"
# A config is added to the goldens by its line here.
CONFIGS = (
    "duplex_300m",
    "clip_s16",
    "bflow_events_75m",
)
MESH = (2, 2, 2)


def shardings_of(name: str) -> dict[str, Any]:
    """Parameter name to shape, logical names and partition, as text, on a mesh of `MESH`."""
    config = importlib.import_module(f"configs.{name}").get_config()
    boxed = abstract_params(build_task(config, load_tokenizer(config)))
    names = logical_names(boxed)
    # An abstract mesh has sizes and no devices; shapes are all that the resolver asks for.
    placed = jax.tree_util.tree_leaves_with_path(tree_shardings(boxed, abstract_mesh(*MESH)))
    spec = {array_name(path): sharding.spec for path, sharding in placed}
    rows = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(boxed)):
        where = array_name(path)
        axes = [f"{size}:{name or '-'}" for size, name in zip(leaf.shape, names[where])]
        split = ["+".join(axis) if isinstance(axis, tuple) else str(axis or "-") for axis in spec[where]]
        rows[where] = f"{' '.join(axes)} -> {' '.join(split)}"
    return {"mesh": dict(zip(MESH_AXES, MESH)), "parameters": count(boxed), "arrays": rows}


def golden_path(name: str) -> Path:
    return GOLDEN / f"shardings_{name}.json"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for config_name in CONFIGS:
        text = json.dumps(shardings_of(config_name), indent=1) + "\n"
        golden_path(config_name).write_text(text, encoding="utf-8")
        print(f"{golden_path(config_name).name}: {text.count(' -> ')} arrays")
