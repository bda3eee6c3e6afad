"""Answers are kept as they come, shared among processes, and scored: with a model that only says what it is told to."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mmduplex_jax.evals.benchmarks import longvideobench as lvb
from mmduplex_jax.evals.benchmarks.protocol import (
    BenchmarkError,
    Item,
    Prediction,
    TimedText,
    UnanswerableError,
    UnreadableVideoError,
)
from mmduplex_jax.evals.benchmarks.runner import (
    AnswersFile,
    answer_items,
    check_videos,
    fingerprint,
    format_report,
    make_report,
    video_fingerprint,
)

MADE_BY = {"benchmark": "longvideobench", "checkpoint": "told"}
ITEMS = [
    Item(
        f"q{i}",
        None,
        "Which?",
        ("a", "b", "c"),
        groups={"duration": ("15", "600", "60")[i % 3]},
        facts={"correct_choice": 1},
    )
    for i in range(9)
]


class Told:
    """Answers "B" but for what it is told; counts, and may be killed."""

    def __init__(self, answers: dict[str, str] | None = None, dies_at: str = ""):
        self.answers, self.dies_at, self.asked = answers or {}, dies_at, []

    def answer(self, item: Item) -> Prediction:
        if item.key == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append(item.key)
        text = self.answers.get(item.key, "B")
        if text == "unspelled":
            raise UnanswerableError("the vocabulary cannot spell 'unspelled'")
        if text == "damaged":
            raise UnreadableVideoError(f"{item.video}: is no video")
        return Prediction(text, (TimedText(1.5, "hm"),), 10, {"scores": [0.25, -1.0]})


def test_a_killed_run_goes_on(tmp_path: Path):
    kept = AnswersFile(tmp_path / "out.json", MADE_BY)
    with pytest.raises(KeyboardInterrupt):
        answer_items(ITEMS, Told(dies_at="q5"), kept)
    # Killed in the middle of a line, it asks that question again.
    text = kept.path.read_text()
    kept.path.write_text(text[: text.rindex('"scores"')])
    second = Told()
    answers = answer_items(ITEMS, second, kept)
    assert second.asked == ["q4", "q5", "q6", "q7", "q8"]
    assert answers == {item.key: Told().answer(item) for item in ITEMS}
    assert answers == answer_items(ITEMS, Told(dies_at="q0"), kept)  # nothing is asked any more
    assert kept.path.name == "out.json.answers.jsonl"


def test_a_line_that_ends_within_a_character_is_asked_again(tmp_path: Path):
    kept = AnswersFile(tmp_path / "out.json", MADE_BY)
    answer_items(ITEMS, Told(), kept)
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole + '{"key": "é'.encode()[:-1])
    assert answer_items(ITEMS, Told(dies_at="q0"), kept) is not None
    assert kept.path.read_bytes() == whole
    kept.path.write_bytes(whole + b"\xe9\n")
    with pytest.raises(BenchmarkError, match=r"answers\.jsonl: not UTF-8 text"):
        answer_items(ITEMS, Told(), kept)


def with_videos(folder: Path, number: int = 9) -> list[Item]:
    """The first items, with a file of its own each."""
    for i in range(number):
        (folder / f"v{i}.mp4").write_bytes(bytes([i]) * (1 << 18))
    return [dataclasses.replace(item, video=folder / f"v{i}.mp4") for i, item in enumerate(ITEMS[:number])]


def test_what_was_said_of_a_damaged_video_is_asked_again(tmp_path: Path, capsys):
    items, kept = with_videos(tmp_path, 3), AnswersFile(tmp_path / "out.json", MADE_BY)
    first = answer_items(items, Told({"q0": "unspelled", "q1": "damaged"}), kept)
    assert first is not None  # it counts as unanswerable as long as nothing is mended
    assert make_report(lvb, items, first, "official")[0]["unanswerable"] == 2
    second = Told()
    answers = answer_items(items, second, kept)
    assert second.asked == ["q1"]
    assert answers is not None
    assert [answers[item.key].text for item in items] == ["", "B", "B"]
    assert (
        "out.json.answers.jsonl: 1 questions are asked again whose videos could not be read" in capsys.readouterr().err
    )
    assert answer_items(items, Told(dies_at="q1"), kept) == answers


def test_what_was_said_of_another_video_is_asked_again(tmp_path: Path, capsys):
    items, parts = with_videos(tmp_path, 4), [AnswersFile(tmp_path / "out.json", MADE_BY, i, 2) for i in range(2)]
    for part in parts:
        answer_items(items, Told(), part)
    copy = (tmp_path / "v2.mp4").read_bytes()
    (tmp_path / "v2.mp4").write_bytes(copy)  # later, and the same
    assert answer_items(items, Told(dies_at="q0"), parts[0]) is not None
    (tmp_path / "v2.mp4").write_bytes(copy[:-1] + b"x")
    assert answer_items(items, Told(dies_at="q0"), parts[0]) is None  # the other process has to ask again
    again = Told()
    assert answer_items(items, again, parts[1]) is not None
    assert again.asked == ["q2"]
    assert "1 questions are asked again whose videos were exchanged since" in capsys.readouterr().err


def test_videos_are_told_apart(tmp_path: Path):
    found = set()
    for number, content in enumerate((b"", b"a", b"b", b"ab", b"a" * 5000, bytes(1 << 20), bytes((1 << 20) + 1))):
        (tmp_path / f"{number}.mp4").write_bytes(content)
        found.add(video_fingerprint(tmp_path / f"{number}.mp4"))
    assert len(found) == 7


def test_videos_that_are_missing_are_listed(tmp_path: Path):
    check_videos(with_videos(tmp_path))
    some = [dataclasses.replace(ITEMS[0], facts={"video_path": "a.mp4"}), *with_videos(tmp_path)[1:], *ITEMS[:1]]
    with pytest.raises(BenchmarkError, match=r"^2 of 10 questions have no video: q0 \(a\.mp4\), q0\. Download them"):
        check_videos(some)
    with pytest.raises(BenchmarkError, match=r"^18 of 18 .* q0 and 8 more\. Download"):
        check_videos(ITEMS * 2)


def test_two_processes_never_share_a_file(tmp_path: Path):
    kept = AnswersFile(tmp_path / "out.json", MADE_BY)
    with kept.held(), pytest.raises(BenchmarkError, match=r"answers\.jsonl: another process writes .*--process_index"):
        answer_items(ITEMS, Told(dies_at="q0"), kept)
    assert answer_items(ITEMS, Told(), kept) is not None


def test_answers_of_another_run_are_refused(tmp_path: Path):
    answer_items(ITEMS, Told(), AnswersFile(tmp_path / "out.json", MADE_BY))
    other = AnswersFile(tmp_path / "out.json", MADE_BY | {"checkpoint": "other"})
    with pytest.raises(BenchmarkError, match="holds answers of checkpoint='told', and this run has checkpoint='other'"):
        answer_items(ITEMS, Told(), other)
    more = AnswersFile(tmp_path / "out.json", MADE_BY | {"subtitles": False})
    with pytest.raises(BenchmarkError, match="holds answers of subtitles=None, and this run has subtitles=False"):
        answer_items(ITEMS, Told(), more)


def test_a_damaged_answer_is_named(tmp_path: Path):
    kept = AnswersFile(tmp_path / "out.json", MADE_BY)
    answer_items(ITEMS, Told(), kept)
    lines = kept.path.read_text().splitlines()
    for damaged, said in (("{", "is no JSON"), ('{"key": "q1"}', "is no answer")):
        kept.path.write_text("\n".join([*lines[:2], damaged, *lines[3:]]) + "\n")
        with pytest.raises(BenchmarkError, match=rf"out\.json\.answers\.jsonl:3: {said}"):
            answer_items(ITEMS, Told(), kept)


def test_processes_share_the_work(tmp_path: Path):
    told = [Told() for _ in range(4)]
    parts = [AnswersFile(tmp_path / "out.json", MADE_BY, process, 4) for process in range(4)]
    assert [answer_items(ITEMS, one, part) for one, part in zip(told[:3], parts)] == [None, None, None]
    assert answer_items(ITEMS, told[3], parts[3]) == {item.key: Told().answer(item) for item in ITEMS}
    assert sorted(key for one in told for key in one.asked) == [item.key for item in ITEMS]
    assert parts[1].path.name == "out.json.answers.00001-of-00004.jsonl"
    # Whoever is started again when all are done finds the same, and asks nothing.
    assert answer_items(ITEMS, Told(dies_at="q0"), parts[0]) is not None
    with pytest.raises(ValueError, match="process 4 of 4"):
        AnswersFile(tmp_path / "out.json", MADE_BY, 4, 4)


def test_a_report_counts_everything():
    answers = answer_items(ITEMS, Told({"q0": "A", "q1": "?", "q2": "unspelled"}))
    assert answers is not None
    report, scores = make_report(lvb, ITEMS, answers, "official")
    assert report["score"] == pytest.approx(6 / 9)
    low, high = report["interval"]
    assert low < 6 / 9 < high
    assert list(report["groups"]["duration"]) == ["15", "60", "600"]
    assert report["groups"]["duration"]["15"]["score"] == pytest.approx(2 / 3)
    assert report["groups"]["duration"]["15"]["items"] == 3
    counted = {name: report[name] for name in ("items", "scored", "answered", "unreadable", "unanswerable")}
    assert counted == {"items": 9, "scored": 9, "answered": 8, "unreadable": 1, "unanswerable": 1}
    assert report["tokens_per_question"] == 10
    assert [one.value for one in scores[:4]] == [0, 0, 0, 1]
    json.dumps(report, allow_nan=False)
    text = format_report({"benchmark": "longvideobench", "answered_by": "told"} | report)
    assert "the vocabulary cannot spell 'unspelled'" in text
    assert re.search(r"duration 15 +0\.6667 +\[0, 1\] +3 items", text)
    with pytest.raises(ValueError, match="--rule=mine: choose one of official, lmms_eval"):
        make_report(lvb, ITEMS, answers, "mine")


def test_nothing_answered_is_no_score_of_a_model():
    report, _ = make_report(lvb, ITEMS, {}, "official")
    assert (report["score"], report["answered"], report["unreadable"]) == (0.0, 0, 0)
    assert report["tokens_per_question"] is None


def test_parameters_are_told_apart():
    params = {"a": np.arange(4.0), "b": {"c": np.ones((2, 2))}}
    assert fingerprint(params) == fingerprint({"b": {"c": np.ones((2, 2))}, "a": np.arange(4.0)})
    assert (
        len(
            {
                fingerprint(other)
                for other in (params, params | {"a": np.arange(4.0).reshape(2, 2)}, {"x": np.arange(4.0)})
            }
        )
        == 3
    )
