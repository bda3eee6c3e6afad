"""Zero-shot classification: the prompts are the commentator's phrases, and a model that knows them is right."""

import numpy as np
import pytest

from data_pipelines.schema import Event
from data_pipelines.world.commentator import parse_phrase
from mmduplex_jax.stages.clip.evaluator import answers_of, classify, world_prompts

EVENTS = [
    Event(1.0, "enters", "red circle", "left"),
    Event(2.0, "stops", "blue square"),
    Event(3.0, "leaves", "blue circle", "top"),
    Event(4.0, "collides", "green triangle", "red circle"),
]


@pytest.mark.parametrize(("look", "number"), [("plain", 300), ("rich", 9612)])
def test_prompts_are_all_phrases_and_say_what_they_answer(look, number):
    prompts = world_prompts(look)
    assert len({prompt.words for prompt in prompts}) == len(prompts) == number
    for prompt in prompts[:: 1 if look == "plain" else 97]:
        kind, subject, detail = parse_phrase(prompt.words)
        assert prompt.answers == answers_of(Event(0.0, kind, subject, detail))


def vector_of(answers, wrong=()):
    """One of the axes of each attribute's values."""
    values = ("red", "green", "blue", "yellow", "circle", "square", "triangle", "left", "right", "top", "bottom")
    values += ("enters", "leaves", "stops", "starts", "bounces", "collides", "recolours")
    return np.array([value in [answers[name] for name in answers if name not in wrong] for value in values], float)


def test_who_knows_all_is_right_and_who_is_blind_for_colours_guesses_them():
    prompts = world_prompts("plain")
    vectors = np.stack([vector_of(prompt.answers) for prompt in prompts])
    clips = np.stack([vector_of(answers_of(event)) for event in EVENTS])
    report = classify(clips, EVENTS, prompts, vectors)
    assert {name: values["accuracy"] for name, values in report.items()} == dict.fromkeys(
        ("colour", "shape", "kind", "side"), 1.0
    )
    assert {name: values["chance"] for name, values in report.items()} == pytest.approx(
        {"colour": 1 / 4, "shape": 1 / 3, "kind": 1 / 7, "side": 1 / 4}
    )
    assert {name: values["events"] for name, values in report.items()} == {
        "colour": 4, "shape": 4, "kind": 4, "side": 2
    }  # fmt: skip
    assert report["colour"]["most_frequent"] == 0.5
    assert report["kind"]["by_answer"] == {"collides": 1, "enters": 1, "leaves": 1, "stops": 1}
    blind = np.stack([vector_of(answers_of(event), wrong=("colour",)) for event in EVENTS])
    report = classify(blind, EVENTS, prompts, vectors)
    assert report["shape"]["accuracy"] == report["side"]["accuracy"] == 1
    assert report["colour"]["accuracy"] < 1


def test_an_attribute_that_nothing_has_is_left_out_and_an_unknown_value_told():
    prompts = world_prompts("plain")
    vectors = np.stack([vector_of(prompt.answers) for prompt in prompts])
    stops = [EVENTS[1]]
    assert classify(np.ones((1, 18)), stops, prompts, vectors).keys() == {"colour", "shape", "kind"}
    with pytest.raises(ValueError, match="colour 'purple' is in the clips and in no prompt"):
        classify(np.ones((1, 18)), [Event(0.0, "stops", "purple square")], prompts, vectors)
