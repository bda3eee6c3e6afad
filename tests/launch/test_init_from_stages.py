"""`config.init_from` between stages: each arrow of the chain at quick size takes a whole part, to the last bit."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import chain_quickstart
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests.launch.test_init_from import started

CHAIN = chain_quickstart.get_config()
ARROWS = [(stage, part, source) for stage in CHAIN.order for part, source in CHAIN.begins_with.get(stage, {}).items()]


def config_of(stage, **begins):
    """A stage's config in the chain; a stage that another one teaches is built for a folder that is named."""
    config = chain_quickstart.get_config(stage)
    if stage == "bflow":
        config.init_from.vision = "a folder"
    config.init_from.update(begins)
    return config


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Of every stage a folder with random parameters, and these by path."""
    made = {}
    for seed, stage in enumerate(CHAIN.order):
        config = config_of(stage)
        tokenizer = load_tokenizer(config)
        shapes = nn.unbox(jax.eval_shape(build_task(config, tokenizer).init, jax.random.key(0)))
        rng = np.random.default_rng(seed)
        arrays = jax.tree.map(lambda leaf, rng=rng: 0.05 * rng.standard_normal(leaf.shape, np.float32), shapes)
        folder = tmp_path_factory.mktemp(stage)
        metadata = dict(config=json.loads(config.to_json_best_effort()), tokenizer=json.loads(tokenizer.to_json()))
        portable.save(folder, arrays, metadata | dict(steps=1, data={}, scores={}), dtype="float32", max_bytes=10**8)
        made[stage] = folder, flatten(arrays)
    return made


def places(part, stage, name):
    """Where a parameter of a source goes in a run of `stage`."""
    if part == "tokenizer":
        return [name] if name.startswith("tokenizer/") else []
    if part == "text":
        return [name] if name.startswith(("text/", "embedding")) and "/cross" not in name else []
    tower = name.removeprefix("vision/")
    if tower == name:
        return []
    into = {"vlm": ["vision/"], "bflow": ["teacher/tower/"]}[stage]
    if stage == "bflow" and not tower.startswith(("pool/", "projection/")):
        into = [*into, "tokenizer/anchors/tower/"]
    return [prefix + tower for prefix in into]


@pytest.mark.parametrize(("stage", "part", "source"), ARROWS)
def test_an_arrow_takes_a_whole_part(stage, part, source, learned):
    folder, arrays = learned[source]
    params, told = started(config_of(stage, **{part: str(folder)}))
    expected = {place: value for name, value in arrays.items() for place in places(part, stage, name)}
    assert len(expected) > 10
    for name, value in params.items():
        if name in expected:
            np.testing.assert_array_equal(value, expected.pop(name))
        else:
            assert (value == (0 if name == "delays" and part == "text" else 7)).all(), name
    assert not expected
    assert any(f"{part}: taken from {folder}: " in line for line in told)


def test_a_duplex_begins_with_both(learned):
    config = config_of("duplex", tokenizer=str(learned["bflow"][0]), text=str(learned["vlm"][0]))
    params, told = started(config)
    np.testing.assert_array_equal(params["embedding"], learned["vlm"][1]["embedding"])
    np.testing.assert_array_equal(params["tokenizer/kinds"], learned["bflow"][1]["tokenizer/kinds"])
    (made,) = [line for line in told if line.startswith("init_from made anew: ")]
    assert "tokenizer" not in made
    assert "embedding" not in made


def test_a_captioner_s_tower_goes_to_anchors(learned):
    config = config_of("duplex", vision=str(learned["vlm"][0]))
    params, _ = started(config)
    name = "encoder/block_0/mlp/up/kernel"
    np.testing.assert_array_equal(params[f"tokenizer/anchors/tower/{name}"], learned["vlm"][1][f"vision/{name}"])


def test_the_teacher_is_another_s_where_the_tokenizer_has_learned(learned):
    config = config_of("bflow", vision=str(learned["clip"][0]), tokenizer=str(learned["duplex"][0]))
    params, _ = started(config)
    name = "encoder/block_0/mlp/up/kernel"
    np.testing.assert_array_equal(params[f"teacher/tower/{name}"], learned["clip"][1][f"vision/{name}"])
    anchors = f"tokenizer/anchors/tower/{name}"
    np.testing.assert_array_equal(params[anchors], learned["duplex"][1][anchors])
