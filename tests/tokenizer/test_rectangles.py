"""Frames of any shape: a stream equals its clip, and the bars around a picture change nothing of what is seen in it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.tokenizer import motion
from mmduplex_jax.tokenizer.bflow import ANCHOR, BFlow
from mmduplex_jax.tokenizer.budget import BaselineConfig
from mmduplex_jax.tokenizer.config import from_mapping
from mmduplex_jax.tokenizer.encoders import AnchorEncoder
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.tokenizer.token_plan import plan_clip
from tests import tiny
from tests.tokenizer.test_bflow import stream

PICTURE, FRAME, TICKS = (32, 48), (48, 64), 40  # px
CELL = 4  # px: plane pixels are 2 frame pixels, cells 2 plane pixels


def rectangular(frame_px=PICTURE, kind="bflow", bars=False, **changes):
    base = tiny.tokenizer(kind)
    plane = (frame_px[0] // 2, frame_px[1] // 2)
    tower = dataclasses.replace(base.anchor.tower, image_px=frame_px)
    return dataclasses.replace(
        base,
        frame_px=frame_px,
        motion=MotionConfig(plane_px=plane, search_radius=2, bars=bars),
        anchor=dataclasses.replace(base.anchor, tower=tower),
        **changes,
    )


@functools.cache
def clips():
    """Still, with things that move and cuts; the second row's camera pans."""
    frames = tiny.clips(2, TICKS, PICTURE, seed=3)
    wide = np.random.default_rng(0).integers(9, 256, (PICTURE[0], PICTURE[1] + 2 * TICKS, 3), dtype=np.uint8)
    frames[1] = [wide[:, 2 * t : 2 * t + PICTURE[1]] for t in range(TICKS)]
    frames[1, :, 8:16, 8:16] = 255
    return frames


@pytest.mark.parametrize("kind", ["bflow", "uniform"])
def test_streaming_equals_offline(kind):
    config = rectangular(kind=kind, bars=True, baseline=BaselineConfig(grid_side=(2, 3)))
    module, frames = BFlow(config), clips()
    params = tiny.random_params(lambda key: module.init(key, frames[:1, :2])["params"])
    tokens = tiny.jit(lambda p, f: module.apply({"params": p}, f))(params, frames)
    for b, row in enumerate(stream(module, params, frames)):
        valid = np.asarray(tokens.valid[b])
        assert np.asarray(tokens.step[b])[valid].tolist() == [r[0] for r in row]
        assert np.asarray(tokens.kind[b])[valid].tolist() == [r[1] for r in row]
        centres = np.asarray(tokens.centre_px[b])[valid]
        assert [tuple(c) for c in centres.tolist()] == [r[2] for r in row]
        assert (centres < PICTURE).all()
        np.testing.assert_allclose(np.asarray(tokens.values[b])[valid], [r[3] for r in row], atol=1e-5)
        anchors = np.asarray(tokens.kind[b])[valid] == ANCHOR
        assert (centres[anchors] == (PICTURE[0] // 2, PICTURE[1] // 2)).all()
    if kind == "uniform":
        assert sorted({r[2] for r in row}) == [(8, 8), (8, 24), (8, 40), (24, 8), (24, 24), (24, 40)]


def padded(frames, value=0):
    """Pictures in the middle of larger frames, as `fit="pad"` puts them, with bars on all sides."""
    out = np.full((*frames.shape[:-3], *FRAME, 3), value, np.uint8)
    out[..., 8:40, 8:56, :] = frames
    return out


def test_bars_move_nothing_and_change_nothing():
    plain, config = rectangular(), rectangular(FRAME, bars=True)
    alone = jax.jit(jax.vmap(lambda f: plan_clip(f, plain)))(clips())
    framed = jax.jit(jax.vmap(lambda f: plan_clip(f, config)))(padded(clips()))
    inner = np.s_[:, :, 8 // CELL : 40 // CELL, 8 // CELL : 56 // CELL]
    np.testing.assert_array_equal(np.asarray(framed.motion)[inner], alone.motion)
    outside = np.asarray(framed.motion).copy()
    outside[inner] = 0
    assert not outside.any()
    assert np.asarray(alone.camera).any()
    for name in ("camera", "anchor_tokens", "flow"):
        np.testing.assert_array_equal(getattr(framed, name), getattr(alone, name))
    spent = np.asarray(alone.flow)
    assert spent.sum() > 20
    np.testing.assert_array_equal(np.asarray(framed.centre_px)[spent], np.asarray(alone.centre_px)[spent] + 8)


def test_a_stored_bar_that_rings_is_a_bar_and_a_dark_picture_none():
    config = MotionConfig(plane_px=(16, 24), search_radius=2, bars=True)
    before, now = (np.zeros((16, 24, 3), np.int32) for _ in range(2))
    before[4:12], now[4:12] = 100, 100
    now[3] = 8  # as JPEG leaves it
    match = jax.jit(lambda before, now: motion.match(before, now, config))
    moved = match(before, now)
    assert moved.bounds.tolist() == [4, 11, 0, 23]
    assert not np.asarray(moved.saliency).any()
    dark = np.zeros((16, 24, 3), np.int32)
    assert match(dark, dark).bounds.tolist() == [0, 15, 0, 23]
    # What lights up in a dark part of the picture is seen, for it is not black in both.
    now[14, 5] = 200
    moved = match(before, now)
    assert moved.bounds.tolist() == [4, 14, 0, 23]
    assert np.asarray(moved.saliency).max() > 500


def test_without_bars_black_is_a_colour_as_others():
    config = MotionConfig(plane_px=(16, 24), search_radius=2)
    frame = np.zeros((16, 24, 3), np.int32)
    frame[4:12] = 100
    assert motion.match(jnp.asarray(frame), jnp.asarray(frame), config).bounds.tolist() == [0, 15, 0, 23]


def mapping(**changes):
    values = dict(
        kind="bflow",
        width=16,
        motion=dict(plane_px=(16, 24)),
        anchor=dict(tower=dict(patch_px=8, width=8, layers=1, heads=1, hidden=8, pool="none"), tokens=2),
        event=dict(width=8, layers=1, heads=1, kv_heads=1, head_width=8, hidden=8, window_s=1.0),
    )
    return values | changes


def test_a_config_says_it_once():
    config = from_mapping(mapping(), (32, 48), Clock(), "pad")
    assert config.frame_px == config.anchor.tower.image_px == (32, 48)
    assert config.motion.bars
    assert config.anchor.tower.grid == (4, 6)
    assert not from_mapping(mapping(motion=dict(plane_px=32)), 64, Clock()).motion.bars


@pytest.mark.parametrize(
    ("changes", "frame_px", "message"),
    [
        ({}, (32, 32), r"frame_px by motion\.plane_px must be one integer in both directions"),
        (dict(motion=dict(plane_px=(15, 15))), (30, 30), "even in both directions"),
        (
            dict(anchor=dict(tower=dict(mapping()["anchor"]["tower"], image_px=32), tokens=2)),
            (32, 48),
            r"4x4 patches of 8 px, the frame \(48x32 px\) has 4x6: set config.frame_px=32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, frame_px, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(mapping(**changes), frame_px, Clock())


def test_a_square_tower_sees_the_whole_frame_in_its_own_size_or_with_fitted_positions():
    base = rectangular()
    seen = {}
    for name, changes in {
        "resized": dict(resize_to_tower=True),
        "fitted": dict(tower=dataclasses.replace(base.anchor.tower, image_px=(32, 32), positions="bicubic")),
    }.items():
        tower = dict(tower=dataclasses.replace(base.anchor.tower, image_px=(32, 32))) | changes
        config = dataclasses.replace(base, anchor=dataclasses.replace(base.anchor, **tower))
        module, frames = AnchorEncoder(config), np.full((1, *PICTURE, 3), 90, np.uint8)
        params = tiny.random_params(lambda key, m=module, f=frames: m.init(key, f)["params"])
        apply = tiny.jit(lambda p, f, m=module: m.apply({"params": p}, f))
        seen[name] = {at: np.abs(apply(params, lit(frames, at)) - apply(params, frames)).max() for at in (0, 40)}
        assert params["tower"]["position"].shape[0] == 4
    # Light at the left and at the right end of the picture both change the anchor.
    assert min(change for both in seen.values() for change in both.values()) > 1e-4, seen


def lit(frames, column):
    frames = frames.copy()
    frames[..., column : column + 8, :] = 255
    return frames
