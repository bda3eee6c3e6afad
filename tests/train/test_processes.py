"""Several processes of one run compute what one would, stop together, and end when one of them is lost."""

import json
import signal
from pathlib import Path

import pytest

from mmduplex_jax.train.distributed import EXIT_FAILED, EXIT_PREEMPTED, Job, JoinError
from mmduplex_jax.train.loop import fit
from mmduplex_jax.weights.checkpoint import load_params
from tests.train.processes import Processes
from tests.train.test_resume import assert_same_end
from tests.train.toy import ToyTask, evaluate, make_data, toy_config

# Sums over processes in another order than within one: float32 rounding, a little more each step.
SAME_CURVE = 1e-5
STEPS, EVERY = 20, 5


def losses(workdir: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def errors(workdir: Path) -> dict[int, float]:
    """Of the held-out set."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["eval/x/error"] for row in rows if "eval/x/error" in row}


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    workdir, config = tmp_path_factory.mktemp("alone"), toy_config()
    config.evals = {"every": EVERY, "dirs": "x", "best": "-error"}
    fit(ToyTask(), make_data(), config, workdir, evaluate={"x": evaluate}, log=lambda line: None)
    return workdir


@pytest.fixture(scope="module")
def alone(one) -> dict[int, float]:
    return losses(one)


def trained(workdir: Path, count: int, **options) -> Path:
    with Processes(workdir, count, STEPS, EVERY, **options) as processes:
        assert processes.exit_codes() == [0] * count, processes.log(0)
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("two") / "run", 2)


def test_two_processes_learn_what_one_does(alone, two):
    assert losses(two) == pytest.approx(alone, rel=SAME_CURVE)


def test_two_processes_are_scored_as_one_is(one, two):
    """By the first of them, with parameters that both gather; the best are saved by both."""
    assert errors(two) == pytest.approx(errors(one), rel=1e-3)
    assert [*errors(two)] == [5, 10, 15, 20]
    assert load_params(two / "best")[1]["step"] == load_params(one / "best")[1]["step"]


def test_sigterm_to_one_stops_all_at_one_step_and_they_go_on_exactly(tmp_path, two):
    workdir = tmp_path / "run"
    with Processes(workdir, 2, STEPS, EVERY, step_s=0.1) as processes:
        processes.wait_for("step  6/")
        processes.send(signal.SIGTERM, 1)
        assert processes.exit_codes() == [EXIT_PREEMPTED] * 2
        assert "stopped by a signal; saved at step" in processes.log(0)
        # One log: of the other process only what libraries write.
        assert "step" not in processes.log(1)
    saved = [int(folder.name) for folder in (workdir / "checkpoints").iterdir()]
    assert 6 <= max(saved) < STEPS
    assert_same_end(trained(workdir, 2), two, STEPS)


def test_a_process_that_waits_in_vain_says_so_and_may_be_started_again(tmp_path):
    with Processes(tmp_path / "run", 2, STEPS, EVERY, join_timeout_s=3, missing=[1]) as processes:
        assert processes.exit_codes(30) == [EXIT_PREEMPTED]
        assert "process 0 of 2 waited 3 s at 127.0.0.1:" in processes.log(0)
        assert "look whether each was started" in processes.log(0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("host:1",), "belong together"),
        (("host:1", 2, 2), "from 0 to 1, not 2"),
        (("host", 2, 0), "HOST:PORT"),
        (("host:1", 2, 0, 0), "a second at least"),
    ],
)
def test_what_cannot_be_joined_is_named(given, said):
    with pytest.raises(JoinError, match=said):
        Job(*given)


@pytest.mark.slow
def test_four_processes_learn_what_one_does(alone, tmp_path):
    assert losses(trained(tmp_path / "run", 4, devices=1)) == pytest.approx(alone, rel=SAME_CURVE)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(alone, tmp_path):
    workdir = tmp_path / "run"
    for count, stop in ((2, 7), (1, 12), (4, 16), (2, 20)):
        with Processes(workdir, count, STEPS, EVERY, f"train.stop_at_step={stop}", devices=4 // count) as processes:
            assert processes.exit_codes() == [0] * count, processes.log(0)
    assert losses(workdir) == pytest.approx(alone, rel=SAME_CURVE)


# What JAX's coordination service needs beside the time after which it takes a process for lost.
_NOTICED_S = 15


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), (4, 2)])
def test_a_killed_process_ends_all(tmp_path, two, count, victim):
    workdir = tmp_path / "run"
    with Processes(workdir, count, STEPS, EVERY, devices=4 // count, step_s=0.1, peer_timeout_s=10) as processes:
        processes.wait_for("step  9/")
        processes.send(signal.SIGKILL, victim)
        codes = processes.exit_codes(10 + _NOTICED_S)
    assert codes.pop(victim) == -signal.SIGKILL
    # The first to notice is the operating system or JAX's service, which aborts.
    assert set(codes) <= {EXIT_PREEMPTED, -signal.SIGABRT}
    if count == 2:
        assert_same_end(trained(workdir, 2), two, STEPS)
    else:
        assert losses(trained(workdir, 4, devices=1)) == pytest.approx(losses(two), rel=SAME_CURVE)


@pytest.mark.slow
def test_what_only_one_process_meets_ends_all(tmp_path):
    """The others are left in a collective, and must not wait for ever."""
    with Processes(tmp_path / "run", 2, STEPS, EVERY, breaks_in=1, step_s=0.1, peer_timeout_s=10) as processes:
        codes = processes.exit_codes(60)
        assert "the disk is gone" in processes.log(1)
    assert codes[1] == EXIT_FAILED
    assert codes[0] in (EXIT_PREEMPTED, -signal.SIGABRT)
