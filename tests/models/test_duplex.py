"""The duplex stage: its sizes, its loss by value, and that it learns."""

import dataclasses
import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from mmduplex_jax.models.dual_stream import delayed, shifted, thing_of_token
from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.stages.duplex import task as stage
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from tests import tiny

TICKS, BATCH = 8, 2


def task(fusion="cross", kind="per_frame", **changes):
    """With the tokenizer that compiles fastest, unless a test is about tokens."""
    values = {"ticks": TICKS, "delay_min": 2, "delay_max": 2, "pad_weight": 0.3, "nested_dropout": 0.0}
    return DuplexTask(config=tiny.dual_stream(fusion, kind), **(values | changes))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    slots = np.where(rng.random((BATCH, 2 * TICKS)) < 0.6, tiny.PAD, rng.integers(0, 20, (BATCH, 2 * TICKS)))
    slots[:, 3] = tiny.WORD
    valid = np.ones(slots.shape, bool)
    valid[1, 12:] = False
    return {"frames": tiny.clips(BATCH, TICKS), "slots": slots.astype(np.int32), "slot_valid": valid}


def parameters(name, vocab):
    config = importlib.import_module(f"configs.{name}").get_config()
    built = stage.build_task(config, tiny.ids(vocab, vocab - 3, vocab - 2, vocab - 1))
    shapes = nn.unbox(jax.eval_shape(built.init, jax.random.key(0)))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
    return built, shapes, count


@functools.cache
def gradient_of(stage):
    """The compiled loss and gradient: `(params, data, key) -> ((loss, metrics), gradient)`."""
    return tiny.jit(jax.value_and_grad(stage.loss, has_aux=True))


@functools.cache
def loss_of(stage):
    """The compiled loss: `(params, data, key) -> (loss, metrics)`."""
    if stage in (task(), task(kind="bflow")):  # their gradients are wanted too, and compiled once for both
        return lambda *given: gradient_of(stage)(*given)[0]
    return tiny.jit(stage.loss)


def test_what_nobody_knows_to_be_said_is_not_learned_however_late_it_is_due():
    learner = task()
    params = tiny.init(learner.config)
    given = batch()
    given["slot_valid"][:, :5] = False  # an earlier window's speech: at a delay of 2 it is due up to step 6
    loss = functools.partial(loss_of(learner), params)
    weight = lambda slots: float(loss(given | {"slots": slots}, jax.random.key(1))[1]["loss_weight"])
    unknown, known = given["slots"].copy(), given["slots"].copy()
    unknown[:, :5] = tiny.PAD
    known[:, 5] = tiny.WORD
    assert (given["slots"][:, 5] == tiny.PAD).any()
    assert weight(unknown) == weight(given["slots"]) != weight(known)


def test_the_quick_start_has_a_tokenizer_of_about_a_million():
    _, shapes, count = parameters("quickstart", 60)
    assert 0.8 < count(shapes["tokenizer"]) < 1.4


def test_bflow_75m_has_75_million_and_the_cost_it_was_designed_for():
    built, shapes, count = parameters("bflow_75m", 60)
    assert count(shapes["tokenizer"]) == pytest.approx(75, rel=0.05)
    # ViT-S/16 without its stem.
    assert count(shapes["tokenizer"]["anchors"]["tower"]["encoder"]) == pytest.approx(21.3, rel=0.05)
    clip_s = built.config.clock.tick_time_s(built.ticks)
    forward = count_flops(jax.make_jaxpr(built.loss)(shapes, built.example_batch(1), jax.random.key(0)))
    assert 20e9 < forward.by_module({"tokenizer"})["tokenizer"] / clip_s < 46e9


def test_duplex_300m_has_smollm2_360m_as_text_and_up_to_100_million_for_video():
    _, shapes, count = parameters("duplex_300m", 49155)
    cross = sum(
        count(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["text"]) if "cross" in str(path)
    )
    assert count(shapes["text"]) - cross == pytest.approx(314.6, abs=0.2)
    assert shapes["embedding"].shape[0] >= 49152 + 3
    assert shapes["embedding"].shape[1] == 960
    assert count([shapes[name] for name in ("video", "video_in", "projector", "projector_norm")]) < 100


def test_the_loss_is_the_weighted_cross_entropy_of_the_delayed_slots():
    stage, data = task(), batch()
    params = tiny.init(stage.config)
    loss, metrics = loss_of(stage)(params, data, jax.random.key(0))
    target = np.full(data["slots"].shape, tiny.PAD)
    target[:, 2:] = data["slots"][:, :-2]
    given = np.asarray(shifted(jnp.asarray(target, jnp.int32), tiny.START))
    logits = np.asarray(tiny.offline(stage.config)(params, data["frames"], given, np.full(BATCH, 2, np.int32)))
    logits = logits.astype(np.float64)
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, target[..., None], -1)[..., 0]
    weight = np.where(target == tiny.PAD, 0.3, 1.0) * data["slot_valid"]
    assert float(loss) == pytest.approx((nll * weight).sum() / weight.sum(), rel=1e-5)
    words = (target < 20) & data["slot_valid"]
    assert float(metrics["word_nll"]) == pytest.approx(nll[words].mean(), rel=1e-5)
    assert float(metrics["loss_weight"]) == pytest.approx(weight.sum(), rel=1e-6)


def test_sentence_ends_are_learned_as_words_are_and_counted_by_themselves():
    """(Of the tiny vocabulary the last word is taken for the mark.)"""
    without = task()
    ended = dataclasses.replace(without, config=dataclasses.replace(without.config, end_id=19))
    data = batch()
    data["slots"][:, 5:9] = [19, 3, 19, 4]
    params = tiny.init(without.config)
    (loss, metrics), (other, others) = (loss_of(stage)(params, data, jax.random.key(0)) for stage in (without, ended))
    assert float(loss) == float(other)
    assert metrics["loss_weight"] == others["loss_weight"]
    assert metrics["pad_nll"] == others["pad_nll"]
    target = np.asarray(delayed(jnp.asarray(data["slots"]), jnp.full(BATCH, 2), tiny.PAD))
    counted = data["slot_valid"] & (target < 20)
    ends = (counted & (target == 19)).sum()
    assert 0 < ends < counted.sum()
    parted = float(others["word_nll"]) * (counted.sum() - ends) + float(others["end_nll"]) * ends
    assert parted == pytest.approx(float(metrics["word_nll"]) * counted.sum(), rel=1e-5)
    assert "end_nll" not in metrics


# 5 does not divide the steps; the others take the same way, and tests/layers/test_vocabulary.py has them cheaply.
@pytest.mark.parametrize("chunk", [5, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_the_loss_in_chunks_is_the_loss(chunk):
    data, key = batch(), jax.random.key(0)
    stages = [task(), task(loss_chunk=chunk)]
    params = tiny.init(stages[0].config)
    (whole, metrics), gradient = gradient_of(stages[0])(params, data, key)
    (cut, others), cut_gradient = gradient_of(stages[1])(params, data, key)
    # Sums in another order, in float32.
    assert float(cut) == pytest.approx(float(whole), rel=1e-6)
    assert {name: float(value) for name, value in others.items()} == pytest.approx(
        {name: float(value) for name, value in metrics.items()}, rel=1e-6
    )
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-6), cut_gradient, gradient)


def test_slots_that_are_not_valid_do_not_count():
    stage, data = task(), batch()
    params, loss = tiny.init(stage.config), loss_of(stage)
    other = data | {"slots": np.where(data["slot_valid"], data["slots"], 7).astype(np.int32)}
    assert loss(params, data, jax.random.key(0))[0] == loss(params, other, jax.random.key(0))[0]


def test_nested_dropout_leaves_fewer_tokens():
    stage = task(kind="bflow", nested_dropout=1.0)
    params, data = tiny.init(stage.config), batch()
    # Compiled for what is counted alone: no layer behind the tokens is.
    count_of = lambda stage: tiny.jit(lambda *given: stage.loss(*given)[1]["video_tokens"])
    count = count_of(stage)
    tokens = [float(count(params, data, jax.random.key(k))) for k in range(4)]
    assert min(tokens) < float(count_of(task(kind="bflow"))(params, data, jax.random.key(0)))


# A fusion does not know which tokenizer there is, but all that is trained together is, once.
@pytest.mark.parametrize(("fusion", "kind"), [("cross", "bflow"), ("sum", "per_frame"), ("interleave", "per_frame")])
def test_every_fusion_learns_what_is_said_about_a_clip(fusion, kind):
    stage = task(fusion, kind)
    data, optimizer, losses = batch(), optax.adam(1e-2), []
    # One vector: a hundred arrays of their own take as long to compile as the model does.
    params, restored = ravel_pytree(tiny.init(stage.config))
    restored, joined = jax.jit(restored), jax.jit(lambda tree: ravel_pytree(tree)[0])
    update, moments = jax.jit(optimizer.update), optimizer.init(params)
    for _ in range(60):
        (loss, _), gradient = gradient_of(stage)(restored(params), data, jax.random.key(0))
        updates, moments = update(joined(gradient), moments)
        params += updates
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]


def test_tokens_look_at_the_smallest_thing_around_their_centre():
    at = [[10, 10], [10, 50], [30, 50], [30, 63]]
    zero = np.zeros((1, 4), np.int32)
    tokens = Tokens(None, None, zero + 2 * np.array([0, 0, 0, 1]), zero, np.array([at]), zero)
    boxes = np.zeros((1, 2, 3, 4), np.float32)
    boxes[0, 0, 0] = [0.0, 0.5, 1.0, 1.0]  # the right half
    boxes[0, 0, 1] = [0.6, 0.7, 1.0, 0.9]  # something before it
    ids = np.array([[7, 8, 9]])
    named = thing_of_token(tokens, boxes, ids, (32, 64), 2, tiny.PAD)
    assert named.tolist() == [[tiny.PAD, 7, 8, tiny.PAD]]  # the last one is of the next tick


def test_naming_crops_adds_their_surprise_and_asks_only_clips_that_know():
    plain = task(kind="bflow")
    named = dataclasses.replace(plain.config, crop_name_head=True)
    stage = dataclasses.replace(plain, config=named, crop_name_weight=0.5)
    params, data = tiny.init(named), batch()
    boxes = np.broadcast_to(np.array([0, 0, 1, 1], np.float32), (BATCH, TICKS, 16, 4))
    known = data | {"thing_boxes": boxes, "thing_ids": np.full((BATCH, 16), 5, np.int32)}
    knows = lambda *rows: loss_of(stage)(params, known | {"things_known": np.array(rows)}, jax.random.key(0))
    nobody, none = knows(False, False)
    without = {name: value for name, value in params.items() if name != "crop_name_head"}
    assert float(nobody) == pytest.approx(float(loss_of(plain)(without, data, jax.random.key(0))[0]), rel=1e-6)
    assert float(none["crop_name_nll"]) == 0
    loss, metrics = knows(True, False)
    assert float(metrics["crop_name_nll"]) > 0
    assert float(loss) == pytest.approx(float(nobody) + 0.5 * float(metrics["crop_name_nll"]), rel=1e-5)
    assert 0 <= float(metrics["crop_name_accuracy"]) <= 1


def test_a_training_drops_what_its_config_says_and_by_its_key():
    config = task(kind="bflow").config
    text, flow = (dataclasses.replace(part, dropout=0.5) for part in (config.text, config.tokenizer.flow))
    tower = EfficientNetLiteConfig(stages=((1, 3, 2, 1, 8),), stem=8, head=8)
    flow = dataclasses.replace(flow, tower=tower)
    tokenizer = dataclasses.replace(config.tokenizer, flow=flow)
    plain = task().with_encoded(())
    dropping = [
        dataclasses.replace(plain, config=dataclasses.replace(plain.config, text=text)),
        dataclasses.replace(plain, config=dataclasses.replace(config, tokenizer=tokenizer)),
    ]
    for one in dropping:
        params = tiny.random_params(one.init)
        loss = lambda seed, params=params, one=one: float(loss_of(one)(params, batch(), jax.random.key(seed))[0])
        assert loss(0) == loss(0)
        assert abs(loss(0) - loss(1)) > 1e-4


def test_delays_that_contradict_are_named():
    config = importlib.import_module("configs.quickstart").get_config()
    config.delay.min = 5
    with pytest.raises(ValueError, match=r"config\.delay\.min \(5\)"):
        stage.build_task(config, tiny.ids(60, 57, 58, 59))


def test_looking_ahead_adds_the_mean_surprise_at_the_words_to_come():
    plain = task()
    config = dataclasses.replace(plain.config, future_word_head=True)
    stage = dataclasses.replace(plain, config=config, future_word_weight=0.5, future_word_horizon_steps=6)
    params, data = tiny.init(config), batch()
    loss, metrics = loss_of(stage)(params, data, jax.random.key(0))
    without = {name: value for name, value in params.items() if name != "future_word_head"}
    alone, _ = loss_of(plain)(without, data, jax.random.key(0))
    asked = (np.asarray(delayed(data["slots"], np.full(BATCH, 2), tiny.PAD)) != tiny.PAD) & data["slot_valid"]
    most = 0.5 * float(metrics["future_word_nll"]) * asked.sum() / float(metrics["loss_weight"])
    assert float(alone) < float(loss) <= float(alone) + most + 1e-5
