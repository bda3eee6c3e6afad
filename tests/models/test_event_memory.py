"""Event memory: a stream's equals a clip's over wraps of its ring; what it keeps, for how long, and what it forgets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import memory_quickstart, quickstart
from mmduplex_jax.clock import Clock
from mmduplex_jax.models.dual_stream import shifted
from mmduplex_jax.models.event_memory import EventMemory, MemoryConfig, emptied
from mmduplex_jax.models.fusion import FUSIONS
from mmduplex_jax.stages.duplex import task
from tests import tiny

# Three ticks a period, seven periods kept: a ring that wraps every four seconds.
MEMORY = MemoryConfig(
    Clock(), period_ticks=3, capacity_steps=40, recent_steps=8, heads=2, kv_heads=1, head_width=8, gate=0.7
)
BATCH, TICKS = 3, 60
WIDTH = 16
OTHERS = [fusion for fusion in FUSIONS if fusion != "cross"]


def words():
    return np.random.default_rng(1).integers(0, tiny.VOCAB - 1, (BATCH, 2 * TICKS)).astype(np.int32)


def open_memory(config):
    """Random parameters that let what is found in: a random gate is nearly shut, and would hide what is wrong."""
    params = tiny.init(config)
    return params | {"memory": params["memory"] | {"gate": np.full(1, 3.0, np.float32)}}


@pytest.mark.parametrize("fusion", ["cross", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_stream_equals_a_clip_with_rows_that_wait_and_begin_anew(fusion):
    config = tiny.dual_stream(fusion, memory=MEMORY)
    params, step = open_memory(config), tiny.live_step(config)
    frames, slots, delay = tiny.clips(BATCH, TICKS, busy=True), words(), np.array([0, 2, 4], np.int32)
    expected = np.asarray(tiny.offline(config)(params, frames, np.asarray(shifted(slots, tiny.START)), delay))
    rng, state, at = np.random.default_rng(2), tiny.init_state(config)(params, BATCH), np.zeros(BATCH, int)
    worst, wraps, call = 0.0, 0, 0
    while at.min() < 2 * TICKS:
        if call == 50:
            state = tiny.reset_row(config)(params, state, 1)
            at[1] = 0
        active = (rng.random(BATCH) < 0.85) & (at < 2 * TICKS)
        now = np.minimum(at, 2 * TICKS - 1)
        before = np.asarray(state.memory.cache.cursor)
        rows = np.arange(BATCH)
        state, out = step(
            params, state, frames[rows, now // 2], active, delay, jnp.zeros(BATCH), forced=slots[rows, now]
        )
        wraps += int((np.asarray(state.memory.cache.cursor) < before).sum())
        for row in np.flatnonzero(active):
            worst = max(worst, float(np.abs(np.asarray(out.logits[row]) - expected[row, at[row]]).max()))
        at += active
        call += 1
    assert wraps >= BATCH
    # What the other rings' test asks, too: float32 sums in another order.
    assert worst <= 1e-5


def test_an_empty_memory_says_something_else():
    config = tiny.dual_stream(memory=MEMORY)
    params, step = open_memory(config), tiny.live_step(config)
    frames, slots, delay = tiny.clips(BATCH, 30, busy=True), words(), np.zeros(BATCH, np.int32)
    differs = []
    states = [tiny.init_state(config)(params, BATCH)] * 2
    for s in range(60):
        shown = (frames[:, s // 2], np.ones(BATCH, bool), delay, jnp.zeros(BATCH))
        (kept, one), (gone, two) = (step(params, state, *shown, forced=slots[:, s]) for state in states)
        states = [kept, gone._replace(memory=emptied(gone.memory))]
        differs.append(float(np.abs(np.asarray(one.logits) - np.asarray(two.logits)).max()))
    # The first period is over with tick 2, and old enough to be seen from tick 6 (step 12) on.
    assert max(differs[:12]) == 0.0
    assert max(differs[12:]) > 1e-4


@functools.cache
def alone(config: MemoryConfig = MEMORY):
    """The module without a model around it, and its parameters."""
    module = EventMemory(config, WIDTH)
    shapes = jnp.zeros((1, 2, 32)), jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    return module, tiny.random_params(lambda key: module.init(key, *shapes, 4)["params"])


def found_at(asked_step: int, told_step: int, config: MemoryConfig = MEMORY) -> float:
    """How much a token at `asked_step` finds, when one at `told_step` is all there was."""
    module, params = alone(config)
    values = np.random.default_rng(3).standard_normal((1, 2, 32)).astype(np.float32)
    step = np.array([[told_step, asked_step]], np.int32)
    look = jax.jit(lambda *given: module.apply({"params": params}, *given, 48))
    out = look(values, step, np.ones((1, 2), bool))
    return float(np.abs(out[0, 1]).max())


@pytest.mark.parametrize(
    ("asked_step", "seen"), [(10, False), (12, True), (42, True), (44, False)], ids=["recent", "old", "oldest", "gone"]
)
def test_a_period_is_seen_from_when_it_is_no_longer_recent_until_it_is_beyond_the_capacity(asked_step, seen):
    # Told at step 2: its period ends with the tick of step 4, is recent until 12 and kept until 44.
    assert (found_at(asked_step, told_step=2) > 0) == seen


def test_what_is_found_does_not_depend_on_when_it_was():
    assert found_at(20, told_step=2) == pytest.approx(found_at(30, told_step=8), rel=1e-6)  # equal sums, same order


def test_periods_without_tokens_take_no_place():
    module, params = alone()
    state = module.apply({"params": params}, 1, method="initial_state")
    values, on = np.ones((1, 4, 32), np.float32), np.ones(1, bool)
    run = jax.jit(lambda *given: module.apply({"params": params}, *given, method="step"))
    for tick in range(12):
        valid = np.full((1, 4), tick < 3)
        state, _ = run(state, values, valid, np.array([2 * tick]), on)
    kept = np.asarray(state.cache.step[0])
    assert kept[kept >= 0].tolist() == [4]
    assert int(state.cache.cursor[0]) == 1


def test_an_hour_is_a_ring_of_fixed_size_and_off_is_the_model_as_it_was():
    with_memory = memory_quickstart.get_config()
    config = task.model_config(with_memory, tiny.ids(40, 0, 1, 2))
    memory = config.memory
    assert memory.ring_size * memory.period_steps >= config.clock.steps_in(3600.0)
    state = jax.eval_shape(lambda: alone(memory)[0].apply({"params": alone(memory)[1]}, 1, method="initial_state"))
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.cache.layers, state.cache.step)))
    assert kept == memory.bytes_a_stream
    assert memory.recent_steps == config.video.window_steps
    with_memory.memory.capacity_s = 0.0
    assert task.model_config(with_memory, tiny.ids(40, 0, 1, 2)).memory is None
    assert task.model_config(ConfigDict(quickstart.get_config()), tiny.ids(40, 0, 1, 2)).memory is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(period_ticks=0), "a tick at least"),
        (dict(recent_steps=4), "recent_s must be a period"),
        (dict(recent_steps=40), "less than the capacity"),
        (dict(heads=3, kv_heads=2), "multiple of kv_heads"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(MEMORY, **changes)
