"""The folder of streams fails or hangs, and replicas meet at a stream: none of it ends more than it must."""

import asyncio
import contextlib
import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest

from mmduplex_jax.client import connect
from mmduplex_jax.serving import sessions as sessions_module
from tests.serving.handing_over import count, cut, on_its_way, resume_of, shown, slow, until
from tests.serving.replicas import TICK_S, pictures, replicas
from tests.serving.served import PATIENCE_S, run


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
            async with on_its_way(here, there, stream):
                session.end("idle", "the test says so")
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
