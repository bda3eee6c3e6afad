"""Voters who push one contestant together, as neither what everybody prefers explains nor a voter's own taste.

Of every contestant two stories are compared, by a likelihood ratio for each voter.

- *Null*: a voter prefers as the others do on the same video and pair, but for a taste of its own: the log-odds with
  which it prefers the contestant are the others' plus a normal deviate of standard deviation `TASTE`.
- *Alternative*: to the others' log-odds `PUSH` is added (or taken away, for who votes against it).

The evidence that a share `SHARE` of voters pushes is the product over all voters of `1 - SHARE + SHARE × ratio`. Its
mean under the null is 1, so by Markov's inequality it exceeds `1 / alpha` with probability alpha at most; over `2 ×
contestants` stories alpha is shared out (Bonferroni). What is estimated here and not known, is what the others prefer:
a voter's own votes are left out of it, and so are those of voters that are found already.

A voter is one of the group where its own ratio is over `MEMBER_RATIO`, which a voter under the null has once in so many
at most. Votes of a group are flagged and go on counting.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmduplex_jax.arena.votes import Decision, VoteStore

# In log-odds: an honest voter's own liking for a contestant (one in twenty differs from the others' odds by more than
# a factor of 2.7), and what is added by whoever has made up its mind before (a factor of 20).
TASTE, PUSH = 0.5, 3.0
SHARE, ALPHA, MEMBER_RATIO = 0.1, 0.001, 200.0
# Two who agree may be friends.
GROUP_MIN = 3
# Before so many others have decided on a pair, nothing is known of what they prefer.
_OTHERS_MIN = 10
# Others' votes on a video are worth themselves, and their votes on the pair anywhere so many more.
_PAIR_WORTH = 4.0
# Whoever is found is left out of what the others prefer, and it is looked again, at most so often.
_ROUNDS = 5
# A normal distribution as some points with weights.
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


@dataclasses.dataclass(frozen=True)
class Group:
    """Voters who push one contestant.

    Attributes:
      contestant: whom they push.
      towards: "for" or "against".
      voters: numbers of those whose own votes show it.
      log10_evidence: of the story that a share of all voters push so, over the null; at 5 it is 100 000 to one.
      log10_needed: from where on it is reported.
      votes: decided votes of these voters on the contestant.
      as_pushed: of those, how many are as the group wants.
      counted: of the voters those who are not excluded.
    """

    contestant: str
    towards: str
    voters: tuple[int, ...]
    log10_evidence: float
    log10_needed: float
    votes: int
    as_pushed: int
    counted: int

    @property
    def said(self) -> str:
        """Who pushes whom, and how much, in a line."""
        who = f"{len(self.voters)} voters push {self.towards} {self.contestant}"
        return f"{who}: {self.as_pushed} of their {self.votes} votes on it"


def coordinated_groups(decisions: Sequence[Decision]) -> list[Group]:
    """The groups among all votes, the clearest first.

    Args:
      decisions: votes that do not count, too: they tell nothing of what others prefer, and may be of a group.
    """
    if not decisions:
        return []
    names, places = np.unique([[one.winner, one.loser] for one in decisions], return_inverse=True)
    winner, loser = places.reshape(-1, 2).T
    numbers, voter = np.unique([one.voter for one in decisions], return_inverse=True)
    video = np.unique([one.video for one in decisions], return_inverse=True)[1]
    count, voters = len(names), len(numbers)
    counted = np.array([one.counted for one in decisions])
    pushing = np.zeros(voters, bool)
    groups: list[Group] = []
    for _ in range(_ROUNDS):
        expected, known = _others_prefer(voter, video, winner, loser, counted & ~pushing[voter])
        ratios = _log_ratios(voter, winner, loser, expected, known, (voters, count))
        found: dict[tuple[str, int], tuple[np.ndarray, float]] = {}
        for towards, ratio in ratios.items():
            evidence = np.logaddexp(np.log1p(-SHARE), np.log(SHARE) + ratio).sum(axis=0) / np.log(10)
            for place in np.flatnonzero(evidence >= np.log10(2 * count / ALPHA)):
                members = np.flatnonzero(ratio[:, place] > np.log(MEMBER_RATIO))
                if len(members) >= GROUP_MIN:
                    found[towards, int(place)] = members, float(evidence[place])
        groups = [
            _group(key, members, evidence, names, numbers, voter, winner, loser, counted)
            for key, (members, evidence) in found.items()
        ]
        before = pushing
        pushing = np.zeros(voters, bool)
        for members, _ in found.values():
            pushing[members] = True
        if (pushing == before).all():
            break
    return sorted(groups, key=lambda group: -group.log10_evidence)


def _others_prefer(
    voter: np.ndarray, video: np.ndarray, winner: np.ndarray, loser: np.ndarray, heard: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How probable each vote's preference is by what other voters said, `[votes]`, and whether enough of them did.

    Args:
      voter, video, winner, loser: of each vote.
      heard: whether it says what others prefer.
    """
    low, high = np.minimum(winner, loser), np.maximum(winner, loser)
    pair = np.unique(low * (high.max() + 1) + high, return_inverse=True)[1]
    item = np.unique(pair * (video.max() + 1) + video, return_inverse=True)[1]
    own = np.unique(voter * (pair.max() + 1) + pair, return_inverse=True)[1]
    won = (winner == low).astype(float)
    weight = heard.astype(float)

    def others(by: np.ndarray, own_by: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Wins of the lower one, and votes, of the others with the same `by`."""
        wins, votes = (np.bincount(by, weights)[by] for weights in (weight * won, weight))
        own_wins, own_votes = (np.bincount(own_by, weights)[own_by] for weights in (weight * won, weight))
        return wins - own_wins, votes - own_votes

    pair_wins, pair_votes = others(pair, own)
    # (A voter judges a pair on a video once.)
    item_wins, item_votes = others(item, np.arange(len(voter)))
    rate = (pair_wins + 1) / (pair_votes + 2)
    low_wins = (item_wins + _PAIR_WORTH * rate) / (item_votes + _PAIR_WORTH)
    return np.where(won > 0, low_wins, 1 - low_wins), pair_votes >= _OTHERS_MIN


def _log_ratios(
    voter: np.ndarray, winner: np.ndarray, loser: np.ndarray, expected: np.ndarray, known: np.ndarray,
    shape: tuple[int, int],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Log-likelihood ratios `[voters, contestants]` of pushing "for" and "against", over the null."""
    logit = np.log(expected) - np.log1p(-expected)
    size = shape[0] * shape[1]

    def log_likelihood(lean: float) -> np.ndarray:
        """Of all votes of each voter on each contestant, if it leans towards it so much."""
        for_winner = np.where(known, -np.logaddexp(0.0, -(logit + lean)), 0.0)
        for_loser = np.where(known, -np.logaddexp(0.0, -(logit - lean)), 0.0)
        places = np.concatenate([voter * shape[1] + winner, voter * shape[1] + loser])
        return np.bincount(places, np.concatenate([for_winner, for_loser]), minlength=size).reshape(shape)

    weights = np.log(_WEIGHTS / _WEIGHTS.sum())
    null = np.full(shape, -np.inf)
    for point, weight in zip(_POINTS, weights):
        null = np.logaddexp(null, weight + log_likelihood(TASTE * point))
    return {"for": log_likelihood(PUSH) - null, "against": log_likelihood(-PUSH) - null}


def _group(
    key: tuple[str, int], members: np.ndarray, evidence: float, names: np.ndarray, numbers: np.ndarray,
    voter: np.ndarray, winner: np.ndarray, loser: np.ndarray, counted: np.ndarray,
) -> Group:  # fmt: skip
    towards, place = key
    theirs = np.isin(voter, members)
    won, lost = int((theirs & (winner == place)).sum()), int((theirs & (loser == place)).sum())
    return Group(
        contestant=str(names[place]), towards=towards, voters=tuple(int(number) for number in numbers[members]),
        log10_evidence=evidence, log10_needed=float(np.log10(2 * len(names) / ALPHA)), votes=won + lost,
        as_pushed=won if towards == "for" else lost, counted=len(np.unique(voter[theirs & counted])),
    )  # fmt: skip


def flag_groups(store: VoteStore) -> list[Group]:
    """Looks for groups among all votes, and flags their voters in place of those who were flagged before."""
    groups = coordinated_groups(store.decisions())
    flags: dict[int, str] = {}
    for group in groups:
        for voter in group.voters:
            flags[voter] = ", ".join(filter(None, [flags.get(voter, ""), f"{group.towards} {group.contestant}"]))
    store.flag(flags, [dataclasses.asdict(group) for group in groups])
    return groups


def exclude_flagged(store: VoteStore) -> int:
    """Has the votes of all flagged voters count no more; returns how many voters these are."""
    flagged = store.flagged_voters()
    for voter in flagged:
        store.exclude(voter, "coordinated")
    return len(flagged)
