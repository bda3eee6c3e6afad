"""The client against a server on loopback, with connections that are cut in the middle."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmduplex_jax import client
from mmduplex_jax.client import Heard, Notice, Refused, Status, Stream, StreamLost, Word, connect, encode, info
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.session import Session
from tests.serving.scripted_pool import FACTS, VOICED, ScriptedPool
from tests.serving.served import TICK_S, run, served

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


class Cutter:
    """A proxy that cuts each connection after some bytes of the client's; `after` says how many, for each in turn."""

    def __init__(self, url: str, after: list[int]):
        self._port = int(url.rsplit(":", 1)[1])
        self._after = after
        self._writers: list[asyncio.StreamWriter] = []
        self._back: list[asyncio.Task[None]] = []
        self.cuts = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._after.pop(0) if self._after else 10**9
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, to_writer]
        self._back.append(asyncio.create_task(self._copy(to_reader, writer)))
        with contextlib.suppress(ConnectionError):
            while left > 0 and (data := await reader.read(min(left, 1000))):
                left -= len(data)
                to_writer.write(data)
        if left <= 0:
            self.cuts += 1
        for one in (writer, to_writer):
            one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()


async def show(stream: Stream, ticks: int) -> None:
    for tick in range(ticks):
        await stream.send(tick * TICK_S, IMAGE)
    await stream.end()


@pytest.mark.parametrize(("asked", "fit", "lit"), [(None, "pad", 40), ("pad", "pad", 40), ("crop", "crop", 64)])
def test_a_model_of_rectangles_is_shown_whole_pictures_unless_a_client_asks_otherwise(asked, fit, lit):
    facts = SimpleNamespace(**vars(FACTS) | {"frame_px": (30, 64), "fit": "pad"})

    async def test():
        pool = ScriptedPool()
        pool.frame_px = facts.frame_px
        async with served(pool, facts=facts) as server, connect(server.url, mode="file", fit=asked) as stream:
            assert (stream.hello["frame_px"], stream.hello["fit"]) == ([30, 64], fit)
            described = await info(server.url)
            assert (frame_size(described["frame_px"]), described["fit"]) == ((30, 64), "pad")
            await stream.send(0.0, np.full((60, 80, 3), 200, np.uint8))
            await stream.end()
            async for _ in stream:
                pass
            ((_, frame),) = server.pool.all_seats[0].frames
            assert frame.shape == (30, 64, 3)
            assert int((frame.max(axis=(0, 2)) > 100).sum()) == lit

    run(test())


def test_words_statuses_and_the_end_arrive():
    async def test():
        async with served() as server, connect(server.url, mode="file", delay_steps=1) as stream:
            assert stream.hello["frame_px"] == 32
            showing = asyncio.create_task(show(stream, 30))
            events = [event async for event in stream]
            await showing
            assert [event.text for event in events if isinstance(event, Word)] == [f"w{i}" for i in range(30)]
            statuses = [event for event in events if isinstance(event, Status)]
            assert [status.t_video_s for status in statuses] == pytest.approx([i * TICK_S for i in range(30)])
            assert stream.bye["reason"] == "end"
            assert (stream.last_seq, stream.reconnections) == (30, 0)
            with pytest.raises(Refused, match="has ended"):
                await stream.send(99.0, IMAGE)

    run(test())


@pytest.mark.parametrize("seed", range(4))
def test_a_file_whose_connection_is_cut_again_and_again_loses_and_doubles_nothing(seed: int):
    dice = random.Random(seed)

    async def test():
        async with served() as server:
            cutter = Cutter(server.url, [dice.randrange(2_000, 60_000) for _ in range(6)])
            async with cutter.listening() as url, connect(url, mode="file") as stream:
                showing = asyncio.create_task(show(stream, 60))
                events = [event async for event in stream]
                await showing
            words = [event for event in events if isinstance(event, Word)]
            assert [word.text for word in words] == [f"w{i}" for i in range(60)]
            assert [word.seq for word in words] == list(range(1, 61))
            assert stream.reconnections == cutter.cuts > 0
            assert (stream.doubled, stream.missing) == (0, 0)
            assert sum(isinstance(event, Notice) and event.code == "connection" for event in events) == cutter.cuts
            (seat,) = server.pool.all_seats
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == list(range(60))

    run(test())


@pytest.mark.parametrize(("sound", "rate_hz"), [("pcm16", 16_000), ("opus", 48_000)])
def test_the_model_is_heard_beside_its_words(sound, rate_hz: int):
    async def test():
        async with (
            served(facts=VOICED) as server,
            connect(server.url, mode="file", sound=sound) as stream,
        ):
            assert stream.hello["sound"] == sound
            showing = asyncio.create_task(show(stream, 10))
            events = [event async for event in stream]
            await showing
            heard = [event for event in events if isinstance(event, Heard)]
            assert [(piece.step, piece.continues) for piece in heard] == [(i, i > 0) for i in range(20)]
            assert [piece.t_s for piece in heard] == pytest.approx([VOICED.clock.step_s * (i + 1) for i in range(20)])
            assert {(piece.sample_rate_hz, len(piece.samples)) for piece in heard} == {(rate_hz, rate_hz * 8 // 100)}
            samples = np.concatenate([piece.samples for piece in heard])[rate_hz // 10 :]
            assert np.std(samples) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
            assert np.argmax(np.abs(np.fft.rfft(samples))) * rate_hz / len(samples) == pytest.approx(500, abs=2)
            # A tick's sound comes before its status, so that whoever waits for that has both.
            for i, event in enumerate(events):
                if isinstance(event, Status):
                    assert sum(isinstance(before, Heard) for before in events[:i]) > event.step

    run(test())


def test_sound_goes_on_after_a_cut_and_says_that_something_is_missing():
    async def test():
        async with served(facts=VOICED) as server:
            cutter = Cutter(server.url, [100_000])
            async with cutter.listening() as url, connect(url, mode="file", sound="pcm16") as stream:
                await stream.configure(hear=True)
                showing = asyncio.create_task(show(stream, 30))
                events = [event async for event in stream]
                await showing
            assert cutter.cuts == stream.reconnections == 1
            assert [event.text for event in events if isinstance(event, Word)] == [f"w{i}" for i in range(30)]
            heard = [event for event in events if isinstance(event, Heard)]
            steps = [piece.step for piece in heard]
            assert steps == sorted(set(steps))
            assert steps[-1] == 59
            gaps = [after.step for before, after in zip(heard, heard[1:]) if after.step != before.step + 1]
            assert {piece.step for piece in heard if not piece.continues} >= {steps[0], *gaps}
            assert sum(not piece.continues for piece in heard) <= 2

    run(test())


def test_settings_hold_also_over_a_cut():
    async def test():
        async with served() as server:
            cutter = Cutter(server.url, [20_000])
            async with cutter.listening() as url, connect(url, mode="file") as stream:
                await stream.configure(pad_bias=3.0)
                showing = asyncio.create_task(show(stream, 30))
                async for event in stream:
                    if isinstance(event, Notice) and event.code == "config":
                        assert event.message == "delay 3 steps, bias 3"
                await showing
                assert cutter.cuts == 1
                assert stream.hello["pad_bias"]["now"] == 3.0

    run(test())


def unheard(stream):
    """Loses what a stream sends from now on, while answers still come; gives its socket, to be closed."""

    async def nothing(_) -> None: ...

    socket = stream._socket
    stream._socket = SimpleNamespace(send_str=nothing, send_bytes=nothing)
    return socket


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_a_reset_that_was_lost_with_a_connection_is_said_again_and_one_that_came_is_not(lost: bool, cut: bool):
    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            server.pool.may_go.clear()
            for tick in range(3):
                await stream.send(tick * TICK_S, IMAGE)
            (seat,), (session,) = server.pool.all_seats, server.sessions
            await server.until(lambda: len(seat.frames) == 3)
            if cut:
                # Steps begin anew with the second picture, as after a reset; and with that of after it.
                server.pool.cuts = {1, 4}
            if lost:
                unheard(stream)
            await stream.order("reset")
            for tick in range(2):
                await stream.send(tick * TICK_S, IMAGE)
            await server.until(lambda: seat.calls.count("reset") == int(not lost))
            server.pool.may_go.set()
            # (Answers of pictures from before the reset have the times of those after it.)
            async for event in stream:
                if isinstance(event, Status) and event.t_video_s > 1.5 * TICK_S:
                    break
            assert (session.resets, seat.calls.count("reset")) == (int(not lost), int(not lost))
            for connection in server.runner.server.connections:
                connection.transport.abort()
            await server.until(lambda: stream.reconnections == 1)
            await stream.end()
            async for _ in stream:
                pass
            assert (session.resets, seat.calls.count("reset")) == (1, 1)
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [0, 1, 2, 0, 1]

    run(test())


def test_pictures_that_were_lost_with_a_connection_are_sent_again_where_the_clock_was_set_back():
    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            (seat,) = server.pool.all_seats
            for tick in range(40, 43):
                await stream.send(tick * TICK_S, IMAGE)
            await server.until(lambda: len(seat.frames) == 3)
            socket = unheard(stream)
            for tick in range(3):
                await stream.send(tick * TICK_S, IMAGE)
            await socket.close()
            await server.until(lambda: stream.reconnections == 1)
            await stream.send(3 * TICK_S, IMAGE)
            await stream.end()
            async for _ in stream:
                pass
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [40, 41, 42, 0, 1, 2, 3]

    run(test())


def test_answers_that_were_on_their_way_when_the_clock_was_set_back_are_of_no_picture_after_it():
    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            server.pool.may_go.clear()
            (seat,) = server.pool.all_seats
            for tick in range(40, 43):
                await stream.send(tick * TICK_S, IMAGE)
            await server.until(lambda: len(seat.frames) == 3)
            socket = unheard(stream)
            for tick in range(3):
                await stream.send(tick * TICK_S, IMAGE)
            server.pool.may_go.set()
            async for event in stream:
                if isinstance(event, Status) and event.t_video_s > 41.5 * TICK_S:
                    break
            await socket.close()
            await server.until(lambda: stream.reconnections == 1)
            await stream.send(3 * TICK_S, IMAGE)
            await stream.end()
            answered = [event.picture async for event in stream if isinstance(event, Status)]
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [40, 41, 42, 0, 1, 2, 3]
            assert answered == [3, 4, 5, 6]
            assert not stream._unanswered

    run(test())


def test_pictures_of_before_the_clock_was_set_back_are_not_kept_for_a_server_that_is_lost():
    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            stream.hello["keeps_streams"] = True
            (seat,) = server.pool.all_seats
            # (All are answered when the clock is set back.)
            for tick in (40, 41, 42, 0, 1):
                await stream.send(tick * TICK_S, IMAGE)
                await server.until(lambda: not stream._unanswered)
            await stream._socket.close()
            await server.until(lambda: stream.reconnections == 1)
            await stream.send(2 * TICK_S, IMAGE)
            await stream.end()
            async for _ in stream:
                pass
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [40, 41, 42, 0, 1, 2]

    run(test())


@pytest.mark.parametrize("times_s", [(10.0, 9.5), (10.0, 9.7, 9.4)], ids=["by as little", "with pictures too late"])
def test_the_clock_is_set_back_where_the_server_finds_that_it_is(times_s: tuple[float, ...]):
    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            server.pool.may_go.clear()
            (seat,) = server.pool.all_seats
            for t_s in times_s:
                await stream.send(t_s, IMAGE)
            await server.until(lambda: "reset" in seat.calls)
            assert [one.t_s for one in stream._unanswered] == [times_s[-1]]
            server.pool.may_go.set()

    run(test())


def test_a_server_of_before_that_does_not_say_of_which_reset_an_answer_is_is_understood(monkeypatch):
    begun = lambda self, resets, restarts: setattr(self, "_begun_restarts", restarts)
    monkeypatch.setattr(Session, "_on_begun", begun)

    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            (session,) = server.sessions
            session._begun_resets = None
            await stream.order("reset")
            await show(stream, 40)  # more than wait for answers
            assert [event.resets async for event in stream if isinstance(event, Status)] == [None] * 40

    run(test())


def test_a_live_stream_does_not_wait():
    async def test():
        pool = ScriptedPool()
        async with served(pool) as server, connect(server.url, mode="live") as stream:
            pool.may_go.clear()
            for tick in range(200):
                await stream.send(tick * TICK_S, IMAGE)
            pool.may_go.set()
            await stream.end()
            statuses = [event async for event in stream if isinstance(event, Status)]
            assert statuses[-1].dropped_frames + stream.left_out > 100

    run(test())


def test_refusals_are_raised_with_their_reason():
    async def test():
        async with served(ScriptedPool(slots=1)) as server, connect(server.url) as _:
            with pytest.raises(Refused, match="all 1 seats") as caught:
                async with connect(server.url):
                    pass
            assert caught.value.code == "full"
        async with served(token="a-secret-of-more-than-16") as server:
            with pytest.raises(Refused, match="another token"):
                async with connect(server.url, token="wrong"):
                    pass
            async with connect(server.url, token="a-secret-of-more-than-16") as stream:
                assert stream.hello["version"] == 1
        async with served(limits=Limits(idle_s=0.2)) as server, connect(server.url) as stream:
            with pytest.raises(Refused, match="nothing came") as caught:
                await anext(aiter(stream))
            assert caught.value.code == "idle"

    run(test())


def test_a_server_that_is_gone_is_an_error_in_bounded_time():
    async def test():
        with pytest.raises(StreamLost, match="cannot be reached"):
            async with connect("http://127.0.0.1:9"):
                pass
        async with served(limits=Limits(resume_s=0.3)) as server, contextlib.AsyncExitStack() as stack:
            cutter = Cutter(server.url, [])
            async with cutter.listening() as url:
                stream = await stack.enter_async_context(connect(url, mode="file"))
            with pytest.raises(StreamLost, match="cannot be reached"):
                await anext(aiter(stream))

    run(test())


def test_a_server_that_goes_down_says_so():
    async def test():
        async with served() as server, connect(server.url, mode="file") as stream:
            await server.sessions.drain(0.0)
            assert await anext(stream) == Notice("draining", "the server goes down in at most 0 s")
            with pytest.raises(Refused, match="going down") as caught:
                await anext(stream)
            assert caught.value.code == "shutdown"

    run(test())


def test_pictures_go_without_loss_or_as_jpeg():
    data, codec = encode(IMAGE)
    assert codec == "webp"
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), IMAGE)
    data, codec = encode(IMAGE, quality=90)
    assert codec == "jpeg"
    assert data[:2] == b"\xff\xd8"
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        encode(IMAGE.astype(np.float32))


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ws://127.0.0.1"])
def test_an_address_that_is_none_is_an_error(url: str):
    async def test():
        with pytest.raises(ValueError, match="no server's address"):
            async with client.connect(url):
                pass

    run(test())
