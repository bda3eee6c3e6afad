"""The store of votes: what is counted, what is refused, what survives."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mmduplex_jax.arena import votes as votes_module
from mmduplex_jax.arena.export import export_votes
from mmduplex_jax.arena.votes import SCHEMA_VERSION, StoreError, Tally, VoteRefused, VoteStore
from tests.arena.contest import VIDEO_S, Clock, cast


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock):
    with contextlib.closing(VoteStore(tmp_path / "votes.sqlite3", seed="seed", now=clock)) as one:
        yield one


def ballot_of(store: VoteStore, key: str = "v", left: str = "amber", right: str = "birch"):
    voter = store.voter(key, "127.0.0.1")
    number = store.next_number()
    return voter, store.add_ballot(number, voter.number, "beach", "all", (left, "a" * 64), (right, "b" * 64), VIDEO_S)


def test_a_vote_is_refused_until_the_video_can_have_been_seen(store: VoteStore, clock: Clock):
    voter, ballot = ballot_of(store)
    clock.now_s += VIDEO_S - 0.5
    with pytest.raises(VoteRefused) as refused:
        store.vote(ballot.key, voter, "left")
    assert refused.value.code == "too_early"
    assert refused.value.wait_s == pytest.approx(0.5)
    assert store.tallies() == []
    clock.now_s += 0.5
    assert store.vote(ballot.key, voter, "left", "timing").ended == "voted"
    assert store.tallies() == [Tally("amber", "birch", "left", 1)]
    assert store.counts_by("reason") == {"timing": 1}


def test_one_vote_a_ballot_and_one_on_a_video_and_pair(store: VoteStore, clock: Clock):
    voter, ballot = ballot_of(store)
    clock.now_s += VIDEO_S
    store.vote(ballot.key, voter, "tie")
    with pytest.raises(VoteRefused) as over:
        store.vote(ballot.key, voter, "tie")
    # The same two on the same video, on other sides.
    _, again = ballot_of(store, left="birch", right="amber")
    clock.now_s += VIDEO_S
    with pytest.raises(VoteRefused) as twice:
        store.vote(again.key, voter, "left")
    assert (over.value.code, twice.value.code) == ("over", "again")
    assert store.judged(voter.number) == {("beach", "amber", "birch")}
    assert store.tallies() == [Tally("amber", "birch", "tie", 1)]


def test_nobody_votes_on_the_ballot_of_another(store: VoteStore, clock: Clock):
    _, ballot = ballot_of(store)
    other = store.voter("somebody else", "127.0.0.1")
    clock.now_s += VIDEO_S
    with pytest.raises(VoteRefused) as refused:
        store.vote(ballot.key, other, "left")
    assert refused.value.code == "unknown"


@pytest.mark.parametrize(("choice", "reason"), [("both", ""), ("left", "looks"), ("", "")])
def test_only_the_four_choices_and_three_reasons_are_taken(store: VoteStore, choice: str, reason: str):
    voter, ballot = ballot_of(store)
    with pytest.raises(ValueError, match="is one of"):
        store.vote(ballot.key, voter, choice, reason)


def test_a_voter_has_one_open_ballot_and_it_expires(store: VoteStore, clock: Clock):
    voter, ballot = ballot_of(store)
    assert store.open_ballot(voter.number, expires_s=60) == ballot
    with pytest.raises(sqlite3.IntegrityError):
        ballot_of(store, left="birch", right="cedar")
    clock.now_s += 60
    assert store.open_ballot(voter.number, expires_s=60) is None
    assert store.ballot(ballot.key).ended == "expired"
    assert store.judged(voter.number) == set()


def test_what_an_excluded_voter_said_is_kept_and_does_not_count(store: VoteStore, clock: Clock):
    cast(store, clock, "honest", "amber", "birch", "left")
    cast(store, clock, "bot", "amber", "birch", "right")
    bot = store.voter("bot", "127.0.0.1")
    store.exclude(bot.number, "rapid")
    assert store.tallies() == [Tally("amber", "birch", "left", 1)]
    assert store.excluded_voters() == {"rapid": 1}
    cast(store, clock, "bot", "amber", "cedar", "right")
    assert store.tallies() == [Tally("amber", "birch", "left", 1)]
    assert [vote["counted"] for vote in store.every_vote()] == [True, False, False]
    store.exclude(bot.number, "")
    assert sum(tally.votes for tally in store.tallies()) == 3


def test_tallies_are_what_the_votes_add_up_to(store: VoteStore, clock: Clock):
    for voter, (left, right, choice) in enumerate(
        [("amber", "birch", "left"), ("birch", "amber", "left"), ("amber", "birch", "left"), ("amber", "cedar", "tie")]
    ):
        category = "sea" if voter < 2 else "land"
        cast(store, clock, f"v{voter}", left, right, choice, video=category, category=category)
    assert store.tallies() == [
        Tally("amber", "birch", "left", 2), Tally("amber", "cedar", "tie", 1), Tally("birch", "amber", "left", 1),
    ]  # fmt: skip
    assert store.tallies(category="sea") == [Tally("amber", "birch", "left", 1), Tally("birch", "amber", "left", 1)]
    assert store.votes_by_video()["sea", "amber", "birch"] == 2
    assert store.counts_by("category") == {"land": 2, "sea": 2}


def test_neither_keys_nor_addresses_of_voters_are_in_the_file(store: VoteStore, clock: Clock, tmp_path: Path):
    cast(store, clock, "a-voter's-key", "amber", "birch", "left")
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"amber" in content
    assert b"a-voter's-key" not in content
    assert b"127.0.0.1" not in content


VOTING = """
import sys
from pathlib import Path
from mmduplex_jax.arena.votes import VoteStore
from tests.arena.contest import Clock, cast
clock = Clock()
store = VoteStore(Path(sys.argv[1]), now=clock)
number = 0
while True:
    cast(store, clock, f"v{number}", "amber", "birch", "left")
    number += 1
    print(number, flush=True)
"""


def test_nothing_that_was_confirmed_is_lost_when_it_is_killed(tmp_path: Path, repository: Path):
    path = tmp_path / "votes.sqlite3"
    voting = subprocess.Popen(
        [sys.executable, "-c", VOTING, str(path)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert voting.stdout is not None
    for _ in range(25):
        voting.stdout.readline()
    voting.send_signal(signal.SIGKILL)
    confirmed = 25 + len(voting.stdout.read().splitlines())
    voting.wait(30)
    with contextlib.closing(VoteStore(path)) as store:
        ((_, _, _, counted),) = store.tallies()
        # One more may have been written whose confirmation nobody read.
        assert counted - confirmed in (0, 1)
        assert sum(1 for _ in store.every_vote()) == counted


def test_a_backup_is_whole_and_overwrites_nothing(store: VoteStore, clock: Clock, tmp_path: Path):
    cast(store, clock, "v", "amber", "birch", "left")
    store.backup(tmp_path / "copy.sqlite3")
    cast(store, clock, "w", "amber", "birch", "left")
    with contextlib.closing(VoteStore(tmp_path / "copy.sqlite3")) as copy:
        assert copy.tallies() == [Tally("amber", "birch", "left", 1)]
        assert copy.seed == store.seed
    with pytest.raises(FileExistsError):
        store.backup(tmp_path / "copy.sqlite3")


def test_an_older_schema_is_brought_up_and_its_votes_stay(tmp_path: Path, clock: Clock, monkeypatch):
    path = tmp_path / "votes.sqlite3"
    with contextlib.closing(VoteStore(path, now=clock)) as store:
        cast(store, clock, "v", "amber", "birch", "left")
    added = "ALTER TABLE voters ADD COLUMN language TEXT;"
    monkeypatch.setattr(votes_module, "_MIGRATIONS", (*votes_module._MIGRATIONS, added))
    monkeypatch.setattr(votes_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    for _ in range(2):
        with contextlib.closing(VoteStore(path, now=clock)) as store:
            assert store.tallies() == [Tally("amber", "birch", "left", 1)]
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT language FROM voters").fetchall() == [(None,)]
    monkeypatch.undo()
    with pytest.raises(StoreError, match=f"has schema {SCHEMA_VERSION + 1}, this program knows up to {SCHEMA_VERSION}"):
        VoteStore(path)


def test_a_migration_that_is_cut_off_has_not_happened(tmp_path: Path, clock: Clock, monkeypatch):
    path = tmp_path / "votes.sqlite3"
    VoteStore(path, now=clock).close()
    broken = "ALTER TABLE voters ADD COLUMN language TEXT; SELECT * FROM absent;"
    monkeypatch.setattr(votes_module, "_MIGRATIONS", (*votes_module._MIGRATIONS, broken))
    monkeypatch.setattr(votes_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(StoreError, match="no such table: absent"):
        VoteStore(path)
    monkeypatch.undo()
    with contextlib.closing(VoteStore(path, now=clock)), contextlib.closing(sqlite3.connect(path)) as db:
        assert "language" not in [row[1] for row in db.execute("PRAGMA table_info(voters)")]


def test_files_of_something_else_are_refused(tmp_path: Path):
    (tmp_path / "text").write_text("no database, though it is long enough to have had a header of one. " * 20)
    with pytest.raises(StoreError, match="cannot be used as a database of votes"):
        VoteStore(tmp_path / "text")
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(StoreError, match="database of something else"):
        VoteStore(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        VoteStore(tmp_path / "nowhere" / "votes")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder: unable to open database file: it must be a file that can be written"):
        VoteStore(tmp_path / "folder")


def test_votes_are_exported_as_lines_and_as_parquet(store: VoteStore, clock: Clock, tmp_path: Path):
    cast(store, clock, "v", "amber", "birch", "left", reason="truth")
    cast(store, clock, "w", "birch", "cedar", "both_bad")
    store.exclude(store.voter("w", "127.0.0.1").number, "rapid")
    assert export_votes(store, tmp_path / "votes.jsonl") == 2
    first, second = map(json.loads, (tmp_path / "votes.jsonl").read_text().splitlines())
    assert (first["left"], first["choice"], first["reason"], first["counted"]) == ("amber", "left", "truth", True)
    assert (second["choice"], second["counted"], second["excluded"]) == ("both_bad", False, "rapid")
    assert first["decision_s"] == pytest.approx(4.0)
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the extra `arena` has it)")
    assert export_votes(store, tmp_path / "votes.parquet") == 2
    assert parquet.read_table(tmp_path / "votes.parquet").to_pylist() == [first, second]
    with pytest.raises(ValueError, match="must end in one of"):
        export_votes(store, tmp_path / "votes.csv")


def test_parquet_without_pyarrow_says_what_to_install(store: VoteStore, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Parquet needs pyarrow .*; \.jsonl needs nothing"):
        export_votes(store, tmp_path / "votes.parquet")
