"""VideoReasonBench: what operations lead to, how answers are read, and videos and questions that are made here."""

import copy
import dataclasses
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.transcripts import read_transcript
from mmduplex_jax.evals.benchmarks import videoreasonbench
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, ItemScore, Prediction, mean_score
from mmduplex_jax.evals.benchmarks.videoreasonbench import generation, making, rendering, rows
from mmduplex_jax.evals.benchmarks.videoreasonbench.answers import FORMS, final_answer, read_operations
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import DEMOS, Instance, play, view
from tests.evals.benchmarks.videoreasonbench_rows import BOARD, CARD, CHIP, ROWS, asked

# A checkout of llyx97/video_reason_bench 2524387, which has no licence: nothing of it may stand here.
CHECKOUT = "MMDUPLEX_VIDEO_REASON_BENCH"
# Rows there whose stored answer takes the pile or cup for empty; found by simulating all 1,200 stored answers.
WRONG_THERE = {
    "card_state1_op11_prediction_state_end", "card_state2_op7_prediction_state_start",
    "card_state2_op14_prediction_state_start", "chip_state1_op9_prediction_state_start",
}  # fmt: skip


def write(folder: Path, some: dict[str, dict[str, dict]], *, parquet: bool = False) -> list[Item]:
    for demo, of_demo in some.items():
        rows.write_rows(folder, demo, of_demo, parquet=parquet)
    return videoreasonbench.load_items(folder)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Item]:
    return {item.key: item for item in write(tmp_path_factory.mktemp("rows"), ROWS)}


def score(item: Item, answer: str, rule: str = "simulated") -> ItemScore:
    (one,) = videoreasonbench.score([item], {item.key: Prediction(answer)}, rule)
    return one


def verdict(item: Item, answer: str) -> bool | None:
    one = score(item, f"Final Answer: {answer}")
    return None if one.unreadable else bool(one.value)


@pytest.mark.parametrize("parquet", [False, True])
def test_published_layouts_are_read_and_stored_answers_are_what_operations_lead_to(tmp_path: Path, parquet: bool):
    if parquet:
        pytest.importorskip("pyarrow", reason="pip install pyarrow")
    items = write(tmp_path, ROWS, parquet=parquet)
    assert [item.key for item in items] == [f"{demo}_{key}" for demo in DEMOS for key in ROWS[demo]]
    assert not [item.facts["disputed"] for item in items if "disputed" in item.facts]
    stored = {item.key: Prediction(f"Final Answer: {item.facts['answer']}") for item in items if item.facts["answer"]}
    for rule in videoreasonbench.RULES:
        scores = videoreasonbench.score(items, stored, rule)
        assert all(one.value == (one.key in stored) and not one.unreadable for one in scores)


def test_groups_are_those_of_the_published_table(items: dict[str, Item]):
    assert items["chip_state"].groups == {
        "demo": "chip", "level": "2 infer", "dimension": "infer_state", "operations": "0-4", "state": "large",
        "visible": "start",
    }  # fmt: skip
    assert (rows.bucket_of(9), rows.bucket_of(10)) == ("5-9", "10-14")


@pytest.mark.parametrize(
    ("key", "answer", "right"),
    [
        ("hrd_do", "left", True),
        ("hrd_do", "LEFTWARD.", True),
        ("hrd_do", "right, left, up", True),  # right and up push nothing and are passed over
        ("hrd_do", "\n1. right\n2. left", True),
        ("hrd_do", "\n2. right\n3. left", None),
        ("hrd_do", "left, left", False),
        ("hrd_do", "I cannot say", None),
        ("hrd_do", "left 3 times", None),
        ("cup_do", "(b2, a1), (c2, a2)", True),
        ("cup_do", "(b2, a1), (e5, a2), (c2, a2)", True),  # there is no e5
        ("cup_do", "(b2, a1), c2", None),
        ("grid_do", "up, left", True),
        ("grid_do", "up, up, left", True),
        ("grid_do", "left, down", False),
        ("file_sys_do", "touch path1/{b.py,c.py} & rm -rf path1/{a.py}", True),
        ("file_sys_do", "```bash\nrm -rf path1/{a.py} & touch path1/{c.py, b.py}\n```", True),
        ("file_sys_do", "touch path1/{b.py} & touch path1/{c.py} & rm -rf path1/{a.py}", False),  # three
        ("file_sys_do", "rm -rf path1/{a.py,b.py} & touch path1/{b.py,c.py}", False),  # one file in both
        ("file_sys_do", "mv path1/{a.py} path0/ & touch path1/{b.py,c.py}", False),  # not these commands
        ("file_sys_do", "rm -rf path7/{a.py} & touch path1/{b.py,c.py}", False),
        ("file_sys_do", "__import__('os').system('touch x')", None),
        ("card_do", "add 3 of Hearts to pile0, remove 10 of Clubs from pile0", True),
        ("card_do", "remove Ace of Spades from pile0, add 3 of Hearts to pile0", False),  # it is not at the bottom
        ("card_do", "remove 10 of Clubs from pile1, add 3 of Hearts to pile0", False),
        ("card_do", "3 of Hearts, Ace of Spades", None),
        ("chip_do", "remove 5 cup0, add 50 to cup0, add 50 to cup0", True),  # "from" is missing in a published example
        ("chip_do", "add 50 to cup0, add 50 to cup0", False),
        ("chip_do", "remove 10 from cup0, remove 5 from cup0, add 50 to cup0, add 50 to cup0", False),
        ("chip_do", "add 25 to cup0, remove 25 from cup0, remove 5 from cup0", False),
    ],
)
def test_operations_of_an_answer_are_simulated(items: dict[str, Item], key: str, answer: str, right: bool | None):
    assert verdict(items[key], answer) is right


@pytest.mark.parametrize(
    ("key", "answer", "right"),
    [
        ("hrd_order", "\n1st: (c,2), moved up\n2nd: (c, 1) to the right", True),
        ("hrd_order", "1st: (c,2) up", False),
        ("hrd_order", "2nd: (c,2) up, 3rd: (c,1) right", False),
        ("hrd_order", "(c,2) up, (c,1) right", None),  # without their numbers
        ("hrd_count", "It was performed 1 time: (c,2)", True),
        ("hrd_count", "2: (c,2)", None),  # contradicts itself
        ("hrd_compare", "(c,2): 3, (b,2): 1, (c,1): 0", True),
        ("hrd_compare", "(c,2): 3, (b,2): 1, (c,1): 0, (c,2): 4", None),
        ("cup_order", "1st: (c2, a1)\n2nd: (a2, a3)", True),
        ("cup_count", "1st: a1, 2nd: (a3, a2)", True),
        ("cup_count", "1st: a1, 3rd: (a3, a2)", None),
        ("cup_state", "C2 and b2", True),
        ("cup_state", "b2, c2, a1", False),
        ("cup_state", "b2, c2 or a1", None),
        ("grid_order", "1st: right", True),
        ("grid_order", "1st: right, 3rd: left", None),
        ("grid_predict", "(a,0): white, (a,1): white, (a,2): black, (b,0): black, (b,1): black, (b,2): white, "
         "(c,0): white, (c,1): white, (c,2): white", True),
        ("file_sys_order", "1st: ls path0 path1\n2nd: mv path0/{a.py} path1", True),
        ("file_sys_state", "1: a.py", True),
        ("file_sys_state", "1: A.py", False),
        ("file_sys_compare", "c.py, a.py", True),
        ("file_sys_predict", "**None**", True),
        ("card_order", "1st: 2 of hearts from pile0", True),
        ("card_state", "10 of Clubs, Ace of Spades", False),  # from bottom to top
        ("chip_compare", "The value is higher at the start, by 100.", True),
        ("chip_compare", "end, 100", False),
        ("chip_compare", "start", None),
        ("chip_state", "0 chips:", True),
        ("chip_state", "none", True),
    ],
)  # fmt: skip
def test_answers_are_read_strictly_in_what_counts(items: dict[str, Item], key: str, answer: str, right: bool | None):
    assert verdict(items[key], answer) is right


def test_the_final_answer_is_what_follows_the_last_mark():
    assert final_answer("b2. Final Answer: c3 … no. **Final Answer:** b2, c2\n") == ":** b2, c2"
    assert final_answer("b2, c2") is None
    assert final_answer("Final Answer:\n") is None


def test_what_cannot_be_read_is_wrong_and_counted_and_what_is_missing_is_wrong(items: dict[str, Item]):
    item = items["cup_state"]
    for answer in ("b2, c2", "", "Final Answer: who knows"):
        assert (score(item, answer).value, score(item, answer).unreadable) == (0.0, True)
    (missing,) = videoreasonbench.score([item], {}, "simulated")
    assert (missing.value, missing.unreadable) == (0.0, False)


def test_a_wrong_stored_answer_is_said_and_left_out_unless_stored_answers_count(tmp_path: Path):
    wrong = copy.deepcopy(ROWS["chip"])
    wrong["predict"]["answer"] = "1 chips: 20"
    wrong["state"]["answer"] = "many"
    wrong["extra"] = asked(
        "If they are the same as they did at the end of the video, and now we perform these actions in order: `remove "
        "50 from cup0`. How many chips would be in `cup0`?",
        "prediction_state",
        "1 chips: 5",
        **CHIP,
    )
    items = {item.key: item for item in write(tmp_path, {"chip": wrong})}
    found = videoreasonbench.figures(list(items.values()), {}, [], "simulated")["disputed"]
    assert found == {
        "chip_predict": "the stored answer is '1 chips: 20', the operations lead to '2 chips: 5, 20'",
        "chip_state": "the stored answer 'many' cannot be read",
        "chip_extra": "operations that the question names are impossible there",
    }
    assert score(items["chip_predict"], "Final Answer: 2 chips: 5, 20").value is None
    assert score(items["chip_predict"], "Final Answer: 2 chips: 5, 20", "stored").value == 0.0
    assert score(items["chip_predict"], "Final Answer: 1 chips: 20", "stored").value == 1.0
    with pytest.raises(ValueError, match="rule 'official' is unknown, choose one of simulated, stored"):
        score(items["chip_predict"], "", "official")


def changed(**fields: object) -> dict[str, dict]:
    return {"row": ROWS["hrd"]["count"] | fields}


@pytest.mark.parametrize(
    ("some", "said"),
    [
        (changed(moves=["up", "left"]), "stored states are not those"),
        (changed(moves=["up", "hop"]), "not an operation of hrd: 'hop'"),
        (changed(moves=["up", "up", "up"], num_operation=3), "operation 2, 'up', is impossible"),
        (changed(num_operation=3), "num_operation is 3, but there are 2"),
        (changed(states=[BOARD, BOARD[:2]]), "not a row of hrd"),
        (changed(visible_time="always"), "visible_time must be start or end, got 'always'"),
        (changed(dim="counting_state"), "hrd has no questions of dimension 'counting_state'"),
        (changed(question="How many moves?"), "no phrase like"),
        (changed(answer=None), "has no answer"),
        ({"row": {"video": "x.mp4"}}, "row 'row' has no question, answer"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, some: dict, said: str):
    with pytest.raises(BenchmarkError, match=said) as caught:
        write(tmp_path, {"hrd": some})
    assert "hrd.json: row 'row'" in str(caught.value)


def test_a_question_about_a_place_that_is_not_there_is_named(tmp_path: Path):
    row = asked("How many cards were added to `pile4`?", "counting_operation", "None", **CARD)
    with pytest.raises(BenchmarkError, match="the question names pile4, which is not there"):
        write(tmp_path, {"card": {"row": row}})


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(BenchmarkError, match="no rows of VideoReasonBench; expected questions/DEMO.json"):
        videoreasonbench.load_items(tmp_path)
    (tmp_path / "cup.json").write_text("[")
    with pytest.raises(BenchmarkError, match=r"cup\.json: not JSON"):
        videoreasonbench.load_items(tmp_path)


def test_predictions_are_written_and_read_as_the_published_scripts_do(tmp_path: Path, items: dict[str, Item]):
    right, wrong = "Final Answer: b2, c2", "Final Answer: a1"
    given_ = {
        "cup_state": Prediction(right, tokens=12, facts={"rating": True, "token_count": {"completion_tokens": 9}}),
        "card_state": Prediction(wrong, facts={"rating": True}),
    }
    path = tmp_path / "predictions" / "run_0.json"
    path.parent.mkdir()
    videoreasonbench.write_predictions(path, list(items.values()), given_)
    row = json.loads(path.read_text())["cup_state"]
    assert (row["prediction"], row["demo"], row["answer"], row["num_state"]) == (right, "cup", "b2, c2", 3)
    assert "states" not in row
    for found in (path, path.parent):
        assert videoreasonbench.read_predictions(found, list(items.values())) == given_
    scores = videoreasonbench.score(list(items.values()), given_, "simulated")
    figures = videoreasonbench.figures(list(items.values()), given_, scores, "simulated")
    assert figures["agreement"] == {"rated": 2, "alike": 1, "only_theirs_right": 1, "only_ours_right": 0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"state3": {"prediction": "x"}}', "'state3' names no row"),
        ('{"cup_state": {"prediction": 3}}', "the prediction for 'cup_state' is not a text"),
        ('{"cup_state": 3}', "'cup_state' is not an object"),
    ],
)
def test_predictions_that_are_none_are_named(tmp_path: Path, items: dict[str, Item], content: str, said: str):
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(BenchmarkError, match=said):
        videoreasonbench.read_predictions(path, list(items.values()))


DEMO_AND_SIZE = st.sampled_from([(demo, size) for demo, sizes in generation.SIZES.items() for size in sizes])


@given(kind=DEMO_AND_SIZE, count=st.integers(1, 14), seed=st.integers(0, 2**32))
def test_generated_rows_are_rows_and_their_solutions_are_right(kind: tuple[str, int], count: int, seed: int):
    demo, size = kind
    rng = np.random.default_rng(seed)
    instance = generation.random_instance(rng, demo, size, count)
    made = dict(generation.random_rows(rng, instance, "new"))
    assert len(made) == 12
    assert {row["dim"] for row in made.values()} == {dimension for named, dimension in FORMS if named == demo} | {
        "prediction_operation"
    }
    for row in json.loads(json.dumps(made)).values():
        again = rows.read_instance(demo, row)
        assert again == dataclasses.replace(instance, visible=row["visible_time"])
        asked = videoreasonbench.parse_question(demo, row["dim"], row["question"])
        assert videoreasonbench.judge(again, row["dim"], asked, row["answer"], row["solution"])
        assert videoreasonbench.judge(again, row["dim"], asked, None, row["solution"])


@given(kind=DEMO_AND_SIZE, seed=st.integers(0, 2**32))
def test_operations_are_read_as_they_are_written_and_mind_their_order(kind: tuple[str, int], seed: int):
    demo, size = kind
    rng = np.random.default_rng(seed)
    instance = generation.random_instance(rng, demo, size, 4)
    text = generation.listed(demo, instance.states[0], instance.operations)
    assert read_operations(demo, text) == instance.operations
    place = next(iter(instance.states[0]), "") if demo in ("file_sys", "card", "chip") else ""
    assert view(demo, play(demo, instance.at("start"), instance.operations), place) == view(
        demo, instance.at("end"), place
    )


def test_who_saw_nothing_earns_next_to_nothing_and_can_be_read():
    found: list[Item] = []
    for index, (demo, sizes) in enumerate(generation.SIZES.items()):
        for size in sizes:
            rng = np.random.default_rng([7, index, size])
            instance = generation.random_instance(rng, demo, size, 7)
            for key, row in generation.random_rows(rng, instance, f"state{size}_op7"):
                facts = {**row, "demo": demo}
                found.append(Item(f"{demo}_{key}", None, question=row["question"], facts=facts))
    values = {}
    for name, control in videoreasonbench.CONTROLS.items():
        answers = control(found)
        few = {item.key for item in found[40:44]}
        assert control(found[40:44]) == {key: answer for key, answer in answers.items() if key in few}
        scores = videoreasonbench.score(found, answers, "simulated")
        assert not any(one.unreadable for one in scores)
        values[name] = mean_score(scores)
    # Answers are lists, and lists are not guessed: of 144 questions one is right, and two by who saw the state.
    assert len(found) == 144
    assert max(values.values()) < 0.05
    best = videoreasonbench.score(
        found, {item.key: Prediction(f"Final Answer: {item.facts['solution']}") for item in found}, "simulated"
    )
    assert mean_score(best) == 1.0


def shuffled(instance: Instance) -> Instance:
    """The same operations on a board that hides something else; what moves stays where it is."""
    hidden = [value for row in BOARD for value in row if value]
    other = dict(zip(hidden, hidden[1:] + hidden[:1])) | {0: 0}
    states = tuple(tuple(tuple(other[value] for value in row) for row in state) for state in instance.states)
    return dataclasses.replace(instance, states=states)


@pytest.mark.parametrize("visible", ["start", "end"])
def test_a_state_is_filmed_only_when_it_is_shown(visible: str):
    instance = dataclasses.replace(rows.read_instance("hrd", ROWS["hrd"]["state"]), visible=visible)
    one, other = (list(rendering.frames(seen, fps=4, height_px=144)) for seen in (instance, shuffled(instance)))
    same = [bool((a == b).all()) for a, b in zip(one, other, strict=True)]
    reveal = round(rendering.REVEAL_S * 4)
    assert len(one) == round(rendering.duration_s(instance) * 4)
    assert same == ([False] * reveal + [True] * (len(one) - reveal))[:: 1 if visible == "start" else -1]


@pytest.mark.parametrize("demo", DEMOS)
def test_every_operation_is_seen_and_said_when_it_has_been_seen(tmp_path: Path, demo: str):
    rng = np.random.default_rng(3)
    instance = generation.random_instance(rng, demo, generation.SIZES[demo][1], 3)
    path = rendering.write_files(tmp_path / "videos", "x", instance, fps=5, height_px=144)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
        assert (stream.width, stream.height, stream.average_rate) == (192, 144, 5)
    assert len(pictures) == round(rendering.duration_s(instance) * 5)
    words = read_transcript(path.with_suffix(".vtt")).words
    assert " ".join(word.text for word in words) == " ".join(rendering.narration(instance))
    each_s, first_s = rendering.operation_s(instance), rendering.REVEAL_S
    for number, text in enumerate(rendering.narration(instance)):
        begin_s = first_s + 0.5 + each_s * number
        seen = pictures[round(begin_s * 5) : round((begin_s + each_s) * 5)]
        # Something has moved by far more than what the encoder changes.
        assert max(np.abs(frame - seen[0]).max() for frame in seen) > 60
        place = sum(len(text.split()) for text in rendering.narration(instance)[:number])
        assert words[place].text == text.split()[0]
        assert begin_s < words[place].start_s <= begin_s + each_s


def test_a_folder_is_made_enlarged_and_never_mixed_with_the_published_one(tmp_path: Path):
    small = dict(demos=["cup"], num_operations=[2], fps=2, height_px=144)
    making.make(tmp_path, seed=1, **small)
    items = videoreasonbench.load_items(tmp_path)
    assert len(items) == 24
    assert all(item.video is not None for item in items)
    filmed = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").rglob("*.mp4")}
    assert len(filmed) == 4
    before = (tmp_path / "questions" / "cup.json").read_text()
    making.make(tmp_path, seed=1, **small)
    assert (tmp_path / "questions" / "cup.json").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in filmed} == filmed
    making.make(tmp_path, seed=2, **small)
    assert len(videoreasonbench.load_items(tmp_path)) == 48
    write(tmp_path, {"cup": ROWS["cup"]})
    with pytest.raises(BenchmarkError, match="rows that were not made here"):
        making.make(tmp_path, seed=1, **small)


@pytest.mark.parametrize(("height_px", "fps"), [(143, 5), (100, 5), (144, 0)])
def test_a_size_that_is_none_is_refused(tmp_path: Path, height_px: int, fps: int):
    instance = rows.read_instance("hrd", ROWS["hrd"]["state"])
    with pytest.raises(ValueError, match="height_px must be even"):
        rendering.write_files(tmp_path, "x", instance, fps=fps, height_px=height_px)


@pytest.mark.skipif(CHECKOUT not in os.environ, reason=f"{CHECKOUT} names no checkout of llyx97/video_reason_bench")
def test_published_answers_are_what_published_operations_lead_to():
    items = videoreasonbench.load_items(Path(os.environ[CHECKOUT]))
    assert len(items) == 1440
    assert {item.key for item in items if "disputed" in item.facts} == WRONG_THERE
    stored = {item.key: Prediction(f"Final Answer: {item.facts['answer']}") for item in items if item.facts["answer"]}
    scores = videoreasonbench.score(items, stored, "stored")
    assert sum(one.value or 0 for one in scores) == len(stored) == 1200
    example = Path(os.environ[CHECKOUT]) / "predictions" / "example_direct_eval.json"
    given_ = videoreasonbench.read_predictions(example, items)
    figures = videoreasonbench.figures(items, given_, videoreasonbench.score(items, given_, "simulated"), "simulated")
    assert figures["agreement"] == {"rated": 2, "alike": 2, "only_theirs_right": 0, "only_ours_right": 0}
