"""Streams over several servers that are stopped, lost and started again, beside an undisturbed run, word by word."""

import asyncio
import random
import re
from pathlib import Path

import aiohttp
import pytest

from mmduplex_jax.client import Notice, Status, connect
from tests.serving.replicas import TICK_S, Balancer, Replica, pictures, replicas, watch, words_of
from tests.serving.served import run

TICKS = 90


async def undisturbed(folder: Path, seeds: range, ticks: int = TICKS) -> list:
    async with replicas(folder, 1) as (only,):
        return [words_of((await watch(only.url, seed, ticks))[0]) for seed in seeds]


# (Who sends as fast as it may waits for room with each picture, also with the one behind the order to move.)
@pytest.mark.parametrize(("ticks", "every_s"), [(TICKS, 0.03), (3 * TICKS, 0.0)], ids=["paced", "at_once"])
def test_streams_go_on_through_a_rolling_restart_as_if_nothing_had_been(tmp_path: Path, ticks: int, every_s: float):
    async def test():
        seeds = range(4)
        expected = await undisturbed(tmp_path / "alone", seeds, ticks)
        assert all(len(words) == ticks / 2 for words in expected)
        async with replicas(tmp_path / "several") as started:
            balancer = Balancer(started)
            async with balancer.listening() as url:
                watching = [asyncio.create_task(watch(url, seed, ticks, every_s=every_s)) for seed in seeds]
                await asyncio.sleep(0.5)
                for i, replica in enumerate(started):
                    await replica.stop()
                    started[i] = await Replica(replica.name, replica.folder, snapshot_s=0.0, notice_s=0.05).start()
                results = [await one for one in watching]
            for (events, stream), words in zip(results, expected):
                assert words_of(events) == words
                assert (stream.missing, stream.doubled) == (0, 0)
            assert sum(stream.reconnections for _, stream in results) >= len(seeds)
        assert not list((tmp_path / "several").iterdir())

    run(test())


def test_files_lose_nothing_where_replicas_are_killed(tmp_path: Path):
    dice = random.Random(3)

    async def test():
        seeds = range(3)
        expected = await undisturbed(tmp_path / "alone", seeds)
        async with replicas(tmp_path / "several", snapshot_s=0.2) as started:
            balancer = Balancer(started)
            async with balancer.listening() as url:
                watching = [asyncio.create_task(watch(url, seed, TICKS, every_s=0.05)) for seed in seeds]
                for _ in range(2):
                    await asyncio.sleep(1.0 + dice.random())
                    # (One that has streams.)
                    i = dice.choice([i for i, one in enumerate(started) if one.alive and len(one.sessions)])
                    await started[i].kill()
                    started[i] = await Replica(f"again{i}", started[i].folder, snapshot_s=0.2, notice_s=0.05).start()
                results = [await one for one in watching]
            for (events, stream), words in zip(results, expected):
                assert words_of(events) == words
                assert (stream.missing, stream.doubled) == (0, 0)
                assert not [event for event in events if isinstance(event, Notice) and event.code == "restored"]
            assert sum(stream.reconnections for _, stream in results) >= 2

    run(test())


def test_a_live_stream_that_is_handed_over_loses_no_word_and_one_that_is_lost_says_from_where_it_goes_on(tmp_path):
    async def test():
        ticks = 40
        (expected,) = await undisturbed(tmp_path / "alone", range(1), ticks)
        said = [(word.seq, word.text, word.t_video_s) for word in expected]
        async with replicas(tmp_path / "several", snapshot_s=0.5) as started:
            balancer = Balancer(started)
            async with balancer.listening() as url:
                watching = asyncio.create_task(watch(url, 0, ticks, every_s=TICK_S, mode="live"))
                await asyncio.sleep(1.5)
                await next(one for one in started if len(one.sessions)).stop()
                events, stream = await watching
                assert [(word.seq, word.text, word.t_video_s) for word in words_of(events)] == said
                assert (stream.missing, stream.doubled, stream.reconnections) == (0, 0, 1)

                watching = asyncio.create_task(watch(url, 0, ticks, every_s=TICK_S, mode="live"))
                await asyncio.sleep(3.0)
                await next(one for one in started if one.alive and len(one.sessions)).kill()
                events, stream = await watching
                (at,) = [i for i, e in enumerate(events) if isinstance(e, Notice) and e.code == "restored"]
                before, after = words_of(events[:at]), words_of(events[at:])
                assert [(word.seq, word.text, word.t_video_s) for word in before] == said[: len(before)]
                assert len(before) > 5
                assert [word.seq for word in (*before, *after)] == list(range(1, len(before) + len(after) + 1))
                assert after[-1].t_video_s > before[-1].t_video_s
                # Its state is not that of a stream that begins: the model goes on after the step at which it was kept.
                kept_s = float(re.search(r"what was kept at ([\d.]+) s", events[at].message)[1])
                steps = lambda events: [(event.t_video_s, event.step) for event in events if isinstance(event, Status)]
                kept = max(step for t_s, step in steps(events[:at]) if t_s < kept_s + 0.01)
                assert kept > 10
                assert min(step for _, step in steps(events[at:])) > kept

    run(test())


def test_a_client_that_comes_to_any_replica_finds_its_stream(tmp_path: Path):
    async def test():
        seeds = range(2)
        expected = await undisturbed(tmp_path / "alone", seeds)
        async with replicas(tmp_path / "several", snapshot_s=0.2) as started:
            balancer = Balancer(started, seed=1, blind=True)
            async with balancer.listening() as url:
                watching = [asyncio.create_task(watch(url, seed, TICKS, every_s=0.05)) for seed in seeds]
                for _ in range(3):
                    await asyncio.sleep(1.0)
                    for replica in started:
                        for connection in replica._runner.server.connections:
                            connection.transport.abort()
                results = [await one for one in watching]
            for (events, stream), words in zip(results, expected):
                assert words_of(events) == words
                assert (stream.missing, stream.doubled) == (0, 0)
            counted = sum(one.sessions.counters.moved_out._value.get() for one in started)
            assert counted >= 1

    run(test())


def test_readers_follow_a_stream_that_moves(tmp_path: Path):
    async def test():
        # (The balancer chooses a replica for a connection, not for a request.)
        connector = aiohttp.TCPConnector(force_close=True)
        async with replicas(tmp_path, 2) as started, aiohttp.ClientSession(connector=connector) as http:
            balancer = Balancer(started)
            async with balancer.listening() as url, connect(url, mode="file") as stream:

                async def read(after: int) -> tuple[list[int], str]:
                    """The numbers of the words up to the answer's end, asked for at the stream's first address."""
                    seen, text = [], ""
                    async with http.get(address, headers={"Last-Event-ID": str(after)}) as answer:
                        assert answer.status == 200
                        async for line in answer.content:
                            text += line.decode()
                            if line.startswith(b"id:"):
                                seen.append(int(line.split()[1]))
                    return seen, text

                first = stream.hello["session"]
                address = f"{url}/v1/sessions/{first}/words?key={stream.hello['feed']}"
                reading = asyncio.create_task(read(0))
                frames = pictures(0, 20)
                for tick in range(10):
                    await stream.send(tick * TICK_S, frames[tick])
                while stream.last_seq < 4:  # (the fifth is being said)
                    await anext(stream)
                named = next(one for one in started if first.startswith(f"{one.name}."))
                while not next(iter(named.sessions)).readers:
                    await asyncio.sleep(0.01)
                await named.sessions.drain(5.0)
                # (Who reads along is not told that the stream has ended.)
                seen, text = await reading
                assert seen == [1, 2, 3, 4]
                assert "bye" not in text
                for tick in range(10, 20):
                    await stream.send(tick * TICK_S, frames[tick])
                while stream.hello["session"] == first:
                    await asyncio.sleep(0.01)
                reading = asyncio.create_task(read(seen[-1]))
                other = next(one for one in started if one is not named)
                while not next(iter(other.sessions)).readers:
                    await asyncio.sleep(0.01)
                for wrong in (f"{url}/v1/sessions/{stream.hello['session']}/words?key=wrong", f"{address}wrong"):
                    async with http.get(wrong) as answer:
                        assert answer.status == 404
                await stream.end()
                async for _ in stream:
                    pass
                seen, text = await reading
                assert seen == [5, 6, 7, 8, 9, 10]
                assert "event: bye" in text

    run(test())
