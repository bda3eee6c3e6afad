"""Health, metrics, feeds of words, the page's files, the world's clips, logs, and readers that do not read."""

import asyncio
import io
import json
import logging

import aiohttp
import av
import pytest

from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.monitoring import JsonFormatter
from tests.serving.scripted_pool import ScriptedPool
from tests.serving.served import run, served
from tests.written_captions import read_captions


def test_health_and_readiness_follow_the_pool_and_the_drain():
    async def test():
        async with served() as server:

            async def status(path: str) -> int:
                async with server.http.get(server.url + path) as answer:
                    return answer.status

            assert (await status("/healthz"), await status("/readyz")) == (200, 200)
            await server.sessions.drain(0.0)
            assert (await status("/healthz"), await status("/readyz")) == (200, 503)
            server.pool.running = False
            assert (await status("/healthz"), await status("/readyz")) == (503, 503)

    run(test())


def test_metrics_tell_of_the_pool_and_of_the_server():
    async def test():
        async with served(ScriptedPool(slots=1)) as server:
            async with server.stream(mode="file") as stream, server.socket() as refused:
                await refused.say(type="hello", version=1)
                await refused.hear("error")
                await stream.show(0)
                await stream.hear("word")
                await stream.show(1, b"no picture")
                await stream.hear("error")
                async with server.http.get(f"{server.url}/metrics") as answer:
                    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                    text = await answer.text()
            lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            expected = {
                "mmduplex_sessions": 1, "mmduplex_slots": 1, "mmduplex_lag_seconds": 0.5,
                "mmduplex_tokens_per_second": 12, "mmduplex_dropped_frames_total": 3,
                "mmduplex_cuts_total": 2,
                "mmduplex_recompilations_total": 0,
                'mmduplex_step_seconds_bucket{le="0.01"}': 4, "mmduplex_step_seconds_count": 5,
                "mmduplex_step_seconds_sum": 0.125, "mmduplex_frames_received_total": 2, "mmduplex_bad_frames_total": 1,
                "mmduplex_words_total": 1, "mmduplex_sessions_begun_total": 1, "mmduplex_connections": 1,
                'mmduplex_refused_total{reason="full"}': 1,
            }  # fmt: skip
            assert {name: float(lines[name]) for name in expected} == expected

    run(test())


def test_server_sent_events_repeat_the_words_and_go_on_after_an_id():
    async def test():
        async with served() as server, server.stream(mode="file") as stream:
            for tick in range(3):
                await stream.show(tick)
            url = f"{server.url}/v1/sessions/{stream.hello['session']}/words"
            key = {"key": stream.hello["feed"]}
            while len(stream.words()) < 3:
                await stream.next()
            async with (
                server.http.get(url, params=key) as all_of_it,
                server.http.get(url, params=key, headers={"Last-Event-ID": "2"}) as rest,
            ):
                assert all_of_it.headers["Content-Type"].startswith("text/event-stream")
                await stream.show(3)
                await stream.say(type="end")
                assert words_of(await all_of_it.text()) == ["w0", "w1", "w2", "w3"]
                text = await rest.text()
                assert words_of(text) == ["w2", "w3"]
                assert "id: 4\nevent: word\n" in text
                assert text.endswith("\n\n")
                assert json.loads(text.rsplit("data: ", 1)[1])["reason"] == "end"

    run(test())


def words_of(events: str) -> list[str]:
    return [json.loads(block.split("data: ")[1])["text"] for block in events.split("\n\n") if "event: word" in block]


def test_live_captions_grow_and_are_webvtt():
    async def test():
        async with served() as server, server.stream(mode="file") as stream:
            url = f"{server.url}/v1/sessions/{stream.hello['session']}/captions.vtt?key={stream.hello['feed']}"
            async with server.http.get(url) as captions:
                assert captions.headers["Content-Type"].startswith("text/vtt")
                for tick in range(30):
                    await stream.show(tick)
                # The first line is full long before the end.
                first = (await captions.content.readuntil(b"-->")).decode()
                assert first.startswith("WEBVTT\n")
                async with server.http.get(f"{url}&follow=0") as so_far:
                    part = await so_far.text()
                await stream.say(type="end")
                text = first + await captions.text()
            said = [word for cue in read_captions(text) for word, _ in cue.words]
            assert said == [f"w{i}" for i in range(30)]
            assert [word for cue in read_captions(part) for word, _ in cue.words] == said[: len(part.split("w")) - 1]

    run(test())


def test_feeds_close_what_is_open_where_a_scene_ends():
    async def test():
        pool = ScriptedPool(says=lambda tick, _: [f"w{tick}"] if tick in (0, 1, 6) else [])
        pool.cuts, pool.ends_sentence = {2}, False
        async with served(pool) as server, server.stream(mode="file") as stream:
            url = f"{server.url}/v1/sessions/{stream.hello['session']}"
            key = {"key": stream.hello["feed"]}
            async with (
                server.http.get(f"{url}/words", params=key) as words,
                server.http.get(f"{url}/captions.vtt", params=key) as captions,
            ):
                for tick in range(5):
                    await stream.show(tick)
                # The first caption is whole though nothing was said after it; events say so, too.
                first = (await captions.content.readuntil(b"W0 ")).decode()
                first += (await captions.content.readuntil(b"\n")).decode()
                assert first.endswith("w1.\n")
                events = (await words.content.readuntil(b"event: scene\n")).decode()
                assert words_of(events) == ["w0", "w1"]
                assert json.loads((await words.content.readline()).split(b": ", 1)[1]) == {"scene_s": 0.32}
                for tick in range(5, 7):
                    await stream.show(tick)
                while len(stream.words()) < 3:
                    await stream.next()
                async with server.http.get(f"{url}/captions.vtt", params=key | {"follow": "0"}) as so_far:
                    part = await so_far.text()
                await stream.say(type="end")
                text = first + await captions.text()
            for one in (text, part):
                cues = read_captions(one)
                assert [cue.text for cue in cues] == ["W0 w1.", "W6."]
                assert cues[0].end_s == pytest.approx(0.24 + 0.25)

    run(test())


def test_a_reader_that_comes_back_is_not_told_of_a_scene_of_which_it_has_words():
    async def test():
        pool = ScriptedPool(says=lambda tick, _: [f"w{tick}"] if tick in (1, 3) else [])
        pool.cuts = {2, 5}
        async with served(pool) as server, server.stream(mode="file") as stream:
            for tick in range(4):
                await stream.show(tick)
            while len(stream.words()) < 2:
                await stream.next()
            url = f"{server.url}/v1/sessions/{stream.hello['session']}/words"
            headers = {"Last-Event-ID": "2"}
            async with server.http.get(url, params={"key": stream.hello["feed"]}, headers=headers) as words:
                for tick in range(4, 7):
                    await stream.show(tick)
                events = (await words.content.readuntil(b"event: scene\n")).decode()
                assert words_of(events) == []
                assert json.loads((await words.content.readline()).split(b": ", 1)[1]) == {"scene_s": 0.8}
                await stream.say(type="end")
                assert "event: scene" not in await words.text()

    run(test())


def test_the_last_caption_ends_with_its_scene_where_the_stream_does_too():
    async def test():
        pool = ScriptedPool(says=lambda tick, _: ["w"] if tick == 0 else [])
        pool.cuts, pool.ends_sentence = {2}, False
        async with served(pool) as server, server.stream(mode="file") as stream:
            url = f"{server.url}/v1/sessions/{stream.hello['session']}/captions.vtt"
            async with server.http.get(url, params={"key": stream.hello["feed"]}) as captions:
                pool.may_go.clear()
                for tick in range(3):
                    await stream.show(tick)
                await stream.say(type="end")
                await server.until(lambda: server.pool.all_seats[0].left)
                pool.may_go.set()
                (cue,) = read_captions(await captions.text())
            assert (cue.text, cue.end_s) == ("W.", pytest.approx(0.08 + 0.25))

    run(test())


def test_feeds_need_their_key_and_are_not_many():
    async def test():
        async with served(limits=Limits(feeds=1)) as server, server.stream() as stream:
            url = f"{server.url}/v1/sessions/{stream.hello['session']}/words"
            for query in ("", "?key=wrong", f"?key={stream.hello['token']}"):
                async with server.http.get(url + query) as answer:
                    assert answer.status == 404
            async with server.http.get(f"{url}?key={stream.hello['feed']}") as first:
                assert first.status == 200
                async with server.http.get(f"{url}?key={stream.hello['feed']}") as second:
                    assert second.status == 429

    run(test())


def test_the_page_loads_nothing_from_elsewhere():
    async def test():
        async with served() as server:
            async with server.http.get(server.url) as page:
                assert page.status == 200
                policy = page.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "http" not in policy
                assert page.headers["X-Content-Type-Options"] == "nosniff"
            for path in ("/static/nothing.js", "/static/..%2Fapp.py", "/static/%2e%2e/app.py", "/nothing"):
                async with server.http.get(aiohttp.client.URL(server.url + path, encoded=True)) as answer:
                    assert answer.status == 404, path
                    assert "error" in await answer.json()

    run(test())


def test_the_world_is_a_video_that_browsers_play():
    async def test():
        async with served() as server:
            async with server.http.get(f"{server.url}/v1/world/0.mp4") as answer:
                assert answer.content_type == "video/mp4"
                data = await answer.read()
            with av.open(io.BytesIO(data)) as container:
                assert container.streams.video[0].codec_context.name == "h264"
            # Seeking asks for parts.
            async with server.http.get(f"{server.url}/v1/world/0.mp4", headers={"Range": "bytes=0-99"}) as part:
                assert part.status == 206
                assert await part.read() == data[:100]

    run(test())


def test_a_client_that_does_not_read_is_let_go_and_others_do_not_notice():
    async def test():
        # Words that soon fill what lies between the server and the client.
        pool = ScriptedPool(says=lambda tick, frame: ["x" * 20_000])
        async with (
            served(pool, limits=Limits(send_s=0.3)) as server,
            server.stream(mode="file") as other,
            server.stream(mode="file") as stalled,
        ):
            stalled.stop_reading()
            showing = asyncio.create_task(show_for_ever(stalled))
            refused = lambda: server.sessions.counters.registry.get_sample_value(
                "mmduplex_refused_total", {"reason": "slow_reader"}
            )
            await server.until(lambda: refused() == 1)
            showing.cancel()
            await other.show(0)
            assert (await other.hear("word"))["seq"] == 1
            # Its stream waits for it to come back.
            assert len(server.pool.seats) == 2

    async def show_for_ever(stream):
        tick = 0
        while True:
            await stream.show(tick)
            tick += 1

    run(test())


def test_logs_are_json_lines():
    logger = logging.Logger("a")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.info("session began", extra={"session": "abc", "source": None, "client": "two\nlines"})
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed")
    began, failed = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (began["event"], began["level"], began["session"], began["client"]) == (
        "session began", "info", "abc", "two\nlines",
    )  # fmt: skip
    assert began["time"].endswith("Z")
    assert "ValueError: why" in failed["exception"]
