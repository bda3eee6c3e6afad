"""The chain's order, flags and resumption; what its commands do is tested with each of them."""

import json
from pathlib import Path

import pytest

from launch import chain

CHAIN = """
from ml_collections import config_dict

def get_config(stage=""):
    if stage:
        return config_dict.create(stage=stage)
    return config_dict.create(
        order=("clip", "bflow", "duplex"),
        begins_with=dict(bflow=dict(vision="clip"), duplex=dict(tokenizer={tokenizer!r})),
        data=dict(config="configs/data/world.py", look="plain", clips=7),
    )
"""


@pytest.fixture
def config(tmp_path) -> Path:
    file = tmp_path / "chain.py"
    file.write_text(CHAIN.format(tokenizer="bflow"))
    return file


@pytest.fixture
def commands(monkeypatch):
    """The commands that were run; each leaves the files that the real one does. `fails` ends with code 3."""
    seen: list[list[str]] = []
    fails: list[str] = []

    def run(command):
        seen.append(list(command))
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in command[1:])
        if any(word in " ".join(command) for word in fails):
            raise chain.StepFailed("the command", 3)
        if command[0] == "launch.prepare":
            Path(flags["out"]).mkdir(parents=True)
            (Path(flags["out"]) / "manifest.json").touch()
        elif command[0] == "launch.train":
            Path(flags["workdir"]).mkdir(parents=True, exist_ok=True)
        else:
            Path(flags["json"]).write_text(json.dumps({"stage": Path(flags["checkpoint"]).name}))
        return 1.5

    monkeypatch.setattr(chain, "run_command", run)
    return seen, fails


def test_each_stage_begins_with_those_before(config, commands, tmp_path):
    seen, _ = commands
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert chain.main([f"--config={config}", f"--workdir={out}", "--steps=2", "--clips=3", f"--json={report}"]) == 0
    assert [command[0] for command in seen] == ["launch.prepare", *["launch.train", "launch.evaluate"] * 3]
    assert seen[0][1:] == ["--config=configs/data/world.py", f"--out={out}/data", "--config.clips=7",
                           "--config.look=plain"]  # fmt: skip
    assert seen[3] == ["launch.train", f"--config={config}:bflow", f"--workdir={out}/bflow",
                       f"--config.data.dirs={out}/data", f"--config.init_from.vision={out}/clip",
                       "--config.train.steps=2"]  # fmt: skip
    assert f"--config.init_from.tokenizer={out}/bflow" in seen[5]
    assert seen[6] == ["launch.evaluate", f"--checkpoint={out}/duplex", "--clips=3", f"--json={out}/duplex/scores.json"]
    found = json.loads(report.read_text())
    assert found["scores"]["duplex"] == {"stage": "duplex"}
    assert found["seconds"]["bflow: training"] == 1.5


def test_it_goes_on_where_it_failed(config, commands, tmp_path, capsys):
    seen, fails = commands
    flags = [f"--config={config}", f"--workdir={tmp_path / 'out'}", "--data=shards"]
    fails.append("checkpoint=" + str(tmp_path / "out" / "bflow"))
    assert chain.main(flags) == 3
    assert "ended with code 3" in capsys.readouterr().err
    fails.clear()
    seen.clear()
    assert chain.main(flags) == 0
    # The first stage has its scores; the second is trained on (which does nothing) and scored.
    assert [command[0] for command in seen] == ["launch.train", "launch.evaluate"] * 2
    assert "clip: training, done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokenizer", "flags", "message"),
    [
        ("duplex", [], "duplex begins with the tokenizer of 'duplex', which is not before it"),
        ("bflow", ["--steps=0"], "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(tokenizer, flags, message, tmp_path, capsys):
    file = tmp_path / "chain.py"
    file.write_text(CHAIN.format(tokenizer=tokenizer))
    assert chain.main([f"--config={file}", f"--workdir={tmp_path}", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_stage_is_no_chain(tmp_path, capsys):
    assert chain.main(["--config=configs/quickstart.py", f"--workdir={tmp_path}"]) == 2
    assert "is no chain" in capsys.readouterr().err


def test_a_failing_command_is_named(capfd):
    with pytest.raises(chain.StepFailed, match="launch.train --no_such_flag` ended with code") as failed:
        chain.run_command(["launch.train", "--no_such_flag"])
    assert failed.value.code != 0
