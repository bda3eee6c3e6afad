"""Which two contestants, on which video, on which sides: uncertain pairs first, decided by a seed and a number.

A pair is drawn with a weight of how much one more vote would narrow its win rate, `sqrt(v / n) - sqrt(v / (n + 1))` for
n votes with variance v (Chiang et al., Chatbot Arena, arXiv 2403.04132, section 4).
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence

from mmduplex_jax.arena.entries import Entries
from mmduplex_jax.arena.votes import Tally

# What is not known of a pair is taken as a win, a loss and no more: a pair without votes is the most uncertain one.
_PRIOR_WINS, _PRIOR_VOTES = 1.0, 2.0


def pair_weights(tallies: Sequence[Tally], pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """How much one more vote on a pair would tell, by pair (names in alphabetical order)."""
    votes = dict.fromkeys(pairs, _PRIOR_VOTES)
    wins = dict.fromkeys(pairs, _PRIOR_WINS)
    for left, right, choice, number in tallies:
        pair = (min(left, right), max(left, right))
        if pair in votes:
            won = {"left": left, "right": right}.get(choice)
            votes[pair] += number
            wins[pair] += number * (0.5 if won is None else float(won == pair[0]))
    return {pair: _narrowing(wins[pair] / votes[pair], votes[pair]) for pair in pairs}


def _narrowing(rate: float, votes: float) -> float:
    spread = math.sqrt(rate * (1 - rate))
    return spread / math.sqrt(votes) - spread / math.sqrt(votes + 1)


def choose_pair(
    entries: Entries,
    tallies: Sequence[Tally],
    votes_by_video: Mapping[tuple[str, str, str], int],
    judged: Collection[tuple[str, str, str]],
    seed: str,
    number: int,
) -> tuple[str, str, str] | None:
    """The video, the contestant on the left and the one on the right, of a ballot.

    Args:
      entries: what can be shown.
      tallies: the votes so far.
      votes_by_video: votes so far by `(video, contestant, contestant)`.
      judged: what this voter has judged, in the same form.
      seed: of the arena.
      number: of the ballot. Seed and number decide everything that is random.

    Returns:
      None where the voter has judged all there is.
    """
    videos: dict[tuple[str, str], list[str]] = {}
    for stem, video in entries.videos.items():
        names = sorted(video.commentaries)
        for i, low in enumerate(names):
            for high in names[i + 1 :]:
                if (stem, low, high) not in judged:
                    videos.setdefault((low, high), []).append(stem)
    if not videos:
        return None
    chance = random.Random(f"{seed}:{number}")
    pairs = sorted(videos)
    weights = pair_weights(tallies, pairs)
    pair = chance.choices(pairs, [weights[one] for one in pairs])[0]
    # Of its videos one with the fewest votes on this pair.
    fewest = min(votes_by_video.get((stem, *pair), 0) for stem in videos[pair])
    stems = [stem for stem in videos[pair] if votes_by_video.get((stem, *pair), 0) == fewest]
    stem = chance.choice(stems)
    left, right = pair if chance.random() < 0.5 else pair[::-1]
    return stem, left, right
