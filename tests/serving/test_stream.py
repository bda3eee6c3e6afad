"""A client's stream over the WebSocket: words, settings, resumption, backpressure, and what ends it."""

import asyncio

import numpy as np
import pytest

from mmduplex_jax.serving.limits import Limits
from tests.serving.scripted_pool import ScriptedPool
from tests.serving.served import TICK_S, picture, run, served


def test_words_come_numbered_with_times_and_a_status_after_each_tick():
    async def test():
        async with served() as server, server.stream(mode="file", delay_steps=2, pad_bias=1.0) as stream:
            hello = stream.hello
            assert hello["version"] == 1
            assert hello["resumed"] is False
            assert hello["frame_px"] == 32
            assert hello["clock"] == {"step_hz": 12.5, "video_stride": 2}
            assert hello["delay_steps"] == {"now": 2, "min": 0, "max": 4}
            assert hello["pad_bias"] == {"now": 1.0, "min": -20.0, "max": 20.0}
            for tick in range(5):
                await stream.show(tick)
            await stream.say(type="end")
            heard = await stream.hear_all()
            words = [message for message in heard if message["type"] == "word"]
            assert [(w["seq"], w["text"]) for w in words] == [(i + 1, f"w{i}") for i in range(5)]
            assert words[3]["t_video_s"] == pytest.approx(3 * TICK_S)
            assert words[3]["t_emit_s"] == pytest.approx(3 * TICK_S + 0.08)
            statuses = [message for message in heard if message["type"] == "status"]
            assert [s["t_video_s"] for s in statuses] == pytest.approx([i * TICK_S for i in range(5)])
            assert statuses[2]["places"] == [[3, 4, 16, 0], [20, 21, 16, 0]]
            assert statuses[4]["tokens_per_s"] == 10
            assert statuses[0]["change"] == 0.0
            assert statuses[1]["change"] > 0.5
            kinds = [message["type"] for message in heard]
            assert kinds.index("status", kinds.index("status") + 1) > [i for i, k in enumerate(kinds) if k == "word"][1]
            assert heard[-1] == {
                "type": "bye", "reason": "end", "message": "the stream is finished", "seq": 5, "resumable": False,
            }  # fmt: skip
            (seat,) = server.pool.all_seats
            assert (seat.live, seat.delay_steps, seat.pad_bias) == (False, 2, 1.0)
            assert [frame[0] for frame in seat.frames] == pytest.approx([i * TICK_S for i in range(5)])

    run(test())


def test_the_word_that_is_being_said_at_the_end_comes_too():
    async def test():
        pool = ScriptedPool(says=lambda *_: [], last_word="red")
        async with served(pool) as server, server.stream(mode="file") as stream:
            await stream.show(0)
            await stream.say(type="end")
            heard = await stream.hear_all()
            assert stream.words() == ["red"]
            assert heard[-1]["seq"] == 1

    run(test())


def test_the_model_sees_the_picture_cut_and_scaled():
    async def test():
        async with served() as server, server.stream(mode="file", fit="crop") as stream:
            await stream.show(0)
            await stream.hear("status")
            (_, frame) = server.pool.all_seats[0].frames[0]
            np.testing.assert_allclose(frame[4, 4], (200, 40, 0), atol=4)  # JPEG at 90
            np.testing.assert_allclose(frame[28, 28], (0, 0, 0), atol=4)

    run(test())


def test_settings_change_while_it_runs():
    async def test():
        async with served() as server, server.stream() as stream:
            await stream.say(type="config", pad_bias=2.5)
            assert await stream.hear("config") == {"type": "config", "delay_steps": 3, "pad_bias": 2.5}
            await stream.say(type="config", delay_steps=0)
            assert await stream.hear("config") == {"type": "config", "delay_steps": 0, "pad_bias": 2.5}
            assert server.pool.all_seats[0].calls == ["configure None 2.5", "configure 0 None"]

    run(test())


def test_pause_play_and_reset_happen_in_order_with_the_pictures():
    async def test():
        async with served() as server, server.stream(mode="file") as stream:
            await stream.show(0)
            await stream.say(type="pause")
            for tick in range(1, 40):  # more than may wait: a paused stream must still hear "play"
                await stream.show(tick)
            await stream.say(type="play")
            await stream.show(50)
            await stream.say(type="reset")
            await stream.show(0)
            await stream.say(type="end")
            await stream.hear_all()
            (seat,) = server.pool.all_seats
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [0, 50, 0]
            assert seat.calls == ["pause", "resume", "reset", "leave True"]

    run(test())


def test_a_status_says_how_many_resets_came_before_what_it_is_of():
    async def test():
        async with served() as server, server.stream(mode="file") as stream:
            (seat,), (session,) = server.pool.all_seats, server.sessions
            server.pool.may_go.clear()
            for tick in range(2):
                await stream.show(tick)
            for again in (1, 2):
                await stream.say(type="reset")
                await stream.show(0)
                await server.until(lambda again=again: seat.calls.count("reset") == again)
            # Both were carried out before the model has answered anything.
            await server.until(lambda: len(seat.frames) == 4)
            assert session.resets == 2
            server.pool.may_go.set()
            await stream.say(type="end")
            await stream.hear_all()
            resets = [message["resets"] for message in stream.heard if message["type"] == "status"]
            assert resets == [0, 0, 1, 2]

    run(test())


def test_a_dropped_connection_goes_on_without_a_word_lost_or_doubled():
    async def test():
        async with served() as server:
            async with server.stream(mode="file") as stream:
                for tick in range(4):
                    await stream.show(tick)
                first = stream.hello
                while len(stream.words()) < 2:
                    await stream.next()
                # The client has two words, and is cut off; the other two are said meanwhile.
                got = stream.words()[:2]
            await server.until(lambda: next(iter(server.sessions)).words.seq == 4)
            resume = {"session": first["session"], "token": first["token"], "last_seq": 2}
            async with server.stream(resume=resume) as stream:
                assert stream.hello["resumed"] is True
                assert stream.hello["session"] == first["session"]
                assert stream.hello["t_s"] == pytest.approx(3 * TICK_S)
                assert stream.hello["missed_words"] == 0
                for tick in range(4, 6):
                    await stream.show(tick)
                await stream.say(type="end")
                await stream.hear_all()
                assert got + stream.words() == [f"w{i}" for i in range(6)]
            assert len(server.pool.all_seats) == 1

    run(test())


def test_words_and_statuses_say_of_which_scene_they_are_over_dropped_connections_too():
    async def test():
        pool = ScriptedPool(says=lambda tick, _: [f"w{tick}"] if tick in (1, 4) else [])
        pool.cuts, pool.ends_sentence = {2}, False
        async with served(pool) as server:
            async with server.stream(mode="file") as stream:
                for tick in range(4):
                    await stream.show(tick)
                # Though nothing is said at the cut, its tick's status tells of it.
                scenes = [(await stream.hear("status")).get("scene_s") for _ in range(4)]
                assert scenes == [None, None, pytest.approx(2 * TICK_S), pytest.approx(2 * TICK_S)]
                first = stream.hello
            resume = {"session": first["session"], "token": first["token"], "last_seq": 0}
            async with server.stream(resume=resume) as stream:
                await stream.show(4)
                await stream.say(type="end")
                heard = await stream.hear_all()
                words = [message for message in heard if message["type"] == "word"]
                assert [(w["text"], w.get("scene_s")) for w in words] == [("w1", None), ("w4", pytest.approx(0.32))]
                assert all(w["ends_sentence"] is False for w in words)
                assert [m["scene_s"] for m in heard if m["type"] == "status"][-1] == pytest.approx(0.32)

    run(test())


def test_a_second_connection_takes_the_stream_over():
    async def test():
        async with served() as server, server.stream(mode="file") as old:
            await old.show(0)
            await old.hear("status")
            resume = {"session": old.hello["session"], "token": old.hello["token"], "last_seq": 1}
            async with server.stream(resume=resume) as new:
                assert (await old.hear("bye"))["reason"] == "superseded"
                await new.show(1)
                assert (await new.hear("word"))["seq"] == 2

    run(test())


@pytest.mark.parametrize("wrong", [{"token": "x" * 32}, {"session": "nobody"}])
def test_a_session_is_not_given_to_strangers(wrong: dict[str, str]):
    async def test():
        async with served() as server, server.stream() as mine, server.socket() as other:
            resume = {"session": mine.hello["session"], "token": mine.hello["token"], "last_seq": 0} | wrong
            await other.say(type="hello", version=1, resume=resume)
            assert (await other.hear("error"))["code"] == "unknown_session"
            assert await other.next() is None
            await mine.show(0)
            assert (await mine.hear("word"))["seq"] == 1

    run(test())


def test_words_that_are_no_longer_kept_are_said_to_be_missing():
    async def test():
        async with served(limits=Limits(replay_words=3)) as server:
            async with server.stream(mode="file") as stream:
                for tick in range(8):
                    await stream.show(tick)
                first = stream.hello
            await server.until(lambda: next(iter(server.sessions)).words.seq == 8)
            resume = {"session": first["session"], "token": first["token"], "last_seq": 0}
            async with server.stream(resume=resume) as stream:
                assert stream.hello["missed_words"] == 5
                await stream.say(type="end")
                await stream.hear_all()
                assert stream.words() == ["w5", "w6", "w7"]

    run(test())


def test_a_stream_whose_client_stays_away_gives_its_seat_back():
    async def test():
        async with served(ScriptedPool(slots=1), limits=Limits(resume_s=0.3)) as server:
            async with server.stream() as stream:
                first = stream.hello
            await server.until(lambda: not server.pool.seats)
            async with server.stream() as stream:
                await stream.show(0)
                await stream.hear("word")
                resume = {"session": first["session"], "token": first["token"], "last_seq": 0}
                # Its words can be had for a while, and then nothing of it is left.
                await server.until(lambda: len(list(server.sessions)) == 1)
                async with server.socket() as other:
                    await other.say(type="hello", version=1, resume=resume)
                    assert (await other.hear("error"))["code"] == "unknown_session"

    run(test())


def test_an_end_that_the_connection_did_not_live_to_hear_is_heard_later():
    async def test():
        pool = ScriptedPool()
        pool.may_go.clear()
        async with served(pool) as server:
            async with server.stream(mode="file") as stream:
                await stream.show(0)
                await stream.say(type="end")
                first = stream.hello
                await server.until(lambda: pool.all_seats[0].left)
            pool.may_go.set()
            await server.until(lambda: not pool.seats)
            resume = {"session": first["session"], "token": first["token"], "last_seq": 0}
            async with server.stream(resume=resume) as stream:
                await stream.hear_all()
                assert stream.words() == ["w0"]
                assert stream.heard[-1]["reason"] == "end"

    run(test())


def test_a_file_is_made_to_wait_and_loses_nothing():
    async def test():
        pool = ScriptedPool()
        async with served(pool, limits=Limits(file_ticks=3)) as server, server.stream(mode="file") as stream:
            pool.may_go.clear()
            sending = asyncio.create_task(send(stream, 60))
            await server.until(lambda: len(pool.all_seats[0].frames) == 3)
            pool.may_go.set()
            await sending
            await stream.say(type="end")
            await stream.hear_all()
            assert stream.words() == [f"w{i}" for i in range(60)]
            assert pool.all_seats[0].most_waiting <= 3

    async def send(stream, ticks: int):
        for tick in range(ticks):
            await stream.show(tick)

    run(test())


def test_answers_to_what_was_before_a_reset_are_of_no_tick_after_it():
    async def test():
        pool = ScriptedPool()
        async with served(pool) as server, server.stream(mode="file") as stream:
            pool.may_go.clear()
            for tick in (30, 31):
                await stream.show(tick)
            await stream.say(type="reset")
            for tick in (0, 1, 2):
                await stream.show(tick)
            await server.until(lambda: len(pool.all_seats[0].frames) == 5)
            pool.may_go.set()
            await stream.say(type="end")
            heard = await stream.hear_all()
            changes = [message["change"] for message in heard if message["type"] == "status"][2:]
            assert [change > 0.5 for change in changes] == [False, True, True]

    run(test())


def test_tokens_of_before_a_reset_are_none_of_a_second_after_it():
    async def test():
        pool = ScriptedPool()
        async with served(pool) as server, server.stream(mode="file") as stream:
            pool.may_go.clear()
            for tick in (0, 1):
                await stream.show(tick)
            await stream.say(type="reset")
            await stream.show(0)
            await server.until(lambda: len(pool.all_seats[0].frames) == 3)
            pool.may_go.set()
            await stream.say(type="end")
            told = [message for message in await stream.hear_all() if message["type"] == "status"]
            each = told[0]["tokens"]
            assert [(status["tokens"], status["tokens_per_s"]) for status in told] == [
                (each, each), (each, 2 * each), (each, each),
            ]  # fmt: skip

    run(test())


def test_a_live_stream_drops_its_oldest_pictures_and_says_how_many():
    async def test():
        async with served(limits=Limits(frame_rate_hz=5)) as server, server.stream(mode="live") as stream:
            for tick in range(30):
                await stream.show(tick)
            await stream.say(type="end")
            heard = await stream.hear_all()
            (seat,) = server.pool.all_seats
            dropped = [message["dropped_frames"] for message in heard if message["type"] == "status"][-1]
            # Five at once and five a second; the bucket may fill by a few while they are sent.
            assert dropped >= 15
            assert len({frame.tobytes() for _, frame in seat.frames}) <= 30 - dropped

    run(test())


def test_a_full_pool_refuses_and_says_so():
    async def test():
        async with served(ScriptedPool(slots=1)) as server, server.stream() as mine, server.socket() as other:
            await other.say(type="hello", version=1)
            error = await other.hear("error")
            assert (error["code"], error["fatal"]) == ("full", True)
            assert "all 1 seats" in error["message"]
            assert await other.next() is None
            assert other.socket.close_code == 1013
            await mine.show(0)
            await mine.hear("word")

    run(test())


def test_a_stream_that_says_nothing_ends():
    async def test():
        async with served(limits=Limits(idle_s=0.3)) as server, server.stream() as stream:
            assert (await stream.hear("bye"))["reason"] == "idle"
            assert not server.pool.seats

    run(test())


def test_a_connection_without_a_hello_is_closed():
    async def test():
        async with served(limits=Limits(hello_s=0.2)) as server, server.socket() as socket:
            assert (await socket.hear("error"))["code"] == "hello_missing"
            assert await socket.next() is None

    run(test())


def test_a_bad_picture_is_told_and_the_stream_goes_on_but_not_for_ever():
    async def test():
        async with served(limits=Limits(bad_frames=3)) as server, server.stream(mode="file") as stream:
            await stream.show(0, b"this is no JPEG")
            error = await stream.hear("error")
            assert (error["code"], error["fatal"]) == ("bad_frame", False)
            assert "picture 0 is no JPEG" in error["message"]
            await stream.show(1)
            assert (await stream.hear("word"))["text"] == "w0"
            for tick in range(2, 5):
                await stream.show(tick, picture(0)[:200])
            assert (await stream.hear("bye"))["reason"] == "protocol"
            assert server.pool.all_seats[0].left

    run(test())


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (lambda s: s.socket.send_str("nonsense"), "bad_message"),
        (lambda s: s.socket.send_bytes(b"short"), "bad_message"),
        (lambda s: s.say(type="hello", version=1), "bad_message"),
        (lambda s: s.say(type="config", delay_steps=9), "bad_config"),
    ],
)
def test_who_breaks_the_protocol_loses_the_stream_and_nobody_else_does(send, code: str):
    async def test():
        async with served() as server, server.stream() as other, server.stream() as bad:
            await send(bad)
            error = await bad.hear("error")
            assert (error["code"], error["fatal"]) == (code, True)
            assert (await bad.hear("bye"))["reason"] == "protocol"
            assert await bad.next() is None
            assert bad.socket.close_code == 1008
            await other.show(0)
            assert (await other.hear("word"))["text"] == "w0"

    run(test())


def test_too_many_messages_end_a_stream():
    async def test():
        async with served(limits=Limits(messages_hz=2)) as server, server.stream() as stream:
            for _ in range(8):
                await stream.say(type="config", pad_bias=0)
            assert (await stream.hear("error"))["code"] == "too_many_messages"

    run(test())


def test_a_message_that_is_too_large_is_not_read():
    async def test():
        async with served(limits=Limits(message_bytes=4096)) as server, server.stream() as stream:
            await stream.show(0, bytes(5000))
            await stream.hear_all()
            assert stream.socket.close_code == 1009
            await server.until(lambda: not server.pool.seats)

    run(test())


def test_a_model_that_stops_ends_its_streams():
    async def test():
        async with served() as server, server.stream() as stream:
            server.pool.all_seats[0].leave()
            bye = await stream.hear("bye")
            assert bye["reason"] == "internal"
            assert "the model has stopped" in bye["message"]

    run(test())


def test_draining_tells_refuses_waits_and_ends():
    async def test():
        async with served() as server, server.stream(mode="file") as short, server.stream() as long:
            await short.show(0)
            draining = asyncio.create_task(server.sessions.drain(0.5))
            assert (await long.hear("error"))["code"] == "draining"
            async with server.socket() as late:
                await late.say(type="hello", version=1)
                assert (await late.hear("error"))["code"] == "draining"
            await short.say(type="end")
            assert (await short.hear("bye"))["reason"] == "end"
            await long.show(0)
            assert (await long.hear("bye"))["reason"] == "shutdown"
            assert long.words() == ["w0"]
            await draining
            assert not server.pool.seats

    run(test())
