"""LongVideoBench: prompts as the official loader makes them, answers as each rule reads them, and who sees nothing.

What prompts must be was written down from the official loader (fc3c553) run on these subtitles, one by one; on 14,400
random ones it made the same. Figures of controls are counted by hand.
"""

import json
from pathlib import Path

import pytest

from mmduplex_jax.evals.benchmarks import longvideobench as lvb
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction, Subtitle
from tests.evals.benchmarks.longvideobench_folder import CLOCKED, STAMPED, question, write_folder

ASKED = "Answer with the option's letter from the given choices directly."


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return lvb.load_items(write_folder(tmp_path / "lvb"))


def shown(inputs: list) -> list:
    """Frames as their numbers."""
    return [one if isinstance(one, str) else one.number for one in inputs]


def test_frames_are_those_of_the_official_loader():
    # 10 s at 25 Hz: 250 pictures in 4 steps of 62; and never more than one a second.
    assert [frame.number for frame in lvb.sampled_frames(10.0, 25.0, 4)] == [0, 62, 124, 186]
    assert [frame.t_s for frame in lvb.sampled_frames(10.0, 25.0, 4)] == [0.0, 2.48, 4.96, 7.44]
    assert [frame.number for frame in lvb.sampled_frames(6.5, 29.97, 64)] == [0, 32, 64, 96, 128, 160]
    assert lvb.sampled_frames(0.9, 25.0, 16) == []


def test_subtitles_stand_where_the_official_loader_puts_them(items):
    frames = lvb.sampled_frames(10.0, 25.0, 4)
    # "one" is widened to a second around 1.2 s, where no frame lies, and so is "three" around 4.15 s. "four" ends with
    # the duration less the begin, at 0 s, so its middle is at 4 s, its stretch from 3.5 to 4.5 s, and nothing in it.
    expected = [0, 62, "two", 124, 186, "Question: What is it 0?", "A. a cat", "B. a very long dog", "C. a hen", ASKED]
    assert shown(lvb.official_inputs(items[0], STAMPED, frames, max_num_frames=4)) == expected
    assert shown(lvb.official_inputs(items[0], STAMPED, frames, max_num_frames=4, insert_text=False)) == [
        text for text in expected if text != "two"
    ]
    # "ein" is widened around .45 s, so that the frame at 0 s lies in it.
    frames = lvb.sampled_frames(6.5, 29.97, 64)
    options = ["A. a cat", "B. a very long dog", "C. a hen", "D. a cow", ASKED]
    expected = [0, "ein", 32, 64, "zwei", "drei", 96, 128, 160, "Question: What is it 1?", *options]
    assert shown(lvb.official_inputs(items[1], CLOCKED, frames, max_num_frames=64)) == expected


def test_no_frames_and_subtitles_alone(items):
    asked = ["Question: What is it 0?", "A. a cat", "B. a very long dog", "C. a hen", ASKED]
    frames = lvb.sampled_frames(10.0, 25.0, 4)
    assert lvb.official_inputs(items[0], STAMPED, frames, max_num_frames=0) == asked
    alone = lvb.official_inputs(items[0], STAMPED, frames, max_num_frames=-1)
    assert alone == ["one", "two", "three", "four", *asked]
    with pytest.raises(ValueError, match="-1 for subtitles alone, got -2"):
        lvb.official_inputs(items[0], STAMPED, frames, max_num_frames=-2)


def test_lmms_eval_asks_otherwise(items):
    asked = f"What is it 0?\nA. a cat\nB. a very long dog\nC. a hen\n{ASKED}\n"
    assert lvb.lmms_eval_prompt(items[0], STAMPED) == asked
    # Frames at 0, 2.5, 5 and 7.5 s, which are not those that it shows.
    interleaved = lvb.lmms_eval_prompt(items[0], STAMPED, max_num_frames=4, interleave=True)
    assert interleaved == f"<image>\n<image>\ntwo\n<image>\n<image>\n{asked}"
    # A video that is no longer than its frames: one at each whole second.
    interleaved = lvb.lmms_eval_prompt(items[1], CLOCKED, interleave=True)
    assert interleaved.startswith(
        "<image>\nein\n<image>\n<image>\nzwei\n<image>\ndrei\n<image>\n<image>\nWhat is it 1?"
    )


def test_a_folder_is_read(items):
    assert [item.key for item in items] == ["q0", "q1", "q2", "q3", "q4", "q5"]
    assert items[0].video is None  # predictions can be scored without
    assert items[0].groups == {"duration": "15", "category": "S2E", "topic": "KA-Art", "level": "L1-Perception"}
    assert items[1].options == ("a cat", "a very long dog", "a hen", "a cow")
    assert items[0].subtitles[:2] == (Subtitle(1.0, pytest.approx(1.4), "one"), Subtitle(2.0, 5.5, "two"))
    assert items[0].subtitles[3] == Subtitle(8.0, 10.0, "four")  # its end is not known: the video's
    assert items[1].subtitles[1] == Subtitle(1.0, 4.5, "zwei")


def test_the_test_set_has_no_right_answers(tmp_path: Path):
    hidden = {"correct_choice": -1}
    items = lvb.load_items(write_folder(tmp_path / "lvb", file="lvb_test_wo_gt.json", **hidden))
    scores = lvb.score(items, {"q0": Prediction("A")}, "official")
    assert {one.value for one in scores} == {None}
    assert scores[0].shown["right"] == "@"
    assert lvb.aggregate(scores, "official") is None


@pytest.mark.parametrize(
    ("answer", "official", "lmms_eval"),
    [
        ("B", "B", "B"),
        (" (B)\n", "B", "B"),
        ("B. a very long dog", "B", "B"),
        ("The best answer is C.", None, "C"),
        ("The answer is: (D)", None, "D"),
        ("An apple", None, "A"),
        ("a cat", None, None),
        ("one two three four five six seven eight nine ten eleven", None, None),
        ("I think that it may well be the third one, which is C", None, "C"),
        ("", None, None),
        ("E", "E", "E"),
    ],
)
def test_answers_are_read_as_each_rule_says(answer: str, official: str | None, lmms_eval: str | None):
    assert lvb.read_letter(answer, "official") == official
    assert lvb.read_letter(answer, "lmms_eval") == lmms_eval


def test_what_cannot_be_read_is_wrong_and_counted(items):
    answers = {"q0": Prediction("A"), "q1": Prediction("the dog"), "q2": Prediction("A")}
    scores = lvb.score(items, answers, "official")
    assert [one.value for one in scores] == [1, 0, 0, 0, 0, 0]
    assert [one.unreadable for one in scores] == [False, True, False, False, False, False]
    figures = lvb.figures(items, answers, scores, "official")
    assert figures == {"answered_by_letter": {"A": 2, "B": 0, "C": 0}, "right_by_letter": {"A": 2, "B": 2, "C": 2}}


def test_who_sees_nothing(items):
    value = lambda control, rule="official": lvb.aggregate(lvb.score(items, lvb.CONTROLS[control](items), rule), rule)
    # Three questions of three options and three of four; "a very long dog" is right twice, and it is B.
    assert value("chance") == pytest.approx((3 / 3 + 3 / 4) / 6)
    assert value("chance", "lmms_eval") == value("chance")
    assert value("always_longest") == value("always_b") == pytest.approx(2 / 6)


def test_predictions_go_out_and_come_in(items, tmp_path: Path):
    file = tmp_path / "answers.json"
    answers = {"q1": Prediction("B"), "q0": Prediction("A. it's ü")}
    lvb.write_predictions(file, items, answers)
    assert json.loads(file.read_text(encoding="utf-8")) == {"q0": "A. it's ü", "q1": "B"}
    assert lvb.read_predictions(file, items) == answers


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "a JSON object is expected"),
        ('{"q99": "A"}', "'q99' is the id of none of the 6 questions"),
        ('{"q0": 3}', "the answer to 'q0' must be a text, got 3"),
        ("{", "not JSON"),
    ],
)
def test_other_predictions_are_refused(items, tmp_path: Path, content: str, said: str):
    file = tmp_path / "answers.json"
    file.write_text(content)
    with pytest.raises(BenchmarkError, match=said):
        lvb.read_predictions(file, items)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": ["one"]}, "question 0: `candidates` must be a list of at least two texts"),
        ({"correct_choice": 5}, "question 0: `correct_choice` is 5, and there are 3 candidates"),
        ({"correct_choice": True}, "question 0: `correct_choice` is True, and there are 3 candidates"),
        ({"video_path": "../v0.mp4"}, "question 0: 'video_path' must name a file in .*videos, it is \"../v0.mp4\""),
        ({"video_path": "/v0.mp4"}, "question 0: 'video_path' must name a file in .*videos, it is \"/v0.mp4\""),
        ({"video_path": " "}, "question 0: 'video_path' must name a file in"),
        ({"id": "same"}, "question 1: the id 'same' comes twice"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, changes: dict, said: str):
    with pytest.raises(BenchmarkError, match=said):
        lvb.load_items(write_folder(tmp_path / "lvb", **changes))


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(BenchmarkError, match=r"lvb_val\.json: there is no such file: name it, or a folder with"):
        lvb.load_items(tmp_path)
    folder = write_folder(tmp_path / "lvb")
    for line in ('{"timestamp": [NaN, 2], "text": "a"}', '{"timestamp": [0, 2], "text": 3}'):
        (folder / "subtitles" / "v3_en.json").write_text(f"[{line}]")
        with pytest.raises(BenchmarkError, match=r"v3_en\.json, line 0: must be a text between two times"):
            lvb.load_items(folder)
    (folder / "subtitles" / "v3_en.json").unlink()
    with pytest.raises(BenchmarkError, match=r"v3_en\.json"):
        lvb.load_items(folder)
    (folder / "subtitles" / "v3_en.json").write_text('[{"timestamp": [0.0, 1.0], "line": "?"}]')
    with pytest.raises(BenchmarkError, match=r"v3_en\.json, line 0: neither"):
        lvb.load_items(folder)
    (folder / "subtitles" / "v3_en.json").write_text('[{"start": "1:00", "end": "2:00", "line": "?"}]')
    with pytest.raises(BenchmarkError, match=r"v3_en\.json, line 0: its times cannot be read"):
        lvb.load_items(folder)
    record = question(0)
    del record["duration"]
    (folder / "lvb_val.json").write_text(json.dumps([record]))
    with pytest.raises(BenchmarkError, match="question 0: 'duration' is missing"):
        lvb.load_items(folder)


def test_a_name_of_subtitles_that_is_no_text_is_named(tmp_path: Path):
    folder = write_folder(tmp_path / "lvb", 1)
    (record,) = json.loads((folder / "lvb_val.json").read_text())
    (folder / "lvb_val.json").write_text(json.dumps([record | {"subtitle_path": 3}]))
    with pytest.raises(BenchmarkError, match="question 0: 'subtitle_path' must be a text"):
        lvb.load_items(folder)
    (folder / "lvb_val.json").write_text(json.dumps([record | {"subtitle_path": "a/../../b.json"}]))
    with pytest.raises(BenchmarkError, match=r"question 0: 'subtitle_path' must name a file in .*subtitles, it is"):
        lvb.load_items(folder)
