"""Labelled events of real videos: scores by hand, on labels and phrases made up here."""

import numpy as np
import pytest

from data_pipelines.schema import Word
from data_pipelines.world.event_words import make_event, phrase
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluator import apply_metrics, metric_lines
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.real_events import (
    LabelledClip,
    claim_of,
    format_real_events,
    read_phrases,
    real_events,
    score_real_events,
)
from mmduplex_jax.evals.report import ClipResult

CLOCK = Clock(12.5, 2)


def said(text: str, t_s: float) -> Phrase:
    (found,) = read_phrases([(word, t_s + 0.1 * k) for k, word in enumerate(text.split())])
    return found


STREET = LabelledClip(
    "street",
    30.0,
    [
        make_event(3.0, "enters", "car", "red", "left"),
        make_event(8.0, "leaves", "truck", "white", "right"),
        make_event(14.0, "appears", "person"),
        make_event(20.0, "stops", "car", "blue"),
    ],
    [
        said("red car enters left", 2.25),  # as early as may be
        said(
            "black car leaves right", 8.5
        ),  # a truck: the same class beside its own row; the side right, not the colour
        said("person enters top", 16.0),  # as late as may be; "appears" has no side
        said("car starts", 20.5),  # the kind wrong
        said("dog enters", 26.0),  # of nothing
    ],
    view="oblique",
    camera="a",
)
YARD = LabelledClip(
    "yard",
    12.0,
    [make_event(4.0, "enters", "cat"), make_event(9.0, "leaves", "object", None, "left")],
    [
        said("cat enters", 3.2),  # 0.8 s early: too early for the cat
        said("something leaves right", 9.9),
        Phrase(None, 0.5, "cat cat"),
    ],
    view="top",
    camera="b",
)


def test_scores_by_hand():
    report = score_real_events([STREET, YARD], resamples=50)
    # Named: the car, the truck, the person, the thing. Of 6 labels and 8 phrases; nothing is in a clip's last 2 s.
    assert report["precision"] == pytest.approx(4 / 8)
    assert report["recall"] == pytest.approx(4 / 6)
    assert report["f1"] == pytest.approx(2 * 4 / (6 + 8))
    assert report["f1_kind"] == pytest.approx(2 * 4 / (6 + 8))
    # The class alone: the car that "starts" counts as the car that stops.
    assert report["f1_class"] == pytest.approx(2 * 5 / (6 + 8))
    # Comings and goings: 5 labels, 6 phrases (unread ones are of no kind), 4 pairs.
    assert report["f1_comings_and_goings"] == pytest.approx(2 * 4 / (5 + 6))
    assert report["latency_p50_s"] == pytest.approx(0.7)  # of -0.75, 0.5, 0.9, 2.0
    assert report["latency_p90_s"] == pytest.approx(0.9 + 0.7 * 1.1)
    assert report["colour"] == {"labels": 2, "said": 2, "right": 1, "accuracy": 0.5, "precision": 0.5}
    assert report["side"] == {"labels": 3, "said": 3, "right": 2, "accuracy": pytest.approx(2 / 3),
                              "precision": pytest.approx(2 / 3)}  # fmt: skip
    # Within reach: four spans of 2.75 s in the street, two in the yard. Outside: the dog, the early cat, the noise.
    assert report["quiet_minutes"] == pytest.approx((42.0 - 6 * 2.75) / 60)
    assert report["false_alarms_per_quiet_minute"] == pytest.approx(3 / ((42.0 - 6 * 2.75) / 60))
    assert (report["clips"], report["cameras"], report["events"], report["phrases"]) == (2, 2, 6, 8)


def test_rows():
    report = score_real_events([STREET, YARD], resamples=50)
    classes = report["classes"]
    assert list(classes)[0] == "vehicle"
    assert (classes["vehicle"]["events"], classes["vehicle"]["phrases"]) == (3, 3)
    assert classes["vehicle"]["f1"] == pytest.approx(2 * 2 / 6)
    # By its own name the truck was missed, and the car that left was none.
    assert classes["truck"]["recall"] == 0
    assert classes["car"]["recall"] == pytest.approx(1 / 2)
    assert classes["car"]["precision"] == pytest.approx(1 / 3)
    assert classes["person"]["f1"] == classes["something"]["f1"] == 1
    assert classes["cat"]["f1"] == classes["dog"]["f1"] == 0
    assert (classes["dog"]["events"], classes["dog"]["phrases"]) == (0, 1)
    assert report["kinds"]["leaves"]["f1"] == 1
    assert report["kinds"]["stops"]["events"] == report["kinds"]["starts"]["phrases"] == 1
    assert report["views"]["oblique"]["f1"] == pytest.approx(2 * 3 / 9)
    assert report["views"]["top"]["f1"] == pytest.approx(2 * 1 / 5)
    assert report["by_clip"]["yard"]["camera"] == "b"


def test_one_phrase_names_one_event_and_the_end_is_not_asked_for():
    two = [make_event(5.0, "enters", "car"), make_event(5.5, "enters", "bus"), make_event(9.0, "leaves", "car")]
    once = score_real_events([LabelledClip("c", 10.0, two, [said("car enters", 6.0)])], resamples=1)
    assert (once["recall"], once["precision"], once["events"]) == (0.5, 1.0, 2)  # the car leaves too late to be named
    twice = [said("truck enters", 5.2), said("car enters", 6.0), said("car enters", 6.5)]
    assert score_real_events([LabelledClip("c", 10.0, two, twice)], resamples=1)["precision"] == pytest.approx(2 / 3)


def test_silence_and_clips_that_are_too_short():
    report = score_real_events([LabelledClip("c", 10.0, [], []), LabelledClip("short", 2.0, [], [])])
    assert report["too_short"] == ["short"]
    assert report["f1"] == report["false_alarms_per_quiet_minute"] == 0
    assert report["latency_p50_s"] is None
    assert report["intervals"]["latency_p50_s"] is None
    assert "short" in format_real_events(report)
    with pytest.raises(ValueError, match="none of the 1 clips is longer than the 2 s"):
        score_real_events([LabelledClip("short", 2.0, [], [])])


def test_intervals_are_of_clips():
    right = [LabelledClip("a", 9.0, [make_event(2.0, "enters", "car")], [said("car enters", 3.0)])]
    wrong = [LabelledClip("b", 9.0, [make_event(2.0, "enters", "car")], [said("dog enters", 3.0)])]
    assert score_real_events(right * 5)["intervals"]["f1"] == {"low": 1.0, "high": 1.0}
    # Twenty clips, half of them right: the F1 of a draw is the share of right ones, of standard deviation 0.11.
    found = score_real_events(right * 10 + wrong * 10, resamples=2000)["intervals"]["f1"]
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.112, abs=0.06)
    assert found["high"] == pytest.approx(0.5 + 1.96 * 0.112, abs=0.06)


def test_words_of_the_world_have_kinds():
    """A model that knows shapes only is right of when, never of what."""
    words = [(word, 3.0 + 0.3 * k) for k, word in enumerate(["white", "square", "enters", "left"])]
    clip = LabelledClip("c", 10.0, [make_event(3.0, "enters", "car", None, "left")], read_phrases(words))
    report = score_real_events([clip], resamples=1)
    assert (report["f1"], report["f1_kind"]) == (0.0, 1.0)
    assert claim_of(clip.said[0].attributes)[:4] == ("enters", "square", "square", "white")


def test_every_event_that_can_be_made_is_read_back():
    for kind, class_name, colour, side in (
        ("enters", "traffic light", "red", "left"),
        ("taken", "wine glass", None, None),
        ("put", "sports ball", "orange", None),
        ("leaves", "hot dog", None, "bottom"),
    ):
        event = make_event(1.0, kind, class_name, colour, side)
        (found,) = read_phrases([(word, 1.0 + 0.3 * k) for k, word in enumerate(phrase(event))])
        assert claim_of(found.attributes) == claim_of(event.attributes)
        assert claim_of(event.attributes).class_name == class_name


def test_as_a_metric_and_as_a_table():
    spoken = [Word(text, 3.0 + 0.3 * k) for k, text in enumerate(["red", "car", "enters", "left"])]
    clip = ClipResult(30.0, STREET.events, [], [], np.zeros(1), np.zeros(1), key="street", spoken=spoken)
    report = {"metrics": apply_metrics({"m:real_events": real_events}, [clip])}
    assert report["metrics"]["real_events"]["precision"] == 1
    assert report["metrics"]["real_events"]["recall"] == 0.25
    assert "f1_kind 0.4" in metric_lines(report)[0]
    table = format_real_events(score_real_events([STREET, YARD]), "a model")
    assert "a model" in table
    assert "colour: of 2 named events that know one, 1 were given it (0.500)" in table
    assert [line.split()[0] for line in table.split("\n") if line.startswith(("vehicle", "truck"))] == [
        "vehicle",
        "truck",
    ]
