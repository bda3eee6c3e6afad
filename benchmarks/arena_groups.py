"""How often the arena's search for groups of voters finds one where there is none, and where there is.

    python -m benchmarks.arena_groups --arenas=200

Made-up arenas: honest voters who share strong preferences, with tastes of their own, with videos on which others win;
then the same with some who push one contestant. Prints in how many arenas anything was flagged, and whose votes.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mmduplex_jax.arena.coordination import coordinated_groups
from mmduplex_jax.arena.votes import Decision
from mmduplex_jax.evals.report import aligned
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show

_TIES = 0.15


class Crowd(NamedTuple):
    """Who votes, and on what.

    Attributes:
      honest, votes: how many honest voters, and votes of each.
      odds: of a contestant against the next one.
      contestants, videos: how many.
      taste: standard deviation of a voter's liking for a contestant, in log-odds.
      by_video: standard deviation of how much better a contestant is on a video, in log-odds.
      pushing, pushed_votes: how many push the worst contestant, and votes of each; where it is not shown they vote as
        others do.
    """

    honest: int = 100
    votes: int = 12
    odds: float = 5.0
    contestants: int = 4
    videos: int = 10
    taste: float = 0.0
    by_video: float = 0.0
    pushing: int = 0
    pushed_votes: int = 30


CROWDS = {
    "odds of 1.8": Crowd(odds=1.8),
    "odds of 5": Crowd(),
    "odds of 20": Crowd(odds=20.0),
    "odds of 5, tastes of 0.5": Crowd(taste=0.5),
    "odds of 5, tastes of 1": Crowd(taste=1.0),
    "odds of 5, videos differ by 1": Crowd(by_video=1.0),
    "40 votes each, tastes of 0.5": Crowd(votes=40, taste=0.5),
    "40 votes each, tastes of 1": Crowd(votes=40, taste=1.0),
    "20 contestants, 1000 voters": Crowd(1000, 30, 1.2, 20, 50, 0.5),
    "10 % push, 30 votes each": Crowd(90, pushing=10),
    "10 % push, odds of 1.8": Crowd(90, odds=1.8, pushing=10),
    "10 % push, 12 votes each": Crowd(90, pushing=10, pushed_votes=12),
    "10 % push, 12 votes each, odds of 1.8": Crowd(90, odds=1.8, pushing=10, pushed_votes=12),
    "10 % push, 6 votes each": Crowd(90, pushing=10, pushed_votes=6),
}


def votes_of(crowd: Crowd, seed: int) -> list[Decision]:
    """Decided votes of a crowd: honest voters have the first numbers; contestant "c0" is the worst."""
    chance = np.random.default_rng(seed)
    strengths = np.arange(crowd.contestants) * math.log(crowd.odds)
    on_video = chance.normal(0.0, crowd.by_video, (crowd.videos, crowd.contestants))
    pairs = [(one, other) for one in range(crowd.contestants) for other in range(one + 1, crowd.contestants)]
    items = [(video, one, other) for video in range(crowd.videos) for one, other in pairs]
    found = []
    for voter in range(crowd.honest + crowd.pushing):
        pushes = voter >= crowd.honest
        likes = strengths + chance.normal(0.0, crowd.taste, crowd.contestants)
        for place in chance.choice(len(items), crowd.pushed_votes if pushes else crowd.votes, replace=False):
            video, one, other = items[place]
            better = likes[one] - likes[other] + on_video[video, one] - on_video[video, other]
            tie, first = chance.random() < _TIES, chance.random() < 1 / (1 + math.exp(-better))
            if pushes and one == 0:
                tie, first = False, True
            if not tie:
                winner, loser = (one, other) if first else (other, one)
                found.append(Decision(voter, f"video{video}", f"c{winner}", f"c{loser}"))
    return found


def measure(crowd: Crowd, arenas: int, seed: int) -> dict[str, float]:
    """Shares of arenas in which something is flagged, of pushing voters who are, and of honest ones."""
    flagged, pushing, honest = 0, 0, 0
    for number in range(arenas):
        voters = {voter for group in coordinated_groups(votes_of(crowd, seed + number)) for voter in group.voters}
        flagged += bool(voters)
        pushing += sum(voter >= crowd.honest for voter in voters)
        honest += sum(voter < crowd.honest for voter in voters)
    return {
        "arenas_flagged": flagged / arenas,
        "pushing_flagged": pushing / (arenas * crowd.pushing) if crowd.pushing else 0.0,
        "honest_flagged": honest / (arenas * crowd.honest),
    }


def run(args: argparse.Namespace) -> None:
    """Measures and prints."""
    found: dict[str, Any] = {}
    lines = [[f"of {args.arenas} arenas", "flagged", "of who push", "of honest"]]
    for name, crowd in tqdm(CROWDS.items(), unit="crowd", disable=None):
        found[name] = one = measure(crowd, args.arenas, args.seed)
        pushing = f"{one['pushing_flagged']:.1%}" if crowd.pushing else "–"
        lines.append([name, f"{one['arenas_flagged']:.1%}", pushing, f"{one['honest_flagged']:.3%}"])
    show(args, found, aligned(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Parses and measures."""
    flags = command_parser("benchmarks.arena_groups", __doc__)
    flags.add_argument("--arenas", type=int, default=200, help="of each crowd (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, help="of the first; others count on (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, run, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
