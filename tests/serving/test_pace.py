"""Who sends faster than may be, or is cut off in the middle: what is taken, and what counts as taken."""

import asyncio
import time

from mmduplex_jax.serving.limits import Limits
from tests.serving.scripted_pool import FACTS, ScriptedPool
from tests.serving.served import TICK_S, run, served


def test_stamps_that_run_faster_than_the_clock_cost_others_nothing():
    async def test():
        async with served() as server, server.stream(mode="live") as stream:
            ticks = 100
            began_s = time.monotonic()
            for tick in range(ticks):
                await stream.show(tick)
                await asyncio.sleep(0.005)  # so that none is dropped for another reason
            await stream.say(type="end")
            heard = await stream.hear_all()
            passed_s = time.monotonic() - began_s
            shown = len(server.pool.all_seats[0].frames)
            # Two gaps of two seconds at once, then a quarter faster than the clock.
            assert shown <= 2 * FACTS.clock.ticks_in(2.0) + 1.25 * passed_s / TICK_S + 1
            dropped = [message["dropped_frames"] for message in heard if message["type"] == "status"]
            assert max(dropped) >= 1

    run(test())


def test_a_picture_that_a_dropped_connection_still_held_is_not_taken_for_received():
    async def test():
        pool = ScriptedPool()
        pool.may_go.clear()
        limits = Limits(inbox_frames=1, file_ticks=1)
        async with served(pool, limits=limits) as server:
            async with server.stream(mode="file") as stream:
                for tick in range(6):
                    await stream.show(tick)
                # One is with the model, one waits for it, one in the inbox: the fourth waits to be put there.
                await server.until(lambda: next(iter(server.sessions)).received_s == 2 * TICK_S)
                hello = stream.hello
            resume = {"session": hello["session"], "token": hello["token"], "last_seq": 0}
            async with server.stream(resume=resume) as stream:
                assert stream.hello["t_s"] == 2 * TICK_S
                pool.may_go.set()
                for tick in range(3, 6):
                    await stream.show(tick)
                await stream.say(type="end")
                await stream.hear_all()
                assert stream.words() == [f"w{i}" for i in range(6)]

    run(test())


def test_after_a_reset_nothing_has_been_received():
    async def test():
        async with served() as server, server.stream(mode="file") as stream:
            await stream.show(100)
            await stream.hear("status")
            (session,) = server.sessions
            assert session.received_s == 100 * TICK_S
            await stream.say(type="reset")
            await server.until(lambda: "reset" in server.pool.all_seats[0].calls)
            assert session.received_s is None
            await stream.show(0)
            await stream.hear("status")
            assert session.received_s == 0.0

    run(test())


def test_a_stream_that_ends_for_its_bad_pictures_leaves_no_work_behind():
    async def test():
        async with served(limits=Limits(bad_frames=2)) as server:
            async with server.stream(mode="file") as stream:
                # The client is gone before it could be told, so that the stream is still there when the server stops.
                (session,) = server.sessions
                await stream.show(0, b"no picture")
                await stream.show(1, b"no picture")
            await server.until(lambda: session.ended is not None)
            async with asyncio.timeout(5.0):
                await session.stopped()
            assert not [task for task in asyncio.all_tasks() if task.get_name() == f"session {session.id}"]

    run(test())
