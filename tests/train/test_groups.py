"""Groups of parameters: what is not trained does not change by a bit, and what starts later begins as if at the first.

The toy's parameters: embed/{kernel, bias}, first_norm/{scale, bias}, stack, down, gate, head/kernel.
"""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmduplex_jax.sharding import batch_sharding, make_mesh
from mmduplex_jax.train.loop import fit
from mmduplex_jax.train.optimizer import GroupsError, group_schedule, make_groups, make_schedule
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.checkpoint import CheckpointMismatch, load_params
from mmduplex_jax.weights.portable import flatten
from tests import compiled_once
from tests.train.test_resume import assert_same_end
from tests.train.toy import ToyTask, make_data, toy_config

NEVER_STACK = dict(layers=dict(match="stack$|down", start_step=-1))
LATE_STACK = dict(layers=dict(match="stack$|down", start_step=6, lr=0.5))


def config_with(groups, **changes):
    config = toy_config(**changes)
    config.train.groups = groups
    return config


def program_of(groups, task=None, **changes):
    """On one device."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return compiled_once.make_program(task or ToyTask(), config_with(groups, **changes), mesh)


def trained(groups, steps, task=None, start=None, **changes):
    """States before and after each step, and the steps' metrics."""
    program = program_of(groups, task, **changes)
    mesh, compiled = program.mesh, program.compile()
    state, data = program.init_state(), make_data()
    if start:
        state = state.replace(params=jax.tree.map(jnp.asarray, start(jax.device_get(state.params))))
    seen, metrics = [jax.device_get(state)], []
    for _ in range(steps):
        batch = next(data)
        placed = {name: jax.device_put(batch[name], batch_sharding(mesh)) for name in program.example}
        state, found = compiled(state, placed)
        seen.append(jax.device_get(state))
        metrics.append({name: float(value) for name, value in found.items()})
    return seen, metrics


def awkward(params):
    """Numbers that a careless update changes: a negative zero, and some that are lost beside a learning rate."""
    stack = np.array(params["stack"])
    stack[0, 0, :4] = -0.0, 1e-45, -1e-40, 1e-20
    return {**params, "stack": stack}


def assert_same_bytes(one, other, names):
    one, other = flatten(one), flatten(other)
    for name in names:
        assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes(), name


LATE_STACK_AND_NEVER = LATE_STACK | dict(gates=dict(match="gate", start_step=-1))


def moments(state, name):
    """First moments that an optimiser's state has of a parameter."""
    found = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if any(getattr(key, "name", "") == "mu" for key in path) and getattr(path[-1], "key", "") == name
    ]
    assert len(found) <= 1
    return found


@pytest.mark.optimized  # of plain code the numbers closest to zero do not survive
@pytest.mark.parametrize("groups", [NEVER_STACK, LATE_STACK], ids=["never", "later"])
def test_what_is_not_trained_does_not_change_by_a_bit(groups):
    seen, metrics = trained(groups, 6, start=awkward)
    for state in seen[1:]:
        assert_same_bytes(seen[0].params, state.params, ["stack", "down"])
    assert np.signbit(seen[-1].params["stack"][0, 0, 0])
    for name in ("embed/kernel", "gate", "head/kernel", "first_norm/scale"):
        assert np.abs(flatten(seen[-1].params)[name] - flatten(seen[0].params)[name]).max() > 0, name
    assert all(found["finite"] == 1 for found in metrics)


def test_what_is_never_trained_has_no_moments():
    seen, _ = trained(NEVER_STACK, 1)
    assert not moments(seen[0], "stack")
    assert not moments(seen[0], "down")
    assert len(moments(seen[0], "gate")) == 1
    size = lambda tree: sum(np.size(leaf) for leaf in jax.tree.leaves(tree))
    kept = size([seen[0].params[name] for name in ("stack", "down")])
    counts = 2  # of Adam and of the schedule
    assert size(seen[0].opt_state) == 2 * (size(seen[0].params) - kept) + counts


class OneWayTask(ToyTask):
    """Its `stack` cannot be differentiated."""

    def loss(self, params, batch, rng):
        @jax.custom_jvp
        def one_way(x):
            return x * 1.0

        @one_way.defjvp
        def _(primals, tangents):
            raise AssertionError("the gradient of a parameter that is never trained was asked for")

        return super().loss({**params, "stack": one_way(params["stack"])}, batch, rng)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_what_is_never_trained_has_no_gradient(grad_accum):
    program_of(NEVER_STACK, OneWayTask(), train__grad_accum=grad_accum).trace()
    with pytest.raises(AssertionError, match="was asked for"):
        program_of({}, OneWayTask(), train__grad_accum=grad_accum).trace()


def test_what_would_start_after_the_end_is_never_trained():
    program = program_of(dict(layers=dict(match="stack", start_step=20)), OneWayTask())
    _, metrics = jax.eval_shape(program.step, program.target, program.example)
    assert not moments(program.target, "stack")
    assert "learning_rate/layers" not in metrics


def test_moments_begin_when_the_group_does():
    seen, _ = trained(LATE_STACK, 8)
    for state in seen[:7]:
        assert not moments(state, "stack")[0].any()
        assert moments(state, "gate")[0].any() == (state.step > 0)
    assert moments(seen[7], "stack")[0].any()
    adams = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(seen[8].opt_state)
        if getattr(path[-1], "name", "") == "count"
    ]
    assert sorted(int(count) for count in adams) == [2, 2, 8, 8]  # Adam and the schedule, of the group and of the rest


def test_the_first_step_of_a_group_is_adam_s_first():
    seen, _ = trained(LATE_STACK, 8, train__warmup_steps=0, train__weight_decay=0.0)
    # Adam's first step goes as far as the learning rate whatever the gradient is, and 0.5 of it are the group's.
    rate = 0.5 * float(make_schedule(toy_config(train__warmup_steps=0).train)(6))
    moved = np.abs(seen[7].params["stack"] - seen[6].params["stack"])
    assert np.median(moved) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("groups", [NEVER_STACK, LATE_STACK], ids=["never", "later"])
def test_the_norm_is_of_what_is_trained(groups):
    seen, metrics = trained(groups, 1)
    batch, rng = next(make_data()), jax.random.fold_in(jax.random.key(3), 0)
    grads = flatten(jax.jit(jax.grad(lambda p: ToyTask().loss(p, batch, rng)[0]))(seen[0].params))
    norm = lambda names: float(optax.tree.norm([grads[name] for name in names]))
    within = [name for name in grads if name not in ("stack", "down")]
    assert norm(within) < 0.99 * norm(grads)
    assert metrics[0]["grad_norm"] == pytest.approx(norm(within), rel=1e-5)
    first = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(seen[1].opt_state)
        if any(getattr(key, "name", "") == "mu" for key in path)
    ]
    # (1 - b1) x clip_norm: clipped by that norm and no other.
    assert float(optax.tree.norm(first)) == pytest.approx(0.1 * min(1.0, norm(within)), rel=1e-4)


def test_a_bad_gradient_of_what_is_not_trained_yet_does_no_harm():
    class Infinite(ToyTask):
        def loss(self, params, batch, rng):
            loss, metrics = super().loss(params, batch, rng)
            return loss + jnp.sqrt(jnp.abs(params["stack"]).sum() * 0.0), metrics  # its gradient is not a number

    seen, metrics = trained(LATE_STACK, 7, task=Infinite())
    assert [found["finite"] for found in metrics] == [1, 1, 1, 1, 1, 1, 0]
    assert_same_bytes(seen[6].params, seen[7].params, flatten(seen[6].params))


@pytest.mark.optimized  # the older loops fuse the two programs differently, and round in another place
def test_a_group_from_the_first_step_at_full_rate_is_no_group():
    plain, _ = trained({}, 3)
    grouped, _ = trained(dict(layers=dict(match="stack$|down")), 3)
    assert_same_bytes(plain[-1].params, grouped[-1].params, flatten(plain[-1].params))


def test_a_slower_group_moves_by_its_share():
    plain, _ = trained({}, 2, train__warmup_steps=0, train__weight_decay=0.0)
    slow, metrics = trained(dict(g=dict(match="gate", lr=0.25)), 2, train__warmup_steps=0, train__weight_decay=0.0)
    moved = lambda seen, name: seen[1].params[name] - seen[0].params[name]
    np.testing.assert_allclose(moved(slow, "gate"), 0.25 * moved(plain, "gate"), rtol=1e-4)
    np.testing.assert_array_equal(moved(slow, "stack"), moved(plain, "stack"))
    assert metrics[0]["learning_rate/g"] == pytest.approx(0.25 * metrics[0]["learning_rate"])


@pytest.mark.parametrize(("start_step", "warmup_steps"), [(0, 4), (2, 4), (10, 4), (10, 0)])
def test_a_group_warms_up_from_its_own_start(start_step, warmup_steps):
    config = config_with(dict(g=dict(match="gate", start_step=start_step, lr=0.5)), train__warmup_steps=warmup_steps)
    (group,) = make_groups(config.train, abstract_params(ToyTask())).groups
    schedule, whole = group_schedule(config.train, group), make_schedule(config.train)
    for trained_for in range(10):
        step = start_step + trained_for
        warm = min(1.0, trained_for / warmup_steps) if warmup_steps else 1.0
        wanted = 0.5 * warm * float(whole(max(step, warmup_steps)))
        assert float(schedule(trained_for)) == pytest.approx(wanted, rel=1e-6)


def test_rates_are_reported_by_group():
    _, metrics = trained(LATE_STACK_AND_NEVER, 9)
    assert [found["learning_rate/layers"] > 0 for found in metrics] == [False] * 7 + [True] * 2
    assert "learning_rate/gates" not in metrics[0]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (dict(a=dict(match="stackz")), r"a.match is 'stackz', which no parameter begins with; there are down, embed, "),
        (dict(a=dict(match="st"), b=dict(match="stack")), "groups.a and b both match stack: make one of them narrower"),
        (dict(a=dict(match="st", start_step=-2)), "start_step is a step from 0 on, or -1 for never, not -2"),
        (dict(a=dict(match="st", start_step=1.5)), "not 1.5"),
        (dict(a=dict(match="st", lr=0.0)), "lr must be above 0, got 0.0: what is not to be trained has start_step=-1"),
        (dict(a=dict(match="(")), r"match is '\(', no regular expression"),
        (dict(a=dict(start_step=3)), r"a has the fields \['start_step'\]: needed is match"),
        (dict(a=dict(match="st", step=3)), r"\['match', 'step'\]"),
        (dict(rest=dict(match="st")), "name it otherwise"),
        (dict(a=dict(match="", start_step=-1)), "leaves nothing to be trained in 20 steps"),
    ],
)
def test_groups_that_cannot_be_are_named(groups, said):
    with pytest.raises(GroupsError, match=said):
        make_groups(config_with(groups).train, abstract_params(ToyTask()))


def test_split_and_join_are_inverse():
    boxed = abstract_params(ToyTask())
    groups = make_groups(config_with(dict(a=dict(match="embed/bias|gate", start_step=-1))).train, boxed)
    params = nn.unbox(boxed)
    some, kept = groups.split(params)
    assert sorted(flatten(kept)) == ["embed/bias", "gate"]
    assert sorted([*flatten(some), *flatten(kept)]) == sorted(flatten(params))
    joined = groups.join(some, kept)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert flatten(joined) == flatten(params)
    everything = make_groups(toy_config().train, boxed)
    assert jax.tree.structure(everything.split(params)) == jax.tree.structure((params, {}))


def run(workdir: Path, groups, told=None, **changes):
    config = config_with(groups, **changes)
    return fit(ToyTask(), make_data(), config, workdir, log=(told if told is not None else []).append)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("straight")
    run(workdir, LATE_STACK_AND_NEVER)
    return workdir


@pytest.mark.parametrize("stop_at_step", [4, 6, 7])
def test_a_run_that_stops_about_a_start_ends_like_one_that_did_not(tmp_path, straight, stop_at_step):
    run(tmp_path, LATE_STACK_AND_NEVER, train__stop_at_step=stop_at_step)
    run(tmp_path, LATE_STACK_AND_NEVER)
    assert_same_end(tmp_path, straight, 20)


def test_what_was_never_trained_is_saved_as_it_was(straight):
    begun = ToyTask().init(jax.random.key(3))
    assert_same_bytes(nn.unbox(begun), load_params(straight)[0], ["gate"])


def test_groups_are_told_and_belong_to_the_run(tmp_path):
    told: list[str] = []
    groups = LATE_STACK_AND_NEVER | dict(late=dict(match="head", start_step=30))
    run(tmp_path, groups, told, train__stop_at_step=1)
    assert "group layers: 8,192 parameters in 2 arrays, from step 6 at 0.5 of the learning rate" in told
    assert "group gates: 2 parameters in 1 arrays, never trained" in told
    assert "group late: 32 parameters in 1 arrays, from step 30: not in this run of 20" in told
    with pytest.raises(CheckpointMismatch, match="config.train.groups.layers.start_step: saved with 6, now nothing"):
        run(tmp_path, {})


def test_every_mesh_trains_the_same_groups(eight_devices):
    assert len(eight_devices.run("tests.train.groups_on_eight")) == 3
