"""Ratings from counted votes: Bradley-Terry with ties, bootstrap intervals and ranks; wins by pair; bias to a side.

The model is fitted by `evalica` (dustalov/evalica, Apache-2.0), imported where it is used (the extra `arena`). A tie is
half a win for each, and so is "both bad", as in FastChat (0e6d3e4b, fastchat/serve/monitor/rating_systems.py), from
which the scale (400 points are odds of ten to one), the bootstrap (a multinomial over the counted outcomes, seed 0) and
the rule for ranks are, too.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmduplex_jax.arena.votes import Tally

SCALE, CENTRE = 400.0, 1000.0
RESAMPLES, SEED, LEVEL = 100, 0, 0.95
# One tie is added between any two contestants. Without it whoever has won nothing, in the votes or in a resample of
# them, has a rating of minus infinity; with it few votes mean ratings near each other, and many are not moved.
PRIOR_TIES = 1.0
# evalica stops at 1e-6 and after 100 rounds by default, which is enough for an order and not for a third decimal.
_TOLERANCE, _ROUNDS = 1e-10, 10_000


class MissingLibrary(ImportError):
    """evalica is not installed."""


def _evalica() -> Any:
    try:
        import evalica
    except ImportError as error:
        raise MissingLibrary("ratings need evalica: pip install 'mmduplex-jax[arena]'") from error
    return evalica


@dataclasses.dataclass(frozen=True)
class Rating:
    """A contestant's place.

    Attributes:
      name: the contestant.
      rating: in Elo points; the mean of all contestants is 1000.
      low, high: of the bootstrap, 2.5 % and 97.5 %.
      rank: 1 and those whose whole interval is above this one's (FastChat, elo_analysis.py).
      votes: that it took part in.
      win_rate: the mean over opponents of its share of wins, a tie half a win; None without votes.
    """

    name: str
    rating: float
    low: float
    high: float
    rank: int
    votes: int
    win_rate: float | None


def bradley_terry(tallies: Sequence[Tally], names: Sequence[str], prior_ties: float = 0.0) -> dict[str, float]:
    """Strengths by name, in sum 1: a beats b with probability strength(a) / (strength(a) + strength(b)).

    Args:
      tallies: the votes.
      names: of all contestants.
      prior_ties: added between any two of them.

    Raises:
      MissingLibrary: evalica is not installed.
    """
    schedule = _Schedule(tallies, names, prior_ties)
    return dict(zip(names, schedule.fit(schedule.weights).tolist()))


def average_win_rate(tallies: Sequence[Tally], names: Sequence[str]) -> dict[str, float]:
    """The mean over opponents of the share of wins, a tie half a win, by name; nan for who has met nobody."""
    schedule = _Schedule(tallies, names, 0.0)
    weights = schedule.weights.tolist()
    scores = _evalica().average_win_rate(*schedule.games, index=schedule.index, weights=weights).scores
    return {name: float(scores[place]) for place, name in enumerate(names)}


class _Schedule:
    """Counted outcomes as evalica takes them; left and right of a pair are added up."""

    def __init__(self, tallies: Sequence[Tally], names: Sequence[str], prior_ties: float):
        evalica = _evalica()
        place = {name: number for number, name in enumerate(names)}
        counts: dict[tuple[int, int, str], float] = {}
        for left, right, choice, votes in tallies:
            a, b = place[left], place[right]
            winner = {"left": "x", "right": "y"}.get(choice, "draw")
            if a > b:
                a, b, winner = b, a, {"x": "y", "y": "x"}.get(winner, winner)
            counts[a, b, winner] = counts.get((a, b, winner), 0.0) + votes
        self.counted = np.array(list(counts.values()))
        prior = [(a, b, "draw") for a in range(len(names)) for b in range(a + 1, len(names))] if prior_ties else []
        rows = [*counts, *prior]
        winners = {"x": evalica.Winner.X, "y": evalica.Winner.Y, "draw": evalica.Winner.Draw}
        # (Names become numbers in evalica's own index, so that contestants without votes are there too.)
        everyone = list(range(len(names)))
        self.index = evalica.indexing(everyone, everyone)[2]
        # As indices of pandas, which evalica looks up a hundred times: lists are made into such each time anew.
        firsts, seconds = (self.index.take([row[side] for row in rows]) for side in (0, 1))
        self.games = (firsts, seconds, [winners[winner] for _, _, winner in rows])
        self._prior = np.full(len(prior), prior_ties)
        self.weights = np.concatenate([self.counted, self._prior])
        self._bradley_terry = evalica.bradley_terry

    def fit(self, weights: np.ndarray) -> np.ndarray:
        """Strengths in the order of names."""
        fitted = self._bradley_terry(
            *self.games, index=self.index, weights=weights.tolist(), tolerance=_TOLERANCE, limit=_ROUNDS
        )
        strengths = np.empty(len(self.index))
        strengths[fitted.scores.index.to_numpy()] = fitted.scores.to_numpy()  # (evalica gives the best first)
        return strengths / strengths.sum()

    def resampled(self, rounds: int, seed: int) -> np.ndarray:
        """Strengths `[rounds, names]` of resampled votes."""
        total = int(self.counted.sum())
        drawn = np.random.default_rng(seed).multinomial(total, self.counted / total, size=rounds)
        return np.stack([self.fit(np.concatenate([one, self._prior])) for one in drawn])


def rate(tallies: Sequence[Tally], names: Sequence[str], *, rounds: int = RESAMPLES, seed: int = SEED) -> list[Rating]:
    """Every contestant's rating, the best first; [] without votes.

    Raises:
      MissingLibrary: evalica is not installed.
    """
    if not tallies:
        return []
    schedule = _Schedule(tallies, names, PRIOR_TIES)
    ratings = _points(schedule.fit(schedule.weights))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(_points(schedule.resampled(rounds, seed)), [tail, 1 - tail], axis=0)
    rates = average_win_rate(tallies, names)
    votes = dict.fromkeys(names, 0)
    for left, right, _, number in tallies:
        votes[left] += number
        votes[right] += number
    rated = [
        Rating(
            name=name, rating=float(ratings[i]), low=float(low[i]), high=float(high[i]),
            rank=1 + int(np.sum(low > high[i])), votes=votes[name],
            win_rate=rates[name] if votes[name] and not math.isnan(rates[name]) else None,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    return sorted(rated, key=lambda one: (-one.rating, one.name))


def _points(strengths: np.ndarray) -> np.ndarray:
    """Strengths `[..., names]` on the Elo scale, 1000 in the mean."""
    logs = np.log10(strengths)
    return SCALE * (logs - logs.mean(axis=-1, keepdims=True)) + CENTRE


def win_matrix(tallies: Sequence[Tally], names: Sequence[str]) -> dict[str, dict[str, tuple[float, int]]]:
    """Of each contestant against each that it met: its share of wins, a tie half a win, and the number of votes."""
    wins: dict[tuple[str, str], float] = {}
    met: dict[tuple[str, str], int] = {}
    for left, right, choice, votes in tallies:
        share = {"left": 1.0, "right": 0.0}.get(choice, 0.5)
        for one, other, won in ((left, right, share), (right, left, 1 - share)):
            wins[one, other] = wins.get((one, other), 0.0) + votes * won
            met[one, other] = met.get((one, other), 0) + votes
    return {
        one: {other: (wins[one, other] / met[one, other], met[one, other]) for other in names if (one, other) in met}
        for one in names
    }


@dataclasses.dataclass(frozen=True)
class SideBias:
    """Whether voters favour a side, whoever stands there; sides are random, so the left should win every second time.

    Attributes:
      left, right: decided votes.
      p: of so uneven a split or a more uneven one by chance, two-sided (normal approximation).
    """

    left: int
    right: int
    p: float


def side_bias(tallies: Sequence[Tally]) -> SideBias:
    """Over all votes that prefer a side."""
    left = sum(votes for _, _, choice, votes in tallies if choice == "left")
    right = sum(votes for _, _, choice, votes in tallies if choice == "right")
    decided = left + right
    # (One vote less apart, for the normal distribution is continuous and votes are not.)
    distance = max(0.0, abs(left - right) - 1.0) / math.sqrt(decided) if decided else 0.0
    return SideBias(left, right, math.erfc(distance / math.sqrt(2)))
