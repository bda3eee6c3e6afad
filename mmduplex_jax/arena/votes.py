"""Ballots and votes, in one SQLite file, and counts of them that are kept as votes come.

A *ballot* is a video with two contestants' commentaries, shown to one voter; a vote answers it. Every vote is one
transaction that is on the disk before it is confirmed (WAL, `synchronous=FULL`). Tables of tallies count the votes that
count, kept by triggers in the same transaction, so that what half a million votes say is read in some thousand rows.
"""

import contextlib
import dataclasses
import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHOICES = ("left", "right", "tie", "both_bad")
# What decided it; a voter need not say.
REASONS = ("timing", "truth", "language")
# A busy database is waited for so long (another process reads it, or makes a backup).
_BUSY_S = 10.0

# The schema, a script a version: a database is brought from its own version to the newest when it is opened. What has
# been released is never edited; a change is one more script.
_MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE voters (
      number INTEGER PRIMARY KEY,
      key_sha256 TEXT NOT NULL UNIQUE,
      address TEXT NOT NULL,
      since_s REAL NOT NULL,
      excluded TEXT
    );
    CREATE INDEX voters_of_address ON voters (address, since_s);
    CREATE TABLE ballots (
      number INTEGER PRIMARY KEY,
      key TEXT UNIQUE,
      voter INTEGER NOT NULL REFERENCES voters (number),
      video TEXT NOT NULL,
      category TEXT NOT NULL,
      left_name TEXT NOT NULL,
      right_name TEXT NOT NULL CHECK (left_name <> right_name),
      left_sha256 TEXT NOT NULL,
      right_sha256 TEXT NOT NULL,
      shown_s REAL NOT NULL,
      served_s REAL NOT NULL,
      ended TEXT CHECK (ended IN ('voted', 'expired', 'unplayable'))
    );
    CREATE INDEX ballots_of_voter ON ballots (voter);
    CREATE UNIQUE INDEX open_ballot ON ballots (voter) WHERE ended IS NULL;
    CREATE TABLE votes (
      ballot INTEGER PRIMARY KEY REFERENCES ballots (number),
      voter INTEGER NOT NULL REFERENCES voters (number),
      video TEXT NOT NULL,
      category TEXT NOT NULL,
      left_name TEXT NOT NULL,
      right_name TEXT NOT NULL,
      choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie', 'both_bad')),
      reason TEXT NOT NULL CHECK (reason IN ('', 'timing', 'truth', 'language')),
      voted_s REAL NOT NULL,
      decision_s REAL NOT NULL,
      counted INTEGER NOT NULL DEFAULT 1 CHECK (counted IN (0, 1))
    );
    CREATE UNIQUE INDEX once ON votes (voter, video, min(left_name, right_name), max(left_name, right_name));
    CREATE INDEX votes_of_voter ON votes (voter, voted_s);
    CREATE TABLE tallies (
      category TEXT NOT NULL,
      reason TEXT NOT NULL,
      left_name TEXT NOT NULL,
      right_name TEXT NOT NULL,
      choice TEXT NOT NULL,
      votes INTEGER NOT NULL,
      PRIMARY KEY (category, reason, left_name, right_name, choice)
    ) WITHOUT ROWID;
    CREATE TABLE video_tallies (
      video TEXT NOT NULL,
      low_name TEXT NOT NULL,
      high_name TEXT NOT NULL,
      votes INTEGER NOT NULL,
      PRIMARY KEY (video, low_name, high_name)
    ) WITHOUT ROWID;
    CREATE TRIGGER vote_counted AFTER INSERT ON votes WHEN NEW.counted BEGIN
      INSERT INTO tallies VALUES (NEW.category, NEW.reason, NEW.left_name, NEW.right_name, NEW.choice, 1)
      ON CONFLICT DO UPDATE SET votes = votes + 1;
      INSERT INTO video_tallies VALUES (
        NEW.video, min(NEW.left_name, NEW.right_name), max(NEW.left_name, NEW.right_name), 1
      )
      ON CONFLICT DO UPDATE SET votes = votes + 1;
    END;
    CREATE TRIGGER vote_recounted AFTER UPDATE OF counted ON votes WHEN NEW.counted <> OLD.counted BEGIN
      INSERT INTO tallies VALUES (
        NEW.category, NEW.reason, NEW.left_name, NEW.right_name, NEW.choice, NEW.counted - OLD.counted
      )
      ON CONFLICT DO UPDATE SET votes = votes + excluded.votes;
      INSERT INTO video_tallies VALUES (
        NEW.video, min(NEW.left_name, NEW.right_name), max(NEW.left_name, NEW.right_name), NEW.counted - OLD.counted
      )
      ON CONFLICT DO UPDATE SET votes = votes + excluded.votes;
    END;
    """,
    # Groups who push one contestant (coordination.py): whom, of each voter in one; all of them are a fact, as JSON.
    """
    ALTER TABLE voters ADD COLUMN flagged TEXT;
    CREATE INDEX flagged_voters ON voters (number) WHERE flagged IS NOT NULL;
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)


class StoreError(ValueError):
    """A file that is no arena's database, or of a newer version of this program; says what to do."""


class VoteRefused(ValueError):
    """A vote that does not count and is not kept.

    Attributes:
      code: "unknown", "over", "too_early" or "again".
      wait_s: of "too_early": seconds until it may come.
    """

    def __init__(self, code: str, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.code, self.wait_s = code, wait_s


class Ballot(NamedTuple):
    """What one voter is shown.

    Attributes:
      number: counts ballots.
      key: that only its voter knows; nobody can guess it.
      voter: the voter's number.
      video, category: of the video.
      left, right: contestants.
      left_sha256, right_sha256: of their commentaries.
      shown_s: how long it takes to see it whole, in seconds.
      served_s: when it was first handed out, in seconds since 1970.
      ended: "voted", "expired" or "unplayable"; None while it is open.
    """

    number: int
    key: str
    voter: int
    video: str
    category: str
    left: str
    right: str
    left_sha256: str
    right_sha256: str
    shown_s: float
    served_s: float
    ended: str | None


class Tally(NamedTuple):
    """How many votes that count were cast so."""

    left: str
    right: str
    choice: str
    votes: int


class PastVote(NamedTuple):
    """A vote of a voter's, for the rules against abuse. `decision_s`: from the end of what was shown to the vote."""

    left: str
    right: str
    choice: str
    voted_s: float
    decision_s: float


class Decision(NamedTuple):
    """A vote that prefers one: whose, on which video, for and against whom, and whether it counts."""

    voter: int
    video: str
    winner: str
    loser: str
    counted: bool = True


@dataclasses.dataclass(frozen=True)
class Voter:
    """Whoever has a key; `excluded` says why none of its votes count, "" where they do."""

    number: int
    excluded: str = ""


class VoteStore:
    """The database. Every method may be called from any thread; each is one transaction.

    Attributes:
      path: the file.
      seed: what decides pairs, sides and keys of ballots; made once for a database, secret, and never changed.
    """

    def __init__(self, path: Path, *, seed: str | None = None, now: Callable[[], float] = time.time):
        """Opens or makes it, and brings its schema to the newest version.

        Args:
          path: the file; made where there is none.
          seed: for a new database (tests); by default 256 bits from the system.
          now: the time in seconds since 1970.

        Raises:
          StoreError: it is no database of an arena, or a newer program's.
          OSError: it cannot be opened there.
        """
        self.path, self._now, self._lock = path, now, threading.RLock()
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} is no folder: make it, or name another file for the votes")
        # (isolation_level=None: transactions begin and end where `_transaction` says.)
        try:
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise OSError(f"{path}: {error}: it must be a file that can be written, in a folder likewise") from error
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._migrate()
        except StoreError:
            self._db.close()
            raise
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(f"{path}: cannot be used as a database of votes: {error}") from error
        with self._transaction():
            new = seed or secrets.token_hex(32)
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('seed', ?)", (new,))
            (self.seed,) = self._db.execute("SELECT value FROM facts WHERE name = 'seed'").fetchone()

    def close(self) -> None:
        """Closes it; what was confirmed is on the disk already."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
        if version == 0 and tables:
            raise StoreError(f"{self.path}: is a database of something else; name another file for the votes")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: has schema {version}, this program knows up to {SCHEMA_VERSION}: use a newer one"
            )
        for number in range(version, SCHEMA_VERSION):
            # The version is part of the transaction: a migration that is cut off has not happened.
            script = f"BEGIN IMMEDIATE; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            self._db.executescript(script)

    # --- voters

    def voter(self, key: str, address: str) -> Voter:
        """Who has this key; a new one is written down. Neither the key nor the address is kept, only keyed hashes."""
        hashed = self._hashed("voter", key)
        with self._transaction() as db:
            row = db.execute("SELECT number, excluded FROM voters WHERE key_sha256 = ?", (hashed,)).fetchone()
            if row is None:
                values = (hashed, self._hashed("address", address), self._now())
                cursor = db.execute("INSERT INTO voters (key_sha256, address, since_s) VALUES (?, ?, ?)", values)
                assert cursor.lastrowid is not None
                return Voter(cursor.lastrowid)
        return Voter(row[0], row[1] or "")

    def knows(self, key: str) -> bool:
        """Whether a voter has this key."""
        hashed = self._hashed("voter", key)
        return self._one("SELECT count(*) FROM voters WHERE key_sha256 = ?", hashed) > 0

    def new_voters(self, address: str, within_s: float) -> int:
        """How many voters an address has become within the last seconds."""
        query = "SELECT count(*) FROM voters WHERE address = ? AND since_s > ?"
        return self._one(query, self._hashed("address", address), self._now() - within_s)

    def votes_within(self, voter: int, within_s: float) -> int:
        """How many votes a voter has cast within the last seconds."""
        return self._one("SELECT count(*) FROM votes WHERE voter = ? AND voted_s > ?", voter, self._now() - within_s)

    def exclude(self, voter: int, why: str) -> None:
        """From now on none of a voter's votes count, those before it included; with "" all of them count again."""
        with self._transaction() as db:
            db.execute("UPDATE voters SET excluded = ? WHERE number = ?", (why or None, voter))
            db.execute("UPDATE votes SET counted = ? WHERE voter = ?", (int(not why), voter))

    def excluded_voters(self) -> dict[str, int]:
        """How many voters are excluded, by why."""
        query = "SELECT excluded, count(*) FROM voters WHERE excluded IS NOT NULL GROUP BY excluded ORDER BY excluded"
        return dict(self._rows(query))

    def voters(self) -> list[Voter]:
        """All who have voted."""
        query = "SELECT number, excluded FROM voters WHERE number IN (SELECT voter FROM votes) ORDER BY number"
        return [Voter(number, excluded or "") for number, excluded in self._rows(query)]

    def past_votes(self, voter: int, most: int) -> list[PastVote]:
        """A voter's last votes, oldest first."""
        query = (
            "SELECT left_name, right_name, choice, voted_s, decision_s FROM votes WHERE voter = ? "
            "ORDER BY voted_s DESC, ballot DESC LIMIT ?"
        )
        return [PastVote(*row) for row in self._rows(query, voter, most)][::-1]

    # --- ballots and votes

    def open_ballot(self, voter: int, expires_s: float) -> Ballot | None:
        """The ballot that a voter has not answered yet; one that was served over `expires_s` ago is closed."""
        with self._transaction() as db:
            db.execute(
                "UPDATE ballots SET ended = 'expired' WHERE voter = ? AND ended IS NULL AND served_s <= ?",
                (voter, self._now() - expires_s),
            )
            row = db.execute("SELECT * FROM ballots WHERE voter = ? AND ended IS NULL", (voter,)).fetchone()
        return Ballot(*row) if row else None

    def ballot(self, key: str) -> Ballot | None:
        """The ballot with this key."""
        rows = self._rows("SELECT * FROM ballots WHERE key = ?", key)
        return Ballot(*rows[0]) if rows else None

    def judged(self, voter: int) -> set[tuple[str, str, str]]:
        """`(video, contestant, contestant)` that a voter has judged or could not play, names in alphabetical order."""
        query = (
            "SELECT DISTINCT video, min(left_name, right_name), max(left_name, right_name) FROM ballots "
            "WHERE voter = ? AND ended IN ('voted', 'unplayable')"
        )
        return set(self._rows(query, voter))

    def next_number(self) -> int:
        """Of the next ballot."""
        return self._one("SELECT coalesce(max(number), 0) + 1 FROM ballots")

    def add_ballot(
        self, number: int, voter: int, video: str, category: str, left: tuple[str, str], right: tuple[str, str],
        shown_s: float,
    ) -> Ballot:  # fmt: skip
        """Writes a ballot down as served now; `left` and `right` are a contestant and its commentary's hash each."""
        key = self._hashed("ballot", str(number))
        with self._transaction() as db:
            values = (number, key, voter, video, category, left[0], right[0], left[1], right[1], shown_s, self._now())
            db.execute("INSERT INTO ballots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", values)
        return Ballot(*values, ended=None)

    def set_unplayable(self, key: str, voter: int) -> None:
        """The voter's browser cannot play the ballot's video; VoteRefused where it is not open."""
        with self._transaction() as db:
            ballot = self._open_for(db, key, voter)
            db.execute("UPDATE ballots SET ended = 'unplayable' WHERE number = ?", (ballot.number,))

    def vote(self, key: str, voter: Voter, choice: str, reason: str = "") -> Ballot:
        """Writes a vote down; when this returns it is on the disk.

        Raises:
          VoteRefused: the ballot is not the voter's, is over, was served too short a time ago to have been seen to
            the end, or the voter has judged this video and pair before.
          ValueError: a choice or a reason that is none.
        """
        if choice not in CHOICES or reason not in ("", *REASONS):
            raise ValueError(f'"choice" is one of {CHOICES}, "reason" one of {REASONS} or ""')
        with self._transaction() as db:
            ballot = self._open_for(db, key, voter.number)
            now_s = self._now()
            decision_s = now_s - ballot.served_s - ballot.shown_s
            if decision_s < 0:
                raise VoteRefused("too_early", "both commentaries have to be seen to the end first", -decision_s)
            try:
                db.execute(
                    "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        ballot.number, voter.number, ballot.video, ballot.category, ballot.left, ballot.right,
                        choice, reason, now_s, decision_s, int(not voter.excluded),
                    ),
                )  # fmt: skip
            except sqlite3.IntegrityError as error:
                raise VoteRefused("again", "you have judged these two on this video before") from error
            db.execute("UPDATE ballots SET ended = 'voted' WHERE number = ?", (ballot.number,))
        return ballot._replace(ended="voted")

    def _open_for(self, db: sqlite3.Connection, key: str, voter: int) -> Ballot:
        row = db.execute("SELECT * FROM ballots WHERE key = ? AND voter = ?", (key, voter)).fetchone()
        if row is None:
            raise VoteRefused("unknown", "there is no such ballot, or it is another voter's")
        ballot = Ballot(*row)
        if ballot.ended is not None:
            raise VoteRefused("over", f"this ballot is over: {ballot.ended}")
        return ballot

    # --- what is read of them

    def tallies(self, category: str | None = None, reason: str | None = None) -> list[Tally]:
        """The votes that count; of one category, or that were decided by one reason, or all."""
        query = (
            "SELECT left_name, right_name, choice, sum(votes) FROM tallies "
            "WHERE (?1 IS NULL OR category = ?1) AND (?2 IS NULL OR reason = ?2) "
            "GROUP BY left_name, right_name, choice HAVING sum(votes) > 0 ORDER BY left_name, right_name, choice"
        )
        return [Tally(*row) for row in self._rows(query, category, reason)]

    def votes_by_video(self) -> dict[tuple[str, str, str], int]:
        """Votes that count by `(video, contestant, contestant)`, names in alphabetical order."""
        query = "SELECT video, low_name, high_name, votes FROM video_tallies WHERE votes > 0"
        return {(video, low, high): votes for video, low, high, votes in self._rows(query)}

    def counts_by(self, column: str) -> dict[str, int]:
        """Votes that count by "category" or "reason" ("" is none given)."""
        assert column in ("category", "reason")
        query = f"SELECT {column}, sum(votes) FROM tallies GROUP BY {column} HAVING sum(votes) > 0 ORDER BY {column}"
        return dict(self._rows(query))

    def every_vote(self) -> Iterator[dict[str, Any]]:
        """Every vote in the order of ballots, those that do not count too. Others may write while it goes on."""
        with self._reader() as reader:
            query = (
                "SELECT ballot, votes.voter, votes.video, votes.category, votes.left_name AS left, "
                "votes.right_name AS right, left_sha256, right_sha256, choice, reason, shown_s, served_s, voted_s, "
                "decision_s, counted, coalesce(excluded, '') AS excluded, coalesce(flagged, '') AS flagged FROM votes "
                "JOIN ballots ON ballots.number = votes.ballot JOIN voters ON voters.number = votes.voter "
                "ORDER BY ballot"
            )
            for row in reader.execute(query):
                yield dict(row) | {"counted": bool(row["counted"])}

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for long readings, so that nobody waits for them."""
        reader = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        reader.row_factory = sqlite3.Row
        with contextlib.closing(reader):
            yield reader

    # --- groups of voters

    def decisions(self) -> list[Decision]:
        """Every vote that prefers one, those that do not count too."""
        query = (
            "SELECT voter, video, CASE choice WHEN 'left' THEN left_name ELSE right_name END, "
            "CASE choice WHEN 'left' THEN right_name ELSE left_name END, counted FROM votes "
            "WHERE choice IN ('left', 'right') ORDER BY ballot"
        )
        with self._reader() as reader:
            rows = reader.execute(query)
            return [Decision(voter, video, won, lost, bool(counted)) for voter, video, won, lost, counted in rows]

    def flag(self, flags: Mapping[int, str], groups: Sequence[Mapping[str, Any]]) -> None:
        """Writes down which voters push whom, in place of what was found before, and all that is known of the groups.

        Their votes count as before.
        """
        with self._transaction() as db:
            db.execute("UPDATE voters SET flagged = NULL WHERE flagged IS NOT NULL")
            db.executemany("UPDATE voters SET flagged = ? WHERE number = ?", [(why, one) for one, why in flags.items()])
            db.execute("INSERT OR REPLACE INTO facts VALUES ('groups', ?)", (json.dumps(list(groups)),))

    def groups(self) -> list[dict[str, Any]]:
        """What `flag` was given last."""
        rows = self._rows("SELECT value FROM facts WHERE name = 'groups'")
        return json.loads(rows[0][0]) if rows else []

    def flagged_voters(self) -> dict[int, str]:
        """Who is flagged, by number, and why."""
        return dict(self._rows("SELECT number, flagged FROM voters WHERE flagged IS NOT NULL ORDER BY number"))

    def flagged_tallies(self) -> list[Tally]:
        """The votes of flagged voters that count."""
        query = (
            "SELECT left_name, right_name, choice, count(*) FROM votes WHERE counted AND voter IN "
            "(SELECT number FROM voters WHERE flagged IS NOT NULL) GROUP BY left_name, right_name, choice"
        )
        return [Tally(*row) for row in self._rows(query)]

    def backup(self, path: Path) -> None:
        """Copies the database to a new file, whole and sound, while others write to it.

        Raises:
          FileExistsError: the file is there.
          FileNotFoundError: its folder is not.
        """
        if not path.parent.is_dir():
            raise FileNotFoundError(f"--backup={path}: there is no folder {path.parent}; make it, or name another one")
        try:
            with path.open("xb"):  # a backup never overwrites another
                pass
        except FileExistsError as error:
            raise FileExistsError(f"--backup={path}: is there already, and no backup overwrites another") from error
        with self._lock, contextlib.closing(sqlite3.connect(path)) as copy:
            self._db.backup(copy)

    def _hashed(self, kind: str, text: str) -> str:
        return hmac.new(self.seed.encode(), f"{kind}:{text}".encode(), hashlib.sha256).hexdigest()

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str, *values: Any) -> int:
        return self._rows(query, *values)[0][0]
