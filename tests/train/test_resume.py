"""A run that was stopped, told to stop, or killed ends like one that never was: bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mmduplex_jax.train.distributed import EXIT_PREEMPTED
from mmduplex_jax.train.loop import fit
from mmduplex_jax.weights import checkpoint
from mmduplex_jax.weights.checkpoint import CheckpointMismatch, load_params
from tests.train.toy import ToyTask, make_data, toy_config

SPEEDS = {"steps_per_s", "tokens_per_s", "video_s_per_s", "mfu", "data_wait", "eta_s", "steps_s", "goodput"}
SPEEDS |= {"cpu_s_per_step"}


def train(workdir: Path, data=None, **changes):
    return fit(ToyTask(), data or make_data(), toy_config(**changes), workdir, log=lambda line: None)


def lines(workdir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in SPEEDS} for row in rows]


def optimizer_bytes(workdir: Path, step: int) -> list[bytes]:
    import orbax.checkpoint as ocp

    folder = (workdir / "checkpoints" / str(step) / "optimizer").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        # As NumPy's: it may have been saved by several processes, on devices that are not here.
        plain = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).item_metadata.tree
        )
        tree = reader.restore(folder, restore_args=plain)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_same_end(one: Path, other: Path, step: int) -> None:
    (mine, my_facts), (theirs, their_facts) = load_params(one), load_params(other)
    assert my_facts["step"] == their_facts["step"] == step
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    assert optimizer_bytes(one, step) == optimizer_bytes(other, step)
    iterator_state = lambda folder: (folder / "checkpoints" / str(step) / "data" / "metadata").read_text()
    assert json.loads(iterator_state(one)) == json.loads(iterator_state(other))
    assert lines(one) == lines(other)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """Twenty steps in one go."""
    workdir = tmp_path_factory.mktemp("straight")
    assert train(workdir).step == 20
    return workdir


# 10 is a multiple neither of log_every (3) nor, as 11, of checkpoint_every (5); 9 ends right after a line.
@pytest.mark.parametrize("stop_at_step", [1, 9, 10, 11])
def test_n_and_resumed_n_are_2n_straight(tmp_path, straight, stop_at_step):
    assert train(tmp_path, train__stop_at_step=stop_at_step).step == stop_at_step
    assert lines(tmp_path) == lines(straight)[: stop_at_step // 3]
    assert train(tmp_path).step == 20
    assert_same_end(tmp_path, straight, 20)


def test_lines_after_the_newest_checkpoint_are_written_anew(tmp_path, straight):
    train(tmp_path, train__stop_at_step=10)
    # What a run leaves that dies at step 14: lines, and half of one.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 99.0}\n{"step": 15, "lo')
    train(tmp_path)
    assert_same_end(tmp_path, straight, 20)


def test_a_finished_run_stays_as_it_is(tmp_path):
    train(tmp_path)
    before = lines(tmp_path)
    assert train(tmp_path).step == 20
    assert lines(tmp_path) == before


def test_how_many_checkpoints_stay(tmp_path):
    train(tmp_path, train__checkpoint_every=2, train__keep=2, train__stop_at_step=8)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "8"]


def test_another_config_says_what_differs(tmp_path, straight):
    train(tmp_path, train__stop_at_step=2)
    with pytest.raises(CheckpointMismatch) as error:
        train(tmp_path, train__learning_rate=0.5, train__seed=4)
    assert "config.train.learning_rate: saved with 0.01, now 0.5" in str(error.value)
    assert "config.train.seed: saved with 3, now 4" in str(error.value)
    assert "new --workdir" in str(error.value)


def test_a_field_that_asks_for_nothing_is_none_to_older_runs(tmp_path):
    train(tmp_path, train__stop_at_step=2)
    config = toy_config(train__stop_at_step=3)
    config.init_from = dict(text="", groups={})
    assert fit(ToyTask(), make_data(), config, tmp_path, log=lambda line: None).step == 3
    config.init_from.text = "weights"
    with pytest.raises(CheckpointMismatch, match='config.init_from.text: saved with nothing, now "weights"'):
        fit(ToyTask(), make_data(), config, tmp_path, log=lambda line: None)


def test_another_tokenizer_or_other_data_say_so(tmp_path):
    config = toy_config(train__stop_at_step=5)
    fit(ToyTask(), make_data(), config, tmp_path, tokenizer_json="a", data_fingerprint="x")
    with pytest.raises(CheckpointMismatch, match="tokenizer is another one") as error:
        fit(ToyTask(), make_data(), config, tmp_path, tokenizer_json="b", data_fingerprint="y")
    assert "saved with x, now y" in str(error.value)


def test_another_layout_says_so(tmp_path, monkeypatch):
    train(tmp_path, train__stop_at_step=5)
    version = checkpoint.LAYOUT_VERSION
    monkeypatch.setattr(checkpoint, "LAYOUT_VERSION", version - 1)
    with pytest.raises(CheckpointMismatch, match=f"layout version {version}, .* is {version - 1}: use newer code"):
        load_params(tmp_path)
    monkeypatch.setattr(checkpoint, "LAYOUT_VERSION", version + 1)
    with pytest.raises(CheckpointMismatch, match=f"layout version {version}, .* is {version + 1}: .*config.init_from"):
        train(tmp_path, train__stop_at_step=5)


def test_parameters_of_an_older_layout_are_used_under_their_new_names(tmp_path, monkeypatch):
    train(tmp_path, train__stop_at_step=5)
    params, _ = load_params(tmp_path)
    monkeypatch.setattr(checkpoint, "LAYOUT_VERSION", checkpoint.LAYOUT_VERSION + 1)
    monkeypatch.setattr(checkpoint, "converted_parameter", lambda name: f"new/{name}")
    monkeypatch.setattr(checkpoint, "converted_config", lambda config: {"converted": config})
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = {"new": jax.tree.map(lambda _: device, params)}
    for given in (None, shardings):
        again, metadata = load_params(tmp_path, given)
        jax.tree.map(np.testing.assert_array_equal, again, {"new": params})
        assert "converted" in metadata["config"]
        assert all(name.startswith("new/") for name in metadata["shapes"])


def test_until_its_decay_begins_a_run_may_become_shorter_or_longer(tmp_path):
    straight, changed = tmp_path / "straight", tmp_path / "changed"
    train(straight, train__decay_steps=8, train__steps=18)
    train(changed, train__decay_steps=3, train__steps=100, train__stop_at_step=10)
    train(changed, train__decay_steps=8, train__steps=18, train__stop_at_step=12)
    # It has begun: the rate at step 12 would have been another.
    with pytest.raises(CheckpointMismatch, match="config.train.steps: saved with 18, now 40"):
        train(changed, train__decay_steps=8, train__steps=40)
    train(changed, train__decay_steps=8, train__steps=18)
    assert_same_end(straight, changed, 18)


def test_the_length_of_a_cosine_may_not_change(tmp_path):
    train(tmp_path, train__stop_at_step=2)
    with pytest.raises(CheckpointMismatch, match="config.train.steps: saved with 20, now 40"):
        train(tmp_path, train__steps=40)


def test_what_may_change_is_told(tmp_path):
    train(tmp_path, train__stop_at_step=2)
    told: list[str] = []
    fit(ToyTask(), make_data(), toy_config(data__workers=3), tmp_path, log=told.append)
    assert any("config.data.workers: saved with 0, now 3" in line for line in told)


def test_no_checkpoint_says_what_was_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match="wanted a workdir with checkpoints/STEP/"):
        load_params(tmp_path)


def test_one_step_of_several_is_loaded(straight):
    assert load_params(straight / "checkpoints" / "10")[1]["step"] == 10
    assert load_params(straight)[1]["config"]["train"]["steps"] == 20


class Started:
    """`tests/train/toy.py` in a process of its own."""

    def __init__(self, repository: Path, workdir: Path, steps: int, checkpoint_every: int):
        command = [sys.executable, "tests/train/toy.py", str(workdir), str(steps), str(checkpoint_every)]
        environment = {**os.environ, "PYTHONPATH": str(repository), "JAX_PLATFORMS": "cpu"}
        self.workdir = workdir
        self.process = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.DEVNULL)

    def wait_for(self, condition) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, f"ended by itself with {self.process.returncode}"
            assert time.monotonic() < deadline, "waited for five minutes"
            time.sleep(0.001)

    def newest(self) -> int:
        folder = self.workdir / "checkpoints"
        return max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=-1)

    def is_saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*tmp*"))


def test_sigterm_saves_and_exits_with_a_code_to_retry_on(repository, tmp_path):
    run = Started(repository, tmp_path, 100_000, 50)
    run.wait_for(lambda: run.newest() >= 50)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(timeout=300) == EXIT_PREEMPTED
    saved = load_params(tmp_path)[1]["step"]
    assert saved == run.newest()
    assert lines(tmp_path)[-1]["step"] == saved // 3 * 3


def test_killed_while_saving_and_again_ends_the_same(repository, tmp_path):
    steps, every, draw = 3000, 3, random.Random(0)
    killed_while_saving = 0
    for number in range(3):
        run = Started(repository, tmp_path / "killed", steps, every)
        begin = run.newest()
        run.wait_for(lambda run=run, begin=begin: run.newest() > begin + every)
        time.sleep(0.05 * draw.random())
        if number < 2:
            run.wait_for(run.is_saving)
        run.process.kill()
        run.process.wait()
        killed_while_saving += run.is_saving()
    assert killed_while_saving
    newest = run.newest()
    assert 0 < newest < steps
    # Both go on to a common end, a little later.
    end = newest + 20
    for folder in ("killed", "straight"):
        train(tmp_path / folder, train__steps=steps, train__checkpoint_every=1000, train__stop_at_step=end)
    assert not list((tmp_path / "killed" / "checkpoints").glob("*tmp*"))
    assert_same_end(tmp_path / "killed", tmp_path / "straight", end)
