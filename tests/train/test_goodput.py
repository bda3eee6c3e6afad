"""What share of a run's time its steps are, over all its starts."""

import json

import pytest

from mmduplex_jax.train.loop import fit
from mmduplex_jax.train.metrics import Goodput, note_start
from tests.train.toy import ToyTask, make_data, toy_config


def test_by_hand(tmp_path):
    now = [1000.0]
    clock = lambda: now[0]
    note_start(tmp_path, clock)
    goodput = Goodput(tmp_path, clock)
    now[0] += 100
    assert goodput.add(60.0) == {"steps_s": 60.0, "goodput": 0.6}
    kept = {"step": 1, "steps_s": 60.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(kept) + '\n{"step": 2}\n')
    # It died and was away for as long again.
    now[0] += 100
    note_start(tmp_path, clock)
    again = Goodput(tmp_path, clock)
    now[0] += 100
    assert again.add(90.0) == {"steps_s": 150.0, "goodput": 0.5}


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_lost_steps_and_restarts_cost(tmp_path):
    train = lambda **changes: fit(ToyTask(), make_data(), toy_config(**changes), tmp_path, log=lambda line: None)
    train(train__stop_at_step=10)
    first = lines(tmp_path)[-1]
    assert 0 < first["goodput"] < 1  # compiling is no step
    # As if it had worked on until step 12, died, and lost that: the line goes, and what it counted.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, "loss": 0.0, "steps_s": 1e6, "goodput": 1.0}) + "\n")
    started = json.loads((tmp_path / "started.json").read_text())["unix_s"]
    # And as if it had been away for an hour.
    (tmp_path / "started.json").write_text(json.dumps({"unix_s": started - 3600}))
    train()
    last = lines(tmp_path)[-1]
    assert first["steps_s"] < last["steps_s"] < first["steps_s"] + 3600
    assert last["goodput"] == pytest.approx(last["steps_s"] / 3600, rel=0.1)  # beside the hour: under six minutes
