"""What a stream that moves keeps, whom it obeys, and who may move it."""

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from mmduplex_jax.client import Notice, Refused, Status, connect, encode
from mmduplex_jax.serving import sessions as sessions_module
from mmduplex_jax.streaming.moving import StreamState
from mmduplex_jax.streaming.slot import NO_TOKENS, StreamOutput
from mmduplex_jax.word_decoder import TimedWord
from tests.serving.faulty_decoders import ABORT, faulty
from tests.serving.handing_over import on_its_way, until
from tests.serving.replicas import FACTS, TICK_S, Balancer, Replica, pictures, replicas, watch, words_of
from tests.serving.scripted_pool import ScriptedPool
from tests.serving.served import PATIENCE_S, run, served
from tests.serving.slow_pictures import _skipped, h264_keyframe


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
        async with replicas(tmp_path, 2) as (here, there), connect(here.url, mode="file") as stream:
            for tick in range(4):
                await stream.send(tick * TICK_S, pictures(0, 6)[tick])
            async with on_its_way(here, there, stream) as session:
                heard_s = session.last_activity_s
                await (stream.end() if order == "end" else stream.order(order))
                await until(lambda: session.last_activity_s > heard_s)
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


@pytest.mark.parametrize("late", [False, True])
def test_a_reset_that_falls_into_a_hand_over_is_carried_out_once(tmp_path: Path, monkeypatch, late: bool):
    monkeypatch.setattr(sessions_module, "_HAND_OVER_S", PATIENCE_S)

    async def test():
        async with replicas(tmp_path, 2) as (here, there):
            expected, _ = await watch(there.url, 1, 8)
            async with connect(here.url, mode="file") as stream:
                for tick in range(8):
                    await stream.send(tick * TICK_S, pictures(0, 8)[tick])
                if not late:
                    (session,) = here.sessions
                    await stream.order("reset")
                    await until(lambda: session.resets == 1)
                async with on_its_way(here, there, stream) as session:
                    said = session.words.seq
                    if late:
                        heard_s = session.last_activity_s
                        await stream.order("reset")
                        await until(lambda: session.last_activity_s > heard_s)
                    assert session.resets == int(not late)
                await until(lambda: stream.reconnections == 1)
                for tick in range(8):
                    await stream.send(tick * TICK_S, pictures(1, 8)[tick])
                (session,) = there.sessions
                await stream.end()
                events = [event async for event in stream]
            words = words_of(events)
            assert session.resets == 1
            assert [event.resets for event in events if isinstance(event, Status)][-8:] == [1] * 8
            # (A word that was begun before it may be said after it.)
            again = [word.text for word in words if word.seq > said]
            assert again[-len(words_of(expected)) :] == [word.text for word in words_of(expected)]
            assert len(again) <= len(words_of(expected)) + 1

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


def test_a_reader_of_a_stream_that_was_lost_is_told_of_no_scene_but_a_new_one():
    async def test():
        pool = ScriptedPool(says=lambda tick, _: [f"w{tick}"] * (tick in (1, 3)))
        pool.cuts = {2, 5}
        async with served(pool) as server:
            async with server.stream(mode="file") as socket:
                (session,) = server.sessions
                for tick in range(4):
                    await socket.show(tick)
                await server.until(lambda: session.words.seq == 2)
            await server.until(lambda: session.detached_s is not None)
            # What was said after this was said elsewhere, up to word 4, and is not known here.
            session.restored(4, None)
            resume = {"session": session.id, "token": session.token, "last_seq": 4}
            address = f"{server.url}/v1/sessions/{session.id}/words?key={session.feed}"
            reading = server.http.get(address, headers={"Last-Event-ID": "4"})
            async with server.stream(resume) as socket, reading as answer:
                for tick in range(4, 7):
                    await socket.show(tick)
                assert await answer.content.readuntil(b"event: scene\n") == b": words of a stream\n\nevent: scene\n"
                assert json.loads((await answer.content.readline()).removeprefix(b"data: ")) == {"scene_s": 0.8}
                await socket.say(type="end")
                assert "event: scene" not in await answer.text()

    run(test())


def test_what_is_kept_of_a_stream_is_of_one_moment():
    word = TimedWord("later", 0.16, 0.24, None, 0.16)
    tick = StreamOutput(2, 0.16, [word], NO_TOKENS, 1, 0.0, 0, scene_s=0.16)

    async def test():
        async with served() as server, server.stream(mode="file") as socket:
            await socket.show(0)
            (session,), (seat,) = server.sessions, server.pool.all_seats
            await server.until(lambda: session.words.seq == 1)

            def save(on_state, *, leave: bool) -> None:
                on_state(StreamState((), 2, None, 0.0, 0))
                # A tick that comes in the same turn of the loop.
                session._call(session.on_output, tick)

            seat.save = save
            saved = await session.save()
            assert session.words.seq == 2
            assert (saved.seq, [word.text for word in saved.words], saved.stream.steps) == (1, ["w0"], 2)

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
