"""A careful attacker: pictures that take long, requests that are no requests, tables that grow, logs nobody reads."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from mmduplex_jax.serving.connection import WireGone, converse
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.monitoring import BackgroundHandler, Counters
from mmduplex_jax.serving.pictures import PictureDecoder, PictureRefused, vp8_size
from mmduplex_jax.serving.protocol import Frame, frame_bytes
from mmduplex_jax.serving.sessions import Sessions
from mmduplex_jax.serving.sources import Sources
from tests.serving.scripted_pool import FACTS, ScriptedPool
from tests.serving.served import PATIENCE_S, TICK_S, Server, Socket, decoders, picture, run, served
from tests.serving.slow_pictures import h264_keyframe, h264_slow_picture


async def send_h264(stream: Socket, tick: int, data: bytes, *, keyframe: bool) -> None:
    await stream.socket.send_bytes(frame_bytes(Frame(tick, tick * TICK_S, "h264", keyframe, data)))


def test_a_picture_that_takes_long_ends_its_decoder_and_no_other_waits():
    """Unbounded, each of the two would decode for several seconds."""

    async def test():
        async with (
            served() as server,
            server.stream(mode="file") as other,
            server.stream() as bad,
            server.stream() as worse,
        ):
            for stream in (bad, worse):
                await send_h264(stream, 0, h264_keyframe(), keyframe=True)
                await send_h264(stream, 1, h264_slow_picture(8000), keyframe=False)
            for tick in range(20):
                await other.show(tick)
            for _ in range(20):
                await other.hear("status")
            for stream in (bad, worse):
                error = await stream.hear("error")
                assert (error["code"], error["fatal"]) == ("decoder_lost", False)
                assert "picture 1 took more than 0.5 s to decode" in error["message"]
                await send_h264(stream, 2, h264_keyframe(), keyframe=True)
                while (await stream.hear("status"))["t_video_s"] < 2 * TICK_S - 1e-6:
                    pass

    run(test())


def test_the_decoders_nursery_is_begun_anew_when_it_was_killed():
    async def test():
        async with served(limits=Limits(decode_s=1.0)) as server:
            processes = server.sessions._decoders
            os.killpg(processes._nursery.pid, signal.SIGKILL)
            processes._nursery.wait()
            async with server.stream(mode="file") as stream:
                await stream.show(0)
                await stream.hear("status")

    run(test())


HELLO = {"type": "offer", "sdp": ""}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/json; charset=punycode"}, b"a" * 60_000),
        ({"Content-Type": "application/json; charset=no-such-charset"}, json.dumps(HELLO).encode()),
        ({"Content-Type": "application/json; charset=utf-16"}, json.dumps(HELLO).encode("utf-16")),
        ({"Content-Type": "application/json"}, b'{"sdp": ' + b"9" * 5000 + b"}"),
        ({"Content-Type": "application/json"}, b"\xff\xfe"),
        ({"Content-Type": "application/json"}, b'{"type": "offer", "sdp": "\\ud800"}'),
        ({"Content-Type": "nothing/"}, b"[" * 60_000),
    ],
)
def test_no_body_is_more_than_bad_json(headers: dict[str, str], body: bytes, caplog):
    async def test():
        async with served() as server:
            began_s = time.process_time()
            async with server.http.post(f"{server.url}/v1/webrtc", data=body, headers=headers) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]
            assert time.process_time() - began_s < 0.5  # punycode's decoder took 1.3 s
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    run(test())


@pytest.mark.parametrize("value", ["%ff", "%ed%a0%80", "%00", "x" * 1000])
def test_no_key_of_a_feed_is_more_than_a_wrong_one(value: str, caplog):
    async def test():
        async with served() as server, server.stream() as stream:
            for url in (f"{stream.hello['session']}/words?key={value}", f"{value}/words?key={value}"):
                url = aiohttp.client.URL(f"{server.url}/v1/sessions/{url}", encoded=True)
                async with server.http.get(url) as answer:
                    assert answer.status in (400, 404)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    run(test())


def test_an_offer_of_countless_candidates_is_refused():
    sdp = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"
    sdp += "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n" * 65

    async def test():
        async with served() as server:
            offer = {"type": "offer", "sdp": sdp}
            async with server.http.post(f"{server.url}/v1/webrtc", json=offer) as answer:
                assert answer.status == 400
                assert "64 candidates" in (await answer.json())["error"]

    run(test())


@pytest.mark.parametrize("called_keyframe", [True, False])
def test_a_keyframe_of_vp8_is_refused_by_its_header(called_keyframe: bool):
    large = b"\x10\x00\x00\x9d\x01\x2a" + (8192).to_bytes(2, "little") * 2 + b"\0" * 30
    assert vp8_size(large) == (8192, 8192)
    decoder = PictureDecoder(32, "crop", 1920 * 1200)
    with pytest.raises(PictureRefused, match="8192×8192"):
        decoder.take(Frame(None, 0.0, "vp8", called_keyframe, large))
    assert decoder._video is None, "a decoder was begun for it"


PATHS = ("/", "/static/page.js", "/healthz", "/readyz", "/metrics", "/v1/info", "/v1/stream", "/v1/sessions/{id}/words")
PATHS += ("/v1/sessions/{id}/captions.vtt", "/nothing", "/v1/webrtc")


@pytest.mark.parametrize("path", PATHS)
def test_head_answers_without_a_body_and_the_next_request_is_answered(path: str):
    async def test():
        async with served() as server, server.stream(mode="file") as stream:
            await stream.show(0)
            await stream.hear("word")
            query = f"?key={stream.hello['feed']}" if "sessions" in path else ""
            at = path.replace("{id}", stream.hello["session"]) + query
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
            head = "HTTP/1.1\r\nHost: localhost\r\n\r\n"
            writer.write(f"HEAD {at} {head}GET /healthz {head}".encode())
            async with asyncio.timeout(PATIENCE_S):
                first = await reader.readuntil(b"\r\n\r\n")
                status = int(first.split()[1])
                assert status in (200, 404, 405)
                second = await reader.readline()
                assert second.startswith(b"HTTP/1.1 200"), (first, second)
            (session,) = server.sessions
            assert session.readers == 0
            writer.close()

    run(test())


class GoneWire:
    """A connection that greets, and is gone with what it was told."""

    track = None

    def __init__(self, *messages: str):
        self._messages = list(messages)

    async def receive(self) -> str:
        if not self._messages:
            raise WireGone("gone")
        return self._messages.pop(0)

    async def send(self, message: str | bytes) -> None:
        await asyncio.sleep(0)

    async def close(self, code: int, reason: str) -> None:
        pass


def sized(one: object) -> dict[str, int]:
    """How much is in each of an object's tables."""
    return {name: len(value) for name, value in vars(one).items() if isinstance(value, dict | set | list)}


def test_no_table_grows_with_sessions():
    async def test():
        pool = ScriptedPool()
        clock_s = 0.0
        sessions = Sessions(pool, FACTS, Limits(), Counters(), Sources(), decoders(), now=lambda: clock_s)
        before, tasks = sized(sessions), len(asyncio.all_tasks())
        end = '{"type":"end"}'
        for number in range(10_000):
            pool.all_seats.clear()
            # Half of them are ended by their clients, half are left behind.
            await converse(GoneWire('{"type":"hello","version":1}', *[end][: number % 2]), sessions)
            if number % 64 == 63:
                clock_s += 40.0
                sessions.sweep()
                while pool.seats:
                    await asyncio.sleep(0)
        clock_s += 40.0
        sessions.sweep()
        async with asyncio.timeout(PATIENCE_S):
            while pool.seats or len(sessions):
                await asyncio.sleep(0.001)
        clock_s += 40.0
        sessions.sweep()
        await asyncio.sleep(0.01)
        assert sized(sessions) == before
        assert len(asyncio.all_tasks()) == tasks
        loop = asyncio.get_running_loop()
        assert len(loop._scheduled) < 200, "timers are left"
        families = sum(len(family.samples) for family in sessions.counters.registry.collect())
        assert families < 60
        await sessions.close()
        pool.close()

    run(test())


def test_a_log_that_nobody_reads_stops_nobody():
    read, written = os.pipe()
    stream = os.fdopen(written, "w", buffering=1)
    handler = BackgroundHandler(logging.StreamHandler(stream), waiting_max=100)
    logger = logging.Logger("a")
    logger.addHandler(handler)
    began_s = time.monotonic()
    for _ in range(2000):
        logger.info("x" * 1000)
    assert time.monotonic() - began_s < PATIENCE_S
    assert handler.dropped > 1500
    got = b""
    os.set_blocking(read, False)
    deadline_s = time.monotonic() + PATIENCE_S
    while b"were dropped" not in got and time.monotonic() < deadline_s:
        try:
            got += os.read(read, 1 << 16)
        except BlockingIOError:
            time.sleep(0.001)
    assert b"log lines were dropped" in got
    os.close(read)


SERVER = """
import asyncio, sys
from mmduplex_jax.serving import listen, sockets
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.app import build_app
from mmduplex_jax.serving.monitoring import logs
from mmduplex_jax.serving.sources import Sources
from tests.serving.scripted_pool import FACTS, ScriptedPool

async def main():
    app = build_app(ScriptedPool(), FACTS, Access("127.0.0.1", None), sources=Sources([sys.argv[1]]))
    stop = sockets.stop_at_signals(0.5)
    say = lambda port: print(port, flush=True)
    await listen.serve(app, "127.0.0.1", 0, stop=stop, drain_s=0.5, connections_max=8, on_listening=say)

with logs("json"):
    asyncio.run(main())
sockets.exit_now(0)
"""


def test_it_exits_within_the_drain_time_whatever_hangs():
    """One stream's picture is being decoded, another's source is an address that answers and sends nothing."""

    async def test():
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
        address = f"tcp://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        command = [sys.executable, "-c", SERVER, address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        url = f"http://127.0.0.1:{(await asyncio.to_thread(process.stdout.readline)).decode().strip()}"
        async with aiohttp.ClientSession() as http:
            server = Server(url, None, None, None, http)
            async with server.stream() as stream, server.stream(source=address):
                await send_h264(stream, 0, h264_keyframe(), keyframe=True)
                await send_h264(stream, 1, h264_slow_picture(8000), keyframe=False)
                await asyncio.sleep(0.2)
                process.send_signal(signal.SIGTERM)
                began_s = time.monotonic()
                code = await asyncio.to_thread(process.wait, PATIENCE_S)
        process.stdout.close()
        silent.close()
        assert code == 0
        # The drain, and what it takes to close where others compute too; what hangs does so for a minute.
        assert time.monotonic() - began_s < 0.5 + 20.0

    run(test())


@pytest.mark.parametrize("zero_s", [0.0, 1.8e9])
@pytest.mark.parametrize("back_s", [1.0, 3600.0])
def test_a_clock_that_is_set_back_is_told_and_the_stream_goes_on(zero_s: float, back_s: float):
    if zero_s < back_s:
        zero_s += back_s

    async def test():
        async with served() as server, server.stream(mode="live") as stream:
            ticks = FACTS.clock.ticks_in(zero_s)
            for tick in range(3):
                await stream.show(ticks + tick)
                await stream.hear("status")
            back = FACTS.clock.ticks_in(FACTS.clock.tick_time_s(ticks + 2) - back_s)
            await stream.show(back)
            error = await stream.hear("error")
            assert (error["code"], error["fatal"]) == ("clock_set_back", False)
            status = await stream.hear("status")
            assert status["t_video_s"] == pytest.approx(back * TICK_S)
            await stream.show(back + 1)
            assert (await stream.hear("status"))["t_video_s"] == pytest.approx((back + 1) * TICK_S)
            assert server.pool.all_seats[0].calls == ["reset"]

    run(test())


def test_pictures_out_of_order_and_gaps_are_told_at_once():
    async def test():
        async with served() as server, server.stream(mode="live") as stream:
            for number, t_s in enumerate([10.08, 10.24, 10.23, 10.22, 10.4, 3610.4, 3610.56]):
                await stream.socket.send_bytes(frame_bytes(Frame(number, t_s, "jpeg", True, picture(number))))
            late, gap = await stream.hear("error"), await stream.hear("error")
            assert (late["code"], gap["code"]) == ("late_frame", "time_gap")
            assert "picture 2 is not later" in late["message"]
            assert "3600.000 s after" in gap["message"]
            while (status := await stream.hear("status"))["t_video_s"] < 3610.0:
                pass
            assert status["late_frames"] == 2

    run(test())
