"""`launch.arena`: flags, files that are none, backup and export, and a server that is killed and comes back."""

import contextlib
import json
import logging
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from launch import arena
from mmduplex_jax.arena.votes import VoteStore
from tests.arena.contest import Clock, cast, write_contest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_contest(tmp_path / "arena", stems=("beach",))


def voted(root: Path) -> None:
    with contextlib.closing(VoteStore(root / "votes.sqlite3", now=(clock := Clock()))) as store:
        cast(store, clock, "v", "amber", "birch", "left")


def test_votes_are_copied_exported_and_counted(root: Path, tmp_path: Path, capsys):
    voted(root)
    copy, lines = tmp_path / "copy.sqlite3", tmp_path / "votes.jsonl"
    assert arena.main([f"--root={root}", f"--backup={copy}", f"--export={lines}", "--review"]) == 0
    assert json.loads(lines.read_text())["choice"] == "left"
    with contextlib.closing(VoteStore(copy)) as store:
        assert store.tallies()[0].votes == 1
    said = capsys.readouterr()
    assert "1 votes written" in said.out
    assert "do not count: none" in said.err
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    assert arena.main([f"--root={root}", "--json=-"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in board["ratings"]] == ["amber", "cedar", "birch"]


@pytest.mark.parametrize("flag", ["--backup=nowhere/copy.sqlite3", "--export=nowhere/votes.jsonl"])
def test_a_folder_that_is_not_there_is_one_line(root: Path, tmp_path: Path, capsys, monkeypatch, flag: str):
    monkeypatch.chdir(tmp_path)
    voted(root)
    assert arena.main([f"--root={root}", flag]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("arena: ")
    assert "nowhere" in line
    assert "no folder" in line


def test_no_backup_overwrites_another(root: Path, tmp_path: Path, capsys):
    voted(root)
    copy = tmp_path / "copy.sqlite3"
    assert arena.main([f"--root={root}", f"--backup={copy}"]) == 0
    before = copy.read_bytes()
    assert arena.main([f"--root={root}", f"--backup={copy}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert copy.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--export=votes.jsonl"], "there are no votes yet"),
        (["--host=0.0.0.0"], "can be reached from other machines"),
        (["--limit_votes_day=0"], "--limit_votes_day must be more than 0"),
        (["--tls_cert=cert.pem"], "--tls_cert and --tls_key go together"),
        (["--port=99999"], "--port=99999: ports are numbers from 0 to 65535"),
    ],
)
def test_what_cannot_be_done_is_one_line(root: Path, capsys, monkeypatch, flags: list[str], said: str):
    monkeypatch.delenv("MMDUPLEX_TOKEN", raising=False)
    assert arena.main([f"--root={root}", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("arena: ")
    assert said in line


def test_a_folder_that_is_no_arena_is_one_line_and_no_log_is_left(tmp_path: Path, capsys):
    handlers = logging.getLogger().handlers[:]
    assert arena.main([f"--root={tmp_path}"]) == 2
    assert logging.getLogger().handlers == handlers
    assert "is no folder: an arena has DIR/videos/*" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # no database is left there
    assert arena.main([f"--root={tmp_path / 'nowhere'}"]) == 2
    assert "nowhere/videos is no folder" in capsys.readouterr().err


def test_it_serves_is_killed_and_comes_back(root: Path, repository: Path):
    command = [sys.executable, "-m", "launch.arena", f"--root={root}", "--port=0"]
    seen = set()
    for stop in (signal.SIGKILL, signal.SIGTERM):
        serving = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        try:
            assert serving.stdout is not None
            said = serving.stdout.readline()
            assert said.startswith("1 videos, 3 contestants on http://127.0.0.1:")
            address = said.split()[-1]
            request = urllib.request.Request(f"{address}v1/ballots", data=b"{}", method="POST")
            with urllib.request.urlopen(request, timeout=60) as answer:
                seen.add(json.load(answer)["ballot"])
        finally:
            serving.send_signal(stop)
            code = serving.wait(60)
        assert code == (-signal.SIGKILL if stop is signal.SIGKILL else 0)
    # The ballot of before was not forgotten: a stranger gets the next number, and so another key.
    assert len(seen) == 2
    with contextlib.closing(VoteStore(root / "votes.sqlite3")) as store:
        assert all(store.ballot(key) for key in seen)
