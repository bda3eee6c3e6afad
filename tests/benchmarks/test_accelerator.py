"""`benchmarks.accelerator`: parts that fail, hang or find no time left cost themselves alone; what is done stays."""

import json
import os

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import PARTS, Part, main, measure, run_part

GOOD = """
import sys
print("| a | table |")
with open(sys.argv[-1].removeprefix("--json="), "a") as file:
    file.write("{}")
"""
MODULES = {
    "good": GOOD,
    "broken": "print('what is wrong'); raise SystemExit(3)",
    "hanging": "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)",
    "quiet": "pass",
}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_a_part_is_done_or_says_why_it_is_not(tmp_path):
    rows = {name: run_part(name, [name], tmp_path, 30 if name != "hanging" else 2) for name in MODULES}
    assert {name: row["state"] for name, row in rows.items()} == {
        "good": "done",
        "broken": "exit code 3",
        "hanging": "not within 2 s",
        "quiet": "it wrote no numbers",
    }
    assert rows["broken"]["said"] == ["what is wrong"]
    assert [file.name for file in tmp_path.glob("*.json")] == ["good.json"]


def test_what_is_done_stays_and_time_is_shared_out(tmp_path, monkeypatch):
    given = []

    def fake(name, command, out, limit_s):
        given.append((name, round(limit_s)))
        return {"part": name, "state": "done"}

    monkeypatch.setattr(accelerator, "run_part", fake)
    (tmp_path / "first.json").write_text("{}")
    parts, shares = {name: [name] for name in ("first", "second", "third")}, dict.fromkeys(["first", "second"], 0.25)
    rows = measure(parts, shares | {"third": 2.0}, tmp_path, minutes=2)
    assert [row["state"] for row in rows] == ["done before", "done", "done"]
    assert given == [("second", 30), ("third", 120)]  # of its share of the whole, and of what is left
    assert measure({"late": ["late"]}, {"late": 1.0}, tmp_path, minutes=0)[0]["state"] == "no time was left"


def test_one_that_fails_costs_itself_alone_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    parts = {"one": Part("the first", ("-",), ("broken",)), "two": Part("the second", ("-",), ("good",))}
    monkeypatch.setattr(accelerator, "PARTS", parts)
    monkeypatch.setattr(accelerator, "found_machine", lambda: {"device": "cpu"})
    flags = [f"--out={tmp_path / 'out'}", "--parts=one,two", "--rehearse"]
    assert main(flags) == 1
    assert "| one | the first | exit code 3 |" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["state"] for row in report["rows"]] == ["exit code 3", "done"]
    assert "| a | table |" in (tmp_path / "out" / "report.md").read_text()
    monkeypatch.setattr(accelerator, "PARTS", parts | {"one": parts["two"]})
    assert main(flags) == 0
    assert (tmp_path / "out" / "two.json").read_text() == "{}"  # written once
    assert main([*flags, "--again"]) == 0


def test_without_an_accelerator_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "found_machine", lambda: {"device": "cpu"})
    assert main([f"--out={tmp_path / 'out'}"]) == 2
    assert "no accelerator here" in capsys.readouterr().err


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", ["command", "rehearsed"])
def test_every_part_is_a_benchmark_that_takes_its_flags(name, kind, tmp_path):
    """A flag that does not fit would be found on the device only, minutes of which cannot be had back."""
    module, *flags = getattr(PARTS[name], kind)
    found = __import__(module, fromlist=["main"])
    with pytest.raises(SystemExit) as ended:
        found.main([*flags, f"--json={tmp_path / 'x.json'}", "--only_check_args"])
    assert ended.value.code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["steps", "sessions", "feed"])
def test_it_is_rehearsed(name, tmp_path, monkeypatch):
    """Those whose miniature takes a minute on two cores; trainings take several, and twins need PyTorch."""
    assert main([f"--out={tmp_path}", f"--parts={name}", "--rehearse", "--minutes=20"]) == 0
    assert json.loads((tmp_path / f"{name}.json").read_text())
