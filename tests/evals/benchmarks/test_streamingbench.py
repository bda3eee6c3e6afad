"""StreamingBench: three rules for who speaks at the right time, choices, and the official files in and out."""

import json
from pathlib import Path

import pytest

from mmduplex_jax.evals.benchmarks import streamingbench
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction, TimedText

POLL = 'When the ball falls, output "ball down". Is it the right time to output "ball down"? Answer yes or no.'


def question(at: str, **more: object) -> dict:
    return {"task_type": "Counting", "question": f"What is there at {at}?", "time_stamp": at, **more}


def entry(video: str, *questions: dict) -> dict:
    return {
        "time": "[0:00:00 - 0:00:30]",
        "questions": [*questions],
        "video_categories": "snooker",
        "video_path": f"./videos/{video}.mp4",
    }


PROACTIVE = [
    entry(
        "a",
        {
            "task_type": "Proactive Output",
            "question": 'When the ball falls, output "ball down".',
            "time_stamp": "00:00:20",
            "ground_truth_time_stamp": "00:00:30",
            "ground_truth_output": "ball down",
            "required_ability": "working memory",
        },
    )
]
LABELLED = ["A. one", "B. two", "C. three", "D. four"]
REAL = [
    entry("b", question("00:01:00", answer="B", options=LABELLED), question("00:24", answer="A", options=list("wxyz"))),
    entry("c", question("00:00:05", answer="D", options=["A. one", "", "B. two", "more", "C. three", "D. four"])),
    entry("c", question("00:00:06", answer="B", options=["A. one", "C. two", "B. three", "D. four"])),
    entry("c", question("00:00:07", answer="D", options=["A. one", "B. two", "C. three", "B. four"])),
]
SQA = [
    [
        entry("d", question("00:00:05", answer="C", options=list("wxyz"))),
        entry("d", question("00:00:09", answer="A", options=LABELLED)),
    ]
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, rows in (("proactive", PROACTIVE), ("real", REAL), ("sqa", SQA)):
        (tmp_path / f"questions_{part}.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def items(folder: Path) -> list[Item]:
    return streamingbench.load_items(folder)


@pytest.fixture
def proactive(items: list[Item]) -> Item:
    return items[-1]


def said(*pairs: tuple[float, str]) -> Prediction:
    return Prediction(said=tuple(TimedText(t_s, text) for t_s, text in pairs))


def value(item: Item, prediction: Prediction, rule: str) -> float | None:
    return streamingbench.score([item], {item.key: prediction}, rule)[0].value


def polled(folder: Path, items: list[Item], *replies: tuple[float, str], answered: float | bool) -> Prediction:
    """What a file of the official script is read as: polls and replies, and after a "yes" the question itself."""
    dialogue = []
    for number, (t_s, reply) in enumerate(replies):
        last = number == len(replies) - 1 and answered is not False
        asked = PROACTIVE[0]["questions"][0]["question"] if last else POLL
        dialogue += [
            {"role": role, "content": content, "time": t_s, "cost": 0.1}
            for role, content in (("user", asked), ("assistant", reply))
        ]
    row = {**PROACTIVE[0]["questions"][0], "some-model": {"answered": answered, "dialog_history": dialogue}}
    path = folder / "proactive_output_some-model.json"
    path.write_text(json.dumps([{**PROACTIVE[0], "video_path": "elsewhere/a.mp4", "questions": [row]}]))
    return streamingbench.read_predictions(path, items)["proactive_0"]


def test_questions_and_the_odd_options_of_some(folder, items):
    assert [item.key for item in items] == [
        "real_0",
        "real_1",
        "real_2",
        "real_3",
        "real_4",
        "sqa_0",
        "sqa_1",
        "proactive_0",
    ]
    assert [item.asked_s for item in items] == [60, 24, 5, 6, 7, 5, 9, 20]
    assert items[0].options == ("one", "two", "three", "four")
    assert items[1].options == ("w", "x", "y", "z")
    # An option in two pieces and an empty one; letters out of order; a letter twice, where only the place is left.
    assert items[2].options == ("one", "two, more", "three", "four")
    assert items[3].choices == ("A", "C", "B", "D")
    assert items[4].choices == ("A", "B", "C", "D")
    assert [item.options[item.facts["right"]] for item in items[2:5]] == ["four", "three", "four"]
    assert items[5].question == "What is there at 00:00:05?"
    assert items[6].question == "What is there at 00:00:05? y What is there at 00:00:09?"
    assert (items[7].begin_s, items[7].asked_s, items[7].listens_until_s) == (20, 20, 34)
    assert items[0].video is None
    (folder / "videos").mkdir()
    (folder / "videos" / "b.mp4").touch()
    assert streamingbench.load_items(folder)[0].video == folder / "videos" / "b.mp4"


def test_a_choice_is_right_by_its_first_character(items):
    answers = {"real_0": "B. two", "real_1": "The answer is A", "real_2": " D", "real_3": "", "real_4": "D"}
    predictions = {key: Prediction(text) for key, text in answers.items()}
    for rule in streamingbench.RULES:
        scores = streamingbench.score(items, predictions, rule)
        assert [score.value for score in scores] == [1, 0, 0, 0, 1, None, None, None]
        assert [score.key for score in scores if score.unreadable] == ["real_1", "real_2"]
        assert streamingbench.aggregate(scores, rule) == 2 / 5
        assert streamingbench.figures(items, predictions, scores, rule)["parts_left_out"] == ["sqa", "proactive"]


@pytest.mark.parametrize(
    ("words", "official", "answered", "unprompted"),
    [
        ([(30, "ball down")], 1, 1, 1),
        ([(28, "and the ball down it goes")], 1, 1, 1),
        ([(30, "Ball"), (30.4, "down")], 0, 0, 1),  # the official rule minds case
        ([(27.5, "ball down")], 0, 0, 0),
        ([(32.5, "ball down")], 0, 0, 0),
        ([(30, "the ball")], 0, 0, 0),
        ([(22, "a red one"), (30, "ball down")], 1, 0, 1),  # it may talk before
        ([(22, "ball down"), (30, "ball down")], 1, 0, 0),  # but not say it again and again
        ([(30, "ball down"), (33.5, "well")], 0, 1, 1),  # the last entry counts
        ([(10, "ball down"), (30, "ball down")], 1, 1, 1),  # it was not asked yet
        ([], 0, 0, 0),
    ],
)
def test_who_speaks_on_its_own(proactive, words, official, answered, unprompted):
    values = [value(proactive, said(*words), rule) for rule in streamingbench.RULES]
    assert values == [official, answered, unprompted]


def test_a_polled_dialogue_counts_from_its_yes(folder, items, proactive):
    right = polled(folder, items, (28, "no"), (29, "yes"), (29, "ball down"), answered=29)
    assert [value(proactive, right, rule) for rule in streamingbench.RULES] == [1, 1, None]
    late = polled(folder, items, (33, "yes"), (33, "ball down"), answered=33)
    assert [value(proactive, late, rule) for rule in streamingbench.RULES] == [0, 0, None]
    assert right.text == "ball down"


def test_a_dialogue_that_breaks_off_counts_officially_although_it_never_said_yes(folder, items, proactive):
    broken_off = polled(folder, items, (28, "no"), (29, "no, no ball down yet"), answered=False)
    assert [value(proactive, broken_off, rule) for rule in streamingbench.RULES] == [1, 0, None]
    predictions = {"proactive_0": broken_off}
    scores = streamingbench.score(items, predictions, "official")
    found = streamingbench.figures(items, predictions, scores, "official")
    assert (found["polled"], found["never_yes"], found["in_time_without_yes"]) == (1, 1, 1)
    assert found["time_accuracy"] == found["answer_accuracy"] == 1


def test_answers_come_back_as_they_were_written(folder, items):
    predictions = {item.key: Prediction(f"A {item.key}") for item in items[:-2]}
    predictions["proactive_0"] = said((21.5, "it rolls"), (30.5, "ball down"))
    streamingbench.write_predictions(folder / "out", items, predictions)
    assert {path.name for path in (folder / "out").iterdir()} == {
        f"{part}_output_MMDuplex.json" for part in ("real", "sqa", "proactive")
    }
    assert streamingbench.read_predictions(folder / "out", items) == predictions


def test_one_part_is_one_file_which_the_official_script_can_read_also_of_the_silent(folder, items, proactive):
    path = folder / "out.json"
    streamingbench.write_predictions(path, [proactive], {"proactive_0": Prediction()})
    (row,) = json.loads(path.read_text())[0]["questions"]
    # count.py takes the last entry and asks when it was: not in time, as of a poll that nobody answers.
    assert row["MMDuplex"]["answered"] is False
    assert (row["MMDuplex"]["dialog_history"][-1]["content"], row["MMDuplex"]["dialog_history"][-1]["time"]) == ("", 34)
    assert streamingbench.read_predictions(path, items) == {"proactive_0": Prediction()}


def test_words_without_a_pause_are_one_entry(proactive):
    words = tuple(TimedText(29 + 0.4 * n, word, 29.3 + 0.4 * n) for n, word in enumerate(["ball", "down", "there"]))
    assert [value(proactive, Prediction(said=words), rule) for rule in streamingbench.RULES] == [1, 1, 1]


def test_words_of_a_long_utterance_are_said_when_they_come(proactive):
    words = (TimedText(25, "it rolls on and on, ball down", 30),)
    assert [value(proactive, Prediction(said=words), rule) for rule in streamingbench.RULES] == [0, 0, 1]


def test_what_cannot_be_read_is_said(folder, items, tmp_path_factory):
    path = folder / "answers.json"
    asked = PROACTIVE[0]["questions"][0]
    for rows, message in [
        ([entry("x", asked)], r"entry 0, question 0: the benchmark has no such question at 00:00:20"),
        (PROACTIVE * 2, r"entry 1, question 0: .*or it came before"),
        ([entry("a", {**asked, "m": {}, "n": {}})], r"question 0: there are answers of m, n; keep those of one model"),
        ([entry("a", {**asked, "m": "yes"})], r"question 0, 'm': an object was expected"),
        ([entry("a", {**asked, "m": {"dialog_history": []}})], r"'dialog_history' is empty"),
        ([entry("b", {**REAL[0]["questions"][0], "m": ["B"]})], r"'m' must be a text"),
        ({"a": 1}, r"answers.json: a list was expected"),
    ]:
        path.write_text(json.dumps(rows))
        with pytest.raises(BenchmarkError, match=message):
            streamingbench.read_predictions(path, items)
    with pytest.raises(BenchmarkError, match=r"`src/data` of THUNLP-MT/StreamingBench"):
        streamingbench.load_items(tmp_path_factory.mktemp("empty"))
    for bad, message in [
        ({"time_stamp": "soon"}, r"'time_stamp' must be a time like 00:03:10, it is 'soon'"),
        ({"answer": "E"}, r"'answer' is 'E', the options are A, B, C, D"),
    ]:
        (folder / "questions_real.json").write_text(json.dumps([entry("b", {**REAL[0]["questions"][0], **bad})]))
        with pytest.raises(BenchmarkError, match=message):
            streamingbench.load_items(folder)


def test_blind_answers_to_the_published_questions(shared_dir, tmp_path):
    published = shared_dir / "fixtures" / "benchmarks" / "streamingbench_questions_proactive.json"
    if not published.is_file():
        pytest.skip("no published questions in `shared`")
    (tmp_path / "questions_proactive.json").symlink_to(published)
    items = streamingbench.load_items(tmp_path)
    assert len(items) == 250
    right = {}
    for name, control in streamingbench.CONTROLS.items():
        assert control(items) == control(items)  # nothing is random
        for rule in streamingbench.RULES:
            scores = streamingbench.score(items, control(items), rule)
            right[name, rule] = streamingbench.aggregate(scores, rule)
    assert {right["silent", rule] for rule in streamingbench.RULES} == {0}
    # The trap of this benchmark: half of the questions are about what happens 5 to 9 s after they are asked.
    assert {right["after_7_s", rule] for rule in streamingbench.RULES} == {129 / 250}
    assert right["after_1_s", "official"] == 11 / 250
