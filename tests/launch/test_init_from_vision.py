"""`config.init_from.vision`: an imported tower, or a learned one, in the anchors of a tokenizer and in a pair."""

import dataclasses
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip_quickstart
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.tokenizer.config import AnchorConfig
from mmduplex_jax.tokenizer.encoders import AnchorEncoder
from mmduplex_jax.towers.vision import VisionTower
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.checkpoint import read_weights
from mmduplex_jax.weights.init_from import InitFromError
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny
from tests.launch import imported
from tests.launch.conftest import small_config
from tests.launch.test_init_from import started, tower_config

ANCHORS = "tokenizer/anchors/tower/"
CLIP_FIELDS = ("activation", "norm_epsilon", "class_token", "patch_bias", "pre_norm", "pool", "last_norm", "projection")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return imported.import_tower(imported.siglip(), tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return imported.import_tower(imported.clip(), tmp_path_factory.mktemp("clip"))


def clip_anchors(**anchor):
    """A duplex whose anchors have the tower of `imported.clip()`."""
    config, tower = tower_config(), imported.clip()
    config.tokenizer.anchor.update(mean=imported.CLIP_MEAN, std=imported.CLIP_STD, **anchor)
    config.tokenizer.anchor.tower.update({name: getattr(tower, name) for name in CLIP_FIELDS})
    return config


@pytest.mark.parametrize("readout", ["queries", "pooled"])
def test_anchors_see_what_the_imported_tower_saw(siglip, readout):
    config = tower_config()
    config.tokenizer.anchor.update(readout=readout, tokens=1)
    config.tokenizer.anchor.tower.pool = "attention"
    config.init_from.vision = str(siglip)
    params, told = started(config)
    arrays = flatten(read_weights(siglip)[0])
    for name, value in arrays.items():
        if readout == "queries" and name.startswith("pool/"):
            assert ANCHORS + name not in params
        else:
            np.testing.assert_array_equal(params[ANCHORS + name], value)
    assert any(line.endswith("vision: left: nothing") for line in told) == (readout == "pooled")
    # The tower by itself, and inside: the same tokens, the same embedding.
    frames = tiny.clips(1, 2, side=64)[0]
    pictures = jnp.asarray((frames / 255 - 0.5) / 0.5, jnp.float32)
    wanted = jax.jit(VisionTower(imported.siglip()).apply)({"params": read_weights(siglip)[0]}, pictures)
    task = build_task(config, load_tokenizer(config))
    taken = portable.unflatten(
        {name.removeprefix("tokenizer/anchors/"): value for name, value in params.items() if ANCHORS[:18] in name}
    )
    encoder = AnchorEncoder(task.config.tokenizer)
    tower_s = lambda module, _: module.name == "tower"
    _, kept = jax.jit(lambda weights: encoder.apply(weights, frames, capture_intermediates=tower_s))({"params": taken})
    seen = kept["intermediates"]["tower"]["__call__"][0]
    np.testing.assert_allclose(seen.tokens, wanted.tokens, atol=1e-5)
    if readout == "pooled":
        np.testing.assert_allclose(seen.embedding, wanted.embedding, atol=1e-5)


def test_clip_s_norm_of_what_it_pools_is_every_token_s_where_queries_read(clip):
    config = clip_anchors()
    config.init_from.vision = str(clip)
    params, told = started(config)
    arrays = flatten(read_weights(clip)[0])
    np.testing.assert_array_equal(params[ANCHORS + "norm/scale"], arrays["norm/scale"])
    assert any("its last norm was of what it pooled" in line for line in told)
    assert any(line.endswith("vision: left: projection (1)") for line in told)
    config = clip_anchors(readout="pooled", tokens=1)
    config.init_from.vision = str(clip)
    params, told = started(config)
    np.testing.assert_array_equal(params[ANCHORS + "projection/kernel"], arrays["projection/kernel"])
    assert not any("last norm" in line for line in told)


def test_of_an_imported_pair_the_tower_is_taken(tmp_path):
    pair = imported.import_tower(imported.clip_pair(), tmp_path)
    config = clip_anchors(readout="pooled", tokens=1)
    config.init_from.vision = str(pair)
    params, told = started(config)
    for name, value in flatten(read_weights(pair)[0]["vision"]).items():
        np.testing.assert_array_equal(params[ANCHORS + name], value)
    assert any(re.search(r"vision: left: logit_scale \(1\), text \(\d+\)$", line) for line in told)


def test_pixels_that_are_normalised_otherwise_do_not_fit(clip):
    config = clip_anchors()
    config.tokenizer.anchor.update(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    config.init_from.vision = str(clip)
    with pytest.raises(InitFromError) as error:
        started(config)
    for name, values in (("mean", imported.CLIP_MEAN), ("std", imported.CLIP_STD)):
        values = tuple(float(f"{value:.7g}") for value in values)
        assert f"the model's is (0.5, 0.5, 0.5): set config.tokenizer.anchor.{name}={values}" in str(error.value)


def test_a_tower_that_does_not_say_how_is_told(tmp_path):
    config = tower_config()
    config.init_from.vision = str(imported.import_tower(imported.siglip(), tmp_path, preprocessing=False))
    _, told = started(config)
    assert any("config.tokenizer.anchor.mean and std are taken as right" in line for line in told)


def test_a_tower_for_other_pictures_needs_positions_that_give(tmp_path):
    larger = imported.import_tower(imported.siglip(image_px=96), tmp_path)
    config = tower_config()
    config.init_from.vision = str(larger)
    with pytest.raises(InitFromError, match="image_px is 96, the model's is 64: set .*anchor.tower.image_px=96"):
        started(config)
    config.tokenizer.anchor.tower.update(image_px=96, positions="bicubic")
    params, _ = started(config)
    assert params[ANCHORS + "position"].shape == (36, 24)


def test_a_pair_s_tower_is_what_anchors_begin_with(tmp_path):
    config = clip_quickstart.get_config()
    tokenizer = load_tokenizer(config)
    task = build_task(config, tokenizer)
    shapes = nn.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    arrays = jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)
    told_of = dict(tokenizer=json.loads(tokenizer.to_json()), steps=1, data={}, scores={})
    portable.save(tmp_path, arrays, {"config": json.loads(config.to_json_best_effort()), **told_of}, dtype="float32")
    begun = small_config()
    shape = {name: value for name, value in config.vision.items() if not name.startswith(("pool", "projection"))}
    begun.tokenizer.anchor.tower.update(shape)
    begun.init_from.vision = str(tmp_path)
    params, told = started(begun)
    kept = {name.removeprefix("vision/"): v for name, v in flatten(arrays).items() if name.startswith("vision/")}
    for name, value in kept.items():
        if not name.startswith(("pool/", "projection/")):
            np.testing.assert_array_equal(params[ANCHORS + name], value)
    assert any("vision: left: " in line and "text (" in line and "vision/pool (" in line for line in told)
    # And another pair, as a whole.
    config.init_from.vision = str(tmp_path)
    params, _ = started(config)
    np.testing.assert_array_equal(params["vision/pool/probe"], kept["pool/probe"])
    config.pixels.std = (0.25, 0.25, 0.25)
    with pytest.raises(InitFromError, match=r"std of its pixels is \(0.5, 0.5, 0.5\), .*set config.pixels.std="):
        started(config)


def test_stages_and_folders_without_a_tower_are_told(siglip, portable_dir, tmp_path):
    config = tower_config()
    config.tokenizer.kind = "uniform"
    config.init_from.vision = str(siglip)
    with pytest.raises(InitFromError, match="this stage has no vision tower"):
        started(config)
    config = tower_config()
    config.init_from.vision = str(portable_dir)
    with pytest.raises(InitFromError, match="a training of stage 'duplex', wanted is one of stage 'clip' or 'vlm'"):
        started(config)
    config.init_from.vision = str(imported.import_language(imported.llama(40), tmp_path))
    with pytest.raises(InitFromError, match="of kind 'text', wanted is 'vision' or 'contrastive'"):
        started(config)


def test_what_queries_need_of_a_tower_does_not_depend_on_its_pool():
    for tower in (imported.siglip(), imported.clip(), imported.siglip(pool_heads=4, pool_hidden=8, projection=3)):
        used = AnchorConfig(tower).used_tower
        assert (used.pool, used.projection, used.last_norm, used.pool_hidden) == ("none", 0, "tokens", 0)
        assert dataclasses.replace(used, **{f: getattr(tower, f) for f in vars(tower)}) == tower
