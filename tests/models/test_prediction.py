"""Prediction: what is asked for, what it is compared with, and that a teacher teaches and does not learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.stages.bflow.event_model import (
    PredictionConfig,
    ReaderConfig,
    Teacher,
    draw_moments,
    prediction_error,
    shrunk,
)
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from tests import tiny

READER = ReaderConfig(width=16, queries=1, heads=2, head_width=8, hidden=16, window_steps=20)
TOWER = VisionConfig(image_px=16, patch_px=8, width=16, layers=1, heads=2, hidden=16, pool="mean", projection=6)


def config(**changes) -> PredictionConfig:
    values = dict(target="pixels", places=50, horizon_ticks=(0, 3), reader=READER, frame_px=8, picture_px=2)
    return PredictionConfig(**(values | changes))


def test_a_small_picture_is_made_of_means():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)
    out = np.asarray(shrunk(frames, (2, 2)))
    assert out.shape == (2, 3, 12)
    for row in (0, 1):
        for column in (0, 1):
            block = frames[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype(float)
            number = 3 * (2 * row + column)
            np.testing.assert_allclose(out[..., number : number + 3], block.mean(axis=(2, 3)) / 127.5 - 1, atol=1e-6)


def test_moments_leave_room_for_what_is_ahead():
    moments = draw_moments(jax.random.key(0), config(), 4, 10, 2)
    seen, asked = np.asarray(moments.step) // 2, np.asarray(moments.tick)
    assert set(seen.ravel().tolist()) == set(range(7))
    np.testing.assert_array_equal(asked, np.stack([seen, seen + 3], axis=-1))
    with pytest.raises(ValueError, match="reaches 3 ticks ahead, a clip has 3"):
        draw_moments(jax.random.key(0), config(), 4, 3, 2)


def test_what_is_explained_is_what_the_mean_leaves():
    rng = np.random.default_rng(0)
    target, counted = rng.normal(2, 3, (3, 4, 2, 5)), rng.random((3, 4, 2)) < 0.7
    guess = target + rng.normal(0, 1, target.shape)
    found = prediction_error(jnp.asarray(guess), jnp.asarray(target), jnp.asarray(counted))
    chosen, guessed = target[counted], guess[counted]
    error = np.square(guessed - chosen).mean()
    np.testing.assert_allclose(found.loss, error, rtol=1e-5)
    np.testing.assert_allclose(found.explained, 1 - error / np.square(chosen - chosen.mean(axis=0)).mean(), rtol=1e-5)
    assert float(found.frames) == counted.sum()
    mean = np.broadcast_to(chosen.mean(axis=0), target.shape)
    np.testing.assert_allclose(prediction_error(mean, target, counted).explained, 0, atol=1e-6)
    nothing = prediction_error(jnp.asarray(guess), jnp.asarray(target), jnp.zeros_like(counted))
    assert (float(nothing.loss), float(nothing.explained), float(nothing.frames)) == (0, 0, 0)


def test_the_teacher_is_its_tower_at_unit_variance_and_frozen():
    teacher = Teacher(config(target="teacher", teacher=TOWER, frame_px=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    params = tiny.random_params(lambda key: teacher.init(key, frames)["params"])
    out = teacher.apply({"params": params}, frames)
    pictures = (frames / 255 - np.array((0.4, 0.5, 0.6))) / np.array((0.2, 0.3, 0.4))
    seen = VisionTower(TOWER).apply({"params": params["tower"]}, jnp.asarray(pictures, jnp.float32)).embedding
    np.testing.assert_allclose(out, seen / jnp.linalg.norm(seen, axis=1, keepdims=True) * 6**0.5, atol=1e-5)
    grads = jax.jit(jax.grad(lambda p: teacher.apply({"params": p}, frames).sum()))(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "depth"}, "config.loss.predict is one of teacher, pixels, none, not 'depth'"),
        ({"horizon_ticks": ()}, "at least one place and horizon_s from 0 on"),
        ({"picture_px": 3}, r"picture_px \(3, 3\) must divide config.frame_px \(8, 8\)"),
        ({"target": "teacher"}, "needs a config.teacher with a pool"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        config(**changes)
