"""The teacher scored on a labelled folder with one video, by a detector that knows red cars."""

import json

import pytest

from benchmarks import teacher
from tests.data_pipelines.narrator.red_car import RedDetector, needs_norfair, write_drive


@pytest.fixture
def root(tmp_path):
    needs_norfair()
    write_drive(tmp_path / "road.mp4", 9.0)
    labels = [
        {"t_s": 1.2, "kind": "enters", "class": "car", "side": "left"},
        {"t_s": 5.8, "kind": "leaves", "class": "car", "side": "right"},
    ]
    line = {"file": "road.mp4", "camera": "road", "view": "side", "checked": True, "events": labels}
    (tmp_path / "clips.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


def test_both_modes(root, monkeypatch, capsys):
    monkeypatch.setattr(teacher, "YoloxDetector", lambda file, labels: RedDetector())
    assert teacher.main([f"--root={root}", "--detector=red.onnx", f"--json={root / 'scores.json'}"]) == 0
    reports = json.loads((root / "scores.json").read_text())
    assert [reports[mode]["f1"] for mode in ("narrated", "live")] == [1.0, 1.0]
    assert reports["live"]["gflop_per_s"] == pytest.approx(2.0 * 6.25, rel=0.03)  # of a picture, which the end may cut
    assert reports["live"]["latency_p50_s"] > reports["narrated"]["latency_p50_s"]
    assert reports["live"]["detector_ms_per_s"] > 0
    assert "## teacher, narrated" in capsys.readouterr().out


def test_what_does_not_fit(root, capsys):
    with pytest.raises(SystemExit) as stopped:
        teacher.main([f"--root={root}", "--detector=nowhere.onnx", "--modes=later"])
    assert stopped.value.code == 2
    assert "--modes: 'later' is none of narrated,live" in capsys.readouterr().err
    assert teacher.main([f"--root={root}", "--detector=nowhere.onnx"]) == 2
    assert "'nowhere.onnx' is not there" in capsys.readouterr().err
