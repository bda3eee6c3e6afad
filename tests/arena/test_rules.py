"""Whose votes do not count, how seldom that is somebody sound, and that one bot among ten voters changes no order."""

import random
from pathlib import Path

import pytest

from mmduplex_jax.arena.board import leaderboard
from mmduplex_jax.arena.rules import is_one_sided, is_outlier, is_rapid, review
from mmduplex_jax.arena.votes import PastVote
from tests.arena.contest import tallied
from tests.arena.crowd import ORDER, STRENGTHS, clicker, ranking, script, shill, sound, voted


def past(choices: str, decision_s: float = 4.0, left: str = "a", right: str = "b") -> list[PastVote]:
    """Votes of `l`eft, `r`ight and `t`ie."""
    names = {"l": "left", "r": "right", "t": "tie"}
    return [PastVote(left, right, names[one], 30.0 * i, decision_s) for i, one in enumerate(choices)]


def test_votes_as_fast_as_the_buttons_open_are_no_persons():
    assert not is_rapid(past("lrlrlrlrl", decision_s=0.1))  # nine are too few to say
    assert is_rapid(past("lrlrlrlrlr", decision_s=0.1))
    slow = past("lrlrlrlrlrlrlrlr", decision_s=2.0)
    assert not is_rapid(slow)
    assert not is_rapid(slow + past("lrlr", decision_s=0.1))  # a fifth, and not more
    assert is_rapid(slow + past("lrlrl", decision_s=0.1))
    # Only the last fifty are looked at.
    assert not is_rapid(past("l" * 50, decision_s=0.1) + past("r" * 50, decision_s=3.0))


def test_one_side_all_the_time_is_seen_and_chance_is_not():
    assert not is_one_sided(past("l" * 13))
    assert is_one_sided(past("l" * 14))
    assert is_one_sided(past("r" * 14 + "t" * 80))
    assert not is_one_sided(past("t" * 100))
    chance = random.Random(0)
    # Looked at after each of 60 votes; one in a thousand is allowed, so in 300 more than two would be ever so unlikely.
    found = 0
    for _ in range(300):
        votes = past("".join(chance.choice("lr") for _ in range(60)))
        found += any(is_one_sided(votes[:count]) for count in range(61))
    assert found <= 2


CLEAR = {("a", "b"): {"left": 90, "right": 10}}


def test_who_prefers_what_nobody_does_is_an_outlier():
    assert is_outlier(past("rrrrr"), tallied({("a", "b"): {"left": 90, "right": 15}}))
    assert not is_outlier(past("rrrr"), tallied({("a", "b"): {"left": 90, "right": 14}}))
    assert not is_outlier(past("lllllllll"), tallied({("a", "b"): {"left": 99, "right": 10}}))
    # The same preference with the sides changed.
    assert is_outlier(past("lllll", left="b", right="a"), tallied({("a", "b"): {"left": 90, "right": 15}}))
    # Before others have decided nobody is against them.
    assert not is_outlier(past("rrrrr"), tallied({("a", "b"): {"left": 9, "right": 5}}))


def test_of_sound_voters_few_are_outliers():
    chance = random.Random(0)
    tallies = tallied({("a", "b"): {"left": 700, "right": 300}})
    found = sum(
        is_outlier(past("".join("l" if chance.random() < 0.7 else "r" for _ in range(60))), tallies) for _ in range(200)
    )
    # At most one in twenty by the rule (10); three standard deviations more.
    assert found <= 10 + 3 * 3.1


def test_fifty_voters_recover_the_order(tmp_path: Path):
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    with voted(tmp_path, {f"voter{number}": (sound, 12) for number in range(50)}) as store:
        assert ranking(store) == ORDER
        board = leaderboard(store, tuple(STRENGTHS))
        assert board["votes"] + sum(not vote["counted"] for vote in store.every_vote()) == 600
        # (By the strengths 306 points lie between these two.)
        found = {one["name"]: one for one in board["ratings"]}
        assert found["dogwood"]["low"] - found["amber"]["high"] > 100
        assert board["sides"]["p"] > 0.01


def test_one_bot_in_ten_does_not_change_the_order(tmp_path: Path):
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    bots = {"clicker": clicker, "script0": script, "script1": script, "shill0": shill, "shill1": shill}
    crowd = {f"voter{number}": (sound, 12) for number in range(45)}
    # Bots do not tire: they vote more than people do.
    with voted(tmp_path, crowd | {name: (bot, 30) for name, bot in bots.items()}) as store:
        assert ranking(store) == ORDER
        excluded = {name: store.voter(name, "127.0.0.1").excluded for name in [*bots, *crowd]}
        assert {name: excluded[name] for name in ("clicker", "script0", "script1")} == {
            "clicker": "one-sided", "script0": "rapid", "script1": "rapid",
        }  # fmt: skip
        assert sum(excluded[name] == "against all others" for name in ("shill0", "shill1")) >= 1
        # One sound voter in twenty may be taken for an outlier (2.3 of 45), and two more by chance.
        assert sum(bool(excluded[name]) for name in crowd) <= 4
        once = review(store)
        assert once == review(store)
        assert ranking(store) == ORDER
