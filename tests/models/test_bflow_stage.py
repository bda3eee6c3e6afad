"""The stage `bflow`: what its task promises the trainer and the stage after it."""

import jax
import numpy as np
import pytest

from mmduplex_jax.models.dual_stream import TOKEN_CONTROLS
from mmduplex_jax.sharding import array_name
from mmduplex_jax.stages.bflow.event_model import Teacher, draw_moments
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.tokenizer.bflow import BFlow
from mmduplex_jax.tokenizer.encoders import draw_anchor_keep
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny, tiny_events

RNG = jax.random.key(0)


@pytest.fixture(scope="module")
def first():
    """Loss, metrics and gradients of a batch."""
    task, params = tiny_events.plain()
    (loss, metrics), grads = tiny_events.jitted_loss(task)(params, tiny_events.batch(task), RNG)
    return float(loss), {name: float(value) for name, value in metrics.items()}, grads


def test_its_tokenizer_is_that_of_the_dual_stream():
    task, _ = tiny_events.plain()
    ours = jax.eval_shape(task.init, RNG)["tokenizer"]
    frames = np.zeros((1, 4, 32, 32, 3), np.uint8)
    theirs = jax.eval_shape(BFlow(task.config.tokenizer).init, RNG, frames)["params"]
    assert jax.tree.map(lambda leaf: leaf.shape, ours) == jax.tree.map(lambda leaf: leaf.shape, theirs)


def test_it_reports_what_it_compares(first):
    loss, metrics, _ = first
    assert loss == pytest.approx(metrics["align"] + metrics["name_nll"] + metrics["predict"], rel=1e-6)
    # 5.12 s are 5 moments a clip, at each of which a word is said; only those of the outermost are apart enough.
    assert metrics["moments"] == metrics["loss_weight"] == 20
    assert metrics["in_video"] == pytest.approx(6 / 5)
    assert {"backward_refused", "swapped_refused", "explained", "scale", "video_tokens"} <= metrics.keys()


def test_every_part_learns(first):
    _, _, grads = first
    still = [
        array_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if not np.abs(leaf).max() > 0
    ]
    # Attention does not heed what is the same for all keys, and a clip's first slots are updated by every anchor.
    assert [name for name in still if not name.endswith("key/bias")] == []


def test_what_is_not_known_teaches_nothing_about_words():
    task, params = tiny_events.plain()
    loss = tiny_events.jitted_loss(task)
    batch = tiny_events.batch(task)
    batch["slot_valid"][3] = False
    (value, metrics), grads = loss(params, batch, RNG)
    assert float(metrics["moments"]) == 15
    # The third row is imitated by no hard negative; its frames and words can be anything.
    other = {name: array.copy() for name, array in batch.items()}
    other["frames"][3], other["slots"][3] = 0, task.config.marks.pad_id
    (same, _), same_grads = loss(params, other, RNG)
    assert float(value) == float(same)
    jax.tree.map(np.testing.assert_array_equal, grads, same_grads)
    nothing = batch | {"slot_valid": np.zeros_like(batch["slot_valid"])}
    (zero, _), no_grads = loss(params, nothing, RNG)
    assert float(zero) == 0
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(no_grads))


def test_another_clips_motion_changes_flow_tokens_only():
    task, params = tiny_events.plain()
    frames = tiny_events.batch(task, 3)["frames"]
    tokenizer, weights = BFlow(task.config.tokenizer), {"params": params["tokenizer"]}
    see = jax.jit(lambda f, order: tokenizer.apply(weights, f, None, order))
    own, swapped = see(frames, np.arange(3)), see(frames, np.array([0, 2, 2]))
    for name in ("valid", "step", "kind", "centre_px"):
        np.testing.assert_array_equal(getattr(own, name), getattr(swapped, name))
    changed = np.abs(own.values - swapped.values).max(axis=-1) > 1e-3
    assert not changed[[0, 2]].any()
    assert changed[1][(own.kind[1] == 0) & own.valid[1]].mean() > 0.9


def test_controls_ruin_what_tokens_hold():
    task, params = tiny_events.plain()
    frames = tiny_events.batch(task, 3)["frames"]
    frames[2] = frames[1]
    see = jax.jit(lambda f: task.model.apply({"params": params}, f, TOKEN_CONTROLS, method="embed_events"))
    real, shuffled, zeroed = see(frames)
    np.testing.assert_allclose(np.linalg.norm(real, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(real[2], shuffled[2], atol=1e-6)  # its neighbour says the same
    assert np.abs(real[0] - shuffled[0]).max() > 1e-2
    np.testing.assert_allclose(zeroed[1], zeroed[2], atol=1e-6)
    assert np.abs(real[1] - zeroed[1]).max() > 1e-2


def test_a_teacher_is_seen(tmp_path):
    config = tiny_events.config("from_clip")
    config.init_from.vision = str(tmp_path)
    task = build_task(config, load_tokenizer(config))
    params = tiny.random_params(task.init)
    assert set(params["teacher"]) == {"tower"}
    assert task.config.tokenizer.anchor.tower.width == task.config.prediction.teacher.width
    # What is to be predicted is its view of the frames that are asked for; that nothing flows back is tested there.
    frames = tiny_events.batch(task)["frames"]
    moments = draw_moments(RNG, task.config.prediction, 4, task.ticks, 2)
    target = jax.jit(lambda f: task.model.apply({"params": params}, f, moments, method="_target"))(frames)
    chosen = np.stack([frames[0, moments.tick[0, 0, 0]], frames[3, moments.tick[3, 1, 1]]])
    seen = jax.jit(lambda f: Teacher(task.config.prediction).apply({"params": params["teacher"]}, f))(chosen)
    np.testing.assert_allclose(np.stack([target[0, 0, 0], target[3, 1, 1]]), seen, atol=1e-5)


def test_a_teacher_that_knows_nothing_or_learns_is_refused():
    config = tiny_events.config("from_clip")
    with pytest.raises(ValueError, match="without config.init_from.vision: a teacher that knows nothing"):
        build_task(config, load_tokenizer(config))
    config.init_from.vision = "somewhere"
    config.train.groups.teacher.start_step = 100
    with pytest.raises(ValueError, match="needs a group of config.train.groups that never trains the teacher"):
        build_task(config, load_tokenizer(config))


def test_prediction_can_be_left_out():
    task = tiny_events.task(loss__predict="none")
    shapes = jax.eval_shape(task.init, RNG)
    assert "prediction" not in shapes


def test_some_anchors_lose_their_tail():
    tokenizer = tiny.tokenizer()
    keys = jax.random.split(RNG)
    kept = np.asarray(draw_anchor_keep(*keys, 4000, 0.5, tokenizer))
    assert set(kept.tolist()) == {1, 2}  # of 2; a tail that is drawn empty counts as dropped
    assert (kept == 1).mean() == pytest.approx(0.25, abs=0.03)
    assert draw_anchor_keep(*keys, 4, 0.0, tokenizer) is None
    assert draw_anchor_keep(*keys, 4, 0.5, tiny.tokenizer("dense")) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__grad_accum": 2}, "grad_accum is 2: every moment is compared with the whole batch"),
        ({"align__bag_s": 0.0}, "needs bag_s of a step at least"),
        ({"align__band_s": -0.5}, "band_s not negative"),
        ({"events__interval_s": 6.0}, r"interval_s \(6.0\) is longer than config.data.clip_s"),
        ({"hard_negatives__backward_every": -1}, "every n-th clip, n from 1 on, or 0 for none"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_events.task(**changes)


@pytest.mark.slow
def test_every_mesh_computes_the_same(eight_devices):
    found = eight_devices.run("tests.models.bflow_stage_on_eight")
    one = found.pop("one")
    assert one[0] != one[1]
    # Sums in another order: float32 rounding.
    assert found == {mesh: pytest.approx(one, rel=1e-5) for mesh in ("8x1x1", "2x2x2")}
