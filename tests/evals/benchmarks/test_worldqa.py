"""worldqa: what is asked is so, the same seed makes the same, and who sees nothing is where chance is."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.decode import VideoReader
from data_pipelines.world.clip import plan_clip
from data_pipelines.world.commentator import lexicon
from launch.benchmark import main
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.benchmarks import worldqa
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction, TimedText

SHORT = {15: 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("worldqa") / "made"
    worldqa.make(path, seed=1, videos=SHORT)
    return path


def test_what_comes_in_is_what_happens():
    for group_s, number in ((60, 0), (60, 1), (600, 2)):
        video = worldqa.plan(3, group_s, number)
        assert [needle.t_s for needle in video.needles] == sorted(needle.t_s for needle in video.needles)
        for needle in video.needles:
            scene, _, _ = plan_clip(worldqa._with(needle.shape), 3, needle.world_index)
            things = [thing for thing in scene.things if thing.shape == needle.shape]
            (event,) = (e for e in scene.events if e.kind == "enters" and e.subject.endswith(needle.shape))
            assert len(things) == 1
            assert (event.subject, event.detail) == (f"{needle.colour} {needle.shape}", needle.side)
            assert needle.t_s == needle.clip * 15 + event.t_s
        cut = video.needles[-1].t_s + 2.0
        assert video.duration_s == (group_s if number % 2 else cut)
        assert video.needles[-1].clip == group_s // 15 - 1


def test_questions_are_right_and_can_be_completed_in_the_worlds_words():
    video = worldqa.plan(0, 600, 0)
    asked = worldqa.questions(video, np.random.default_rng(0))
    words = set(lexicon("rich"))
    by_kind = {
        category: [q for q in asked if q["question_category"] == category]
        for category in ("colour", "side", "count", "first")
    }
    right = lambda record: record["candidates"][record["correct_choice"]]
    once = [n for n in video.needles if sum(other.shape == n.shape for other in video.needles) == 1]
    assert len(once) >= 2
    assert [right(q) for q in by_kind["colour"]] == [needle.colour for needle in once]
    assert [right(q) for q in by_kind["side"]] == [needle.side for needle in once]
    assert right(by_kind["first"][0]) == video.needles[0].shape
    number = sum(needle.shape == video.counted for needle in video.needles)
    assert right(by_kind["count"][0]) == ["never", "once", "twice", "three times"][number]
    for record in by_kind["colour"] + by_kind["side"]:
        cloze = record["cloze"]
        assert {word for text in (cloze["question"], *cloze["options"]) for word in text.split()} <= words
        assert right(record) in cloze["options"][record["correct_choice"]]
    assert by_kind["colour"][-1]["level"] == "up to 3 s ago"


def test_a_folder_is_longvideobenchs(folder: Path):
    items = worldqa.load_items(folder)
    assert {item.groups["duration"] for item in items} == {"15"}
    assert all(item.video is not None and item.subtitles == () for item in items)
    assert [item.facts["cloze"]["question"] for item in items[:2]] == [
        f"from {worldqa.plan(1, 15, 0).needles[0].side} comes",
        "{0.colour} {0.shape} enters".format(worldqa.plan(1, 15, 0).needles[0]),
    ]
    with VideoReader(items[0].video, Clock(), (64, 64)) as reader:
        frames = np.stack([frame for _, _, frame in reader])
    assert len(frames) == Clock().ticks_in(worldqa.plan(1, 15, 0).duration_s)
    assert frames.std() > 5


def test_the_same_seed_makes_the_same(folder: Path, tmp_path: Path):
    before = (folder / "lvb_val.json").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()}
    worldqa.make(folder, seed=1, videos=SHORT)
    assert (folder / "lvb_val.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()} == kept
    assert worldqa.plan(1, 60, 0) == worldqa.plan(1, 60, 0) != worldqa.plan(2, 60, 0)


def test_videos_of_another_seed_are_not_asked_about(folder: Path, tmp_path: Path):
    before = (folder / "lvb_val.json").read_bytes()
    with pytest.raises(BenchmarkError, match="holds videos of seed 1, not 2: name another folder"):
        worldqa.make(folder, seed=2, videos=SHORT)
    assert (folder / "lvb_val.json").read_bytes() == before
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "world_15_0.mp4").touch()
    with pytest.raises(BenchmarkError, match="of seed unknown, not 1"):
        worldqa.make(tmp_path, seed=1, videos=SHORT)


def test_who_sees_nothing_and_who_sees_all(folder: Path):
    items = worldqa.load_items(folder)
    value = lambda answers: worldqa.aggregate(worldqa.score(items, answers, "official"), "official")
    assert value(worldqa.CONTROLS["chance"](items)) == pytest.approx(0.25)
    knowing = {item.key: Prediction("ABCD"[item.facts["correct_choice"]]) for item in items}
    assert value(knowing) == 1.0
    assert 0.25 <= value(worldqa.CONTROLS["most_frequent"](items)) <= 1.0


def test_the_command_makes_it(tmp_path: Path, monkeypatch, folder: Path):
    monkeypatch.setattr(worldqa, "make", lambda path, *, seed: (path.mkdir(), (path / "seed").write_text(str(seed))))
    assert main(["worldqa", f"--make={tmp_path / 'made'}", "--seed=3"]) == 0
    assert (tmp_path / "made" / "seed").read_text() == "3"
    report = tmp_path / "r.json"
    assert main(["worldqa", f"--root={folder}", "--control=most_frequent", f"--json={report}"]) == 0
    assert set(json.loads(report.read_text())["groups"]) == {"duration", "category", "topic", "level"}


def test_biases_of_options_are_shown_and_taken_off():
    """Somebody who likes green, and the word that it said last."""
    colours = ("red", "green", "blue")
    item = lambda key, right, level: Item(
        key, None, "?", colours, groups={"category": "colour", "level": level}, facts={"correct_choice": right}
    )
    items = [item("a", 0, "soon"), item("b", 2, "late"), item("c", 0, "late")]
    unseen = [-3.0, -1.0, -3.0]
    answers = {
        one.key: Prediction("B", (TimedText(1.0, said),), 5, {"scores": scores, "scores_unseen": unseen})
        for one, said, scores in (
            (items[0], "blue dog leaves red dog enters", [-1.5, -1.0, -3.0]),
            (items[1], "blue dog enters green car stops", [-3.0, -0.5, -3.2]),
            (items[2], "dog stops", [-2.5, -1.0, -3.5]),
        )
    }
    raw, calibrated = (worldqa.score(items, answers, rule) for rule in ("official", "calibrated"))
    assert [one.shown["answer"] for one in raw] == ["B", "B", "B"]
    assert [one.shown["answer"] for one in calibrated] == ["A", "B", "A"]
    assert worldqa.aggregate(calibrated, "calibrated") == pytest.approx(2 / 3)
    found = worldqa.figures(items, answers, calibrated, "calibrated")
    assert found["by_option"] == {"blue": {"right": 1}, "green": {"answered": 1}, "red": {"right": 2, "answered": 2}}
    assert found["said_last"] == {
        "late": {
            "questions": 1,
            "answered_last": 1,
            "answered_right": 0,
            "wrong_questions": 1,
            "wrong_answered_last": 1,
            "wrong_answered_right": 0,
        },
        "soon": {"questions": 1, "answered_last": 1, "answered_right": 1},
    }
    json.dumps(found, allow_nan=False)
    # Who compared no likelihoods answers what it wrote.
    blind = worldqa.score(items, worldqa.CONTROLS["always_b"](items), "calibrated")
    assert [one.shown["answer"] for one in blind] == ["B", "B", "B"]


def test_who_comments_has_answered():
    item = lambda category, about, options, right: Item(
        f"{category} {about}",
        None,
        "?",
        options,
        groups={"category": category},
        facts={"about": about, "correct_choice": right},
    )
    shapes, times = ("person", "dog", "car"), ("never", "once", "twice", "three times")
    items = [
        item("colour", "dog", ("green", "red"), 1),
        item("side", "dog", ("left", "top"), 0),
        item("count", "car", times, 2),
        item("count", "person", times, 0),
        item("first", "", shapes, 2),
    ]
    said = [
        "blue circle enters top",
        "green car enters left green car stops",
        "out left goes green car",
        "red dog enters left",
        "green car enters top",
    ]
    spoken = Prediction("A", tuple(TimedText(float(i), text) for i, text in enumerate(said)), tokens=5)
    scores = worldqa.score(items, {one.key: spoken for one in items}, "commentary")
    assert [one.value for one in scores] == [1, 1, 1, 1, 1]
    silent = worldqa.score(items, {one.key: Prediction("B", tokens=5) for one in items}, "commentary")
    assert [(one.value, one.unreadable) for one in silent] == [(0, True), (0, True), (0, False), (1, False), (0, True)]
    # Who did not watch has only written.
    blind = worldqa.score(items, {one.key: Prediction("B") for one in items}, "commentary")
    assert [one.value for one in blind] == [1, 0, 0, 0, 0]
