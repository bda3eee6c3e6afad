"""What CONTRIBUTING.md says of adding a stage and a metric, done: a folder and a line, a file and a flag."""

import json

import pytest

from data_pipelines.shards import write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from launch import evaluate
from launch import train as command
from mmduplex_jax.stages import registry

CONFIG = """
from configs import quickstart

def get_config():
    c = quickstart.get_config()
    c.stage = "brightness"
    c.data.update(batch_size=4, clip_s=2.56)
    c.train.update(steps=6, warmup_steps=0, learning_rate=0.1, checkpoint_every=6, log_every=3)
    return c
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(WorldSource(WorldConfig(clip_s=5.0), 5, 4), folder, config={}, units_per_shard=2)
    return folder


@pytest.fixture
def stages(monkeypatch):
    # The one line; in the project it stands in the table itself.
    monkeypatch.setitem(registry.STAGES, "brightness", "tests.stages.brightness")


def test_a_stage_is_a_folder_and_a_line(stages, shards, tmp_path, capsys):
    config = tmp_path / "brightness.py"
    config.write_text(CONFIG)
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "brightness How bright are the pictures of a clip?" in capsys.readouterr().out
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.data.dirs={shards}"]
    held_out = [f"--config.evals.dirs={shards}", "--config.evals.every=3", "--config.evals.best=-error"]
    assert command.main([*flags, *held_out]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [row[f"eval/{shards.name}/error"] for row in rows if "loss" not in row]
    assert scores[1] < scores[0]
    report = tmp_path / "report.json"
    scored = [f"--checkpoint={tmp_path / 'run' / 'best'}", f"--data={shards}", f"--json={report}"]
    assert evaluate.main(scored) == 0
    assert "4 clips, error" in capsys.readouterr().out
    assert json.loads(report.read_text())["error"] == pytest.approx(min(scores), rel=1e-6)
    assert evaluate.main([*scored, "--gain=0", "--metrics=tests.stages.brightness:brightest"]) == 0
    found = json.loads(report.read_text())
    assert found["error"] > min(scores)
    assert 0 < found["metrics"]["brightest"]["max"] < 1
    assert evaluate.main([*scored, "--delay=3"]) == 1
    assert "--delay: not of models of stage 'brightness'" in capsys.readouterr().err


def test_contributing_names_what_a_stage_has(repository):
    """Every name that the protocol wants is in the how-to."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {name for name in vars(registry.Stage) if not name.startswith("_")} | {"EVALUATION_FLAGS", "OUTPUT"}
    assert {name for name in names if f"`{name}" not in text} == set()
