"""The stage `vlm`: a language model with a prefix that was seen, whole and token by token."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip_quickstart, vlm_quickstart, vlm_single_token
from mmduplex_jax.models.language import LanguageModel, LanguageState
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.stages.vlm.captioner import Decoding, decode
from mmduplex_jax.stages.vlm.task import VlmTask
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.huggingface import clip_family
from mmduplex_jax.weights.trained import load_tokenizer
from tests.tiny import random_params

RNG = jax.random.key(0)
ROWS = 3


def small_config(frames=2, tokens=3, **text):
    config = vlm_quickstart.get_config()
    config.frame_px = (32, 32)
    config.vision.update(patch_px=16, width=32, layers=1, heads=2, hidden=32, projection=16)
    config.projector.update(tokens=tokens, hidden=24)
    config.text.update(width=32, layers=2, heads=2, kv_heads=1, head_width=8, hidden=32, **text)
    config.time.frames = frames
    config.caption.length = 6
    return config


def small_task(**changes) -> VlmTask:
    config = small_config(**changes)
    return build_task(config, load_tokenizer(config))


def batch_of(task, rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    shapes = task.example_batch(rows)
    return {
        "frames": rng.integers(0, 255, shapes["frames"].shape, np.uint8),
        "ids": rng.integers(0, 60, shapes["ids"].shape, np.int32),
        "id_valid": np.arange(6)[None] < np.array([6, 4, 2])[:rows, None],
    }


@functools.cache
def gradient_of(task):
    """The compiled loss and gradient: `(params, batch) -> ((loss, metrics), gradient)`."""
    return jax.jit(jax.value_and_grad(lambda params, batch: task.loss(params, batch, RNG), has_aux=True))


@pytest.fixture(scope="module", params=[False, True], ids=["unrolled", "scanned"])
def small(request):
    """`(task, params, batch, method)`; `method(name)` is a compiled method of the model."""
    task = small_task(scan=request.param)
    params = jax.tree.map(jnp.asarray, random_params(task.init))

    @functools.cache
    def method(name, **fixed):
        return jax.jit(lambda *inputs: task.model.apply({"params": params}, *inputs, **fixed, method=name))

    return task, params, batch_of(task), method


def test_its_text_is_that_of_a_language_model(small):
    task, params, batch, method = small
    language = LanguageModel(task.config.language)
    own = {name: params[name] for name in ("embedding", "text")}
    wanted = jax.jit(lambda ids: language.apply({"params": own}, ids))(batch["ids"])
    np.testing.assert_array_equal(method("__call__")(batch["ids"]), wanted)
    shapes = jax.eval_shape(language.init, RNG, batch["ids"])["params"]
    assert jax.tree.structure(nn.unbox(shapes)) == jax.tree.structure(own)
    assert set(params) == {"vision", "projector", "embedding", "text"}


def test_the_loss_in_chunks_is_the_loss(small):
    task, params, batch, _ = small
    (whole, metrics), gradient = gradient_of(task)(params, batch)
    cut_up = dataclasses.replace(task, loss_chunk=4)  # of 6: the last is filled up
    (cut, others), cut_gradient = gradient_of(cut_up)(params, batch)
    # Sums in another order, in float32.
    np.testing.assert_allclose(cut, whole, rtol=1e-6)
    assert others["accuracy"] == metrics["accuracy"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-6), cut_gradient, gradient)


def test_its_tower_is_that_of_the_stage_clip():
    config = clip_quickstart.get_config()
    clip = abstract_params(build_task(config, load_tokenizer(config)))["vision"]
    config = vlm_quickstart.get_config()
    ours = abstract_params(build_task(config, load_tokenizer(config)))["vision"]
    assert jax.tree.structure(ours) == jax.tree.structure(clip)
    assert [leaf.shape for leaf in jax.tree.leaves(ours)] == [leaf.shape for leaf in jax.tree.leaves(clip)]


def test_a_token_at_a_time_equals_the_whole(small):
    task, _, batch, method = small
    clips = task.normalised(batch["frames"])
    whole = method("caption_logits")(clips, batch["ids"])
    memory, logits = method("begin", length=6)(clips)
    assert memory.cache.step.shape == (ROWS, 2 * 3 + 5)
    write = method("write")
    for place in range(6):
        np.testing.assert_allclose(logits, whole[:, place], atol=1e-5)  # sums in another order
        if place < 5:
            memory, logits = write(memory, batch["ids"][:, place])


def test_the_first_token_depends_on_the_frames_alone(small):
    task, _, batch, method = small
    clips = task.normalised(batch["frames"])
    logits_of = method("caption_logits")
    whole = np.asarray(logits_of(clips, batch["ids"]))
    other = batch["ids"].copy()
    other[:, 2:] = (other[:, 2:] + 7) % 60
    changed = np.abs(np.asarray(logits_of(clips, other)) - whole).max(axis=(0, 2))
    assert (changed[:3] == 0).all()
    assert (changed[3:] > 1e-4).all()
    turned = np.abs(np.asarray(logits_of(clips[:, ::-1], batch["ids"])) - whole).max(axis=(1, 2))
    assert (turned > 1e-4).all()  # the order of frames counts
    tokens = method("embed_frames")(clips)
    assert tokens.shape == (ROWS, 6, 32)
    np.testing.assert_allclose(
        method("embed_frames")(clips[:, 1:])[:, :3], tokens[:, 3:], atol=1e-6
    )  # each frame by itself


def test_loss_and_metrics_by_value(small):
    task, params, batch, method = small
    logits = np.asarray(method("caption_logits")(task.normalised(batch["frames"]), batch["ids"]), np.float64)
    log_prob = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nll = -np.take_along_axis(log_prob, batch["ids"][..., None], axis=-1)[..., 0]
    (loss, metrics), _ = gradient_of(task)(params, batch)
    assert float(loss) == pytest.approx(nll[batch["id_valid"]].mean(), rel=1e-5)
    right = logits.argmax(axis=-1) == batch["ids"]
    assert float(metrics["accuracy"]) == pytest.approx(right[batch["id_valid"]].mean())
    assert (float(metrics["loss_weight"]), float(metrics["captions"])) == (12, 3)
    assert float(metrics["tokens"]) == ROWS * 6 + 12


def test_a_row_without_a_text_weighs_nothing():
    task = small_task(scan=False)
    params, batch, loss = random_params(task.init), batch_of(task), gradient_of(task)
    batch["id_valid"][1] = False
    (value, metrics), grads = loss(params, batch)
    other = batch | {name: batch[name].copy() for name in ("frames", "ids")}
    other["frames"][1], other["ids"][1] = 0, 5
    (same, _), same_grads = loss(params, other)
    assert float(value) == float(same) > 0
    assert float(metrics["captions"]) == 2
    jax.tree.map(np.testing.assert_array_equal, grads, same_grads)
    (nothing, _), no_grads = loss(params, batch | {"id_valid": np.zeros_like(batch["id_valid"])})
    assert float(nothing) == 0
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(no_grads))


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("beam", width=3)])
def test_captions_are_as_likely_as_the_whole_says(small, decoding):
    task, _, batch, method = small
    clips = task.normalised(batch["frames"])
    vocab = task.config.language.vocab_size
    end, begin, write = 60, method("begin", length=6), method("write")
    memory, logits = begin(clips)
    written = jax.jit(
        lambda memory, logits, keys: decode(
            decoding, write, LanguageState.gather, memory, logits,
            allowed=jnp.ones(vocab, bool), end_id=end, length=6, keys=keys,
        )
    )(memory, logits, jax.random.split(RNG, ROWS))  # fmt: skip
    ids = np.asarray(written.ids)
    log_prob = jax.nn.log_softmax(method("caption_logits")(clips, ids))
    each = np.take_along_axis(np.asarray(log_prob), ids[..., None], axis=-1)[..., 0]
    counted = np.arange(6) < np.asarray(written.length)[:, None]
    np.testing.assert_allclose(written.log_prob, (each * counted).sum(axis=1), atol=1e-4)  # of sums of 6
    if decoding.how == "greedy":
        likeliest = np.asarray(log_prob).argmax(axis=-1)
        np.testing.assert_array_equal(ids[:, :5], np.where(counted[:, :5], likeliest[:, :5], end))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("vision.pool", "none", "vision.pool is 'none'"),
        ("projector.tokens", 0, "projector.tokens and hidden must be at least 1, got 0"),
        ("projector.activation", "sine", "projector.activation is one of gelu"),
        ("time.frames", 0, "time.frames must be at least 1"),
        ("caption.length", 1, "caption.length 2"),
        ("text.window_steps", 10, "6 tokens of frames and 6 of text do not fit a window of 10"),
    ],
)
def test_what_cannot_be_is_refused(path, value, said):
    config = small_config()
    part, name = path.split(".")
    config[part].update({name: value} if path != "vision.pool" else {name: value, "projection": 0})
    with pytest.raises(ValueError, match=said):
        build_task(config, load_tokenizer(config))


@pytest.mark.parametrize(
    ("tower", "given", "projection"), [("siglip", {"patch_size": 16}, 0), ("clip", {"patch_size": 16}, 512)]
)
def test_towers_of_the_single_token_are_the_published_ones(tower, given, projection):
    config = vlm_single_token.get_config(tower)
    ours = build_task(config, load_tokenizer(config)).config
    theirs = clip_family.vision_config(tower, given, projection)
    assert dataclasses.replace(ours.vision, dtype="float32") == theirs
    assert (ours.prefix, ours.language.rows) == (1, 49280)
    config.projector.tokens, config.time.frames = 4, 2
    assert build_task(config, load_tokenizer(config)).config.prefix == 8
