"""Rules against abuse: how much anybody may ask, and whose votes do not count.

Votes are kept whatever is thought of them; those of an excluded voter are left out of all that is counted. A voter is
looked at after every vote, so the tests for a side and for outliers are such that a sound voter is excluded by one,
ever, with at most the chance that is named here, however often one looks.
"""

import dataclasses
import math
from collections.abc import Sequence

from mmduplex_jax.arena.votes import PastVote, Tally, Voter, VoteStore
from mmduplex_jax.serving.limits import Bounds, limit

DAY_S, THREE_HOURS_S = 86_400.0, 10_800.0

# FastChat 0e6d3e4b (fastchat/serve/monitor/elo_analysis.py, outlier_detect): voters of 5 to 100 votes, 1 / .05.
_OUTLIER_VOTES_MIN, _OUTLIER_VOTES_MAX, _OUTLIER_ALPHA = 5, 100, 0.05
# Before so many others have decided on a pair nobody can be against them.
_OTHERS_MIN = 10
_SIDE_ALPHA = 0.001
# TTS-Arena-V2 8dde61c (security.py): of the last 50 votes more than a fifth within a second. There it is a second from
# vote to vote; here from when the buttons open, and playing the video has to be asked for within it.
_RAPID_LAST, _RAPID_MIN, _RAPID_SHARE, _RAPID_S = 50, 10, 0.2, 1.0


@dataclasses.dataclass(frozen=True)
class ArenaLimits(Bounds):
    """Bounds that hold for everybody. Each is a flag of `launch.arena`; its help says what it bounds.

    Votes a day and in three hours are those of TTS-Arena-V2 8dde61c (security.py).
    """

    connections: int = limit(1024, "open sockets")
    body_bytes: int = limit(4096, "of a request's body")
    body_s: float = limit(10.0, "for a request's body to come")
    requests_hz: float = limit(5.0, "requests a second from an address, with ten seconds' worth at once")
    votes_day: int = limit(720, "votes of a voter in 24 hours")
    votes_3_hours: int = limit(100, "votes of a voter in 3 hours")
    new_voters_day: int = limit(50, "voters that an address may become in 24 hours")
    ballot_s: float = limit(3600.0, "how long a ballot may be answered")
    board_s: float = limit(5.0, "how old the leaderboard may be")
    board_wait_s: float = limit(1.0, "for a new leaderboard, before the one of before is shown")
    groups_s: float = limit(600.0, "from one search for groups of voters to the next")


def too_many(store: VoteStore, voter: Voter, limits: ArenaLimits) -> str:
    """Why a voter gets no ballot now; "" where it does."""
    for most, within_s, span in (
        (limits.votes_3_hours, THREE_HOURS_S, "3 hours"),
        (limits.votes_day, DAY_S, "24 hours"),
    ):
        if store.votes_within(voter.number, within_s) >= most:
            return f"you have cast {most} votes within {span}, thank you; come back later"
    return ""


def is_rapid(votes: Sequence[PastVote]) -> bool:
    """Whether votes come as fast as the buttons open, which people do not."""
    last = votes[-_RAPID_LAST:]
    fast = sum(vote.decision_s < _RAPID_S for vote in last)
    return len(last) >= _RAPID_MIN and fast > _RAPID_SHARE * len(last)


def is_one_sided(votes: Sequence[PastVote]) -> bool:
    """Whether a voter prefers a side, whoever stands there.

    Sides are random, so preferences for the left are a fair coin's heads. The evidence against it is the likelihood
    under a coin of any bias, all being as likely, over that under a fair one; by Ville's inequality it ever exceeds
    1 / alpha for a fair coin with probability alpha at most.
    """
    left = sum(vote.choice == "left" for vote in votes)
    right = sum(vote.choice == "right" for vote in votes)
    decided = left + right
    return 2.0**decided / ((decided + 1) * math.comb(decided, left)) > 1 / _SIDE_ALPHA


def is_outlier(votes: Sequence[PastVote], tallies: Sequence[Tally]) -> bool:
    """Whether a voter prefers what others do not, vote after vote.

    As in FastChat a product of 1 / (2 p) is compared with 1 / .05. There p is the share of all votes up to this one, or
    from it on, by the alphabet, and ties are votes of a half. Here p is the share of others who preferred the same, and
    ties are left out: so the product is a martingale for whoever prefers as the others do, and it grows for who votes
    against them, and for who votes at random on pairs that are clear.

    Args:
      votes: the voter's, oldest first.
      tallies: all votes that count, this voter's among them.
    """
    preferred: dict[tuple[str, str], int] = {}
    for left, right, choice, number in tallies:
        if choice in ("left", "right"):
            pair = (left, right) if choice == "left" else (right, left)
            preferred[pair] = preferred.get(pair, 0) + number
    decided = [vote for vote in votes if vote.choice in ("left", "right")][:_OUTLIER_VOTES_MAX]
    pairs = [(vote.left, vote.right) if vote.choice == "left" else (vote.right, vote.left) for vote in decided]
    evidence, judged = 1.0, 0
    for winner, loser in pairs:
        same = preferred.get((winner, loser), 0) - pairs.count((winner, loser))
        against = preferred.get((loser, winner), 0) - pairs.count((loser, winner))
        if same + against < _OTHERS_MIN:
            continue
        judged += 1
        # (One vote more on each side: nobody is ever quite sure.)
        evidence *= (same + against + 2) / (2 * (same + 1))
        if judged >= _OUTLIER_VOTES_MIN and evidence > 1 / _OUTLIER_ALPHA:
            return True
    return False


def verdict(store: VoteStore, voter: Voter) -> str:
    """Why the votes of a voter who is not excluded should not count, by all that it has voted; "" where they should."""
    votes = store.past_votes(voter.number, _OUTLIER_VOTES_MAX)
    if is_rapid(votes):
        return "rapid"
    if is_one_sided(votes):
        return "one-sided"
    if is_outlier(votes, store.tallies()):
        return "against all others"
    return ""


def review(store: VoteStore) -> dict[str, int]:
    """Judges every voter anew, as after a change of the rules; returns how many are excluded, by why."""
    for voter in store.voters():
        store.exclude(voter.number, "")
    for voter in store.voters():
        found = verdict(store, voter)
        if found:
            store.exclude(voter.number, found)
    return store.excluded_voters()
