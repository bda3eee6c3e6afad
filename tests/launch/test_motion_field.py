"""Stored motion is the tokenizer's own motion, scaled to int8."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from mmduplex_jax.tokenizer import motion
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.tokenizer.motion_field import MotionField, shrink
from tests import tiny


def world_frames(seed: int) -> np.ndarray:
    """uint8 [75, 64, 64, 3]."""
    (item,) = WorldSource(WorldConfig(look="rich"), seed, 1).items(0, 1)
    return item.content.frames


def tokenizer_motion(frames: np.ndarray, config: MotionConfig) -> motion.Motion:
    """What the tokenizer finds between each tick and the next, in NumPy."""
    planes = jax.vmap(lambda frame: motion.plane(frame, config))(jnp.asarray(frames))
    found = jax.vmap(lambda before, now: motion.match(before, now, config))(planes[:-1], planes[1:])
    return jax.tree.map(np.asarray, found)


# A clip of a simulator, and noise with cuts, where nothing matches and int8 is full; wide, with bars and without.
@pytest.mark.parametrize(
    ("frames", "config"),
    [
        (world_frames(3), MotionConfig()),
        (world_frames(3), MotionConfig(plane_px=16, search_radius=2)),
        (tiny.clips(1, 40, side=64)[0], MotionConfig()),
        (np.pad(tiny.clips(1, 40, (32, 48))[0], [(0, 0), (0, 0), (8, 8), (0, 0)]), MotionConfig((16, 32), bars=True)),
        (tiny.clips(1, 40, (32, 48))[0], MotionConfig((16, 24), search_radius=2)),
    ],
    ids=["world-32", "world-16", "cuts-32", "bars-16x32", "cuts-16x24"],
)
def test_it_is_the_tokenizers_own(frames, config):
    field = MotionField(config.plane_px, config.search_radius, bars=config.bars)(frames)
    found = tokenizer_motion(frames, config)
    assert field.dtype == np.int8
    assert field.shape == (len(frames), *config.grid, 4)
    assert not field[0].any()
    np.testing.assert_array_equal(field[1:, ..., :2], found.vector + found.camera[:, None, None])
    np.testing.assert_array_equal(field[1:, ..., 2], np.minimum(found.residual // 36, 127))
    np.testing.assert_array_equal(field[1:, ..., 3], np.minimum(found.saliency // 36, 127))
    if config.bars:
        assert not field[:, :, [0, 1, -2, -1], 2:].any()
        return
    # As the field's description says: the camera's shift can be had from it, hence the tokenizer's vector too.
    shifts = np.sort(field[1:, ..., :2].reshape(len(frames) - 1, -1, 2), axis=1)
    np.testing.assert_array_equal(shifts[:, shifts.shape[1] // 2], found.camera)


def test_a_shift_by_value():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    frames = np.stack([np.roll(picture, (2 * tick, -4 * tick), axis=(0, 1)) for tick in range(3)])
    field = MotionField(32, 3)(frames)
    # Two frame pixels are one of the plane. The rim sees what rolls in and is left out.
    assert (field[1:, 3:-3, 3:-3, :2] == [1, -2]).all()
    assert not field[1:, 3:-3, 3:-3, 2:].any()


def test_clips_of_any_length_are_the_same_clip():
    frames = tiny.clips(1, 70, side=32)[0]
    of = MotionField(16, 2)
    whole = of(frames)
    for ticks in (1, 2, 32, 33, 34, 65):
        np.testing.assert_array_equal(of(frames[:ticks]), whole[:ticks])


@pytest.mark.parametrize(
    ("frame_px", "plane_px"),
    [((64, 64), (64, 64)), ((48, 48), (16, 16)), ((256, 256), (4, 4)), ((96, 96), (32, 32)), ((48, 80), (12, 20))],
)
def test_shrinking_is_exact(frame_px, plane_px):
    rng = np.random.default_rng(0)
    noise, white = rng.integers(0, 256, (2, *frame_px, 3), np.uint8), np.full((1, *frame_px, 3), 255, np.uint8)
    frames = np.concatenate([noise, white])
    wanted = [motion.plane(frame, MotionConfig(plane_px=plane_px)) for frame in jnp.asarray(frames)]
    np.testing.assert_array_equal(shrink(frames, plane_px), np.stack(wanted))


def test_what_does_not_divide_is_said():
    with pytest.raises(ValueError, match=r"one integer in both directions, got \(64, 64\) / \(48, 48\)"):
        MotionField(48)(np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="even plane_px"):
        MotionField(33)
    with pytest.raises(ValueError, match=r"search_radius of 1 to 63, got \(32, 32\) and 64"):
        MotionField(32, 64)


def test_a_worker_gets_it_by_pickle_and_needs_no_accelerator(repository, tmp_path):
    """As a process that writes shards would call it: JAX comes only with the first clip, and on the CPU."""
    frames = tiny.clips(1, 5, side=32)[0]
    np.save(tmp_path / "frames.npy", frames)
    (tmp_path / "field.pickle").write_bytes(pickle.dumps(MotionField(16, 2)))
    program = (
        "import os, pickle, sys, numpy as np\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "field = pickle.load(open('field.pickle', 'rb'))\n"
        "assert 'jax' not in sys.modules\n"
        "np.save('motion.npy', field(np.load('frames.npy')))\n"
        "import jax\n"
        "assert jax.default_backend() == 'cpu'\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=repository, check=True, timeout=300,
                   env={"PYTHONPATH": str(repository), "PATH": ""})  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "motion.npy"), MotionField(16, 2)(frames))
