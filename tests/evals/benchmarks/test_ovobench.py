"""OVO-Bench: the official scorer's rules, its files in and out, and its published totals where they are at hand."""

import json
import os
from pathlib import Path

import pytest

from mmduplex_jax.evals.benchmarks import ovobench
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction

# A checkout of JoeLeelyf/OVO-Bench c34093f: its annotations and results may not be given away with this project.
CHECKOUT = "MMDUPLEX_OVO_BENCH"
# Backward, real time, forward and total, as the official score.py prints them for the files there.
PUBLISHED = {
    "Gemini": "62.54 69.32 57.15 63.00",
    "GPT": "60.75 64.46 52.92 59.38",
    "QWen2VL_72B_": "57.58 61.92 49.30 56.27",
    "QWen2VL_7B_": "46.46 55.98 48.74 50.39",
    "LLaVA_Video": "40.40 63.52 54.82 52.91",
    "LLaVA_OneVision": "43.71 64.02 50.50 52.74",
    "InternVL2": "43.44 60.39 46.60 50.15",
    "LongVU": "35.01 57.61 47.50 46.71",
    "FlashVStream": "27.38 28.37 45.09 33.61",
}


def choice(number: int, task: str, right: int, **more: object) -> dict:
    asked = {"id": number, "task": task, "video": "a/b.mp4", "realtime": 20.5, "question": f"What is {number}?"}
    return {**asked, "answer": "x", "options": ["a cat", "a dog in the sun", "Unable to answer"], "gt": right, **more}


ANNOTATIONS = [
    choice(0, "EPM", 1),
    choice(1, "EPM", 2),
    choice(2, "HLD", 2),
    choice(3, "STU", 0),
    {
        "id": 4,
        "task": "REC",
        "video": "a/c.mp4",
        "activity": "jump",
        "start_times": [1],
        "end_times": [2],
        "test_info": [{"realtime": 3, "count": 1}, {"realtime": 9, "count": 12}],
    },
    {
        "id": 5,
        "task": "CRR",
        "video": "a/c.mp4",
        "question": "What does she take?",
        "answer": "a bag",
        "ask_time": 3,
        "clue_time": 5,
        "test_info": [{"realtime": 3, "type": 0}, {"realtime": 6, "type": 1}, {"realtime": 7, "type": 1}],
    },
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ovo_bench_new.json").write_text(json.dumps(ANNOTATIONS))
    return tmp_path


@pytest.fixture
def items(folder: Path) -> list[Item]:
    return ovobench.load_items(folder)


def results_file(folder: Path, backward: list = (), realtime: list = (), forward: list = ()) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps({"backward": [*backward], "realtime": [*realtime], "forward": [*forward]}))
    return path


def entry(number: int, task: str, response: object, right: str) -> dict:
    asked = {"id": number, "video": "there/a/b.mp4", "task": task, "question": f"What is {number}?"}
    return {**asked, "response": response, "ground_truth": right}


def value_of(items: list[Item], key: str, answer: str, rule: str = "official") -> float | None:
    scores = ovobench.score(items, {key: Prediction(answer)}, rule)
    return next(score.value for score in scores if score.key == key)


def test_questions_in_order_with_when_they_are_asked_and_what_is_written_for_options(items):
    assert [item.key for item in items] == ["0", "1", "2", "3", "4_0", "4_1", "5_0", "5_1", "5_2"]
    assert items[0].asked_s == 20.5
    assert items[0].groups == {"group": "backward", "task": "EPM"}
    assert items[0].video is None
    assert items[4].options == ()
    assert "jump" in items[4].question
    assert items[6].choices == ("Yes", "No")
    assert [ovobench.right_answer(item) for item in items] == ["B", "C", "C", "A", "1", "12", "No", "Yes", "Yes"]


def test_a_chunk_is_watched_to_its_end_and_a_source_video_to_the_question(folder):
    (folder / "chunked_videos").mkdir()
    (folder / "chunked_videos" / "4_1.mp4").touch()
    (folder / "src_videos" / "a").mkdir(parents=True)
    (folder / "src_videos" / "a" / "b.mp4").touch()
    by_key = {item.key: item for item in ovobench.load_items(folder)}
    assert (by_key["4_1"].video, by_key["4_1"].asked_s) == (folder / "chunked_videos" / "4_1.mp4", None)
    assert (by_key["0"].video, by_key["0"].asked_s) == (folder / "src_videos" / "a" / "b.mp4", 20.5)


@pytest.mark.parametrize(
    ("key", "answer", "official", "strict"),
    [
        ("0", "B", 1, 1),
        ("0", "(B) a long dog", 1, 1),
        ("0", "A B C", 1, 0),  # any letter anywhere
        ("0", "It is B", 1, 0),
        ("0", "a long dog", 0, 0),
        ("3", "A dog", 1, 0),  # an article
        ("4_0", "1", 1, 1),
        ("4_0", "once", 0, 0),
        ("4_1", "between 1 and 2", 1, 0),  # digits put together
        ("4_1", "12 times", 1, 1),
        ("5_0", "No", 1, 1),
        ("5_0", "N", 1, 1),
        ("5_0", "Not sure", 1, 0),
        ("5_0", "no.", 0, 1),  # the official rule minds case
        ("5_1", "Yes, No", 1, 0),
        ("5_1", "Y", 1, 1),
        ("5_1", "Yes.", 1, 1),
        ("5_1", "YES", 0, 1),
    ],
)
def test_rules(items, key, answer, official, strict):
    assert value_of(items, key, answer) == official
    assert value_of(items, key, answer, "lmms_eval") == official
    assert value_of(items, key, answer, "strict") == strict


def test_answers_that_no_rule_reads_are_counted(items):
    told = {"0": Prediction("a long dog"), "4_0": Prediction("once"), "5_0": Prediction("perhaps")}
    for rule in ovobench.RULES:
        scores = ovobench.score(items, told, rule)
        assert [score.key for score in scores if score.unreadable] == ["0", "4_0", "5_0"]


def test_a_total_is_the_mean_of_groups_of_the_mean_of_tasks(items):
    said = {"0": "B", "1": "A", "2": "C", "3": "B", "4_0": "1", "4_1": "0", "5_0": "No", "5_1": "No", "5_2": "No"}
    predictions = {key: Prediction(text) for key, text in said.items()}
    scores = ovobench.score(items, predictions, "official")
    found = ovobench.figures(items, predictions, scores, "official")
    assert found["backward"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["realtime"] == 0
    assert found["forward"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert ovobench.aggregate(scores, "official") == pytest.approx((0.75 + 0 + 5 / 12) / 3)


def test_no_answer_is_wrong_but_lmms_eval_leaves_out_forward_ones(items):
    predictions = {item.key: Prediction(ovobench.right_answer(item)) for item in items}
    silent = ovobench.CONTROLS["silent"](items)
    predictions |= {key: silent[key] for key in ("0", "5_0")}
    value = lambda rule: {score.key: score.value for score in ovobench.score(items, predictions, rule)}
    assert (value("official")["0"], value("official")["5_0"]) == (0, 0)
    assert (value("lmms_eval")["0"], value("lmms_eval")["5_0"]) == (0, None)


def test_a_task_without_entries_is_left_out_and_named_but_not_by_the_strict_rule(items):
    predictions = {key: Prediction("B") for key in ("0", "3")}
    scores = ovobench.score(items, predictions, "official")
    assert [score.value for score in scores] == [1, 0, None, 0, None, None, None, None, None]
    found = ovobench.figures(items, predictions, scores, "official")
    assert found["tasks_left_out"] == [
        task for tasks in ovobench.TASKS.values() for task in tasks if task not in ("EPM", "STU")
    ]
    assert {score.value for score in ovobench.score(items, predictions, "strict")} == {0, 1}


def test_figures_are_of_the_items_that_are_asked(items):
    predictions = {item.key: Prediction("B") for item in items}
    scores = ovobench.score(items[:3], predictions, "official")
    assert ovobench.figures(items[:3], predictions, scores, "official")["answered"] == 1


def test_predictions_come_back_as_they_were_written(folder, items):
    predictions = {item.key: Prediction(f"answer {item.key}") for item in items}
    predictions["4_1"] = ovobench.CONTROLS["silent"](items)["4_1"]
    ovobench.write_predictions(folder / "results" / "ours.json", items, predictions)
    assert ovobench.read_predictions(folder / "results", items) == predictions


def test_an_entry_twice_counts_twice_as_in_the_official_scorer(folder, items):
    rows = [entry(0, "EPM", "B", "B"), entry(0, "EPM", "A", "B"), entry(1, "EPM", "C", "C")]
    predictions = ovobench.read_predictions(results_file(folder, rows), items)
    scores = ovobench.score(items, predictions, "official")
    assert ovobench.aggregate(scores, "official") == pytest.approx(2 / 3)
    assert ovobench.figures(items, predictions, scores, "official")["repeated_entries"] == 1
    ovobench.write_predictions(folder / "again.json", items, predictions)
    assert ovobench.read_predictions(folder / "again.json", items) == predictions


def test_an_entry_under_an_id_of_an_earlier_edition_finds_its_question(folder):
    twin = choice(7, "EPM", 0, question="What is 0?")
    (folder / "ovo_bench_new.json").write_text(json.dumps([*ANNOTATIONS, twin]))
    items = ovobench.load_items(folder)
    rows = [entry(0, "EPM", "A", "A"), entry(0, "EPM", "B", "B")]
    predictions = ovobench.read_predictions(results_file(folder, rows), items)
    assert {key: prediction.text for key, prediction in predictions.items()} == {"0": "B", "7": "A"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"backward": [entry(9, "EPM", "A", "A")]}, r"backward 0: the annotations have no EPM question 9"),
        ({"backward": [entry(0, "HLD", "A", "A")]}, r"backward 0: the annotations have no HLD question 0"),
        ({"backward": [entry(0, "EPM", "A", "C")]}, r"backward 0: the right answer is 'C'.*another edition"),
        ({"backward": [entry(0, "EPM", ["A"], "B")]}, r"'response' must be a text, it is a list"),
        ({"backward": [entry(0, "EPM", 3, "B")]}, r"'response' must be a text, it is 3"),
        ({"forward": [{**ANNOTATIONS[4], "test_info": [{"realtime": 3, "count": 2}]}]}, r"'count' is 2"),
        ({"forward": [{"id": 4, "task": "REC"}]}, r"'test_info' is missing"),
    ],
)
def test_what_cannot_be_read_is_said(folder, items, rows, message):
    with pytest.raises(BenchmarkError, match=message):
        ovobench.read_predictions(results_file(folder, **rows), items)


def test_annotations_that_cannot_be_read_are_said(tmp_path):
    with pytest.raises(BenchmarkError, match=r"folder `data` of JoeLeelyf/OVO-Bench"):
        ovobench.load_items(tmp_path)
    file = tmp_path / "ovo_bench_new.json"
    for text, message in [
        ("[", r"ovo_bench_new.json, line 1, column 2: not JSON"),
        (json.dumps([choice(0, "EPM", 3)]), r"entry 0: 'gt' 3 must be the index"),
        (json.dumps([choice(0, "XYZ", 1)]), r"entry 0: task 'XYZ' is unknown"),
        (json.dumps([choice(0, "EPM", 1), choice(0, "EPM", 1)]), r"entry 1: id 0 is not the only one"),
    ]:
        file.write_text(text)
        with pytest.raises(BenchmarkError, match=message):
            ovobench.load_items(tmp_path)


def test_blind_answers(items):
    total = {}
    for name, control in ovobench.CONTROLS.items():
        predictions = control(items)
        assert predictions == control(items)  # nothing is random
        assert predictions.keys() == {item.key for item in items}
        for rule in ovobench.RULES:
            total[name, rule] = ovobench.aggregate(ovobench.score(items, predictions, rule), rule)
    assert total["silent", "official"] == total["silent", "strict"] == 0
    assert total["everything", "official"] > 0.9  # all but the counts
    assert total["everything", "strict"] < 0.1
    assert total["unable", "official"] > total["longest", "official"]


def test_published_totals():
    """The official scorer's figures, to the second decimal, on the official result files."""
    if CHECKOUT not in os.environ:
        pytest.skip(f"{CHECKOUT} does not name a checkout of JoeLeelyf/OVO-Bench (not redistributable)")
    root = Path(os.environ[CHECKOUT])
    items = ovobench.load_items(root / "data")
    assert len(items) == 3035
    for model, published in PUBLISHED.items():
        predictions = ovobench.read_predictions(root / "results" / model, items)
        scores = ovobench.score(items, predictions, "official")
        found = ovobench.figures(items, predictions, scores, "official")
        values = [*(found[group] for group in ovobench.TASKS), ovobench.aggregate(scores, "official")]
        assert " ".join(f"{100 * value:.2f}" for value in values) == published, model
