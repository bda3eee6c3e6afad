"""Which pair comes next: the uncertain ones first, none twice, sides random, all decided by the seed."""

from collections import Counter
from pathlib import Path

import pytest

from mmduplex_jax.arena.entries import Commentary, Entries, Video
from mmduplex_jax.arena.pairing import choose_pair, pair_weights
from tests.arena.contest import tallied

NAMES = ("a", "b", "c")
ENTRIES = Entries(
    {
        stem: Video(stem, Path(f"{stem}.mp4"), 2.0, "all", {name: Commentary(name, (), "") for name in NAMES})
        for stem in ("x", "y")
    },
    NAMES,
)


def test_pairs_of_few_and_of_uncertain_votes_weigh_more():
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    votes = {("a", "b"): {"left": 10, "right": 10}, ("c", "a"): {"left": 1, "right": 19}, ("b", "c"): {"left": 2}}
    weights = pair_weights(tallied(votes), pairs)
    # As many votes, but decided: a wins 19 of 20, whichever side it stands on.
    assert weights["a", "c"] < weights["a", "b"] < weights["b", "c"]
    # Nobody has judged any: all alike.
    assert len(set(pair_weights([], pairs).values())) == 1


def test_seed_and_number_decide():
    chosen = [choose_pair(ENTRIES, [], {}, (), "seed", number) for number in range(200)]
    assert chosen == [choose_pair(ENTRIES, [], {}, (), "seed", number) for number in range(200)]
    assert chosen != [choose_pair(ENTRIES, [], {}, (), "another", number) for number in range(200)]
    # Every video, pair and side is drawn, and none is left to 200 draws of 12 by less than chance (16.7 each).
    counts = Counter(chosen)
    assert len(counts) == 12
    assert min(counts.values()) >= 5


def test_the_uncertain_pair_is_drawn_most():
    votes = tallied({("a", "b"): {"left": 400, "right": 400}, ("a", "c"): {"left": 800}})
    drawn = Counter(tuple(sorted(choose_pair(ENTRIES, votes, {}, (), "s", number)[1:])) for number in range(300))
    assert drawn["b", "c"] > 290


def test_the_video_with_the_fewest_votes_is_taken():
    votes = {("x", *pair): 3 for pair in (("a", "b"), ("a", "c"), ("b", "c"))}
    assert {choose_pair(ENTRIES, [], votes, (), "s", number)[0] for number in range(30)} == {"y"}


def test_nothing_is_judged_twice_and_then_there_is_nothing_left():
    judged: set[tuple[str, str, str]] = set()
    for number in range(6):
        stem, left, right = choose_pair(ENTRIES, [], {}, judged, "s", number)
        key = (stem, min(left, right), max(left, right))
        assert key not in judged
        judged.add(key)
    assert choose_pair(ENTRIES, [], {}, judged, "s", 6) is None


@pytest.mark.parametrize("missing", NAMES)
def test_who_is_silent_on_a_video_is_not_shown_on_it(missing: str):
    videos = dict(ENTRIES.videos)
    rest = {name: one for name, one in videos["x"].commentaries.items() if name != missing}
    videos["x"] = Video("x", Path("x.mp4"), 2.0, "all", rest)
    for number in range(60):
        stem, *sides = choose_pair(Entries(videos, NAMES), [], {}, (), "s", number)
        assert stem == "y" or missing not in sides
