"""Motion: known shifts are found, the camera's is taken off, what nothing explains is disoccluded."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.tokenizer import motion
from mmduplex_jax.tokenizer.motion import MotionConfig

CONFIG = MotionConfig(plane_px=32, search_radius=3)


def texture(seed, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def find(before, now):
    return motion.match(motion.plane(jnp.asarray(before), CONFIG), motion.plane(jnp.asarray(now), CONFIG), CONFIG)


@pytest.mark.parametrize("shift", [(0, 0), (2, -4), (-6, 6), (4, 0)])
def test_the_camera_is_the_shift_of_the_whole(shift):
    wide = texture(0, 96)
    before, now = wide[16:80, 16:80], wide[16 - shift[0] : 80 - shift[0], 16 - shift[1] : 80 - shift[1]]
    found = find(before, now)
    assert (np.asarray(found.camera) * 2).tolist() == list(shift)
    inner = np.asarray(found.vector)[3:-3, 3:-3]
    assert np.abs(inner).max() == 0
    assert np.asarray(found.saliency)[3:-3, 3:-3].max() == 0


def test_a_thing_that_moves_has_its_vector_and_stands_out():
    before, now = texture(0), texture(0)
    thing = texture(1)[:20, :20]
    before[20:40, 10:30] = thing
    now[24:44, 14:34] = thing
    found = find(before, now)
    assert np.asarray(found.vector)[8, 6].tolist() == [2, 2]  # cells are 4 px, the plane is half as fine as the frame
    row, column = np.unravel_index(np.argmax(found.saliency), found.saliency.shape)
    assert 20 <= 4 * row + 2 <= 44
    assert 10 <= 4 * column + 2 <= 34
    assert np.asarray(found.saliency)[12:, 12:].max() == 0


def test_a_change_of_colour_without_a_change_of_light_stands_out():
    frame = np.full((64, 64, 3), 120, np.uint8)
    now = frame.copy()
    now[20:36, 20:36] = (120 + 58, 120 - 30, 120)  # the same luma: 77·58 ≈ 150·30
    found = find(frame, now)
    assert np.asarray(found.saliency).max() > 600
    assert np.asarray(found.residual).max() <= 36 * 2


def test_a_new_scene_is_uncovered():
    assert int(find(texture(0), texture(0)).disoccluded) == 0
    assert int(find(texture(0), texture(5)).disoccluded) > 0.5 * 16 * 16
