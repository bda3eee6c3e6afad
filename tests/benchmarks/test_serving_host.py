"""What a stream takes of its host is counted whole, and its server's model does nothing."""

import asyncio
import json
import os
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from benchmarks import serving, serving_host
from benchmarks.turns import cpu_s
from data_pipelines.decode import VideoReader
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.protocol import parse_frame
from mmduplex_jax.serving.sources import Sources
from tests.serving.scripted_pool import FACTS, ScriptedPool
from tests.serving.served import Server, run, served


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> serving_host.Film:
    """Six seconds or more, of a clip of four and a half."""
    folder = tmp_path_factory.mktemp("film")
    clip = write_clip_files(folder, WorldConfig(clip_s=4.5), 0, 0, size_px=32).video
    return serving_host.film(clip, folder, (64, 48, 50_000), 6.0)


def test_a_film_is_as_long_as_asked_for_and_goes_on(film: serving_host.Film):
    ticks = [t_s for _, t_s, _ in VideoReader(film.path, Clock(), 16)]
    assert ticks == pytest.approx(np.arange(len(ticks)) * Clock().tick_s)
    assert ticks[-1] == pytest.approx(film.length_s, abs=1.5 * Clock().tick_s)
    assert film.length_s >= 6.0
    packets = list(serving_host._packets(film))
    assert len(packets) == pytest.approx(film.length_s * serving_host.FPS)
    assert packets[0][1].is_keyframe
    assert [t_s for t_s, _ in packets] == pytest.approx(np.arange(len(packets)) / serving_host.FPS, abs=1e-4)


def test_a_jpeg_a_tick(film: serving_host.Film):
    times_s, messages = zip(*serving_host.jpegs(film, Clock(), (16, 16)))
    messages = [parse_frame(message) for message in messages]
    assert times_s == pytest.approx([message.t_s for message in messages], abs=1e-6)
    assert [message.t_s for message in messages] == pytest.approx(np.arange(len(messages)) * Clock().tick_s, abs=1e-6)
    assert {message.codec for message in messages} == {"jpeg"}


def test_processes_are_counted():
    before_s = cpu_s(os.getpid())
    while time.process_time() < before_s + 0.05:
        pass
    assert cpu_s(os.getpid()) > before_s
    assert serving_host.private_bytes(os.getpid()) > 10**6
    assert os.getpid() not in serving_host.decoders_of(os.getpid())


def test_a_model_that_does_nothing_reports_every_slot():
    class Output(NamedTuple):
        token: Any
        report: Any

    class Model:
        config = None

        def live_step(self, params, state, frame, *, cap):
            return state + 1, Output(state.astype(int) + 7, {"valid": frame > cap})

    idle = serving_host.Idle(Model())
    step = jax.jit(lambda state, frame: idle.live_step({}, state, frame, cap=np.zeros(3, np.int32)))
    state, output = step(np.zeros(3, np.float32), np.zeros(3, np.int32))
    assert np.array_equal(state, np.zeros(3))
    assert np.array_equal(output.token, np.zeros(3))
    assert output.report["valid"].dtype == bool
    assert output.report["valid"].all()


def client_of(way: str, film: serving_host.Film, server: Server, told: serving_host.Told) -> Coroutine[Any, Any, None]:
    """A client that sends a film in one of the benchmark's ways."""
    hello = {"type": "hello", "version": 1, "config": {"mode": "live" if way == "webrtc" else "file"}}
    if way == "webrtc":
        return serving_host.by_webrtc(server.url, server.http, told, hello, film)
    messages = serving_host.jpegs(film, FACTS.clock, (16, 16)) if way == "jpeg" else ()
    if way == "source":
        hello["config"]["source"] = str(film.path)
    return serving_host.by_websocket(server.url, server.http, told, hello, messages)


async def come_and_go(way: str, film: serving_host.Film, server: Server) -> None:
    """A client's stream, until five ticks are answered."""
    traffic = serving_host.Traffic()
    client = asyncio.create_task(client_of(way, film, server, traffic.stream()))
    await server.until(lambda: traffic.ticks >= 5 or client.done())
    traffic.leave()
    await client
    assert traffic.ticks >= 5
    assert traffic.received_bytes > 0
    assert (traffic.sent_bytes > 0) == (way != "source")


@pytest.mark.parametrize("way", ["jpeg", "webrtc", "source"])
def test_clients_that_leave_leave_their_places(film: serving_host.Film, way: str):
    if way == "webrtc":
        pytest.importorskip("aiortc", reason="aiortc is not installed (the extra `live` has it)")

    async def test():
        # Nobody's place is free by itself within the test.
        pool, sources = ScriptedPool(slots=1), Sources([str(film.path)])
        async with served(pool, limits=Limits(resume_s=1000.0), sources=sources) as server:
            await come_and_go(way, film, server)
            assert not pool.seats
            await come_and_go(way, film, server)
            assert len(pool.all_seats) == 2

    run(test())


@pytest.mark.parametrize("way", ["jpeg", "webrtc", "source"])
def test_a_client_that_is_refused_says_why(film: serving_host.Film, way: str):
    if way == "webrtc":
        pytest.importorskip("aiortc", reason="aiortc is not installed (the extra `live` has it)")

    async def test():
        sources = Sources([str(film.path)])
        async with served(ScriptedPool(slots=1), sources=sources) as server, server.stream():
            with pytest.raises(ConnectionError, match="refused a stream: full, all 1 seats are taken"):
                await client_of(way, film, server, serving_host.Traffic().stream())

    run(test())


def test_a_picture_of_a_track_waits_for_the_answer_but_not_for_ever(monkeypatch):
    told = serving_host.Traffic().stream()
    told.take(json.dumps({"type": "status", "t_video_s": 1.0}))
    ahead_s = serving_host._TRACK_AHEAD_S

    async def test():
        await serving_host._due(told, 1.0 + ahead_s, 0.0)
        waiting = asyncio.create_task(serving_host._due(told, 1.1 + ahead_s, 0.0))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        told.take(json.dumps({"type": "status", "t_video_s": 1.2}))
        await waiting
        monkeypatch.setattr(serving_host, "_UNANSWERED_S", 0.05)
        await serving_host._due(told, 100.0, 0.0)

    run(test())


@pytest.mark.slow
def test_a_short_run_counts_every_way_to_send(film: serving_host.Film, tmp_path):
    pytest.importorskip("aiortc", reason="aiortc is not installed (the extra `live` has it)")
    path = tmp_path / "host.json"
    flags = ["--parts=host", "--host_streams=2", "--host_s=2", f"--video={film.path}", f"--json={path}"]
    assert serving.main(flags) == 0
    found = json.loads(path.read_text())["host"]["sent"]
    assert set(found) == {
        "jpeg",
        *(f"{way} {size}" for way in ("webrtc", "source") for size in ("640x360", "1280x720")),
    }
    for row in found.values():
        assert row["server_cores"] > 0
        assert row["decoder_cores"] > 0
        assert row["out_bytes_per_s"] > 100
        assert row["in_bytes_per_s"] > 1000
