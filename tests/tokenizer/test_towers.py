"""Towers of every kind look at anchors and crops: a stream gives what the clip does, and what does not fit is named."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.tokenizer import config as tokenizer_config
from mmduplex_jax.tokenizer.bflow import FLOW, BFlow
from mmduplex_jax.tokenizer.config import AnchorConfig, FlowConfig
from mmduplex_jax.tokenizer.encoders import FlowEncoder
from mmduplex_jax.tokenizer.sight import FlowSight, see_clips
from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.kinds import KINDS, tower_from_mapping
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.towers.yolox import YoloxConfig
from tests import tiny
from tests.tokenizer.test_bflow import stream

VIT = VisionConfig(image_px=8, patch_px=4, width=8, layers=1, heads=2, hidden=16, class_token=True, pool="class")
LITE = EfficientNetLiteConfig(image_px=8, stages=((1, 3, 1, 1, 4), (1, 3, 2, 2, 6)), stem=4, head=12)
YOLOX = YoloxConfig(image_px=32, stem=2, repeats=(1, 1, 1, 1), output="backbone_16")
SCALES = (1, 2)

TOKENIZERS = {
    "a pooled transformer for crops": {"flow": FlowConfig(8, SCALES, width=16, tower=VIT)},
    "maps for crops, whose places the trunk reads, and for anchors": {
        "flow": FlowConfig(
            8, SCALES, width=16, layers=1, heads=2, tower=LITE, inside=True, readout="tokens", tower_px=12
        ),
        "anchor": AnchorConfig(YOLOX, tokens=2, readout_width=8, readout_heads=2),
    },
}


@functools.cache
def make(which):
    """A tokenizer: its module, its parameters and clips."""
    module = BFlow(tiny.tokenizer(**TOKENIZERS[which]))
    frames = tiny.clips(2, 40)
    return module, tiny.random_params(lambda key: module.init(key, frames[:1, :2])["params"]), frames


@functools.cache
def compiled_clip(which):
    module = make(which)[0]
    return tiny.jit(lambda p, video: module.apply({"params": p}, video))


@functools.cache
def compiled_step(which):
    module = make(which)[0]
    return tiny.jit(lambda p, s, f, n, a: module.apply({"params": p}, s, f, n, a, method="step"))


@pytest.mark.parametrize("which", TOKENIZERS)
def test_streaming_equals_offline_and_looking_first(which):
    """Rings of the event transformer wrap every two ticks; towers look at crops that are spent only."""
    module, params, frames = make(which)
    tokens = compiled_clip(which)(params, frames)
    for b, row in enumerate(stream(module, params, frames, compiled_step(which))):
        valid = np.asarray(tokens.valid[b])
        assert (np.asarray(tokens.kind[b])[valid] == FLOW).sum() > 10
        assert np.asarray(tokens.step[b])[valid].tolist() == [r[0] for r in row]
        assert np.asarray(tokens.scale[b])[valid].tolist() == [r[4] for r in row]
        np.testing.assert_allclose(np.asarray(tokens.values[b])[valid], [r[3] for r in row], atol=1e-5)
    # What tokens look at may be chosen first, and looked at first.
    sight = jax.jit(lambda f: see_clips(f, module.config))(frames)
    look = lambda p, s: module.apply({"params": p}, s, anchors=True, crops=True, method="look")
    seen = tiny.jit(look)(params, sight)
    assert (seen.looks.shape[2:], seen.looks.dtype) == module.config.anchor_features
    assert (seen.flow.looks.shape[2:], seen.flow.looks.dtype) == module.config.crop_features
    for ours, theirs in zip(compiled_clip(which)(params, seen), tokens):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_flow_tokens_alone_change_with_the_tower_of_crops():
    which = "a pooled transformer for crops"
    _, params, frames = make(which)
    other = {**params, "crops": jax.tree.map(lambda a: a + 0.1, params["crops"])}
    plain, changed = (compiled_clip(which)(p, frames) for p in (params, other))
    first = np.asarray(plain.step) == 0  # an anchor alone, and nothing before it
    np.testing.assert_array_equal(plain.values[first], changed.values[first])
    flow = np.asarray(plain.valid) & (np.asarray(plain.kind) == FLOW)
    assert np.abs(plain.values[flow] - changed.values[flow]).max(axis=-1).min() > 1e-4


def test_a_config_names_towers_by_kind():
    given = dict(kind="efficientnet_lite", output="stage_1")
    tower = tower_from_mapping(given, image_px=(20, 30), dtype="bfloat16")
    assert tower == EfficientNetLiteConfig(image_px=(20, 30), output="stage_1", dtype="bfloat16")
    assert tower_from_mapping(dataclasses.asdict(VIT)) == VIT
    assert set(KINDS) == {"vit", "efficientnet_lite", "yolox"}
    with pytest.raises(ValueError, match="a tower's kind is one of vit, efficientnet_lite, yolox, not 'resnet'"):
        tower_from_mapping({"kind": "resnet"})
    with pytest.raises(TypeError, match="patch_px"):
        tower_from_mapping({"kind": "yolox", "patch_px": 4})


def test_a_tokenizer_from_a_mapping_has_them():
    plain = dict(width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=16, window_s=1.0)
    values = dict(
        kind="bflow",
        width=16,
        event=plain,
        motion=dict(plane_px=16),
        budget=dict(tokens_per_s_max=16, flow_token_levels=(0, 1, 2)),
        anchor=dict(tokens=2, tower=dict(kind="yolox"), readout_heads=4),
        flow=dict(crop_px=24, crop_scales=[1, 2], tower=dict(patch_px=8, width=8, layers=1, heads=2, hidden=8)),
    )
    config = tokenizer_config.from_mapping(values, 32, Clock())
    assert config.flow.tower.image_px == (24, 24)
    assert config.flow.crop_scales == (1, 2)
    assert (config.anchor.mean, config.anchor.std) == (YoloxConfig.mean, YoloxConfig.std)
    assert (config.flow.mean, config.flow.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: FlowConfig(8, readout="queries", tower=LITE), "flow.readout is one of pooled, tokens, not 'queries'"),
        (
            lambda: FlowConfig(8, tower=dataclasses.replace(VIT, pool="none")),
            "flow.readout='pooled' needs a tokenizer.flow.tower.pool other than 'none'",
        ),
        (
            lambda: FlowConfig(12, tower=VIT),
            "flow.tower has positions for 2x2 patches of 4 px, a crop (12x12 px) has 3x3: set "
            "tokenizer.flow.tower.image_px=12, or tokenizer.flow.tower.positions='bicubic'",
        ),
        (lambda: FlowConfig(8, (2, 4), 8), "crop_scales must rise from 1, got (2, 4)"),
        (lambda: FlowConfig(8, (1, 4, 2), 8), "crop_scales must rise from 1, got (1, 4, 2)"),
        (lambda: FlowConfig(8, std=(1.0, 0.0, 1.0), tower=LITE), "mean and std are three numbers each, std above 0"),
        (lambda: AnchorConfig(LITE), "readout_heads (0), which must be given for a tower of kind 'efficientnet_lite'"),
        (lambda: AnchorConfig(VIT, readout_width=9), "readout_width (9) must be a multiple of readout_heads (2)"),
    ],
)
def test_what_does_not_fit_is_named(make_it, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make_it()


@pytest.mark.parametrize("layers", [0, 1])
def test_it_matters_where_in_a_crop_something_is(layers):
    """Also without a trunk, whose mean over places would lose it."""
    flow = FlowConfig(8, SCALES, width=16, layers=layers, heads=2, tower=LITE, readout="tokens")
    encoder = FlowEncoder(tiny.tokenizer(flow=flow))
    zeros = lambda *shape: np.zeros((1, 3, *shape), np.int32)
    looks = np.random.default_rng(0).normal(size=(1, 3, 4, 6)).astype(np.float32)
    sight = FlowSight(zeros(2), zeros(2), zeros() + 1, zeros(2), zeros(5, 5, 10), looks)
    params = tiny.random_params(lambda key: encoder.init(key, sight)["params"])
    there, elsewhere = (encoder.apply({"params": params}, s) for s in (sight, sight._replace(looks=looks[:, :, ::-1])))
    assert np.abs(there - elsewhere).max() > 1e-2
