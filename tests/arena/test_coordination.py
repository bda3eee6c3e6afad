"""Groups of voters: seen where there is one, not where all prefer the same, and never out of the count unasked."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad

from benchmarks.arena_groups import CROWDS, votes_of
from launch import arena as launch_arena
from mmduplex_jax.arena.board import board_html, leaderboard
from mmduplex_jax.arena.coordination import ALPHA, PUSH, SHARE, TASTE, coordinated_groups, flag_groups
from mmduplex_jax.arena.votes import Decision
from tests.arena.contest import write_contest
from tests.arena.crowd import ORDER, STRENGTHS, ranking, shill, sound, voted

# Arenas of a crowd that are looked at. What is to be found is in each; where nothing is, one in a thousand may be
# flagged by the rule, so that of these none is, but once in a hundred choices of a seed.
ARENAS = 5


@pytest.mark.parametrize(
    "crowd", ["odds of 1.8", "odds of 5", "odds of 20", "odds of 5, tastes of 0.5", "odds of 5, videos differ by 1"]
)
def test_who_prefers_as_all_others_do_is_no_group(crowd: str):
    for seed in range(ARENAS):
        assert coordinated_groups(votes_of(CROWDS[crowd], seed)) == []


@pytest.mark.parametrize("crowd", ["10 % push, 30 votes each", "10 % push, odds of 1.8"])
def test_one_in_ten_who_push_the_worst_are_found(crowd: str):
    for seed in range(ARENAS):
        groups = coordinated_groups(votes_of(CROWDS[crowd], seed))
        (pushing,) = (group for group in groups if (group.contestant, group.towards) == ("c0", "for"))
        assert set(range(90, 100)) <= set(pushing.voters)
        # A member's own ratio is over 200, which an honest voter's is once in 200 at most.
        assert sum(voter < 90 for group in groups for voter in group.voters) <= 2
        assert pushing.as_pushed > 0.9 * pushing.votes


def test_two_who_agree_are_no_group_and_three_are():
    honest = [one for one in votes_of(CROWDS["10 % push, 30 votes each"], 0) if one.voter < 90]
    pushing = [one for one in votes_of(CROWDS["10 % push, 30 votes each"], 0) if one.voter >= 90]
    for number in (2, 3):
        few = [one for one in pushing if one.voter < 90 + number]
        found = {group.contestant for group in coordinated_groups(honest + few)}
        assert ("c0" in found) == (number == 3)


def test_who_pushes_against_somebody_is_found_too():
    honest = votes_of(CROWDS["odds of 1.8"], 0)
    # c3, the best, always loses.
    pushing = [
        Decision(1000 + voter, f"video{video}", f"c{other}", "c3")
        for voter in range(8) for video in range(10) for other in range(3)
    ]  # fmt: skip
    groups = coordinated_groups(honest + pushing)
    assert ("c3", "against", tuple(range(1000, 1008))) in [(one.contestant, one.towards, one.voters) for one in groups]


def test_who_is_excluded_is_of_the_group_and_not_heard():
    votes = [one._replace(counted=one.voter < 97) for one in votes_of(CROWDS["10 % push, 30 votes each"], 0)]
    (group,) = (group for group in coordinated_groups(votes) if group.contestant == "c0")
    assert set(range(90, 100)) <= set(group.voters)
    assert group.counted == len(group.voters) - 3


def test_the_evidence_is_what_the_docstring_says():
    """By hand, with an integral in place of points: 200 honest voters on one video and pair, and three who push b."""
    honest = [Decision(voter, "v", *(("b", "a") if voter < 20 else ("a", "b"))) for voter in range(200)]
    # (Each on eight videos of its own, on which nobody else has voted.)
    pushing = [Decision(200 + voter, f"v{voter} {video}", "b", "a") for voter in range(3) for video in range(8)]
    (group,) = (one for one in coordinated_groups(honest + pushing) if (one.contestant, one.towards) == ("b", "for"))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def ratio(logits: list[float], wins: list[bool]) -> float:
        def likelihood(lean: float) -> float:
            return math.prod(sigmoid(one + lean) if won else 1 - sigmoid(one + lean) for one, won in zip(logits, wins))

        null, _ = quad(
            lambda lean: math.exp(-((lean / TASTE) ** 2) / 2) / (TASTE * math.sqrt(2 * math.pi)) * likelihood(lean),
            -6 * TASTE, 6 * TASTE,
        )  # fmt: skip
        return likelihood(PUSH) / null

    evidence = 0.0
    for voter in range(200):  # those who push are found in the first round, and left out of the second
        won = voter < 20
        rate = (20 - won + 1) / (199 + 2)
        expected = (20 - won + 4 * rate) / (199 + 4)
        evidence += math.log10(1 - SHARE + SHARE * ratio([math.log(expected / (1 - expected))], [won]))
    rate = 21 / 202
    each = ratio([math.log(rate / (1 - rate))] * 8, [True] * 8)
    evidence += 3 * math.log10(1 - SHARE + SHARE * each)
    # (Nine points integrate to a few parts in a thousand.)
    assert group.log10_evidence == pytest.approx(evidence, abs=0.02)
    assert group.log10_needed == pytest.approx(math.log10(2 * 2 / ALPHA))
    assert (group.votes, group.as_pushed) == (24, 24)


def test_no_votes_have_no_groups():
    assert coordinated_groups([]) == []
    assert coordinated_groups([Decision(1, "v", "a", "b")]) == []


def test_a_group_is_flagged_and_counts_until_somebody_decides(tmp_path: Path, capsys):
    """One voter in ten wants the worst to win, and is careful otherwise."""
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    root = write_contest(tmp_path / "arena", tuple(STRENGTHS), stems=("beach",))
    crowd = {f"voter{number}": (sound, 12) for number in range(45)}
    bots = {f"shill{number}": (shill, 20) for number in range(5)}
    with voted(root, crowd | bots, seed=1) as store:
        assert ranking(store) == ORDER
        before = leaderboard(store, tuple(STRENGTHS))
        assert (before["groups"], before["without_flagged"]) == ([], None)
        (group,) = flag_groups(store)
        assert (group.contestant, group.towards) == ("amber", "for")
        numbers = {store.voter(name, "127.0.0.1").number for name in bots}
        assert set(store.flagged_voters().items()) >= {(number, "for amber") for number in numbers}
        assert len(store.flagged_voters()) <= len(numbers) + 1
        # It is said, with the ratings without them; and they count as before, but for whom another rule has found.
        assert 0 < group.counted < len(group.voters)
        board = leaderboard(store, tuple(STRENGTHS))
        assert board["ratings"] == before["ratings"]
        assert [one["name"] for one in board["without_flagged"]["ratings"]] == ORDER
        flagged = [vote for vote in store.every_vote() if vote["flagged"]]
        assert board["votes"] - board["without_flagged"]["votes"] == sum(vote["counted"] for vote in flagged) > 0
        html = board_html(json.loads(json.dumps(board)))
        assert f"{len(group.voters)} voters push for amber" in html
    assert launch_arena.main([f"--root={root}", "--exclude_flagged"]) == 0
    assert "voters push for amber" in capsys.readouterr().err
    assert launch_arena.main([f"--root={root}", "--json=-"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["votes"] == board["without_flagged"]["votes"]
    assert [one["name"] for one in said["ratings"]] == ORDER
    assert said["groups"][0]["counted"] == 0
    assert np.sum(list(said["excluded_voters"].values())) >= len(numbers)
