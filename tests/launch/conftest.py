import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import quickstart
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train import loop
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.trained import load_tokenizer
from tests import compiled_once


@pytest.fixture(autouse=True, scope="package")
def programs_are_compiled_once():
    """Runs that are stopped and go on, or begin anew in another folder, are of one program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_program", compiled_once.make_program)
        yield


def small_config():
    """The quick start's config with fewer layers, for what needs a model but not a good one."""
    config = quickstart.get_config()
    config.text.update(layers=2, width=64, hidden=64, heads=2, kv_heads=1)
    config.video_stream.update(width=64, hidden=64, heads=2, kv_heads=2)
    config.tokenizer.anchor.tower.update(width=32, layers=1, heads=2, hidden=128)
    config.tokenizer.flow.update(width=32)
    config.delay.update(min=0, max=4, eval=4)
    return config


def random_params(task):
    """Parameters that are drawn, since compiling an initialisation takes longer than all that tests do with them."""
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="session")
def untrained():
    """`(config, tokenizer, params)` of a small model that has learned nothing."""
    config = small_config()
    tokenizer = load_tokenizer(config)
    task = build_task(config, tokenizer)
    return config, tokenizer, random_params(task)


@pytest.fixture(scope="session")
def portable_dir(untrained, tmp_path_factory) -> Path:
    """The same as a portable checkpoint."""
    config, tokenizer, params = untrained
    folder = tmp_path_factory.mktemp("portable")
    metadata = {
        "config": json.loads(config.to_json_best_effort()),
        "tokenizer": json.loads(tokenizer.to_json()),
        "steps": 7,
        "data": {},
        "scores": {},
    }
    portable.save(folder, params, metadata, dtype="float32")
    return folder
