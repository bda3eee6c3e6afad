"""How long the arena's leaderboard takes to read, and a vote to be written, with many votes in the database.

    python -m benchmarks.arena_votes --votes=500000 --contestants=20

Fills a database with made-up votes of voters with known preferences (one transaction a thousand votes, as nobody waits
for them), then reads the leaderboard as the page does, and casts votes as voters do, each on the disk before it is
answered.
"""

import argparse
import contextlib
import functools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmduplex_jax.arena.board import leaderboard
from mmduplex_jax.arena.coordination import flag_groups
from mmduplex_jax.arena.votes import REASONS, VoteStore
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show

_CATEGORIES = ("football", "street", "kitchen", "sea", "games")
_VIDEOS = 200
_VOTES_OF_A_VOTER = 50
_SHOWN_S, _DECISION_S = 20.0, 4.0


def fill(store: VoteStore, names: Sequence[str], votes: int, seed: int) -> None:
    """Casts made-up votes. The odds are 1.2 to one between neighbours, a fifth of votes are ties.

    The rows are those of `VoteStore.vote`; only its transactions are left out.
    """
    chance = random.Random(seed)
    db = store._db
    for first in range(0, votes, 1000):
        db.execute("BEGIN")
        for number in range(first + 1, min(first + 1000, votes) + 1):
            voter = (number - 1) // _VOTES_OF_A_VOTER + 1
            if (number - 1) % _VOTES_OF_A_VOTER == 0:
                db.execute("INSERT INTO voters VALUES (?, ?, 'somewhere', 0, NULL, NULL)", (voter, f"voter {voter}"))
            # (A video of its own for each of a voter's votes: nobody judges the same twice.)
            video = (number + voter) % _VIDEOS
            left, right = chance.sample(range(len(names)), 2)
            odds = 1.2 ** (left - right)
            draw = chance.random()
            choice = chance.choice(("tie", "both_bad")) if draw < 0.2 else ""
            choice = choice or ("left" if chance.random() < odds / (1 + odds) else "right")
            shown = (f"video{video}", _CATEGORIES[video % len(_CATEGORIES)], names[left], names[right])
            ballot = (number, f"ballot {number}", voter, *shown, "", "", _SHOWN_S, 30.0 * number, "voted")
            db.execute("INSERT INTO ballots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", ballot)
            reason = chance.choice(("", *REASONS))
            vote = (number, voter, *shown, choice, reason, 30.0 * number + 24.0, _DECISION_S, 1)
            db.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", vote)
        db.execute("COMMIT")


def took_s(act: Callable[[], Any]) -> float:
    """Seconds on the clock that something takes."""
    begin_s = time.perf_counter()
    act()
    return time.perf_counter() - begin_s


def measure(votes: int, contestants: int, repeats: int, seed: int, folder: Path) -> dict[str, Any]:
    """Seconds by what was done, medians of some repeats, and what was found."""
    names = [f"contestant{number:02d}" for number in range(contestants)]
    now_s = [30.0 * votes + 1000.0]
    with contextlib.closing(VoteStore(folder / "votes.sqlite3", seed=str(seed), now=lambda: now_s[0])) as store:
        filled_s = took_s(lambda: fill(store, names, votes, seed))
        first_s = took_s(lambda: leaderboard(store, names))  # loads libraries
        groups_s = took_s(lambda: flag_groups(store))
        boards_s, computed_s, tallies_s, votes_s = [], [], [], []
        for number in range(repeats):
            tallies_s.append(took_s(store.tallies))
            worked_s = time.process_time()
            boards_s.append(took_s(lambda: leaderboard(store, names)))
            computed_s.append(time.process_time() - worked_s)
            voter = store.voter(f"another {number}", "somewhere")
            ballot = store.add_ballot(
                store.next_number(), voter.number, "video0", "sea", (names[0], ""), (names[1], ""), _SHOWN_S
            )
            now_s[0] += _SHOWN_S + _DECISION_S
            votes_s.append(took_s(functools.partial(store.vote, ballot.key, voter, "left")))
        board = leaderboard(store, names)
        bytes_written = store.path.stat().st_size
    return {
        "votes": votes,
        "contestants": contestants,
        "fill_s": filled_s,
        "database_bytes": bytes_written,
        "tallies_s": statistics.median(tallies_s),
        "first_leaderboard_s": first_s,
        "groups_s": groups_s,
        "leaderboard_s": statistics.median(boards_s),
        "leaderboard_processor_s": statistics.median(computed_s),
        "vote_s": statistics.median(votes_s),
        "order_found": [one["name"] for one in board["ratings"]] == names[::-1],
    }


def run(args: argparse.Namespace) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory(prefix="mmduplex-arena-") as folder:
        found = measure(args.votes, args.contestants, args.repeats, args.seed, Path(folder))
    times = {
        "leaderboard, with all intervals": "leaderboard_s",
        "of it time of a processor": "leaderboard_processor_s",
        "the first, libraries loaded for it": "first_leaderboard_s",
        "search for groups of voters": "groups_s",
        "counts alone": "tallies_s",
        "a vote, to the disk": "vote_s",
    }
    lines = [f"{found['votes']} votes on {found['contestants']} contestants, medians of {args.repeats}:"]
    lines += [f"  {what:34}{found[name]:8.3f} s" for what, name in times.items()]
    lines.append(f"  {'database':34}{found['database_bytes'] / 2**20:8.1f} MiB")
    lines.append(f"  the order of preferences was {'found' if found['order_found'] else 'NOT found'}")
    show(args, found, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Parses and measures."""
    flags = command_parser("benchmarks.arena_votes", __doc__)
    flags.add_argument("--votes", type=int, default=500_000, help="in the database (default: %(default)s)")
    flags.add_argument("--contestants", type=int, default=20, help="that they are about (default: %(default)s)")
    flags.add_argument("--repeats", type=int, default=5, help="of every measurement (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, help="of the made-up votes (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, run, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
