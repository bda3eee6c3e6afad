"""Ratings against published ones, ranks, wins by pair, and bias to a side."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest

from mmduplex_jax.arena import ratings
from mmduplex_jax.arena.ratings import average_win_rate, bradley_terry, rate, side_bias, win_matrix
from mmduplex_jax.arena.votes import Tally
from tests.arena.contest import tallied

pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")

# evalica's test data (dustalov/evalica 2ebe79e, Apache-2.0): its winner is a vote's choice.
# That release stopped at 1e-6 of the strengths before they were brought to the sum of 1, so as near as that it can be.
TOLERANCE = 1e-6


def published(folder: Path, name: str) -> tuple[list[Tally], dict[str, dict[str, float]]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        counted = Counter((row["left"], row["right"], row["winner"]) for row in csv.DictReader(file))
    golden: dict[str, dict[str, float]] = {}
    with (folder / f"{name}-golden.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            golden.setdefault(row["algorithm"], {})[row["item"]] = float(row["score"])
    return [Tally(*key, votes) for key, votes in counted.items()], golden


@pytest.mark.parametrize("name", ["food", "simple", "llmfao"])
def test_published_ratings_come_out(shared_dir: Path, name: str):
    folder = shared_dir / "fixtures" / "arena"
    if not folder.is_dir():
        pytest.skip("no folder `fixtures/arena` in `shared`: this test needs evalica's published ratings")
    tallies, golden = published(folder, name)
    expected = golden["bradley_terry"]
    found = bradley_terry(tallies, sorted(expected))
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert sorted(found, key=found.get) == sorted(expected, key=expected.get)
    # Counted shares: exact but for the order of sums.
    rates = average_win_rate(tallies, sorted(expected))
    assert rates == pytest.approx(golden["average_win_rate"], abs=1e-12)


# lmarena/arena-rank 3900eae (Apache-2.0), tests/test_bradley_terry.py: strengths with geometric mean 1, to 1e-3.
ARENA_RANK = {
    ("A", "B"): {"left": 2, "right": 3}, ("A", "D"): {"left": 1, "right": 4},
    ("B", "C"): {"left": 5, "right": 3}, ("C", "D"): {"left": 1, "right": 3},
}  # fmt: skip
ARENA_RANK_STRENGTHS = {"A": 0.640, "B": 1.043, "C": 0.660, "D": 2.270}


def test_another_programs_strengths_come_out():
    found = bradley_terry(tallied(ARENA_RANK), list("ABCD"))
    centre = math.prod(found.values()) ** (1 / 4)
    assert {name: strength / centre for name, strength in found.items()} == pytest.approx(
        ARENA_RANK_STRENGTHS, rel=1e-3
    )


def test_of_two_the_odds_are_the_wins():
    """Ten to one is 400 points; a tie, and "both bad", is half a win for each."""
    found = bradley_terry(tallied({("a", "b"): {"left": 9, "tie": 1, "both_bad": 1}}), ["a", "b"])
    assert found["a"] / found["b"] == pytest.approx(10.0)
    (best, other) = rate(tallied({("a", "b"): {"left": 90_000, "tie": 20_000}}), ["a", "b"])
    # (The added tie moves it by less than a hundredth.)
    assert best.rating - other.rating == pytest.approx(400, abs=0.01)
    assert (best.rating + other.rating) / 2 == pytest.approx(1000)


def test_sides_do_not_matter():
    one = bradley_terry(
        tallied({("a", "b"): {"left": 3, "right": 1}, ("b", "c"): {"left": 2, "right": 1}}), list("abc")
    )
    other = bradley_terry(
        tallied({("b", "a"): {"left": 1, "right": 3}, ("c", "b"): {"left": 1, "right": 2}}), list("abc")
    )
    assert one == pytest.approx(other, rel=1e-12)


def test_who_has_won_nothing_or_met_nobody_has_a_rating():
    rated = rate(tallied({("a", "b"): {"left": 5}}), ["a", "b", "new"])
    assert [one.name for one in rated] == ["a", "new", "b"]
    assert all(math.isfinite(value) for one in rated for value in (one.rating, one.low, one.high))
    assert [one.votes for one in rated] == [5, 0, 5]
    assert rated[1].win_rate is None
    assert rate([], ["a", "b"]) == []


def test_ranks_count_those_that_are_surely_better():
    clear = {("a", "b"): {"left": 80, "right": 20}, ("b", "c"): {"left": 52, "right": 48}}
    rated = rate(tallied(clear | {("a", "c"): {"left": 80, "right": 20}}), list("abc"))
    assert [(one.name, one.rank) for one in rated] == [("a", 1), ("b", 2), ("c", 2)]
    for one in rated:
        assert one.low < one.rating < one.high
        assert one.rank == 1 + sum(other.low > one.high for other in rated)


def test_intervals_are_those_of_the_seed_and_narrow_with_votes():
    few = {("a", "b"): {"left": 12, "right": 8}}
    once, again = rate(tallied(few), ["a", "b"]), rate(tallied(few), ["a", "b"])
    assert once == again
    many = rate(tallied({("a", "b"): {"left": 1200, "right": 800}}), ["a", "b"])
    assert once[0].high - once[0].low > 5 * (many[0].high - many[0].low)


def test_the_win_matrix_has_both_sides():
    matrix = win_matrix(tallied({("a", "b"): {"left": 3, "tie": 1}, ("b", "a"): {"left": 1}}), list("abc"))
    assert matrix["a"]["b"] == (pytest.approx(0.7), 5)
    assert matrix["b"]["a"] == (pytest.approx(0.3), 5)
    assert matrix["c"] == {}


def test_bias_to_a_side_is_seen_and_an_even_split_is_none():
    even = side_bias(tallied({("a", "b"): {"left": 52, "right": 48, "tie": 30}}))
    assert (even.left, even.right) == (52, 48)
    assert even.p > 0.5
    assert side_bias(tallied({("a", "b"): {"left": 70, "right": 30}})).p < 0.001
    assert side_bias([]).p == 1.0


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "evalica", None)
    with pytest.raises(ratings.MissingLibrary, match=r"pip install 'mmduplex-jax\[arena\]'"):
        bradley_terry([], ["a", "b"])
