"""Crops are as large as what moves: what they hold, how their scale is chosen, and that one thing takes one crop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.crop_scales import fit
from mmduplex_jax.tokenizer import motion, token_plan
from mmduplex_jax.tokenizer.config import FlowConfig
from mmduplex_jax.tokenizer.sight import crops
from tests import tiny

SCALES = (1, 2, 3)
CONFIG = tiny.tokenizer(flow=tiny.SCALED_FLOW)
CELL_PX = 2 * CONFIG.plane_scale


@functools.cache
def peaks_of(config):
    return tiny.jit(lambda saliency, plane: token_plan.find_peaks(saliency, plane, config))


box = st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 8), st.integers(1, 8))


@given(box, st.integers(0, 2**32 - 1))
def test_the_scale_is_the_smallest_that_holds_the_box_of_what_moves(where, seed):
    top, left, height, width = where
    saliency = np.zeros((8, 8), np.int32)
    saliency[top : top + height, left : left + width] = np.random.default_rng(seed).integers(400, 1200)
    rows, columns = np.nonzero(saliency)
    extent_px = CELL_PX * (max(np.ptp(rows), np.ptp(columns)) + 1 - 2)
    plane = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.int32)
    peaks = peaks_of(CONFIG)(saliency, plane)
    expected = next((s for s in SCALES if CONFIG.flow.crop_px * s >= extent_px), SCALES[-1])
    assert int(peaks.scale[0]) == expected
    # What it hides follows the scale: no later peak is as near.
    reach = CONFIG.budget.nms_radius_px * expected
    for level, cell in zip(peaks.level[1:].tolist(), peaks.cell[1:].tolist()):
        if level:
            offset = CELL_PX * np.abs(np.subtract(cell, peaks.cell[0]))
            assert offset.max() >= reach


def test_things_apart_are_apart_and_gaps_of_a_cell_are_none():
    saliency = np.zeros((9, 12), np.int32)
    saliency[2:4, 1:3] = 1000
    saliency[5, 2] = 300  # connected over a gap
    saliency[3, 6] = 900  # apart
    saliency[4, 2] = 200  # less than a fourth of the peak
    found = jax.jit(token_plan.moving_box, static_argnums=2)(saliency, jnp.array([2, 1]), 8)
    assert [np.asarray(part).tolist() for part in found] == [[2, 1], [6, 3]]
    nothing = token_plan.moving_box(np.zeros((9, 12), np.int32), jnp.array([3, 4]), 8)
    assert [np.asarray(part).tolist() for part in nothing] == [[3, 4], [4, 5]]


@pytest.mark.parametrize("size", [(12, 20), (13, 17)])
def test_crops_hold_averages_of_what_they_cover(size):
    """By definition, over the rim that is repeated; at scale 1 they are cut as they are."""
    flow = FlowConfig(crop_px=4, crop_scales=SCALES, patch_px=4)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    number = 24
    tick, scale = rng.integers(0, 2, number), rng.choice(SCALES, number)
    centre = np.stack([rng.integers(0, side, number) for side in size], axis=1)
    got = jax.jit(crops, static_argnames="flow")(frames, tick, centre, scale, flow=flow)
    for i, (at, factor) in enumerate(zip(centre, scale)):
        frame = frames[tick[i]].astype(int)
        filled = np.pad(frame, [(0, -side % factor) for side in size] + [(0, 0)], mode="edge")
        small = filled.reshape(filled.shape[0] // factor, factor, filled.shape[1] // factor, factor, 3)
        small = np.floor(small.mean(axis=(1, 3)) + 0.5)
        lines = [np.clip(at[a] // factor - 2 + np.arange(4), 0, small.shape[a] - 1) for a in (0, 1)]
        np.testing.assert_array_equal(got[i], small[np.ix_(*lines)])


def test_crops_that_are_kept_inside_show_nothing_but_the_frame():
    """At every place the square that is nearest of those that lie within it; a larger one than the frame is filled."""
    frame = np.arange(1, 12 * 20 + 1, dtype=np.uint8).reshape(1, 12, 20, 1).repeat(3, axis=-1)
    centre = np.array([[0, 0], [6, 10], [11, 19], [2, 19]])
    flow = FlowConfig(crop_px=8, crop_scales=(1, 2), patch_px=8, inside=True)
    once = np.ones(4, np.int32)
    got = jax.jit(crops, static_argnames="flow")(frame, 0 * once, centre, once, flow=flow)
    for cut, (top, left) in zip(got, [(0, 0), (2, 6), (4, 12), (0, 12)]):
        np.testing.assert_array_equal(cut, frame[0, top : top + 8, left : left + 8])
    twice = crops(frame, 0 * once, centre, 2 * once, flow)
    small = motion.shrunk(frame[0], 2)
    np.testing.assert_array_equal(twice[2, :6], small[:, 2:])
    np.testing.assert_array_equal(twice[2, 6:], small[[-1, -1], 2:])


def test_one_scale_gives_crops_at_full_resolution():
    frames = np.random.default_rng(1).integers(0, 256, (1, 9, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(motion.shrunk(frames, 1), frames)
    scale = jnp.ones(1, jnp.int32)
    cut = crops(frames, jnp.zeros(1, jnp.int32), jnp.array([[4, 5]]), scale, FlowConfig(crop_px=4, patch_px=4))
    np.testing.assert_array_equal(cut[0], frames[0, 2:6, 3:7])


def test_a_large_thing_fits_its_crop_and_a_small_one_keeps_its_pixels():
    """The benchmark's own figures (12 px: 1.00 at scale 1; 150 px: 0.13 without, 0.88 with scales), with room."""
    small, large = (fit(size, (1, 2, 4), clips=2) for size in (12, 150))
    assert small["inside"] > 0.9
    assert small["scale"] == 1
    assert large["inside"] > 0.7
    assert large["tokens"] <= 4
