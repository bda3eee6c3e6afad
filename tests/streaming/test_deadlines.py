"""The overload policy climbs and descends its ladder a rung at a time, in order, without swinging."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.streaming.deadlines import LADDER, DeadlinePolicy, Level, LoadState, Measured, decide, load_of

POLICY = DeadlinePolicy()
TICK_S = 0.16
TOP = len(LADDER) - 1
BEGINNING = LoadState()

rounds_s = st.lists(st.floats(0, 1.0), max_size=200)
policies = st.builds(
    DeadlinePolicy,
    load_high=st.floats(0.7, 1.0),
    load_low=st.floats(0.1, 0.69),
    climb_after_s=st.floats(0, 2),
    descend_after_s=st.floats(0, 10),
    memory_rounds=st.floats(1, 20),
)


def run(policy, took_s, state=BEGINNING, start_s=0.0, gap_s=TICK_S):
    """States after each round; rounds come `gap_s` apart, or back to back where they take longer."""
    states, now_s = [], start_s
    for round_s in took_s:
        now_s += max(gap_s, round_s)
        state, level = decide(policy, state, Measured(now_s, round_s, TICK_S))
        assert level == policy.ladder[state.rung]
        states.append((now_s, state))
    return states


def test_the_order_of_what_gives_way():
    """First tokens, then sound, then ticks, then new sessions."""
    first = lambda gave: next(i for i, level in enumerate(LADDER) if gave(level))
    assert (
        first(lambda level: level.cap_share < 1)
        < first(lambda level: not level.sound)
        < first(lambda level: level.tick_every > 1)
        < first(lambda level: not level.admits)
    )


@given(policies, rounds_s)
def test_a_rung_at_a_time_and_never_faster_than_configured(policy, took_s):
    states = [(0.0, LoadState()), *run(policy, took_s)]
    changes = []
    for (_, before), (now_s, after) in zip(states, states[1:]):
        assert abs(after.rung - before.rung) <= 1
        assert 0 <= after.rung <= TOP
        if after.rung != before.rung:
            changes.append((now_s, after.rung - before.rung))
    for (then_s, _), (now_s, direction) in zip(changes, changes[1:]):
        wait_s = policy.climb_after_s if direction > 0 else policy.descend_after_s
        assert now_s - then_s >= wait_s - 1e-9


@given(policies, st.floats(0, 2.0), rounds_s)
def test_under_a_constant_load_it_comes_to_rest(policy, round_s, before):
    """Whatever was before: once it has turned round it never turns again, and in the end it stands still."""
    states = run(policy, before)
    start_s, state = states[-1] if states else (0.0, LoadState())
    rungs = [s.rung for _, s in run(policy, [round_s] * 2000, state, start_s)]
    settled = rungs[-200:]
    assert len(set(settled)) == 1
    steps = [b - a for a, b in zip(rungs[200:], rungs[201:]) if a != b]  # the average has followed by then
    assert len(set(steps)) <= 1


@given(policies, rounds_s)
def test_when_nothing_is_to_be_done_it_goes_back_to_the_first_rung(policy, before):
    states = run(policy, before)
    start_s, state = states[-1] if states else (0.0, LoadState())
    idle = run(policy, [0.0] * 200, state, start_s, gap_s=1.0)
    assert idle[-1][1].rung == 0


@given(policies)
def test_a_machine_that_is_far_too_slow_refuses_new_sessions_in_the_end(policy):
    assert run(policy, [10 * TICK_S] * 100)[-1][1].rung == TOP
    assert not policy.ladder[TOP].admits


@given(rounds_s, st.floats(0, 0.5))
def test_more_work_never_stands_lower(took_s, more_s):
    """Of two machines, measured at the same moments, the slower one never gives more."""
    slower = [round_s + more_s for round_s in took_s]
    ends = [0.4 * (i + 1) for i in range(len(took_s))]
    one, two = LoadState(), LoadState()
    for now_s, a, b in zip(ends, took_s, slower):
        one, two = (decide(POLICY, s, Measured(now_s, r, TICK_S))[0] for s, r in ((one, a), (two, b)))
        assert two.round_s >= one.round_s - 1e-12
        assert two.rung >= one.rung


def test_one_slow_round_changes_nothing():
    took_s = [0.05] * 20 + [0.6] + [0.05] * 40
    assert {state.rung for _, state in run(POLICY, took_s)} == {0}


def test_between_the_thresholds_it_stays():
    state = LoadState(rung=2, round_s=0.75 * TICK_S)
    assert {s.rung for _, s in run(POLICY, [0.75 * TICK_S] * 500, state)} == {2}


def test_low_only_because_of_fewer_ticks_is_not_low():
    """At half the ticks a load of 1.2 is one of 0.6: going back would bring it over again."""
    rung = next(i for i, level in enumerate(LADDER) if level.tick_every == 2)
    state = LoadState(rung=rung, round_s=1.2 * TICK_S)
    assert load_of(POLICY, state, TICK_S) == pytest.approx(0.6)
    assert {s.rung for _, s in run(POLICY, [1.2 * TICK_S] * 500, state)} == {rung}


def test_times_of_climbing_by_hand():
    """Rounds of 0.5 s: over from the first average on, then a rung every 0.5 s."""
    rungs = [state.rung for _, state in run(dataclasses.replace(POLICY, memory_rounds=1), [0.5] * 8)]
    assert rungs == [0, 1, 2, 3, 4, 5, 6, 6]


def test_sound_comes_back_only_where_there_is_time_for_it():
    """Half a tick without it, and as much again with it: going back would bring it over again."""
    rung = next(i for i, level in enumerate(LADDER) if not level.sound)

    def rungs(sound_ratio):
        state, seen = LoadState(rung=rung, round_s=0.5 * TICK_S), set()
        for number in range(200):
            state, _ = decide(POLICY, state, Measured(number * TICK_S, 0.5 * TICK_S, TICK_S, sound_ratio))
            seen.add(state.rung)
        return seen

    assert rungs(2.0) == {rung}
    assert min(rungs(1.1)) == 0


def test_where_nobody_speaks_there_is_no_rung_that_only_takes_sound():
    silent = POLICY.without_sound()
    assert all(level.sound for level in silent.ladder)
    assert len(silent.ladder) == len(LADDER) - 1
    assert [level.cap_share for level in silent.ladder] == [1.0, 0.75, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(ladder=()), "first rung"),
        (dict(ladder=(Level(cap_share=0.5),)), "first rung"),
        (dict(ladder=(Level(), Level(tick_every=2), Level())), "give back"),
        (dict(ladder=(Level(), Level(admits=False), Level(cap_share=0.5))), "give back"),
        (dict(ladder=(Level(), Level(sound=False), Level(cap_share=0.5))), "give back"),
        (dict(ladder=(Level(), Level(cap_share=0.0))), "cap_share"),
        (dict(load_low=0.9), "load_low"),
        (dict(memory_rounds=0.5), "memory_rounds"),
        (dict(climb_after_s=-1.0), "climb_after_s"),
        (dict(lag_max_s=0.0), "lag_max_s"),
    ],
)
def test_policies_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        DeadlinePolicy(**changes)


def test_caps_of_the_rungs_and_one_that_would_blind_the_model():
    policy = DeadlinePolicy(ladder=(Level(), Level(cap_share=0.75), Level(cap_share=0.1)))
    assert policy.caps(24, 2) == (24, 18, 2)
    with pytest.raises(ValueError, match=r"cap_share=0.1.* leaves 2 of 24 .* needs 3: raise the rung's cap_share"):
        policy.caps(24, 3)
