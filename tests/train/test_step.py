"""One step: accumulation, randomness, what happens to a bad batch; the optimiser's parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmduplex_jax.planning import devices
from mmduplex_jax.sharding import array_name, batch_sharding, make_mesh
from mmduplex_jax.train.optimizer import decay_mask, make_schedule
from mmduplex_jax.train.parameters import count, parameter_table
from mmduplex_jax.train.step import abstract_params, make_program
from tests.train.toy import PoisonedTask, ToyTask, make_data, toy_config

MESH = make_mesh(devices=jax.devices()[:1])


@functools.cache
def compiled(task, changes):
    """The program of a task, its state at step 0 (on the host), and its compiled step."""
    program = make_program(task, toy_config(**dict(changes)), MESH)
    return program, jax.device_get(program.init_state()), program.compile()


def one_step(task, batch=None, **changes):
    program, before, step = compiled(task, tuple(changes.items()))
    batch = next(make_data()) if batch is None else batch
    placed = {name: jax.device_put(batch[name], batch_sharding(MESH)) for name in program.example}
    after, metrics = step(jax.tree.map(jax.device_put, before, program.shardings), placed)
    return before, after, {name: float(value) for name, value in metrics.items()}


# 8 are microbatches of a row each; 4 takes the same way as 2.
@pytest.mark.parametrize("grad_accum", [2, 8, pytest.param(4, marks=pytest.mark.slow)])
def test_accumulated_gradients_are_those_of_the_whole_batch(grad_accum):
    # The first Adam step moves by the sign of the gradient, so the moments are compared, not the parameters alone.
    # Tolerance: float32 sums in another order.
    _, whole, metrics = one_step(ToyTask(noise=0))
    _, parts, in_parts = one_step(ToyTask(noise=0), train__grad_accum=grad_accum)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), whole.opt_state, parts.opt_state)
    for name in ("loss", "grad_norm", "tokens", "loss_weight", "learning_rate"):
        assert in_parts[name] == pytest.approx(metrics[name], rel=1e-5), name


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"config.data.batch_size \(8\) must be a multiple of config.train.grad_accum"):
        one_step(ToyTask(), train__grad_accum=3)


def test_randomness_is_of_seed_and_step():
    (before, _, one), (_, _, other) = one_step(ToyTask(noise=0.5)), one_step(ToyTask(noise=0.5))
    assert one["loss"] == other["loss"]
    program = make_program(ToyTask(noise=0.5), toy_config(), MESH)
    batch = {name: jnp.asarray(array) for name, array in next(make_data()).items() if name in program.example}
    state = program.init_state()
    jax.tree.map(np.testing.assert_array_equal, before, state)
    loss = jax.jit(lambda state: program.step(state, batch)[1]["loss"])
    first = loss(state)
    assert first == loss(state)
    assert first != loss(state.replace(step=state.step + 1))


def test_a_bad_batch_changes_nothing_but_the_step():
    batch = next(make_data())
    batch["frames"][3, 0, 0, 0] = 255, 254, 253
    before, after, metrics = one_step(PoisonedTask(), batch)
    assert metrics["finite"] == 0
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    jax.tree.map(np.testing.assert_array_equal, before.opt_state, after.opt_state)
    assert int(after.step) == 1


def test_a_task_may_not_report_what_the_trainer_reports():
    class Shadowing(ToyTask):
        def loss(self, params, batch, rng):
            loss, metrics = super().loss(params, batch, rng)
            return loss, {**metrics, "grad_norm": loss}

    with pytest.raises(ValueError, match="grad_norm"):
        one_step(Shadowing())


def test_what_is_decayed():
    mask = jax.tree_util.tree_leaves_with_path(decay_mask(abstract_params(ToyTask())))
    assert {array_name(path): decayed for path, decayed in mask} == {
        "embed/kernel": True,
        "embed/bias": False,
        "first_norm/scale": False,
        "first_norm/bias": False,
        "stack": True,
        "down": True,
        "gate": False,
        "head/kernel": True,
    }


def test_schedule_warms_up_and_falls_to_its_end():
    train = toy_config().train
    schedule = make_schedule(train)
    rates = [float(schedule(step)) for step in range(train.steps + 1)]
    assert rates[0] == 0
    assert rates[2] == pytest.approx(train.learning_rate / 2)
    assert rates[4] == pytest.approx(train.learning_rate)
    assert rates[20] == pytest.approx(train.learning_rate * 0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert float(make_schedule(toy_config(train__warmup_steps=0).train)(0)) == pytest.approx(train.learning_rate)
    short = make_schedule(toy_config(train__steps=2).train)
    assert float(short(2)) == pytest.approx(train.learning_rate / 2)
    with pytest.raises(ValueError, match=r"config.train.steps \(0\)"):
        make_schedule(toy_config(train__steps=0).train)


def test_a_stable_rate_decays_in_its_last_steps():
    train = toy_config(train__decay_steps=6).train
    rates = [float(make_schedule(train)(step)) for step in range(train.steps + 1)]
    peak, end = train.learning_rate, train.learning_rate * train.end_lr_ratio
    assert rates[:3] == pytest.approx([0, peak / 4, peak / 2])
    assert rates[4:15] == pytest.approx([peak] * 11)
    assert rates[15:] == pytest.approx(np.linspace(peak, end, 7)[1:])
    # A longer run is the same one until the decay begins.
    longer = make_schedule(toy_config(train__decay_steps=6, train__steps=40).train)
    assert [float(longer(step)) for step in range(15)] == pytest.approx(rates[:15])
    unwarmed = make_schedule(toy_config(train__decay_steps=6, train__warmup_steps=0).train)
    assert float(unwarmed(0)) == pytest.approx(peak)
    for wrong in (17, -1):
        with pytest.raises(ValueError, match=rf"config.train.decay_steps \({wrong}\)"):
            make_schedule(toy_config(train__decay_steps=wrong).train)


def test_clipping_bounds_the_first_moment():
    _, after, metrics = one_step(ToyTask())
    assert metrics["grad_norm"] > 1
    first_moment = optax.tree_utils.tree_get(after.opt_state, "mu")
    assert float(optax.tree.norm(first_moment)) == pytest.approx(0.1, rel=1e-4)  # (1 - b1) x clip_norm


def test_parameter_table_counts_all():
    boxed = abstract_params(ToyTask())
    table = parameter_table(boxed, MESH, depth=1)
    assert count(boxed) == 48 * 32 + 32 + 2 * 32 + 2 * 2 * 32 * 64 + 2 + 32
    assert f"total: {count(boxed):,} parameters" in table
    assert "layers embed->fsdp mlp->tensor" in table


def test_mfu_is_flops_over_peak():
    class Device:
        device_kind, platform = "NVIDIA H100 80GB HBM3", "gpu"

    class Unknown:
        device_kind, platform = "Abacus 3000", "gpu"

    peak = devices.device_peak(Device())
    assert peak.flops_per_s == 989e12
    assert devices.mfu(989e12, steps_per_s=2.0, peak=peak, num_devices=4) == 0.5
    assert devices.device_peak(Unknown()) is None
    assert devices.mfu(1e12, 1.0, None, 1) is None
