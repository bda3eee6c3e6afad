"""What `benchmarks.start` makes of the phases of several starts."""

import json
import time

import pytest

from benchmarks.start import median, table
from benchmarks.start_watch import Phases


def one(imports_s: float, compiling_s: float | None) -> dict[str, dict[str, float]]:
    both = lambda seconds: {"wall_s": seconds, "cpu_s": seconds / 2}
    found = {"imports": both(imports_s), "until word": both(9.0)}
    return found if compiling_s is None else found | {"compiling": {"wall_s": compiling_s}, "prepare": both(3.0)}


def test_the_table_has_the_medians_of_phases_that_all_came_to():
    cold = median([one(1.0, 6.0), one(3.0, 5.0), one(2.0, 8.0)])
    assert cold["compiling"] == {"wall_s": 6.0}
    warm = median([one(1.0, 0.5), one(1.0, None)])
    assert "compiling" not in warm
    report = {"cold": cold, "warm": cold | warm, "command": "python -m x", "machine_load": 0.25}
    lines = table(report).splitlines()
    assert "| imports | 2.00 | 1.00 | 1.00 | 0.50 |" in lines
    assert "| in all, compiling | 6.00 |  | 6.00 |  |" in lines
    assert "| until word | 9.00 | 4.50 | 9.00 | 4.50 |" in lines
    assert lines[-1] == "`python -m x`; 0.2 other busy processes a core when it began"


def test_phases_follow_one_another(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr("os._exit", left.append)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    phases = Phases(tmp_path / "phases.json", now - 5.0)
    phases.end("imports")
    now += 2.0
    phases.end("load")
    phases.end("load")  # the second of two is none
    phases.add("tracing", 0.5)
    phases.add("tracing", 0.25)
    phases.total("word")
    phases.leave()
    found = json.loads((tmp_path / "phases.json").read_text())
    assert {name: part["wall_s"] for name, part in found.items()} == pytest.approx(
        {"imports": 5.0, "load": 2.0, "tracing": 0.75, "until word": 7.0}
    )
    assert left == [0]
