"""Files of streams: the same when read, refused when they are anything else, of one taker only, and not for ever."""

import dataclasses
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmduplex_jax.serving.handover import VERSION, CannotGoOn, Handover, SavedStream, token_sha256
from mmduplex_jax.serving.pictures import IntakeState
from mmduplex_jax.serving.protocol import StreamConfig, Word
from mmduplex_jax.streaming.moving import ArrayLayout, StreamState
from mmduplex_jax.word_decoder import OpenWord
from tests.serving.replicas import FACTS

LAYOUT = (ArrayLayout(".ring", "float32", (1, 3, 2)), ArrayLayout(".half", "bfloat16", (1, 2)))
TOKEN = "the token of this stream"


def handover(
    folder: Path, replica: str = "r0", *, facts=FACTS, layout=LAYOUT, token: str | None = "server's"
) -> Handover:
    return Handover(folder, replica, facts, layout, token=token, snapshot_s=1.0, notice_s=0.0)


def saved(key: str = "abc", seq: int = 2) -> SavedStream:
    dice = np.random.default_rng(0)
    arrays = [dice.normal(size=shape).astype(np.dtype(dtype)) for _, dtype, shape in LAYOUT]
    frame = dice.integers(0, 256, (*FACTS.frame_px, 3), dtype=np.uint8)
    return SavedStream(
        key=key, token_sha256=token_sha256(TOKEN), config=StreamConfig("file", "pad", 2, 0.5), delay_steps=3,
        pad_bias=1 / 3, paused=False, seq=seq, replay_seq=0,
        words=[Word(1, "rød", 0.1, 0.3, True), Word(2, "b", 0.2, 1 / 3, None, 0.16)],
        received_s=7.1, now_s=7.04, saved_s=1.8e9, dropped=4, second=[1, 2], resets=3, predicted=False,
        stream=StreamState(arrays, 88, OpenWord((3, 1), 6.9, 7.0, is_open=True), 7.04, 1, frame[:2, :3], 6.4),
        intake=IntakeState(7.1, 2, 3, 12.5, shown=frame),
    )  # fmt: skip


def same(one: SavedStream, other: SavedStream) -> bool:
    plain = lambda s: (
        {name: value for name, value in vars(s).items() if name not in ("stream", "intake")}
        | {
            "stream": s.stream._replace(arrays=(), cells=s.stream.cells.tolist()),
            "intake": s.intake._replace(shown=None),
        }
    )
    arrays = [(a.dtype, a.shape, a.tobytes()) for a in one.stream.arrays]
    return (
        plain(one) == plain(other)
        and arrays == [(a.dtype, a.shape, a.tobytes()) for a in other.stream.arrays]
        and one.intake.shown.tobytes() == other.intake.shown.tobytes()
    )


def test_what_is_read_is_what_was_written_and_holds_no_secret(tmp_path: Path):
    folder = handover(tmp_path)
    assert folder.find("abc") is None
    assert folder.write(saved(), 0, left=False)
    found = handover(tmp_path, "r1").find("abc")
    assert (found.path.name, found.generation, found.left) == ("abc.0.kept", 0, False)
    assert same(folder.read(found), saved())
    assert TOKEN.encode() not in found.path.read_bytes()
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o600
    assert folder.write(saved(seq=3), 0, left=True)
    assert [path.name for path in tmp_path.iterdir()] == ["abc.0.left"]
    assert folder.read(folder.find("abc")).seq == 3


def test_what_is_damaged_or_of_somebody_else_is_refused(tmp_path: Path):
    folder = handover(tmp_path)
    whole = folder.pack(saved())
    assert same(folder.unpack(whole), saved())
    dice = np.random.default_rng(1)
    for size in {0, 5, 12, len(whole) - 1, *dice.integers(0, len(whole), 20).tolist()}:
        with pytest.raises(CannotGoOn, match="cut short"):
            folder.unpack(whole[:size])
    for at in {0, 9, len(whole) - 1, *dice.integers(0, len(whole), 40).tolist()}:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(dice.integers(8))
        with pytest.raises(CannotGoOn, match="damaged|no file of a stream"):
            folder.unpack(bytes(changed))
    with pytest.raises(CannotGoOn, match="larger than the"):
        folder.unpack(whole + bytes(folder.bytes_max))
    for token in ("another's", None):
        with pytest.raises(CannotGoOn, match="another token"):
            handover(tmp_path, token=token).unpack(whole)


def test_a_stream_of_another_checkpoint_layout_or_version_is_refused(tmp_path: Path, monkeypatch):
    whole = handover(tmp_path).pack(saved())
    other = SimpleNamespace(**vars(FACTS) | {"fingerprint": "8" * 64})
    with pytest.raises(CannotGoOn, match="of another checkpoint, other --weights"):
        handover(tmp_path, facts=other).unpack(whole)
    with pytest.raises(CannotGoOn, match="has 2 arrays, this model's has 1"):
        handover(tmp_path, layout=LAYOUT[:1]).unpack(whole)
    longer = (ArrayLayout(".ring", "float32", (1, 4, 2)), LAYOUT[1])
    with pytest.raises(CannotGoOn, match=r"its .ring is float32 \[1, 3, 2\], here float32 \[1, 4, 2\]"):
        handover(tmp_path, layout=longer).unpack(whole)
    monkeypatch.setattr("mmduplex_jax.serving.handover.VERSION", VERSION + 1)
    with pytest.raises(CannotGoOn, match=f"has version {VERSION}; this server reads {VERSION + 1}"):
        handover(tmp_path).unpack(whole)


def test_one_taker_only_and_whoever_lost_it_learns_of_it(tmp_path: Path):
    owner = handover(tmp_path)
    for generation in range(10):
        key = f"stream{generation}"
        owner.write(saved(key), generation, left=False)
        takers = [handover(tmp_path, f"r{i}") for i in range(4)]
        found = [taker.find(key) for taker in takers]
        claimed: list[bool] = []
        start = threading.Barrier(len(takers))

        def claim(taker: Handover, what, claimed=claimed, start=start) -> None:
            start.wait()
            claimed.append(taker.claim(what))

        threads = [threading.Thread(target=claim, args=pair) for pair in zip(takers, found)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(claimed) == 1
        assert owner.find(key).generation == generation + 1
        # The one that lost it was only slow: what it writes counts no more.
        assert not owner.write(saved(key), generation, left=True)
        assert owner.read(owner.find(key)).key == key


def test_what_nobody_comes_for_goes(tmp_path: Path):
    folder = handover(tmp_path)
    for key in ("old", "new"):
        folder.write(saved(key), 0, left=key == "old")
        folder.want(key)
    (tmp_path / ".r9.half.new").write_bytes(b"of one that was killed while it wrote")
    (tmp_path / "notes.txt").write_text("somebody's own")
    for name in ("old.0.left", "old.wanted", ".r9.half.new", "notes.txt"):
        os.utime(tmp_path / name, (1e9, 1e9))
    folder.sweep(60.0)
    assert {path.name for path in tmp_path.iterdir()} == {"new.0.kept", "new.wanted", "notes.txt"}
    assert folder.wanted() == ["new"]


def test_a_folder_that_will_not_do_is_said(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        handover(tmp_path / "file")

    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OSError, match="--handover_dir=.* hard link cannot be made there"):
        handover(tmp_path)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch):
    folder = handover(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write(saved(), 0, left=False)
    assert not list(tmp_path.iterdir())


def test_of_more_words_than_a_file_holds_the_last_ones_go_on(tmp_path: Path):
    folder = handover(tmp_path)
    words = [Word(seq, "w" * 1000, 0.1, 0.2) for seq in range(1, 5001)]
    assert folder.write(dataclasses.replace(saved(seq=5000), words=words), 0, left=True)
    there = folder.read(folder.find("abc"))
    assert there.seq == 5000
    assert 1000 < len(there.words) < 5000
    assert there.words == words[-len(there.words) :]


def test_whose_a_stream_is_takes_a_look_at_the_beginning_of_its_file(tmp_path: Path):
    folder = handover(tmp_path)
    folder.write(saved(), 0, left=False)
    found = folder.find("abc")
    whole = found.path.read_bytes()
    for there, owner in ((whole, "r0"), (whole[:300], "r0"), (whole[:40], None), (b"", None)):
        found.path.write_bytes(there)
        assert folder.owner(found) == owner
    found.path.write_bytes(whole.replace(b'"replica": "r0"', b'"replica": "//"'))
    assert folder.owner(found) is None
    found.path.write_bytes(whole)
    os.rename(found.path, tmp_path / "another.0.kept")
    with pytest.raises(CannotGoOn, match="is another stream's"):
        folder.read(folder.find("another"))
