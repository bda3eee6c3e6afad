"""Evaluation during a training: what it writes, what it keeps, and that a run with it ends as one without."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.evals.evaluator import EvaluationStopped
from mmduplex_jax.train.loop import fit
from mmduplex_jax.weights.checkpoint import load_params
from tests.train.test_resume import SPEEDS, lines, optimizer_bytes
from tests.train.toy import ToyTask, evaluate, make_data, toy_config


def evals(every=4, best=""):
    return {"every": every, "dirs": "x", "best": best}


def train(workdir, held_out=None, told=None, **changes):
    config = toy_config(**{name: value for name, value in changes.items() if name != "evals"})
    config.evals = changes.get("evals", {})
    log = told.append if told is not None else lambda line: None
    return fit(ToyTask(), make_data(), config, workdir, evaluate=held_out, log=log)


def evaluated(workdir):
    return [row for row in lines(workdir) if "eval/x/error" in row]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Twenty steps in one go, evaluated every fourth."""
    workdir = tmp_path_factory.mktemp("straight")
    train(workdir, {"x": evaluate}, evals=evals(best="-error"))
    return workdir


def test_scores_are_written_and_the_best_is_kept(straight):
    rows = evaluated(straight)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    assert rows[-1]["eval/x/parts/frames"] == 40
    best = min(rows, key=lambda row: row["eval/x/error"])
    params, metadata = load_params(straight / "best")
    assert metadata["step"] == best["step"]
    assert evaluate(params, None)["error"] == best["eval/x/error"]


def test_a_run_with_evaluations_ends_as_one_without(straight, tmp_path):
    train(tmp_path)
    (mine, _), (theirs, _) = load_params(tmp_path), load_params(straight)
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    assert optimizer_bytes(tmp_path, 20) == optimizer_bytes(straight, 20)
    assert lines(tmp_path) == [row for row in lines(straight) if "eval/x/error" not in row]
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("stop_at_step", [8, 9])
def test_it_goes_on_bit_for_bit(straight, tmp_path, stop_at_step):
    for stop in (stop_at_step, 0):
        train(tmp_path, {"x": evaluate}, evals=evals(best="-error"), train__stop_at_step=stop)
    assert lines(tmp_path) == lines(straight)
    assert optimizer_bytes(tmp_path, 20) == optimizer_bytes(straight, 20)
    assert load_params(tmp_path / "best")[1]["step"] == load_params(straight / "best")[1]["step"]


def scoring(*errors):
    """A held-out set whose error is the next of some at every evaluation."""
    left = iter(errors)
    return lambda params, should_stop: {"error": next(left)}


def test_a_run_ends_where_its_scores_are_flat(straight, tmp_path):
    told: list[str] = []
    patient = evals(every=2, best="-error") | {"patience": 2, "min_gain": 0.1}
    # Two evaluations after the second: 0.95 and 0.92 are no tenth better than 1, 0.89 would have been.
    outcome = train(tmp_path, {"x": scoring(2.0, 1.0, 0.95, 0.92)}, told, evals=patient)
    assert (outcome.step, outcome.preempted, outcome.exit_code) == (8, False, 0)
    assert any("flat at step 8 of 20" in line for line in told)
    # Also where it was stopped on the way, and it stays ended.
    halves = tmp_path / "halves"
    train(halves, {"x": scoring(2.0, 1.0)}, evals=patient, train__stop_at_step=5)
    assert train(halves, {"x": scoring(0.95, 0.92)}, evals=patient).step == 8
    assert train(halves, {"x": scoring()}, evals=patient).step == 8
    assert lines(halves) == lines(tmp_path)
    # Without patience it goes on, as if it had never ended.
    train(halves, {"x": scoring(*[0.9] * 6)}, evals=evals(every=2))
    assert optimizer_bytes(halves, 20) == optimizer_bytes(straight, 20)


def test_a_gain_is_waited_for(tmp_path):
    patient = evals(every=4, best="-error") | {"patience": 2, "min_gain": 0.1}
    assert train(tmp_path, {"x": scoring(2.0, 1.9, 1.7, 1.6, 1.4)}, evals=patient).step == 20


def test_patience_needs_a_score(tmp_path):
    with pytest.raises(ValueError, match="config.evals.patience ends a run by its scores"):
        train(tmp_path, {"x": evaluate}, evals=evals() | {"patience": 2})


def test_an_evaluation_that_a_signal_ended_is_done_when_the_run_goes_on(straight, tmp_path):
    import signal

    def told_to_stop(params, should_stop):
        if not should_stop():
            signal.raise_signal(signal.SIGTERM)
        if should_stop():
            raise EvaluationStopped
        raise AssertionError("the signal did not reach the evaluation")

    outcome = train(tmp_path, {"x": told_to_stop}, evals=evals(best="-error"))
    assert (outcome.step, outcome.preempted) == (4, True)
    assert not evaluated(tmp_path)
    train(tmp_path, {"x": evaluate}, evals=evals(best="-error"))
    assert lines(tmp_path) == lines(straight)


def test_the_time_of_an_evaluation_is_no_time_of_steps(tmp_path, monkeypatch):
    real, ahead_s = time.perf_counter, 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: real() + ahead_s)

    def slow(params, should_stop):
        nonlocal ahead_s
        ahead_s += 10_000
        return evaluate(params, should_stop)

    train(tmp_path, {"x": slow}, evals=evals(every=3), train__stop_at_step=9, train__log_every=9)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (trained,) = [row for row in rows if "loss" in row]
    assert trained["steps_s"] < 10_000  # two evaluations are before the line
    assert trained.keys() >= SPEEDS


def test_a_metric_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"config.evals.best='eror': no number has this name.*x/error"):
        train(tmp_path, {"x": evaluate}, evals=evals(best="eror"))


def test_parameters_over_several_devices_are_gathered():
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from mmduplex_jax.train.evaluation import on_one_device

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    array = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
    assert on_one_device({"a": array}, mesh)["a"].devices() == {jax.devices()[0]}
