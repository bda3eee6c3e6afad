"""LiveSports-3K-CC: captions in and out, judges' logs in both orders, and the published win rates where they are."""

import csv
import json
import os
from pathlib import Path

import pytest

from mmduplex_jax.evals.benchmarks import livesports3kcc
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction, TimedText

# A checkout of showlab/livecc fdaa91e, which has no licence.
CHECKOUT = "MMDUPLEX_LIVECC"
# evaluation/livesports3kcc/judges/log.txt there: per cent.
PUBLISHED = {"LiveCC-7B-Instruct": "47.24", "LiveCC-7B-Base": "47.21"}

EVENTS = [
    {
        "video_id": name,
        "event_id": number,
        "begin": 10.5,
        "end": 20 + number,
        "video": f"{name}.mp4",
        "class": sport,
        "event_title": "A race",
        "preasr_text": "here they come",
        "event_asr_text": "and she takes the lead",
    }
    for name, number, sport in (("a_b", 1, "sailing"), ("a_b", 2, "sailing"), ("c", 1, "rugby"), ("d", 7, "rugby"))
]
KEYS = ["a_b_1", "a_b_2", "c_1", "d_7"]
VERDICTS = [("ours", "ours"), ("ours", "GPT-4o"), ("GPT-4o", "GPT-4o"), ("tie", "ours")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "LiveSports-3K-CC.json").write_text(json.dumps(EVENTS))
    (tmp_path / "c.mp4").touch()
    return tmp_path


@pytest.fixture
def items(folder: Path) -> list[Item]:
    return livesports3kcc.load_items(folder)


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def log(path: Path, verdicts: list[tuple[str, str]] = VERDICTS) -> Path:
    return lines(
        path, [{"video_event_id": key, "ab_winner": ab, "ba_winner": ba} for key, (ab, ba) in zip(KEYS, verdicts)]
    )


def test_events_are_parts_of_videos_that_are_commented(folder, items):
    assert [item.key for item in items] == KEYS
    assert (items[2].begin_s, items[2].listens_until_s, items[2].question) == (10.5, 21, "")
    assert items[2].groups == {"class": "rugby"}
    assert items[2].facts["event_asr_text"] == "and she takes the lead"
    assert [item.video for item in items] == [None, None, folder / "c.mp4", None]


def test_the_data_set_is_also_published_as_lines_and_as_tables(folder, items, tmp_path_factory):
    others = tmp_path_factory.mktemp("others")
    lines(others / "LiveSports-3K-CC.json", EVENTS)
    assert [item.facts for item in livesports3kcc.load_items(others)] == [item.facts for item in items]
    (others / "LiveSports-3K-CC.json").unlink()
    for split, rows in (("val", EVENTS[:1]), ("test", EVENTS[1:])):
        with (others / f"LiveSports-3K-CC-{split}.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, EVENTS[0].keys())
            table.writeheader()
            table.writerows({**row, "event_title": "A race,\nwith two lines"} for row in rows)
    found = livesports3kcc.load_items(others)
    assert [(item.key, item.listens_until_s, item.groups) for item in found] == [
        (item.key, item.listens_until_s, item.groups) for item in items
    ]
    assert found[0].facts["event_title"] == "A race,\nwith two lines"


def test_win_rates_position_bias_and_consistency(folder, items):
    predictions = livesports3kcc.read_predictions(log(folder / "judge.jsonl"), items)
    scores = livesports3kcc.score(items, predictions, "official")
    assert [score.value for score in scores] == [1, 0.5, 0, 0.5]
    assert livesports3kcc.aggregate(scores, "official") == 0.5
    assert livesports3kcc.figures(items, predictions, scores, "official") == {
        "model": "ours",
        "judged": 4,
        "win_rate_as_a": 0.5,
        "win_rate_as_b": 0.5,
        "position_bias": 0,
        "first_wins": pytest.approx((2 / 4 + 2 / 4) / 2),
        "consistent": 0.5,
        "ties": 0.125,
    }
    agreed = livesports3kcc.score(items, predictions, "consistent")
    assert [score.value for score in agreed] == [1, None, 0, None]


def test_a_judge_who_prefers_whatever_stands_first_gives_everybody_half(items):
    predictions = livesports3kcc.CONTROLS["first_wins"](items)
    scores = livesports3kcc.score(items, predictions, "official")
    assert livesports3kcc.aggregate(scores, "official") == 0.5
    found = livesports3kcc.figures(items, predictions, scores, "official")
    assert (found["position_bias"], found["consistent"]) == (1, 0)
    assert livesports3kcc.aggregate(livesports3kcc.score(items, predictions, "consistent"), "consistent") is None


def test_silence_loses_and_what_nobody_judged_is_left_out(items):
    silent = livesports3kcc.CONTROLS["silent"](items)
    assert livesports3kcc.aggregate(livesports3kcc.score(items, silent, "official"), "official") == 0
    scores = livesports3kcc.score(items, {"c_1": Prediction("what a run")}, "official")
    assert [score.value for score in scores] == [0, 0, None, 0]
    assert livesports3kcc.figures(items, silent, scores, "official") == {"judged": 0}


def test_a_coin_is_the_same_coin_and_wins_about_half():
    items = [Item(str(number), None) for number in range(1000)]
    predictions = livesports3kcc.CONTROLS["coin"](items)
    assert predictions == livesports3kcc.CONTROLS["coin"](items)
    rate = livesports3kcc.aggregate(livesports3kcc.score(items, predictions, "official"), "official")
    assert rate == pytest.approx(0.5, abs=0.05)  # 2,000 throws: 4.5 standard deviations


def test_nan_and_empty_files_of_predictions_are_refused(folder, items):
    path = lines(
        folder / "ours.jsonl", [{**EVENTS[0], "pred": "a run"}, {**EVENTS[1], "begin": float("nan"), "pred": ""}]
    )
    with pytest.raises(BenchmarkError, match=r"ours\.jsonl, line 2: holds NaN or an infinite number"):
        livesports3kcc.read_predictions(path, items)
    path.write_text("\n")
    with pytest.raises(BenchmarkError, match=r"ours\.jsonl: is empty: a line a caption or verdict is expected"):
        livesports3kcc.read_predictions(path, items)


def test_a_video_outside_of_the_folder_is_refused(folder):
    (folder / "LiveSports-3K-CC.json").write_text(json.dumps([{**EVENTS[0], "video": "../a_b.mp4"}]))
    with pytest.raises(BenchmarkError, match=r"event 0: 'video' must name a file in .*, it is \"../a_b.mp4\""):
        livesports3kcc.load_items(folder)


def test_captions_go_out_as_the_judge_reads_them_and_come_back(folder, items):
    said = (TimedText(11.0, "there she"), TimedText(12.0, " goes"))
    predictions = {"a_b_1": Prediction(said=said), "d_7": Prediction("a try")}
    path = folder / "made" / "ours.jsonl"
    livesports3kcc.write_predictions(path, items, predictions)
    assert json.loads(path.read_text().splitlines()[0]) == {
        "video_id": "a_b",
        "event_id": 1,
        "begin": 10.5,
        "end": 21,
        "pred": "there she goes",
    }
    log(path.with_name("GPT-4o_ours.jsonl"))
    found = livesports3kcc.read_predictions(path.parent, items)
    assert {key: prediction.text for key, prediction in found.items()} == {
        "a_b_1": "there she goes",
        "a_b_2": "",
        "c_1": "",
        "d_7": "a try",
    }
    assert found["d_7"].facts == {"ab_winner": "tie", "ba_winner": "model", "model": "ours"}
    # Whoever has only captions and a log needs no data set: the captions say which events there are.
    assert [item.key for item in livesports3kcc.load_items(path)] == ["a_b_1", "d_7"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"video_event_id": "x_1", "ab_winner": "ours", "ba_winner": "ours"}], r"line 1: there is no event x_1"),
        ([{"video_event_id": "c_1", "ab_winner": "ours"}], r"line 1: 'ba_winner' is missing"),
        (
            [{"video_event_id": key, "ab_winner": key, "ba_winner": "GPT-4o"} for key in KEYS],
            r"line 2: .*log of one model",
        ),
        ([{"video_id": "c", "event_id": 1, "pred": "a"}] * 2, r"line 2: event c_1 has another caption"),
        ([{"video_id": "c", "event_id": 1, "pred": 3}], r"line 1: 'pred' must be a text, it is 3"),
        ([{"video_id": "c", "event_id": None, "pred": "a"}], r"line 1: 'event_id' must be a number"),
    ],
)
def test_what_cannot_be_read_is_said(folder, items, rows, message):
    with pytest.raises(BenchmarkError, match=message):
        livesports3kcc.read_predictions(lines(folder / "made.jsonl", rows), items)


def test_a_damaged_line_and_a_folder_without_events_are_said(folder, items, tmp_path_factory):
    (folder / "cut.jsonl").write_text('{"video_id": "c"')
    with pytest.raises(BenchmarkError, match=r"cut.jsonl, line 1: not JSON"):
        livesports3kcc.read_predictions(folder / "cut.jsonl", items)
    with pytest.raises(BenchmarkError, match=r"there is no LiveSports-3K-CC.json"):
        livesports3kcc.load_items(tmp_path_factory.mktemp("empty"))
    (folder / "LiveSports-3K-CC.json").write_text(json.dumps([{**EVENTS[0], "end": 3}]))
    with pytest.raises(BenchmarkError, match=r"event 0: it begins at 10.5 s and ends at 3.0 s"):
        livesports3kcc.load_items(folder)


def test_published_win_rates():
    """The official script's figures, to the second decimal, on the official judge's logs."""
    if CHECKOUT not in os.environ:
        pytest.skip(f"{CHECKOUT} does not name a checkout of showlab/livecc (no licence: not redistributable)")
    root = Path(os.environ[CHECKOUT]) / "evaluation" / "livesports3kcc"
    items = livesports3kcc.load_items(root / "captions" / "GPT-4o.jsonl")
    assert len(items) == 1702
    for model, published in PUBLISHED.items():
        predictions = livesports3kcc.read_predictions(root / "judges" / f"GPT-4o_{model}.jsonl", items)
        rate = livesports3kcc.aggregate(livesports3kcc.score(items, predictions, "official"), "official")
        assert f"{100 * rate:.2f}" == published, model
        found = livesports3kcc.figures(items, predictions, [], "official")
        assert found["model"] == model
        # Recomputed from the logs: the judge prefers whatever stands first.
        assert 0.34 < found["position_bias"] < 0.37
        assert 0.62 < found["consistent"] < 0.63
