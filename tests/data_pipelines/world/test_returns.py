"""Things that come back: they look as they did, are said to be back, and only what was never seen "enters"."""

import dataclasses
import math

import numpy as np
import pytest

from data_pipelines.world import WorldConfig, lexicon, make_clip
from data_pipelines.world.clip import plan_clip
from data_pipelines.world.commentator import PATTERNS, parse_phrase, phrase, split_phrases
from data_pipelines.world.config import RETURNS
from data_pipelines.world.drawing import Painter

SILENCE_S = 30.0


def crossing(look: str = "plain", **changes) -> WorldConfig:
    world = WorldConfig(look=look, clip_s=70.0)
    given = dict(kinds=("enters", "leaves"), max_things=2, initial_things=(0, 1), returns=0.6)
    return dataclasses.replace(world, dynamics=dataclasses.replace(world.dynamics, **(given | changes)))


@pytest.mark.parametrize("look", ["plain", "rich"])
def test_what_is_back_was_there_and_what_enters_was_not(look):
    counts = {RETURNS: 0, "enters": 0}
    for index in range(20):
        scene, words, _ = plan_clip(crossing(look), 5, index)
        there = {thing.name for thing in scene.things if thing.visible_from_s == -math.inf}
        known = set(there)
        for event in scene.events:
            if event.kind == "leaves":
                there.remove(event.subject)
                continue
            counts[event.kind] += 1
            assert event.subject not in there
            assert (event.subject in known) == (event.kind == RETURNS), (index, event)
            there.add(event.subject)
            known.add(event.subject)
        said = split_phrases([(word.text, word.start_s) for word in words])
        assert [attributes for attributes, _, _ in said] == [(e.kind, e.subject, e.detail) for e in scene.events]
    assert min(counts.values()) > 20


def test_it_looks_as_it_did():
    """Drawn again at the same place, it is the same to the pixel, its texture too."""
    config = crossing("rich")
    scene, _, rng = next(
        plan for plan in (plan_clip(config, 1, index) for index in range(20))
        if any(event.kind == RETURNS for event in plan[0].events)
    )  # fmt: skip
    painter = Painter(config, scene, rng)
    by_identity: dict[int, list[int]] = {}
    for number, thing in enumerate(scene.things):
        by_identity.setdefault(thing.identity, []).append(number)
    first, second = next(numbers for numbers in by_identity.values() if len(numbers) > 1)[:2]
    assert scene.things[first].name == scene.things[second].name
    pictures = []
    for number in (first, second):
        canvas = np.zeros((64, 64, 3), np.float32)
        thing = dataclasses.replace(scene.things[number], segments=((0.0, 32.0, 32.0, 0.0, 0.0),))
        painter._draw(canvas, number, thing, 1.0, (0.0, 0.0))
        pictures.append(canvas)
    assert pictures[0].any()
    np.testing.assert_array_equal(*pictures)


def test_nothing_happens_in_the_silence():
    for index in range(10):
        scene, words, _ = plan_clip(crossing(quiet_s=(SILENCE_S, SILENCE_S), initial_things=(0, 0)), 2, index)
        times_s = np.array([event.t_s for event in scene.events])
        gaps_s = np.diff(times_s)
        assert (gaps_s >= SILENCE_S).sum() == 1
        longest = int(gaps_s.argmax())
        assert 0 < longest < len(gaps_s) - 1  # something happens on both sides
        assert not [word for word in words if times_s[longest] + 5 < word.start_s < times_s[longest + 1]]


def test_the_lexicon_has_no_word_more():
    """Its order gives tokenizers their ids; checkpoints hold those that were."""
    fixed = {word for kind, ways in PATTERNS.items() if kind != RETURNS for way in ways for word in way.split()}
    new = {word for way in PATTERNS[RETURNS] for word in way.split() if not word.startswith("{")}
    assert new <= fixed
    assert len(lexicon()) == len(set(lexicon()))


def test_without_returns_a_clip_is_what_it_was():
    world = WorldConfig()
    explicit = dataclasses.replace(world, dynamics=dataclasses.replace(world.dynamics, returns=0.0, quiet_s=(0.0, 0.0)))
    assert not any(event.kind == RETURNS for index in range(20) for event in plan_clip(explicit, 0, index)[0].events)
    np.testing.assert_array_equal(make_clip(world, 0, 3).frames, make_clip(explicit, 0, 3).frames)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="returns"):
        WorldConfig(dynamics=dataclasses.replace(WorldConfig().dynamics, returns=share))


def test_every_way_to_say_it_is_understood():
    event = next(e for i in range(20) for e in plan_clip(crossing(), 0, i)[0].events if e.kind == RETURNS)
    for variant in range(3):
        assert parse_phrase(phrase(event, variant)) == (RETURNS, event.subject, event.detail)
