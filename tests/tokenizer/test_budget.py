"""The budget holds in every sliding second, whatever moves, and looks at nothing that is yet to come."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmduplex_jax.clock import Clock
from mmduplex_jax.tokenizer import budget
from mmduplex_jax.tokenizer.bflow import BFlow
from mmduplex_jax.tokenizer.budget import BudgetConfig
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.sight import packed_positions
from tests import tiny

TICKS = 60


def controller(cap=64, anchor_tokens=16, ladder=(0, 1, 2, 4, 8), gap_s=2.0, stride=2):
    base = tiny.tokenizer()
    return dataclasses.replace(
        base,
        clock=Clock(video_stride=stride),
        budget=BudgetConfig(
            tokens_per_s_max=cap, flow_token_levels=ladder, anchor_interval_min_s=gap_s, anchor_interval_max_s=4.0
        ),
        anchor=dataclasses.replace(base.anchor, tokens=anchor_tokens),
    )


CONFIGS = [controller(), controller(cap=32, anchor_tokens=4, gap_s=0.2), controller(stride=1), controller(cap=16)]


def run(config, disoccluded, moving, caps=None):
    """The controller over a clip."""
    caps = jnp.full(len(moving), config.cap) if caps is None else caps
    step = lambda state, tick: budget.spend(state, tick[0], tick[1], config, tick[2])
    return jax.lax.scan(step, budget.initial(config), (disoccluded, moving, caps))[1]


RUNS = [jax.jit(functools.partial(run, config)) for config in CONFIGS]

# Calm, busy, and adversarial: bursts that start and stop at any tick.
amounts = st.one_of(
    st.lists(st.integers(0, 40), min_size=TICKS, max_size=TICKS),
    st.lists(st.sampled_from([0, 40]), min_size=TICKS, max_size=TICKS),
    st.just([40] * TICKS),
)
scenes = st.one_of(
    st.lists(st.sampled_from([0, 0, 0, 64]), min_size=TICKS, max_size=TICKS),
    st.just([64] * TICKS),
    st.just([0] * TICKS),
)


def spent(spending):
    return np.asarray(spending.flow) + np.asarray(spending.anchor)


@pytest.mark.parametrize("which", range(len(CONFIGS)))
@given(moving=amounts, disoccluded=scenes)
@settings(max_examples=150, deadline=None)
def test_no_sliding_second_holds_more_than_the_cap(which, moving, disoccluded):
    config = CONFIGS[which]
    total = spent(RUNS[which](jnp.array(disoccluded), jnp.array(moving)))
    window = config.window_ticks
    sums = np.convolve(total, np.ones(window, int), mode="full")
    assert sums.max() <= config.cap
    assert total.sum() <= config.token_capacity(TICKS)


@pytest.mark.parametrize("which", range(len(CONFIGS)))
@given(moving=amounts, disoccluded=scenes, at=st.integers(1, TICKS - 1), other=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_later_frame_changes_no_earlier_token(which, moving, disoccluded, at, other):
    before = RUNS[which](jnp.array(disoccluded), jnp.array(moving))
    after = RUNS[which](
        jnp.array(disoccluded[:at] + [64] * (TICKS - at)), jnp.array(moving[:at] + [other] * (TICKS - at))
    )
    np.testing.assert_array_equal(before.anchor[:at], after.anchor[:at])
    np.testing.assert_array_equal(before.flow[:at], after.flow[:at])


def test_a_busy_scene_does_not_starve_anchors():
    config = CONFIGS[0]
    spending = RUNS[0](jnp.full(TICKS, 64), jnp.full(TICKS, 40))
    assert (np.asarray(spending.anchor) > 0).sum() == config.anchor_capacity(TICKS)


def test_a_quiet_scene_only_refreshes():
    config = CONFIGS[0]
    spending = RUNS[0](jnp.zeros(TICKS, int), jnp.zeros(TICKS, int))
    assert np.asarray(spending.flow).sum() == 0
    anchors = np.flatnonzero(spending.anchor)
    assert anchors[0] == 0
    assert set(np.diff(anchors)) == {config.clock.ticks_in(config.budget.anchor_interval_max_s)}


@pytest.mark.parametrize("cap", [20, 16, 8, 2])
def test_a_smaller_cap_holds_from_the_tick_it_is_given(cap):
    config = CONFIGS[0]
    caps = jnp.where(jnp.arange(TICKS) < 20, 64, cap)
    total = spent(RUNS[0](jnp.zeros(TICKS, int), jnp.full(TICKS, 40), caps))
    late = np.convolve(total[20:], np.ones(config.window_ticks, int), mode="valid")
    assert 0 < late.max() <= cap


# Anchors as large as the cap, several in a second; levels that begin high; no flow at all; a cap that is just enough.
TIGHT = [
    controller(cap=16, anchor_tokens=16, ladder=(0, 4, 8)),
    controller(cap=24, anchor_tokens=24, gap_s=0.5),
    controller(cap=40, anchor_tokens=12, gap_s=0.2, ladder=(0, 3)),
    controller(cap=9, anchor_tokens=9, ladder=(0,)),
    controller(cap=2, anchor_tokens=1, ladder=(0, 1)),
]
TIGHT_RUNS = [jax.jit(functools.partial(run, config)) for config in TIGHT]


@pytest.mark.parametrize("which", range(len(CONFIGS + TIGHT)))
@given(share=st.floats(0, 1), at=st.integers(0, 12), new_scenes=st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_cap_that_is_accepted_silences_flow_or_anchors_for_good(which, share, at, new_scenes):
    """Everything moves; the scene is new all the time or never; at tick `at` the cap falls to any that is accepted."""
    config, execute = (CONFIGS + TIGHT)[which], (RUNS + TIGHT_RUNS)[which]
    cap = round(config.cap_min + share * (config.cap - config.cap_min))
    caps = jnp.where(jnp.arange(TICKS) < at, config.cap, cap)
    spending = execute(jnp.full(TICKS, 64 * new_scenes), jnp.full(TICKS, 40), caps)
    anchor, flow = np.asarray(spending.anchor), np.asarray(spending.flow)
    window, refresh = config.window_ticks, config.clock.ticks_in(config.budget.anchor_interval_max_s)
    later = slice(at + window, None)
    # Any two seconds have flow, if there is any; any longest interval, and a second that it may wait, an anchor.
    if config.flow_slots:
        assert np.convolve(flow[later] > 0, np.ones(2 * window, int), mode="valid").min() > 0
    assert np.convolve(anchor > 0, np.ones(refresh + window, int), mode="valid").min() > 0
    assert anchor.max() <= config.anchor_tokens
    assert np.convolve(anchor[at:] + flow[at:], np.ones(window, int), mode="valid").max() <= cap


def test_an_anchor_shrinks_only_where_flow_would_have_no_room():
    config = controller(cap=64, anchor_tokens=16)  # as in configs/bflow_75m.py
    assert [int(config.anchor_tokens_under(cap)) for cap in (64, 32, 17, 16, 12, 2)] == [16, 16, 16, 15, 11, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(cap=1, anchor_tokens=1), "tokens_per_s_max is 1 .* at least 2"),
        (dict(cap=8, anchor_tokens=4, ladder=(0, 8)), "tokens_per_s_max is 8 .* at least 9"),
        (dict(cap=8, anchor_tokens=9), "9 tokens .* do not fit a cap of 8"),
        (dict(ladder=(1, 2)), "must rise from 0"),
    ],
)
def test_a_cap_that_would_silence_something_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        controller(**changes)


def test_packing_says_whether_all_fit():
    mask = np.array([[True, False, True, True], [False, True, False, False]])
    positions, fits = packed_positions(mask, 2)
    assert positions.tolist() == [[0, 2], [1, 4]]
    assert fits.tolist() == [False, True]


def test_tokens_over_the_capacity_make_the_clip_no_number(monkeypatch):
    """A rule that breaks its own promise must not lose tokens in silence."""
    config = tiny.tokenizer("per_frame")
    frames = tiny.clips(1, 8)
    params = tiny.random_params(lambda key: BFlow(config).init(key, frames)["params"])
    monkeypatch.setattr(TokenizerConfig, "token_capacity", lambda rule, ticks: 3)
    values = tiny.jit(lambda params: BFlow(config).apply({"params": params}, frames).values)(params)
    assert np.isnan(values).all()
