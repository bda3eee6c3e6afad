"""The budget holds in every sliding second, whatever moves, and looks at nothing that is yet to come."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmduplex_jax.clock import Clock
from mmduplex_jax.tokenizer import budget
from mmduplex_jax.tokenizer.config import BudgetConfig
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
RUNS = [jax.jit(lambda u, m, c=c: budget.spend_clip(u, m, c)) for c in CONFIGS]

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


def spent(config, spending):
    return np.asarray(spending.flow) + config.anchor_tokens * np.asarray(spending.anchor)


@pytest.mark.parametrize("which", range(len(CONFIGS)))
@given(moving=amounts, disoccluded=scenes)
@settings(max_examples=150, deadline=None)
def test_no_sliding_second_holds_more_than_the_cap(which, moving, disoccluded):
    config = CONFIGS[which]
    total = spent(config, RUNS[which](jnp.array(disoccluded), jnp.array(moving)))
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
    assert np.asarray(spending.anchor).sum() == config.anchor_capacity(TICKS)


def test_a_quiet_scene_only_refreshes():
    config = CONFIGS[0]
    spending = RUNS[0](jnp.zeros(TICKS, int), jnp.zeros(TICKS, int))
    assert np.asarray(spending.flow).sum() == 0
    anchors = np.flatnonzero(spending.anchor)
    assert anchors[0] == 0
    assert set(np.diff(anchors)) == {config.clock.ticks_in(config.budget.anchor_interval_max_s)}


def test_a_smaller_cap_holds_from_the_tick_it_is_given():
    config = CONFIGS[0]
    step = jax.jit(lambda s, cap: budget.spend(s, jnp.int32(0), jnp.int32(40), config, cap))
    state, total = budget.initial(config), []
    for tick in range(TICKS):
        state, spending = step(state, 64 if tick < 20 else 20)
        total.append(int(spending.flow) + config.anchor_tokens * int(spending.anchor))
    window = config.window_ticks
    late = np.convolve(total[20:], np.ones(window, int), mode="valid")
    assert 0 < late.max() <= 20
