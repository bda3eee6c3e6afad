"""`launch.benchmark`: predictions and controls in, a report and a page out, and what it refuses."""

import json
from pathlib import Path

import pytest

from launch.benchmark import main
from mmduplex_jax.evals.benchmarks.registry import BENCHMARKS
from tests.data_pipelines.numbered_video import write_numbered
from tests.evals.benchmarks.longvideobench_folder import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "lvb")


def test_predictions_are_scored(folder: Path, tmp_path: Path, capsys):
    (folder / "videos").mkdir()
    write_numbered(folder / "videos" / "v0.mp4", count=30)
    answers, report, page, saved = (tmp_path / name for name in ("a.json", "r.json", "p.html", "s.json"))
    answers.write_text(json.dumps({"q0": "A", "q1": "The answer is B", "q2": "<b>"}))
    flags = ["longvideobench", f"--root={folder}", f"--predictions={answers}"]
    assert main([*flags, f"--json={report}", f"--html={page}", f"--save_predictions={saved}"]) == 0
    assert "  all " in capsys.readouterr().out
    found = json.loads(report.read_text())
    wanted = {"score", "interval", "groups", "rule", "unreadable", "tokens_per_question", "figures"}
    assert found.keys() >= wanted | {"benchmark", "answered_by", "items"}
    assert (found["rule"], found["score"], found["unreadable"]) == ("official", pytest.approx(1 / 6), 2)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 3  # of the one video that is there
    assert "right" in html
    assert "wrong, could not be read" in html
    assert "<b>" not in html
    assert json.loads(saved.read_text()) == json.loads(answers.read_text())
    assert main([*flags, "--rule=lmms_eval", "--limit=2", "--json=-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rule"], found["score"], found["items"], found["limit"]) == ("lmms_eval", 1.0, 2, 2)


def test_all_are_listed(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert [name for name in BENCHMARKS if f"{name} " not in said] == []
    assert "rules: official, lmms_eval; controls: chance, always_longest, always_b" in said


def test_a_control_is_scored(folder: Path, capsys):
    assert main(["longvideobench", f"--root={folder}", "--control=chance", "--json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx((1 + 3 / 4) / 6)


def test_one_commentary_is_scored_against_another(tmp_path: Path, capsys):
    said, reference = tmp_path / "said.srt", tmp_path / "reference.vtt"
    said.write_text("1\n00:00:01,000 --> 00:00:02,000\nA goal.\n")
    reference.write_text("WEBVTT\n\n00:01.000 --> 00:01.800\nA goal!\n")
    assert main(["timing", f"--said={said}", f"--reference={reference}"]) == 0
    assert "oracle_late_3s" in capsys.readouterr().out
    assert main(["timing", f"--said={said}", f"--reference={reference}", "--json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(1.0)
    assert main(["timing", f"--said={said}", f"--reference={reference}", "--rule=x"]) == 2
    assert main(["timing", f"--root={reference}", "--control=oracle_late_3s", "--json=-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["timing"]["trigger"]["time_diff_s"] == 3.0


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "name a benchmark, one of longvideobench"),
        (["longvideobench"], 2, "needs --root=DIR"),
        (["longvideobench", "--root={folder}"], 2, "pass one of --checkpoint=DIR"),
        (["longvideobench", "--root={folder}", "--control=chance", "--predictions=x"], 2, "pass one of"),
        (["longvideobench", "--root={folder}", "--control=mine"], 2, "has chance, always_longest, always_b"),
        (["longvideobench", "--root={folder}", "--control=chance", "--rule=x"], 2, "has official, lmms_eval"),
        (["longvideobench", "--root={folder}/none", "--control=chance"], 1, "there is no such file"),
        (["longvideobench", "--make=x"], 2, "--make is of worldqa"),
        (["timing", "--said=x.vtt"], 2, "--said needs --reference"),
        (["longvideobench", "--said=x.vtt", "--reference=x.vtt"], 2, "both are of timing"),
        (["timing", "--said=x.vtt", "--reference=x.vtt", "--html=x"], 2, "--html does not go with --said"),
        (["longvideobench", "--root={folder}", "--checkpoint=none"], 1, "6 of 6 questions have no video: q0 (v0.mp4)"),
        (["longvideobench", "--root={folder}", "--control=chance", "--process_index=1"], 2, "go together"),
        (["longvideobench", "--root={folder}", "--control=chance", "--process_count=2"], 2, "go together"),
        (
            ["longvideobench", "--root={folder}", "--control=chance", "--process_count=2", "--process_index=2"],
            2,
            "from 0 to N-1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str], code: int, said: str, folder: Path, capsys):
    assert main([flag.replace("{folder}", str(folder)) for flag in flags]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--limit=0", "--limit=-1", "--shown=-1", "--process_count=0", "--seed=1.5"])
def test_numbers_that_are_none_are_refused(flag: str, folder: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["longvideobench", f"--root={folder}", "--control=chance", flag])
    assert "a whole number from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [("--html=-", "a page is a file that browsers open"), ("--html=none/p.html", "there is no folder")],
)
def test_a_page_is_a_file(flag: str, said: str, folder: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["longvideobench", f"--root={folder}", "--control=chance", flag])
    assert said in capsys.readouterr().err


def test_no_question_is_no_benchmark(tmp_path: Path, capsys):
    (tmp_path / "none.jsonl").touch()
    assert main(["livesports3kcc", f"--root={tmp_path / 'none.jsonl'}", "--control=first_wins"]) == 1
    assert "none.jsonl: there is no question in it" in capsys.readouterr().err


def test_a_model_answers_and_goes_on(portable_dir: Path, tmp_path: Path, capsys):
    """In the world's words; in other words it cannot be asked, which is counted."""
    asked = {"question": "from left comes", "candidates": ["red circle", "blue square"], "correct_choice": 0}
    folder = write_folder(tmp_path / "lvb", 3, **asked)
    (folder / "videos").mkdir()
    for number in range(3):
        write_numbered(folder / "videos" / f"v{number}.mp4", count=25)
    records = json.loads((folder / "lvb_val.json").read_text())
    records[1]["question"] = "Who comes from the left?"
    (folder / "lvb_val.json").write_text(json.dumps(records))
    report, saved = tmp_path / "r.json", tmp_path / "s.json"
    flags = ["longvideobench", f"--root={folder}", f"--checkpoint={portable_dir}", f"--json={report}"]
    assert main([*flags, f"--save_predictions={saved}", "--process_count=2", "--process_index=1"]) == 0
    assert "whoever is last makes the report" in capsys.readouterr().out
    assert not report.exists()
    assert main([*flags, f"--save_predictions={saved}", "--process_count=2", "--process_index=0"]) == 0
    found = json.loads(report.read_text())
    assert (found["answered"], found["unanswerable"], found["unreadable"]) == (2, 1, 0)
    assert "'Who'" in found["unanswerable_examples"][0]
    assert found["subtitle_words_left_out"] == 8  # those of two videos, in neither English nor German of the world
    assert found["tokens_per_question"] > 0
    answers = json.loads(saved.read_text())
    assert {answers["q0"], answers["q2"]} <= {"A", "B"}
    assert answers["q1"] == ""
    assert main([*flags, "--process_count=2", "--process_index=0", "--subtitles=no"]) == 1
    assert "holds answers of subtitles=True, and this run has subtitles=False" in capsys.readouterr().err
    records[0]["question"] = "from right comes"
    (folder / "lvb_val.json").write_text(json.dumps(records))
    assert main([*flags, "--process_count=2", "--process_index=0"]) == 1
    assert "holds answers of questions=" in capsys.readouterr().err
    assert main([*flags[:3], "--process_count=2", "--process_index=0"]) == 1
    assert "several processes meet in files" in capsys.readouterr().err


def test_a_stage_that_answers_nothing_says_so(folder: Path, tmp_path: Path, monkeypatch, portable_dir: Path, capsys):
    from mmduplex_jax.stages import duplex
    from mmduplex_jax.stages.registry import answers_nothing

    monkeypatch.setattr(duplex, "make_answerer", answers_nothing("duplex"))
    (folder / "videos").mkdir()
    for number in range(6):
        (folder / "videos" / f"v{number}.mp4").touch()
    assert main(["longvideobench", f"--root={folder}", f"--checkpoint={portable_dir}"]) == 1
    assert "answers no questions" in capsys.readouterr().err
