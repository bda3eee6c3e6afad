"""Files of streams: the same when read, refused when they are anything else, of one taker only, and not for ever."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest

from mmduplex_jax.client import Notice, Refused, Status, Stream, connect, encode
from mmduplex_jax.serving import sessions as sessions_module
from mmduplex_jax.serving.handover import CannotGoOn, Handover, SavedStream, token_sha256
from mmduplex_jax.serving.pictures import IntakeState
from mmduplex_jax.serving.protocol import Resume, StreamConfig, Word
from mmduplex_jax.serving.session import Session
from mmduplex_jax.streaming.moving import ArrayLayout, StreamState
from mmduplex_jax.word_decoder import OpenWord
from tests.serving.faulty_decoders import ABORT, faulty
from tests.serving.replicas import FACTS, TICK_S, Balancer, Replica, pictures, replicas
from tests.serving.scripted_pool import ScriptedPool
from tests.serving.served import PATIENCE_S, run, served
from tests.serving.slow_pictures import _skipped, h264_keyframe

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
        words=[Word(1, "rød", 0.1, 0.3, True), Word(2, "b", 0.2, 1 / 3)],
        received_s=7.1, now_s=7.04, saved_s=1.8e9, dropped=4, second=[1, 2], predicted=False,
        stream=StreamState(arrays, 88, OpenWord((3, 1), 6.9, 7.0, is_open=True), 7.04, 1),
        intake=IntakeState(7.1, 2, 3, shown=frame),
    )  # fmt: skip


def same(one: SavedStream, other: SavedStream) -> bool:
    plain = lambda s: (
        {name: value for name, value in vars(s).items() if name not in ("stream", "intake")}
        | {"stream": s.stream._replace(arrays=()), "intake": s.intake._replace(shown=None)}
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
    monkeypatch.setattr("mmduplex_jax.serving.handover.VERSION", 2)
    with pytest.raises(CannotGoOn, match="has version 1; this server reads 2"):
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


# At the servers.


def count(metric, *labels: str) -> float:
    return (metric.labels(*labels) if labels else metric)._value.get()


def cut(replica: Replica) -> None:
    """Cuts its connections."""
    for connection in replica._runner.server.connections:
        connection.transport.abort()


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def slow(function, go_on: threading.Event):
    """The function, which waits first."""

    def waiting(*arguments, **named):
        assert go_on.wait(PATIENCE_S)
        return function(*arguments, **named)

    return waiting


def resume_of(session: Session) -> Resume:
    return Resume(session.id, session.token, 0)


@contextlib.asynccontextmanager
async def shown(replica: Replica, ticks: int = 2) -> AsyncIterator[tuple[Stream, Session]]:
    """A file's stream of some ticks that have been answered, and its session; it is left where it is at the end."""
    before = list(replica.sessions)
    async with connect(replica.url, mode="file") as stream:
        for tick in range(ticks):
            await stream.send(tick * TICK_S, pictures(0, ticks)[tick])
        while stream._unanswered:
            await anext(stream)
        (session,) = [one for one in replica.sessions if one not in before]
        yield stream, session
        stream._error, stream._done = Refused("end", "the test is over"), True


def test_a_folder_that_fails_when_a_stream_has_ended_harms_nobody(tmp_path: Path, monkeypatch):
    def stale(*_):
        raise OSError(116, "Stale file handle")

    async def test():
        async with replicas(tmp_path, 1) as (here,):
            here.handover.forget = stale
            async with shown(here) as (stream, _):
                await stream.end()
                async for _ in stream:
                    pass
                assert stream.bye["reason"] == "end"
            async with shown(here) as (stream, session):
                stream._url = "http://127.0.0.1:9"
                cut(here)
                await until(lambda: session.detached_s is not None)
                session.end("gone", "the test says so")
                await session.stopped()
                session.ended_s = -1e9
                await until(lambda: session not in list(here.sessions))
            assert not any(worker.done() for worker in here.sessions._workers)

    run(test())


def test_a_folder_that_fails_when_a_stream_is_looked_for_lets_its_client_and_readers_come_back(tmp_path: Path):
    def stale(*_):
        raise OSError(116, "Stale file handle")

    async def test():
        async with replicas(tmp_path, 2) as (here, there), shown(here) as (_, session):
            there.handover.find = stale
            with pytest.raises(sessions_module.Refused, match="cannot be read or written") as caught:
                await there.sessions._take_over(resume_of(session), there.handover)
            assert caught.value.reason == "draining"
            async with aiohttp.ClientSession() as http:
                address = f"{there.url}/v1/sessions/{session.id}"
                async with http.get(f"{address}/words?key={session.feed}") as answer:
                    assert (answer.status, await answer.text()) == (200, "retry: 500\n\n")
                async with http.get(f"{address}/captions.vtt?key={session.feed}") as answer:
                    assert answer.status == 503

    run(test())


def test_one_stream_that_takes_long_to_hand_over_holds_up_no_other(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sessions_module, "_HAND_OVER_S", PATIENCE_S)

    async def test():
        async with replicas(tmp_path, 1) as (here,), shown(here) as (_, one), shown(here) as (_, other):
            go_on, write, asked = threading.Event(), here.handover.write, []

            def first_is_slow(saved, *arguments, **named) -> bool:
                asked.append(saved.key)
                return (slow(write, go_on) if len(asked) == 1 else write)(saved, *arguments, **named)

            here.handover.write = first_is_slow
            for session in (one, other):
                here.handover.want(session.key)
            await until(lambda: len(asked) == 2)
            await until(lambda: next(session for session in (one, other) if session.key == asked[1]).has_moved)
            go_on.set()
            await until(lambda: all(session.has_moved for session in (one, other)))

    run(test())


def test_who_waits_to_take_a_stream_waits_also_for_whom_came_later_but_took_it_sooner(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 2) as (here, there), shown(here) as (_, session):
            taking, most = 0, 0

            async def take(*_) -> None:
                nonlocal taking, most
                taking, most = taking + 1, max(most, taking + 1)
                await asyncio.sleep(0.01)
                taking -= 1

            there.sessions._take_saved = take
            takers = []
            for _ in range(6):  # (each before the last one has it)
                takers.append(asyncio.create_task(there.sessions._take_over(resume_of(session), there.handover)))
                await asyncio.sleep(0.008)
            await asyncio.gather(*takers)
            assert most == 1
            assert not there.sessions._taking

    run(test())


def test_a_stream_that_another_replica_takes_meanwhile_is_left_to_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sessions_module, "OWNER_S", PATIENCE_S)

    async def test():
        async with replicas(tmp_path, 2) as (here, there), shown(here) as (_, session):
            here.handover.wanted = list
            here.handover.write(await session.save(), 0, left=False)
            taking = asyncio.create_task(there.sessions._take_over(resume_of(session), there.handover))
            await until(there.handover.wanted)
            assert here.handover.claim(here.handover.find(session.key))
            with pytest.raises(sessions_module.Refused, match="another replica has just taken"):
                await taking

    run(test())


def test_what_is_asked_to_go_twice_goes_once(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 1, notice_s=0.0) as (here,), shown(here) as (_, session):
            asked, save = [], session.save

            def count_asked(**named):
                asked.append(named)
                return save(**named)

            session.save = count_asked
            await asyncio.gather(here.sessions.drain(5.0), here.sessions.drain(5.0))
            assert asked == [{"leave": True}]
            assert session.has_moved

    run(test())


def test_a_replica_that_was_too_slow_takes_its_stream_again_from_the_one_that_took_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sessions_module, "OWNER_S", 0.2)

    async def test():
        async with (
            replicas(tmp_path, 2, snapshot_s=0.1) as (slow_one, quick),
            connect(slow_one.url, mode="file") as stream,
        ):
            await stream.send(0.0, pictures(0, 8)[0])
            (session,) = slow_one.sessions
            await until(lambda: slow_one.handover.find(session.key) is not None)
            slow_one.handover.wanted = list
            stream._url = quick.url
            cut(slow_one)
            for tick in range(1, 6):
                await stream.send(tick * TICK_S, pictures(0, 8)[tick])
            while stream.last_seq < 2:  # (the third is being said)
                await anext(stream)
            await until(lambda: session.ended is not None)
            assert session.ended[0] == "superseded"
            feed = f"{slow_one.url}/v1/sessions/{session.id}/words?key={session.feed}"
            async with aiohttp.ClientSession() as http, http.get(feed, allow_redirects=False) as answer:
                assert answer.status == 307
            stream._url = slow_one.url
            await quick.sessions.drain(5.0)
            for tick in range(6, 8):
                await stream.send(tick * TICK_S, pictures(0, 8)[tick])
            await stream.end()
            async for _ in stream:
                pass
            assert (stream.last_seq, stream.missing, stream.doubled) == (4, 0, 0)
            assert stream.hello["session"].startswith("r0.")

    run(test())


def test_what_is_counted_adds_up_where_a_stream_is_lost_to_another_or_ends_on_its_way(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 2) as (here, there), shown(here) as (stream, session):
            here.handover.write(await session.save(), 0, left=True)
            there.handover.claim = lambda _: False
            with pytest.raises(sessions_module.Refused, match="another replica has just taken"):
                await there.sessions._take_over(resume_of(session), there.handover)
            counters = there.sessions.counters
            await until(lambda: count(counters.sessions_ended, "superseded") == 1)
            assert count(counters.moved_in, "left") == 1
            go_on = threading.Event()
            here.handover.write = slow(here.handover.write, go_on)
            draining = asyncio.create_task(here.sessions.drain(5.0))
            await until(lambda: session._saved_last)
            session.end("idle", "the test says so")
            go_on.set()
            await draining
            assert session.ended[0] == "idle"
            assert count(here.sessions.counters.moved_out) == 0

    run(test())


def test_few_rows_are_copied_off_the_device_at_once_and_each_by_one(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 1) as (here,), contextlib.AsyncExitStack() as stack:
            sessions = [(await stack.enter_async_context(shown(here, 1)))[1] for _ in range(5)]
            copied, most = set(), 0
            for session in sessions:

                def save(taken, *, leave: bool, session=session, save=session._handle.save) -> None:
                    nonlocal most
                    copied.add(session)
                    most = max(most, len(copied))

                    def done(state) -> None:
                        here.sessions._to_loop.call(copied.discard, session)
                        taken(state)

                    save(done, leave=leave)

                session._handle.save = save
            await asyncio.gather(*(here.sessions._keep(session, here.handover) for session in sessions))
            assert 1 <= most <= 2
            assert all(here.handover.find(session.key) is not None for session in sessions)

    run(test())


def test_a_folder_that_hangs_holds_up_nothing_else(tmp_path: Path):
    async def test():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with replicas(tmp_path, 1) as (here,), aiohttp.ClientSession() as http:
            go_on, asked = threading.Event(), []
            find = slow(here.handover.find, go_on)

            def find_slowly(key: str):
                asked.append(key)
                return find(key)

            here.handover.find = find_slowly
            looking = [asyncio.create_task(here.sessions.whereabouts(f"r9.key{i}")) for i in range(20)]
            await until(lambda: asked)
            async with http.get(f"{here.url}/static/connection.js") as answer:
                assert answer.status == 200
            # (Nor can strangers keep more than a part of its threads busy.)
            assert 1 <= len(asked) <= 2
            go_on.set()
            assert await asyncio.gather(*looking) == [None] * 20

    run(test())


def test_a_stream_that_the_folder_does_not_show_yet_is_looked_for_again(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 2) as (here, there), shown(here) as (_, session):
            here.handover.write(await session.save(), 0, left=True)
            looked, find = [], there.handover.find

            def find_late(key: str):
                looked.append(key)
                return find(key) if len(looked) > 2 else None

            there.handover.find = find_late
            taken = await there.sessions._take_over(resume_of(session), there.handover)
            assert taken.key == session.key
            there.handover.find = lambda _: None
            gone = dataclasses.replace(resume_of(session), session="r0.gone")
            assert await there.sessions._take_over(gone, there.handover) is None

    run(test())


def test_what_was_kept_of_a_stream_that_runs_is_not_swept(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sessions_module, "_KEPT_S", 0.0)

    async def test():
        async with replicas(tmp_path, 1) as (here,), shown(here) as (_, session):
            here.handover.write(await session.save(), 0, left=False)
            kept = here.handover.find(session.key).path
            os.utime(kept, (1e9, 1e9))
            await until(lambda: not kept.exists() or kept.stat().st_mtime > 1e9)
            assert kept.exists()

    run(test())


def test_only_who_has_a_streams_secret_moves_it_and_what_has_ended_leaves_nothing(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 2, snapshot_s=0.1) as (here, there):
            async with connect(here.url, mode="file") as stream:
                await stream.send(0.0, pictures(0, 1)[0])
                assert stream.hello["session"].startswith("r0.")
                key = stream.hello["session"].removeprefix("r0.")
                while here.handover.find(key) is None:
                    await asyncio.sleep(0.01)
                async with aiohttp.ClientSession() as http, http.ws_connect(f"{there.url}/v1/stream") as socket:
                    resume = {"session": stream.hello["session"], "token": "x" * 32, "last_seq": 0}
                    await socket.send_json({"type": "hello", "version": 1, "resume": resume})
                    assert (await socket.receive_json())["code"] == "unknown_session"
                assert here.handover.wanted() == []
                assert len(here.sessions) == 1
                await stream.end()
                async for _ in stream:
                    pass
            while here.handover.find(key) is not None:
                await asyncio.sleep(0.01)

    run(test())


def test_a_stream_of_another_checkpoint_is_told_so(tmp_path: Path, monkeypatch):
    async def test():
        async with replicas(tmp_path, 1) as (here,):
            monkeypatch.setattr(FACTS, "fingerprint", "8" * 64)
            there = await Replica("other", tmp_path).start()
            async with connect(here.url, mode="file") as stream:
                await stream.send(0.0, pictures(0, 1)[0])
                stream._url = there.url
                await here.sessions.drain(5.0)
                with pytest.raises(Refused, match="of another checkpoint") as caught:
                    async for _ in stream:
                        pass
                assert caught.value.code == "cannot_go_on"
            await there.stop()

    run(test())


@pytest.mark.parametrize("lost", ["there", "here"])
def test_a_lost_decoder_costs_a_stream_that_moves_one_gap(tmp_path: Path, lost: str):
    async def test():
        async with replicas(tmp_path, 2, decoding=faulty) as (here, there):
            async with connect(here.url, mode="file") as stream:
                events = []

                async def show(ticks: range, fault: bytes = b"") -> None:
                    """Each of the pictures, but for one with a fault, is answered."""
                    for tick in ticks:
                        data, codec = encode(pictures(0, 8)[tick])
                        await stream.send_encoded(tick * TICK_S, data + fault, codec)
                        while not fault and not (
                            isinstance(events[-1:] and events[-1], Status)
                            and events[-1].t_video_s == pytest.approx(tick * TICK_S)
                        ):
                            events.append(await anext(stream))

                await show(range(3))
                stream._url = there.url
                if lost == "here":
                    (session,) = here.sessions
                    os.kill(session._decoder._process._pid, signal.SIGKILL)
                await here.sessions.drain(5.0)
                if lost == "there":
                    await show(range(3, 4), ABORT)
                await show(range(4, 8))
                (session,) = there.sessions
                assert session._decoder._process is not None
                await stream.end()
                events += [event async for event in stream]
            codes = [event.code for event in events if isinstance(event, Notice)]
            assert sorted(codes) == ["connection", "decoder_lost"]
            shown = [round(event.t_video_s / TICK_S) for event in events if isinstance(event, Status)]
            assert shown == [0, 1, 2, 4, 5, 6, 7]
            # Seven ticks were shown, of which every second one ends a word.
            assert (stream.last_seq, stream.missing, stream.doubled, stream.reconnections) == (3, 0, 0, 1)

    run(test())


@pytest.mark.parametrize("how", ["handed over", "lost"])
def test_h264_goes_on_elsewhere_at_the_next_keyframe(tmp_path: Path, how: str):
    async def test():
        async with replicas(tmp_path, 2, snapshot_s=0.05) as (here, there):
            async with connect(here.url, mode="file") as stream:
                key, same = h264_keyframe(2, 2), _skipped(0, 4)
                await stream.send_encoded(0.0, key, "h264")
                await stream.send_encoded(TICK_S, same, "h264", keyframe=False)
                events = []
                while not any(isinstance(event, Status) and event.t_video_s > 0 for event in events):
                    events.append(await anext(stream))
                while stream._has_after_s < TICK_S:  # it was kept
                    await asyncio.sleep(0.01)
                stream._url = there.url
                await (here.sessions.drain(5.0) if how == "handed over" else here.kill())
                for tick in (2, 3):
                    await stream.send_encoded(tick * TICK_S, same, "h264", keyframe=False)
                while stream.reconnections == 0:
                    await asyncio.sleep(0.01)
                await stream.send_encoded(4 * TICK_S, key, "h264")
                await stream.end()
                events += [event async for event in stream]
            codes = [event.code for event in events if isinstance(event, Notice)]
            assert codes == ["connection"] + ["restored"] * (how == "lost")
            # (The last picture stays on the screen meanwhile.)
            shown = [round(event.t_video_s / TICK_S) for event in events if isinstance(event, Status)]
            assert shown == [0, 1, 2, 3, 4]
            assert (stream.left_out, stream.missing, stream.doubled) == (2, 0, 0)

    run(test())


def test_a_full_replica_lets_a_stream_wait_for_room(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 2) as (here, there):
            others = [connect(there.url) for _ in range(there._pool.statistics().slots)]
            for other in others:
                await other.__aenter__()
            balancer = Balancer([here])
            async with balancer.listening() as url, connect(url, mode="file") as stream:
                await stream.send(0.0, pictures(0, 1)[0])
                balancer.replicas.append(there)
                await here.sessions.drain(5.0)
                # (Asked by the stream's old name, the balancer would send it to the one that goes down.)
                while there.sessions.counters.refused.labels("full")._value.get() < 3:
                    await asyncio.sleep(0.01)
                assert here.sessions.counters.refused.labels("draining")._value.get() == 0
                await others.pop().__aexit__(None, None, None)
                for tick in range(1, 6):
                    await stream.send(tick * TICK_S, pictures(0, 6)[tick])
                await stream.end()
                async for _ in stream:
                    pass
                assert (stream.last_seq, stream.reconnections) == (3, 1)
                assert stream.hello["session"].startswith("r1.")
            for other in others:
                await other.__aexit__(None, None, None)

    run(test())


@pytest.mark.parametrize("order", ["end", "pause"])
def test_what_a_client_says_while_its_stream_is_on_its_way_holds_where_it_goes_on(
    tmp_path: Path, monkeypatch, order: str
):
    monkeypatch.setattr(sessions_module, "_HAND_OVER_S", PATIENCE_S)

    async def test():
        async with replicas(tmp_path, 2) as (here, there):
            go_on = threading.Event()
            here.handover.write = slow(here.handover.write, go_on)
            async with connect(here.url, mode="file") as stream:
                for tick in range(4):
                    await stream.send(tick * TICK_S, pictures(0, 6)[tick])
                (session,) = here.sessions
                draining = asyncio.create_task(here.sessions.drain(5.0))
                while not session._saved_last:
                    await asyncio.sleep(0.01)
                heard_s = session.last_activity_s
                await (stream.end() if order == "end" else stream.order(order))
                while session.last_activity_s == heard_s:
                    await asyncio.sleep(0.01)
                stream._url = there.url
                go_on.set()
                await draining
                if order == "pause":
                    while not any(one._paused for one in there.sessions):
                        await asyncio.sleep(0.01)
                    await stream.order("play")
                    for tick in range(4, 6):
                        await stream.send(tick * TICK_S, pictures(0, 6)[tick])
                    await stream.end()
                async for _ in stream:
                    pass
                assert stream.bye["reason"] == "end"
                assert (stream.last_seq, stream.missing) == (2 if order == "end" else 3, 0)

    run(test())


def test_an_operator_drains_by_a_request_and_nobody_else(tmp_path: Path):
    async def test():
        async with replicas(tmp_path, 1) as (here,), aiohttp.ClientSession() as http:

            async def status(path: str) -> tuple[int, dict]:
                async with http.get(here.url + path) as answer:
                    return answer.status, await answer.json()

            async def drain(token: str | None) -> int:
                headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                async with http.post(f"{here.url}/v1/drain", headers=headers) as answer:
                    return answer.status

            assert await status("/roomz") == (200, {"free": 6, "slots": 6, "load": 0.0})
            async with connect(here.url, mode="file") as stream:
                for wrong in (None, "the-operators-own-secret"):
                    assert await drain(wrong) == 401
                assert (await status("/readyz"))[0] == 200
                assert await drain("the-operator's-own-secret") == 200
                assert (await status("/readyz"))[0] == 503
                assert (await status("/roomz"))[0] == 404
                assert (await status("/healthz"))[0] == 200
                assert here.handover.find(stream.hello["session"].removeprefix("r0.")).left
                stream._error, stream._done = Refused("end", "the test is over"), True
        async with served() as server, server.http.post(f"{server.url}/v1/drain") as answer:
            assert answer.status == 404

    run(test())


def test_a_reader_of_a_stream_that_was_lost_hears_no_word_again():
    async def test():
        async with served() as server, server.stream(mode="file") as socket:
            (session,) = server.sessions
            # Its client, and whoever reads along, has three words of which the first alone was kept.
            await socket.show(0)
            await server.until(lambda: session.words.seq == 1)
            session.replay_seq = 3
            address = f"{server.url}/v1/sessions/{session.id}/words?key={session.feed}"
            async with server.http.get(address, headers={"Last-Event-ID": "3"}) as answer:
                for tick in range(1, 5):
                    await socket.show(tick)
                await socket.say(type="end")
                text = (await answer.content.read()).decode()
            assert [line for line in text.splitlines() if line.startswith("id:")] == ["id: 4", "id: 5"]

    run(test())


def test_room_is_what_takes_a_stream():
    async def test():
        async with served(ScriptedPool(slots=1)) as server:

            async def room() -> int:
                async with server.http.get(f"{server.url}/roomz") as answer:
                    return answer.status

            assert await room() == 200
            async with server.stream():
                assert await room() == 404
            server.pool.running = False
            assert await room() == 503

    run(test())
