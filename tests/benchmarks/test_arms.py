"""Experiments of several arms, with the commands that they run replaced by what those would have written."""

import json
from pathlib import Path

import pytest

from benchmarks import arms

# F1 that a run scores, by what it begins with and its seed.
WORTH = {"": 0.2, "vision": 0.25, "tokenizer": 0.5, "text": 0.3, "tokenizer text": 0.6}


@pytest.fixture
def commands(monkeypatch):
    """The commands that were run; each writes what `launch.train` and `launch.evaluate` write."""
    seen: list[tuple[str, ...]] = []
    begun: dict[str, float] = {}

    def run(*command: str) -> None:
        seen.append(command)
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in command[1:])
        if command[0] == "launch.train":
            parts = [name.removeprefix("config.init_from.") for name in flags if "init_from" in name]
            begun[flags["workdir"]] = WORTH[" ".join(parts)] + 0.01 * int(flags["config.train.seed"])
            write_metrics(Path(flags["workdir"]), int(flags["config.train.steps"]), steps_per_s=2.0)
        else:
            f1 = begun[flags["checkpoint"]]
            report = {"f1": f1, "word_nll": 1 - f1, "latency_p50_s": None if f1 < 0.22 else 0.3, "tokens_per_s": 18.7}
            Path(flags["json"]).write_text(json.dumps(report))

    monkeypatch.setattr(arms, "run", run)
    return seen


def write_metrics(workdir: Path, steps: int, steps_per_s: float) -> None:
    workdir.mkdir(parents=True)
    rates = [0.1, steps_per_s, steps_per_s]  # the first line has the compilation in it
    lines = [json.dumps({"step": steps * (i + 1) // 3, "steps_per_s": rate}) for i, rate in enumerate(rates)]
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def chain(tmp_path):
    """The workdir of a finished chain."""
    for stage in arms.EARLIER:
        write_metrics(tmp_path / "chain" / stage, 100, steps_per_s=4.0)
        (tmp_path / "chain" / stage / "checkpoints").mkdir()
    return tmp_path / "chain"


def test_a_table_of_gains(commands, chain, tmp_path):
    flags = [f"--chain={chain}", f"--out={tmp_path / 'out'}", "--seeds=0,2", "--steps=30"]
    numbers, markdown = tmp_path / "numbers.json", tmp_path / "table.md"
    assert arms.main(["initialisations", *flags, f"--json={numbers}", f"--markdown={markdown}"]) == 0
    assert len(json.loads(numbers.read_text())["runs"]) == 10
    table = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in markdown.read_text().splitlines()}
    assert table["scratch"][2:4] == ["0.210 (0.200–0.220)", "–"]
    assert table["chain"][2:4] == ["0.610 (0.600–0.620)", "+0.400 (+0.400 to +0.400)"]
    assert table["scratch"][5] == "0.30"  # of the seed that named something
    assert "2 seeds." in markdown.read_text()
    # What has its scores is not done again.
    count = len(commands)
    assert arms.main(["initialisations", *flags]) == 0
    assert len(commands) == count == 20


def test_equal_time_counts_the_earlier_stages(commands, chain, tmp_path):
    flags = [f"--chain={chain}", f"--out={tmp_path / 'out'}", "--seeds=0", "--steps=30"]
    assert arms.main(["initialisations", *flags, "--arms=scratch,scratch_time"]) == 0
    # Three stages of 100 steps at 4 a second are 150 steps of a duplex at 2 a second.
    assert "--config.train.steps=180" in commands[2]
    assert arms.main(["initialisations", *flags, "--arms=scratch_time"]) == 2


def test_refusals(tmp_path, chain, capsys):
    assert arms.main(["initialisations", f"--chain={tmp_path}", "--out=x"]) == 2
    assert "lacks clip, bflow, vlm" in capsys.readouterr().err
    assert arms.main(["initialisations", f"--chain={chain}", "--out=x", "--arms=luck"]) == 2
    assert "no such arm: luck" in capsys.readouterr().err
