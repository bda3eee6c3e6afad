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
