"""Anchors: a vision tower over the frame, read out by nested queries or as its pooled vector."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from mmduplex_jax.clock import Clock
from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.tokenizer.bflow import ANCHOR, BFlow
from mmduplex_jax.tokenizer.config import AnchorConfig, from_mapping
from mmduplex_jax.tokenizer.encoders import AnchorEncoder
from mmduplex_jax.towers.vision import VisionConfig, VisionTower, normalise
from mmduplex_jax.weights.trained import load_trained
from tests import tiny
from tests.tokenizer.test_bflow import stream

POOLED = VisionConfig(
    image_px=32, patch_px=8, width=16, layers=1, heads=2, hidden=24, activation="gelu", pool="attention", projection=12
)
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def one_token(kind, **anchor):
    values = dict(tokens=1, readout="pooled", mean=MEAN, std=STD)
    return tiny.tokenizer(kind, anchor=AnchorConfig(POOLED, **(values | anchor)))


def test_the_tokenizer_of_the_world_s_model_computes_what_it_did_when_it_was_trained():
    trained = load_trained("world")
    module = BFlow(trained.task.config.tokenizer)
    frames = tiny.clips(2, 24, side=64, seed=3)
    tokens = jax.jit(lambda p, f: module.apply({"params": p}, f))(trained.params["tokenizer"], frames)
    # Written down then; Python 3.11's and 3.12's stacks differ by 1e-6.
    expected = [
        [-1.9156706, 6.6145372, 3.7536640],
        [-1.9015051, 6.6163793, 3.7838690],
        [-1.8734190, 6.6446850, 3.7650197],
        [-1.9123415, 6.6139830, 3.7561846],
        [-2.9651017, -1.1356301, 2.4373580],
        [-2.3634634, -1.4124758, 2.5895348],
    ]
    np.testing.assert_allclose(tokens.values[0, :6, :3], expected, atol=1e-4)
    assert int(tokens.valid.sum()) == 152
    assert float(jnp.abs(tokens.values).sum()) == pytest.approx(59136.32, rel=1e-5)


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (0.5,) * 3), (MEAN, STD), ((0.0,) * 3, (1.0,) * 3)])
def test_pixels_are_normalised_as_the_tower_is_used_to(mean, std):
    frames = tiny.clips(1, 1)[0]
    found = normalise(frames, mean, std)
    np.testing.assert_allclose(found, (frames / 255.0 - np.array(mean)) / np.array(std), atol=2e-6)


def test_a_pooled_anchor_is_the_tower_s_embedding_normalised_and_projected():
    config = one_token("bflow")
    frames = tiny.clips(1, 3)[0]
    params = tiny.random_params(lambda key: AnchorEncoder(config).init(key, frames)["params"])
    pictures = (frames / 255.0 - np.array(MEAN)) / np.array(STD)
    see = tiny.jit(lambda p, x: VisionTower(POOLED).apply({"params": p}, x).embedding)
    seen = see(params["tower"], jnp.asarray(pictures, jnp.float32))
    x = np.asarray(seen, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * params["readout_norm"]["scale"] + params["readout_norm"]["bias"]
    x = x @ params["out"]["kernel"] + params["out"]["bias"]
    found = tiny.jit(lambda p, f: AnchorEncoder(config).apply({"params": p}, f))(params, frames)
    assert found.shape == (3, 1, config.width)
    np.testing.assert_allclose(found[:, 0], x, atol=2e-5)


def test_queries_have_no_use_for_the_tower_s_pool():
    config = one_token("bflow", tokens=2, readout="queries")
    frames = tiny.clips(1, 1)[0]
    params = jax.eval_shape(lambda: AnchorEncoder(config).init(jax.random.key(0), frames)["params"])
    assert sorted(params["tower"]) == ["encoder", "norm", "patch", "position"]


@pytest.mark.parametrize("kind", ["bflow", "per_frame"])
def test_streaming_equals_offline_with_pooled_anchors(kind):
    config, ticks = one_token(kind), 24
    module = BFlow(config)
    frames = tiny.clips(2, ticks)
    params = tiny.random_params(lambda key: module.init(key, frames[:1, :2])["params"])
    tokens = tiny.jit(lambda p, f: module.apply({"params": p}, f))(params, frames)
    anchors = np.asarray(tokens.valid & (tokens.kind == ANCHOR)).sum(axis=1)
    assert (anchors == ticks).all() if kind == "per_frame" else (anchors > 0).all() and (anchors < ticks).all()
    for b, row in enumerate(stream(module, params, frames)):
        valid = np.asarray(tokens.valid[b])
        assert np.asarray(tokens.step[b])[valid].tolist() == [r[0] for r in row]
        np.testing.assert_allclose(np.asarray(tokens.values[b])[valid], [r[3] for r in row], atol=1e-5)


def test_one_token_a_tick_by_flags():
    values = quickstart.get_config().tokenizer
    values.kind = "per_frame"
    values.anchor.readout = "pooled"
    values.anchor.tower.pool = "mean"
    config = from_mapping(values, 64, Clock())
    assert (config.anchor_tokens, config.flow_slots, config.cap) == (1, 0, config.window_ticks)


def test_a_tower_has_the_frame_s_size_and_the_tokenizer_s_dtype_unless_it_says_otherwise():
    values = quickstart.get_config().tokenizer
    values.dtype = "bfloat16"
    assert from_mapping(values, 64, Clock()).anchor.tower.image_px == (64, 64)
    assert from_mapping(values, 64, Clock()).anchor.tower.dtype == "bfloat16"
    values.anchor.tower.update(image_px=48, dtype="float32", positions="bicubic")
    tower = from_mapping(values, 64, Clock()).anchor.tower
    assert (tower.image_px, tower.grid, tower.dtype) == ((48, 48), (3, 3), "float32")


def test_a_config_from_before_there_was_a_tower_says_so():
    values = quickstart.get_config().tokenizer
    values.anchor = dict(tokens=4, patch_px=16, width=96, layers=2, heads=4, readout_layers=1)
    with pytest.raises(ValueError, match=r"tokenizer\.anchor lacks `tower`.*older code"):
        from_mapping(values, 64, Clock())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(readout="mean"), "readout is one of queries, pooled, not 'mean'"),
        (
            dict(readout="pooled", tower=dataclasses.replace(POOLED, pool="none", projection=0)),
            "pool other than 'none'",
        ),
        (dict(tokens=2), "gives one token a frame, kind 'bflow' asks for 2: set tokenizer.anchor.tokens=1"),
        (dict(std=(0.5, 0.0, 0.5)), "std above 0"),
        (dict(tower=dataclasses.replace(POOLED, image_px=24)), r"3x3 patches of 8 px, the frame \(32x32 px\) has 4x4"),
        (dict(tower=dataclasses.replace(POOLED, channels=4)), "channels must be 3, got 4"),
    ],
)
def test_anchors_that_cannot_be_are_named(changes, said):
    values = dict(tower=POOLED, tokens=1, readout="pooled") | changes
    with pytest.raises(ValueError, match=said):
        tiny.tokenizer("bflow", anchor=AnchorConfig(**values))


def test_the_cost_of_a_pooled_anchor_is_counted_by_hand():
    patches, width, hidden = 16, 16, 24
    layer = patches * (4 * width**2 + 2 * width * hidden + 2 * patches * width)
    pool = 2 * patches * width**2 + 2 * (width**2 + width * hidden) + 2 * patches * width
    expected = 2.0 * (patches * 3 * 64 * width + layer + pool + width * 12)
    tower, pictures = VisionTower(POOLED), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = nn.unbox(jax.eval_shape(tower.init, jax.random.key(0), pictures))
    assert count_flops(jax.make_jaxpr(tower.apply)(params, pictures)).model == expected
