"""The stage `clip`: what the model computes, and what its task promises the trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip_quickstart
from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.stages.clip.task import text_labels
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.towers.contrastive import Contrastive
from mmduplex_jax.train.task import MeshTask
from mmduplex_jax.weights.trained import load_tokenizer
from tests.tiny import jit, random_params

RNG = jax.random.key(0)


def small_task(frames=3, pool="attention", **loss):
    config = clip_quickstart.get_config()
    config.frame_px = (32, 32)
    config.vision.update(patch_px=16, width=32, layers=1, heads=2, hidden=32, projection=16)
    config.text.update(length=6, width=32, layers=1, heads=2, hidden=32, projection=16)
    config.time.update(frames=frames, pool=pool, layers=1, heads=2, hidden=32)
    config.loss.update(**loss)
    return build_task(config, load_tokenizer(config))


def batch_of(task, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = task.example_batch(rows)
    return {
        "frames": rng.integers(0, 255, shapes["frames"].shape, np.uint8),
        "ids": rng.integers(0, 60, shapes["ids"].shape, np.int32),
        "id_valid": np.ones(shapes["id_valid"].shape, bool),
    }


def test_a_picture_is_seen_as_the_tower_sees_it():
    task = small_task(frames=1, pool="mean")
    params = random_params(task.init)
    batch = batch_of(task)
    clips = task.normalised(batch["frames"])
    assert float(clips.min()) >= -1
    assert float(clips.max()) <= 1
    got = jit(lambda p, *x: task.model.apply({"params": p}, *x))(params, clips, batch["ids"])
    wanted = jit(lambda p, *x: Contrastive(task.config).apply({"params": p}, *x))(params, clips[:, 0], batch["ids"])
    for one, other in zip(got, wanted):
        np.testing.assert_allclose(one, other, atol=1e-6)  # float32 rounding at length 1


def test_the_towers_keep_the_names_of_imported_ones():
    task = small_task()
    pair = jax.eval_shape(Contrastive(task.config).init, RNG, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 6), jnp.int32))
    ours = dict(jax.eval_shape(task.init, RNG))
    assert ours.pop("time_pool")
    assert jax.tree.structure(ours) == jax.tree.structure(dict(pair["params"]))


@pytest.mark.parametrize(("pool", "blind"), [("mean", True), ("attention", False)])
def test_only_the_mean_is_blind_to_the_order_of_frames(pool, blind):
    task = small_task(pool=pool)
    params = random_params(task.init)
    clips = task.normalised(batch_of(task)["frames"])
    see = jax.jit(lambda x: task.model.apply({"params": params}, x, method="encode_clip"))
    difference = float(jnp.abs(see(clips) - see(clips[:, ::-1])).max())
    assert (difference < 1e-6) == blind
    assert difference > 1e-3 or blind
    np.testing.assert_allclose(jnp.linalg.norm(see(clips), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_rows_without_a_text_take_no_part(kind):
    task = small_task(kind=kind)
    params = random_params(task.init)
    batch = batch_of(task)
    batch["id_valid"][2] = False
    loss = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, RNG), has_aux=True))
    (value, metrics), grads = loss(params, batch)
    assert (float(metrics["pairs"]), float(metrics["loss_weight"])) == (3, 3)
    assert float(metrics["tokens"]) == 4 * 3 * 4 + 18
    other = {name: array.copy() for name, array in batch.items()}
    other["frames"][2], other["ids"][2] = 0, 5
    (same, _), same_grads = loss(params, other)
    assert float(value) == float(same) > 0
    jax.tree.map(np.testing.assert_array_equal, grads, same_grads)
    (nothing, _), no_grads = loss(params, batch | {"id_valid": np.zeros_like(batch["id_valid"])})
    assert float(nothing) == 0
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(no_grads))


def test_labels_are_those_of_the_texts():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60, (500, 8)).astype(np.int32)
    ids[7], ids[9] = ids[3], ids[3][::-1]
    labels = np.asarray(text_labels(ids))
    assert labels[7] == labels[3]
    assert len(set(labels.tolist())) == 499


def test_it_learns_where_its_rows_lie():
    task = small_task()
    assert isinstance(task, MeshTask)
    assert task.on_mesh(make_mesh(devices=jax.devices()[:1])).mesh is None


def test_what_cannot_be_is_refused():
    config = clip_quickstart.get_config()
    tokenizer = load_tokenizer(config)
    with pytest.raises(ValueError, match="config.loss.kind is one of sigmoid, softmax, not 'hinge'"):
        small_task(kind="hinge")
    with pytest.raises(ValueError, match="time.pool is one of mean, attention, not 'last'"):
        small_task(pool="last")
    config.train.grad_accum = 2
    with pytest.raises(ValueError, match="grad_accum is 2: every pair is compared with the whole batch"):
        build_task(config, tokenizer)
