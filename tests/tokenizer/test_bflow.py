"""The tokenizer: a stream and a clip give the same tokens; every kind obeys its budget."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.tokenizer import bflow
from mmduplex_jax.tokenizer.bflow import ANCHOR, FLOW, BFlow
from mmduplex_jax.tokenizer.config import FlowConfig, StateConfig
from tests import tiny

TICKS, BATCH = 60, 3
KINDS = ("bflow", "uniform", "per_frame", "dense")


SCALED = "bflow, crops in three sizes"


@functools.cache
def make(kind):
    """A tokenizer of a kind: its config, module, parameters, clips, and `(params, frames) -> tokens` compiled."""
    config = tiny.tokenizer(kind) if kind != SCALED else tiny.tokenizer(flow=tiny.SCALED_FLOW)
    module = BFlow(config)
    frames = tiny.clips(BATCH, TICKS)
    params = tiny.random_params(lambda key: module.init(key, frames[:1, :2])["params"])
    return config, module, params, frames, tiny.jit(lambda p, *a: module.apply({"params": p}, *a))


@functools.cache
def compiled_step(module):
    return tiny.jit(lambda p, s, f, n, a: module.apply({"params": p}, s, f, n, a, method="step"))


@functools.cache
def initial_state(module):
    return tiny.jit(lambda p, batch: module.apply({"params": p}, batch, method="initial_state"), static_argnums=1)


def stream(module, params, frames, step=None):
    """All ticks through `step`: tokens as lists a row."""
    step = step or compiled_step(module)
    state = initial_state(module)(params, len(frames))
    rows = [[] for _ in frames]
    stride = module.config.clock.video_stride
    for t in range(frames.shape[1]):
        now = np.full(len(frames), t * stride, np.int32)
        state, tokens = step(params, state, frames[:, t], now, np.ones(len(frames), bool))
        tokens = jax.tree.map(np.asarray, tokens)
        for b, row in enumerate(rows):
            for m in np.flatnonzero(tokens.valid[b]):
                row.append(
                    (
                        int(tokens.step[b, m]),
                        int(tokens.kind[b, m]),
                        tuple(tokens.centre_px[b, m].tolist()),
                        tokens.values[b, m],
                        int(tokens.scale[b, m]),
                    )
                )
    return rows


@pytest.mark.parametrize("kind", [*KINDS, SCALED])
def test_streaming_equals_offline(kind):
    _, module, params, frames, clip = make(kind)
    tokens = clip(params, frames)
    for b, row in enumerate(stream(module, params, frames)):
        valid = np.asarray(tokens.valid[b])
        assert valid.sum() == len(row)
        assert np.asarray(tokens.step[b])[valid].tolist() == [r[0] for r in row]
        assert np.asarray(tokens.kind[b])[valid].tolist() == [r[1] for r in row]
        assert [tuple(c) for c in np.asarray(tokens.centre_px[b])[valid].tolist()] == [r[2] for r in row]
        np.testing.assert_allclose(np.asarray(tokens.values[b])[valid], [r[3] for r in row], atol=1e-5)
        assert np.asarray(tokens.scale[b])[valid].tolist() == [r[4] for r in row]
    if kind == SCALED:
        assert set(np.asarray(tokens.scale)[np.asarray(tokens.valid)].tolist()) == {1, 2, 3}


LESS = {
    "no anchors": {"anchor": dataclasses.replace(tiny.tokenizer("bflow").anchor, tokens=0)},
    "no scene": {"state": StateConfig(slots=0)},
    "no pixels": {"flow": dataclasses.replace(tiny.tokenizer("bflow").flow, pixels=False)},
}


TRUNK = FlowConfig(crop_px=8, patch_px=4, width=16, layers=1, heads=2)


def test_with_a_trunk_over_crops_streaming_equals_offline(monkeypatch):
    """All, some and none of a tick's four crops are spent; a trunk looks at two of two streams' eight at a time."""
    monkeypatch.setattr(bflow, "CROPS_AT_ONCE", 2)
    budget = dataclasses.replace(tiny.tokenizer().budget, flow_token_levels=(0, 1, 2, 4))
    module = BFlow(tiny.tokenizer(flow=TRUNK, budget=budget))
    frames = tiny.clips(2, 24, seed=3, busy=True)
    params = tiny.random_params(lambda key: module.init(key, frames)["params"])
    tokens = tiny.jit(lambda p, f: module.apply({"params": p}, f))(params, frames)
    spent = []
    for b, row in enumerate(stream(module, params, frames)):
        valid = np.asarray(tokens.valid[b])
        assert np.asarray(tokens.step[b])[valid].tolist() == [r[0] for r in row]
        np.testing.assert_allclose(np.asarray(tokens.values[b])[valid], [r[3] for r in row], atol=1e-5)
        flow = np.array([r[0] for r in row if r[1] == FLOW])
        spent += [int((flow == tick * module.config.clock.video_stride).sum()) for tick in range(frames.shape[1])]
    assert {0, 4} < set(spent)


def test_a_tick_pays_for_the_crops_that_it_spends():
    """A trunk looks at some crops at a time, as often as it takes, and not at all of a tick's slots at once."""

    def made(slots):
        budget = dataclasses.replace(tiny.tokenizer().budget, flow_token_levels=(0, slots), tokens_per_s_max=64)
        module = BFlow(tiny.tokenizer(flow=TRUNK, budget=budget))
        frame = np.zeros((1, 32, 32, 3), np.uint8)
        params = jax.eval_shape(lambda key: nn.unbox(module.init(key, frame[:, None]))["params"], jax.random.key(0))
        state = jax.eval_shape(lambda p: module.apply({"params": p}, 1, method="initial_state"), params)
        step = lambda p, s: module.apply(
            {"params": p}, s, frame, np.zeros(1, np.int32), np.ones(1, bool), method="step"
        )
        by_scope = count_flops(jax.make_jaxpr(step)(params, state)).by_scope
        return module.config, sum(flops for scope, flops in by_scope.items() if "trunk" in scope.split("/"))

    (few, of_few), (many, of_many) = made(bflow.CROPS_AT_ONCE), made(2 * bflow.CROPS_AT_ONCE)
    assert of_many == of_few > 0
    assert (bflow.crop_trips(few), bflow.crop_trips(many)) == (1, 2)


def test_of_one_stream_nothing_is_looked_at_that_is_not_wanted():
    """The compiler leaves the towers' products in their loops, where nothing is computed if nothing is wanted."""
    module = BFlow(tiny.tokenizer(flow=TRUNK))
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    params = tiny.random_params(lambda key: module.init(key, frame[:, None])["params"])
    read = lambda p, f, due: module.apply({"params": p}, f, due, method="_read_anchors")
    program = jax.jit(read).lower(params, frame, np.ones(1, bool)).compile().as_text()
    loops, always = (
        [line for line in part.splitlines() if "dot_general" in line] for part in program.split("\nENTRY ")
    )
    assert any("tower" in line for line in loops)
    # (What learned queries are made into depends on no picture.)
    assert not any("tower" in line for line in always)


@pytest.mark.parametrize("part", LESS)
def test_without_a_part_streaming_equals_offline(part):
    module = BFlow(tiny.tokenizer("bflow", **LESS[part]))
    frames = tiny.clips(2, 24, seed=3, busy=True)
    params = tiny.random_params(lambda key: module.init(key, frames)["params"])
    tokens = tiny.jit(lambda p, f: module.apply({"params": p}, f))(params, frames)
    for b, row in enumerate(stream(module, params, frames)):
        valid = np.asarray(tokens.valid[b])
        assert np.asarray(tokens.kind[b])[valid].tolist() == [r[1] for r in row]
        np.testing.assert_allclose(np.asarray(tokens.values[b])[valid], [r[3] for r in row], atol=1e-5)
        assert (ANCHOR in [r[1] for r in row]) == (part != "no anchors")
    assert ("scene" in params) == (part == "no pixels")
    assert ("anchors" in params) == (part != "no anchors")
    assert ("patches" in params["flows"]) == (part != "no pixels")


def same_streams(some, others, bound):
    """Decisions are integers and must be the same in every form; values differ by rounding."""
    for row, same in zip(some, others, strict=True):
        assert [r[:3] for r in row] == [r[:3] for r in same]
        np.testing.assert_allclose([r[3] for r in row], [r[3] for r in same], atol=bound)


def test_streaming_is_the_same_under_vmap():
    _, module, params, frames, _ = make("bflow")

    def mapped(p, s, f, n, a):
        inside = lambda x: jax.tree.map(lambda leaf: leaf[None], x)
        one = jax.vmap(lambda *x: module.apply({"params": p}, *map(inside, x), method="step"))
        return jax.tree.map(lambda x: x[:, 0], one(s, f, n, a))

    frames = frames[:, :12]
    same_streams(stream(module, params, frames), stream(module, params, frames, tiny.jit(mapped)), 1e-5)


@pytest.mark.slow
def test_streaming_is_the_same_without_jit():
    _, module, params, frames, _ = make("bflow")
    plain = lambda p, s, f, n, a: module.apply({"params": p}, s, f, n, a, method="step")
    frames = frames[:, :12]
    same_streams(stream(module, params, frames), stream(module, params, frames, plain), 1e-5)


def test_of_many_streams_any_number_may_spend_an_anchor_at_once():
    """19 rows are looked at two at a time: all of them, none, an even and an odd number."""
    _, module, params, frames, _ = make("bflow")
    clip = frames[0, :1].repeat(11, axis=0)
    many = np.stack([clip] * 19)
    for rows, tick in (((3,), 10), ((0, 7, 8, 18), 8)):  # after the gap between anchors their scene is another one
        for row in rows:
            many[row, tick:] = frames[1 + row % 2, 5 * tick]
    together = stream(module, params, many)
    anchors = [[r[0] // 2 for r in row if r[1] == ANCHOR][::2] for row in together]
    assert [i for i, at in enumerate(anchors) if at == [0, 10]] == [3]
    assert [i for i, at in enumerate(anchors) if at == [0, 8]] == [0, 7, 8, 18]
    assert sum(at == [0] for at in anchors) == 14
    for row, alone in zip((3, 8, 5), stream(module, params, many[[3, 8, 5]])):
        assert [r[:3] for r in together[row]] == [r[:3] for r in alone]
        np.testing.assert_allclose([r[3] for r in together[row]], [r[3] for r in alone], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_obeys_its_budget(kind):
    config, _, params, frames, clip = make(kind)
    tokens = clip(params, frames)
    for b in range(BATCH):
        ticks = np.asarray(tokens.step[b])[np.asarray(tokens.valid[b])] // config.clock.video_stride
        counts = np.bincount(ticks, minlength=TICKS)
        assert 0 < np.convolve(counts, np.ones(config.window_ticks, int)).max() <= config.cap


def test_a_later_frame_changes_no_earlier_token():
    _, _, params, frames, clip = make("bflow")
    other = frames.copy()
    other[:, 30:] = tiny.clips(BATCH, 30, seed=9)
    one, two = clip(params, frames), clip(params, other)
    for b in range(BATCH):
        early = np.asarray(one.valid[b]) & (np.asarray(one.step[b]) < 60)
        np.testing.assert_array_equal(early, np.asarray(two.valid[b]) & (np.asarray(two.step[b]) < 60))
        np.testing.assert_allclose(one.values[b][early], two.values[b][early], atol=1e-6)


def test_crops_sit_on_the_thing_that_moves():
    _, _, params, like, clip = make("bflow")
    frames = np.full((1, 12, 32, 32, 3), 100, np.uint8)
    for t in range(12):
        frames[0, t, 12:20, 2 * t : 2 * t + 8] = (230, 40, 40)
    rest = np.repeat(frames[:, -1:], TICKS - 12, axis=1)
    tokens = clip(params, np.repeat(np.concatenate([frames, rest], axis=1), len(like), axis=0))
    flow = np.asarray(tokens.valid[0]) & (np.asarray(tokens.kind[0]) == FLOW) & (np.asarray(tokens.step[0]) > 2)
    flow &= np.asarray(tokens.step[0]) < 24
    centre, tick = np.asarray(tokens.centre_px[0])[flow], np.asarray(tokens.step[0])[flow] // 2
    first = np.unique(tick, return_index=True)[1]  # the best peak of each tick
    assert len(first) >= 9
    off = np.abs(centre[first] - np.stack([np.full(len(first), 16), 2 * tick[first] + 4], axis=1))
    assert off.max() <= 2


def test_dropping_the_tail_of_anchors_leaves_a_prefix():
    _, _, params, frames, clip = make("bflow")
    whole, cut = (clip(params, frames, jnp.full(BATCH, keep)) for keep in (2, 1))
    anchors = np.asarray(whole.valid) & (np.asarray(whole.kind) == ANCHOR)
    kept = np.asarray(cut.valid) & (np.asarray(cut.kind) == ANCHOR)
    assert kept.sum() * 2 == anchors.sum() > 0
    flow = np.asarray(whole.kind) == FLOW
    np.testing.assert_array_equal(np.asarray(whole.valid)[flow], np.asarray(cut.valid)[flow])


def test_a_new_model_says_little_of_a_token_beside_what_it_shows():
    frames = tiny.clips(1, 2)
    drawn = lambda scale: nn.unbox(
        BFlow(tiny.tokenizer(context_init_scale=scale)).init(jax.random.key(0), frames)["params"]
    )
    loud, quiet = drawn(1.0), drawn(0.1)
    for of in (lambda params: params["projector"], lambda params: params["scene"]["reader"]["out"]):
        np.testing.assert_allclose(of(quiet)["kernel"], 0.1 * of(loud)["kernel"], rtol=1e-6)
        of(quiet)["kernel"] = of(loud)["kernel"]
    jax.tree.map(np.testing.assert_array_equal, quiet, loud)
    with pytest.raises(ValueError, match="context_init_scale is over 0, got -1"):
        tiny.tokenizer(context_init_scale=-1.0)
