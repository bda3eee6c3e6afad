"""Made-up voters with known preferences, and some who have others, who vote in an arena."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from mmduplex_jax.arena.board import leaderboard
from mmduplex_jax.arena.entries import Commentary, Entries, Video
from mmduplex_jax.arena.rules import ArenaLimits
from mmduplex_jax.arena.server import Arena
from mmduplex_jax.arena.votes import Ballot, VoteStore
from tests.arena.contest import VIDEO_S, Clock

# Who is better, and by how much: odds of 1.8 to one between neighbours.
STRENGTHS = {"amber": 1.0, "birch": 1.8, "cedar": 3.24, "dogwood": 5.83}
ORDER = ["dogwood", "cedar", "birch", "amber"]
STEMS = [f"clip{number}" for number in range(10)]
Choose = Callable[[Ballot, random.Random], tuple[str, float]]


def sound(ballot: Ballot, chance: random.Random) -> tuple[str, float]:
    """Prefers by the strengths, sees a tie now and then, and takes its time."""
    if chance.random() < 0.15:
        return chance.choice(("tie", "both_bad")), chance.uniform(1.5, 8)
    left, right = STRENGTHS[ballot.left], STRENGTHS[ballot.right]
    return ("left" if chance.random() < left / (left + right) else "right"), chance.uniform(1.5, 8)


def clicker(ballot: Ballot, chance: random.Random) -> tuple[str, float]:
    """Presses the first button."""
    return "left", 2.0


def script(ballot: Ballot, chance: random.Random) -> tuple[str, float]:
    """Votes for the worst as soon as the buttons open."""
    return ("right" if ballot.right == "amber" else "left"), 0.05


def shill(ballot: Ballot, chance: random.Random) -> tuple[str, float]:
    """Wants the worst to win, and is careful otherwise."""
    if "amber" in (ballot.left, ballot.right):
        return ("left" if ballot.left == "amber" else "right"), chance.uniform(1.5, 8)
    return sound(ballot, chance)


@contextlib.contextmanager
def voted(folder: Path, crowd: dict[str, tuple[Choose, int]], seed: int = 0) -> Iterator[VoteStore]:
    """An arena in which everybody of a crowd, `(choice, votes)` by name, has voted, in turn."""
    said = {name: Commentary(name, (), "0" * 64) for name in STRENGTHS}
    entries = Entries({stem: Video(stem, Path(stem), VIDEO_S, "all", said) for stem in STEMS}, tuple(STRENGTHS))
    clock, chance = Clock(), random.Random(seed)
    with contextlib.closing(VoteStore(folder / "votes.sqlite3", seed="seed", now=clock)) as store:
        # (Thousands of transactions, and nobody pulls the plug.)
        store._db.execute("PRAGMA synchronous=OFF")
        arena = Arena(entries, store, ArenaLimits(), secure=False)
        turns = [name for name, (_, votes) in crowd.items() for _ in range(votes)]
        chance.shuffle(turns)
        for name in turns:
            voter = store.voter(name, "127.0.0.1")
            given = arena.ballot_for(voter)
            assert given is not None
            ballot, _ = given
            choice, decision_s = crowd[name][0](ballot, chance)
            clock.now_s += ballot.shown_s + decision_s
            arena.vote(ballot.key, voter, choice, "")
        arena.close()
        yield store


def ranking(store: VoteStore) -> list[str]:
    return [one["name"] for one in leaderboard(store, tuple(STRENGTHS))["ratings"]]
