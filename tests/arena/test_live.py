"""Contestants that are servers: what is taken down, with what times; what is not; and what a change makes of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from launch import arena as launch_arena
from mmduplex_jax.arena.entries import EntriesError, read_entries
from mmduplex_jax.arena.live import LiveServer, Recorder, RecordingFailed, live_server, live_servers, record
from mmduplex_jax.arena.recordings import Failure, Recording, Recordings, live_reports, video_sha256
from mmduplex_jax.arena.rules import ArenaLimits
from mmduplex_jax.arena.server import build_arena
from mmduplex_jax.arena.votes import VoteStore
from mmduplex_jax.client import Refused, info
from mmduplex_jax.serving.access import Access
from tests.arena.contest import Clock, write_said, write_video
from tests.serving.scripted_pool import FACTS, ScriptedPool
from tests.serving.served import TICK_S, run, served

VIDEO_S = 0.6
TICKS = 4  # of the clock in 0.6 s
TOKEN = "a-secret-of-more-than-16"


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    """A machine that runs tests may be as slow as it likes; one test says what becomes of that."""
    monkeypatch.setattr("mmduplex_jax.arena.live._LATE_S", 60.0)
    monkeypatch.setattr("mmduplex_jax.arena.live._END_S", 60.0)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mp4", VIDEO_S)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("a=http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("a=ws://127.0.0.1:8080/v1/stream", "http://127.0.0.1:8080"),
        ("a=wss://example.org/commentary/", "https://example.org/commentary"),
        ("a=https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_addresses_of_servers(text: str, url: str):
    assert live_server(text, {}) == LiveServer("a", url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1:8080", "NAME=ADDRESS is expected"),
        ("../x=http://127.0.0.1", "NAME=ADDRESS is expected"),
        ("..=http://127.0.0.1", "NAME=ADDRESS is expected"),
        ("a=file:///etc/passwd", "an address of launch.serve is expected"),
        ("a=http://", "an address of launch.serve is expected"),
        ("a=http://h/?token=b", "an address of launch.serve is expected"),
        ("a=http://h:port", "is no address"),
        ("a=http://user:secret@h", "a token goes into a file"),
    ],
)
def test_what_is_no_address(text: str, said: str):
    with pytest.raises(ValueError, match=said) as caught:
        live_server(text, {})
    assert "secret" not in str(caught.value)


def test_a_server_is_shown_a_video_at_its_own_pace(film: Path):
    async def test():
        async with served(token=TOKEN) as server:
            contestant = LiveServer("a", server.url, TOKEN)
            facts = await info(server.url, TOKEN)
            begun_s = asyncio.get_running_loop().time()
            recording = await record(contestant, film, facts)
            took_s = asyncio.get_running_loop().time() - begun_s
            (seat,) = server.pool.all_seats
            assert [t_s for t_s, _ in seat.frames] == pytest.approx([tick * TICK_S for tick in range(TICKS)])
            assert seat.live
        assert took_s >= (TICKS - 1) * TICK_S
        assert [text for text, _, _ in recording.words] == [f"w{tick}" for tick in range(TICKS)]
        for tick, (_, t_s, emit_s) in enumerate(recording.words):
            assert t_s == pytest.approx(tick * TICK_S)
            # The model says it a step later, and never does a viewer have it sooner.
            assert emit_s >= t_s + FACTS.clock.step_s - 1e-3
        assert (recording.pictures, recording.left_out) == (TICKS, 0)

    run(test())


def test_words_that_come_late_are_late(film: Path):
    async def test():
        async with served() as server:
            facts = await info(server.url)
            server.pool.may_go.clear()  # the model hangs for a while
            asyncio.get_running_loop().call_later(1.5, server.pool.may_go.set)
            recording = await record(LiveServer("a", server.url), film, facts)
        assert len(recording.words) == TICKS
        # (The server says 0.08 s and so on; from the first picture on it was nearly a second and a half.)
        assert all(emit_s > 1.0 for _, _, emit_s in recording.words)

    run(test())


async def failure(url: str, film: Path, token: str | None = None, facts: dict | None = None) -> RecordingFailed:
    facts = facts or await info(url, token)
    with pytest.raises(RecordingFailed) as caught:
        await record(LiveServer("a", url, token), film, facts)
    return caught.value


def test_what_refuses_or_breaks_off_is_no_recording(film: Path, tmp_path: Path):
    async def test():
        async with served(ScriptedPool(slots=0)) as server:
            assert (await failure(server.url, film)).code == "full"
            broken = tmp_path / "broken.mp4"
            broken.write_bytes(b"no video" * 100)
            server.pool.slots = 1
            assert (await failure(server.url, broken)).code == "bad_video"
            facts = await info(server.url)
        assert (await failure(server.url, film, facts=facts)).code == "unreachable"
        async with served(token=TOKEN) as server:
            refused = await failure(server.url, film, "another-secret-of-16", facts)
            assert (refused.code, "another token" in str(refused)) == ("http", True)
        async with served() as server:
            ending = asyncio.create_task(_end_the_first(server.sessions))
            assert (await failure(server.url, film)).code == "shutdown"
            await ending

    run(test())


async def _end_the_first(sessions) -> None:
    while not (begun := list(sessions)):
        await asyncio.sleep(0.01)
    for session in begun:
        session.end("shutdown", "the server goes down")


def test_a_connection_that_drops_is_no_recording(film: Path):
    """The client takes the stream up again and loses nothing; but a viewer waited for these words."""

    async def test():
        async with served() as server:

            def cut() -> None:
                for connection in server.runner.server.connections:
                    connection.transport.abort()

            asyncio.get_running_loop().call_later(0.3, cut)
            assert (await failure(server.url, film)).code == "dropped"

    run(test())


def test_what_this_machine_is_too_slow_for_is_no_recording(film: Path, monkeypatch):
    monkeypatch.setattr("mmduplex_jax.arena.live._LATE_S", -1.0)  # it is always later than a second too soon

    async def test():
        async with served() as server:
            assert (await failure(server.url, film)).code == "late"

    run(test())


FACTS_SAID = {
    "model": "m", "clock": {"step_hz": 12.5, "video_stride": 2}, "frame_px": 32, "fit": "crop", "fingerprint": "1",
    "delay_steps": {"default": 0, "min": 0, "max": 1},
}  # fmt: skip
HELLO = FACTS_SAID | {
    "type": "hello", "version": 1, "session": "s", "token": "t", "resumed": False, "missed_words": 0, "seq": 0,
    "t_s": None, "limits": {"resume_s": 0.1}, "mode": "live", "delay_steps": {"now": 0, "min": 0, "max": 1},
    "pad_bias": 0.0,
}  # fmt: skip
WORD = {"type": "word", "seq": 1, "text": "red", "t_video_s": 0.0, "t_emit_s": 0.08}


@contextlib.asynccontextmanager
async def saying(*messages: dict | str, bye: bool = True) -> AsyncIterator[str]:
    """A server that says all this at the first picture, whatever it is shown."""

    async def stream(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("mmduplex.v1",))
        await socket.prepare(request)
        await socket.receive()
        await socket.send_str(json.dumps(HELLO))
        await socket.receive()
        for message in messages:
            await socket.send_str(message if isinstance(message, str) else json.dumps(message))
        async for message in socket:
            if bye and message.type is aiohttp.WSMsgType.TEXT:
                break
        await socket.send_str(json.dumps({"type": "bye", "reason": "end", "message": "", "seq": 1, "resumable": False}))
        return socket

    app = web.Application()
    app.router.add_get("/v1/stream", stream)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([WORD | {"t_emit_s": 1e9}], "bad_words"),
        (['{"type": "word", "seq": 1, "text": "red", "t_video_s": 0, "t_emit_s": NaN}'], "bad_words"),
        ([WORD | {"t_emit_s": "soon"}], "bad_words"),
        ([WORD | {"text": "red\nblue"}], "bad_words"),
        ([WORD | {"text": 7}], "bad_words"),
        ([WORD | {"text": "r" * 201}], "bad_words"),
        ([WORD | {"seq": seq} for seq in range(1, 300)], "bad_words"),
        ([WORD | {"seq": 3}], "missed"),
        (["no JSON"], "bad_message"),
        (['{"type": "word", "seq": 1}'], "bad_message"),
        (["[1]"], "no_end"),
    ],
)
def test_what_no_commentator_says_is_no_recording(film: Path, messages: list, code: str):
    async def test():
        # ("[1]" is a message that nobody knows, which is ignored; and then the end never comes.)
        async with saying(*messages, bye=code != "no_end") as url:
            assert (await failure(url, film, facts=FACTS_SAID)).code == code

    if code == "no_end":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmduplex_jax.arena.live._END_S", 0.2)
            run(test())
    else:
        run(test())


@pytest.mark.parametrize(
    "changes", [{"clock": None}, {"clock": {"step_hz": 1e9, "video_stride": 1}}, {"frame_px": 10**9}, {"model": 7}]
)
def test_no_model_is_believed_to_have_such_a_clock_or_frames(film: Path, changes: dict):
    async def test():
        assert (await failure("http://127.0.0.1:1", film, facts=FACTS_SAID | changes)).code == "bad_answer"

    run(test())


def test_redirects_are_not_followed(film: Path):
    """A server must not lead the arena to addresses that only the arena can reach."""

    async def test():
        reached = []

        async def inside(request: web.Request) -> web.Response:
            reached.append(request.path)
            return web.json_response(FACTS_SAID)

        private = web.Application()
        private.router.add_get("/{path:.*}", inside)
        async with TestServer(private) as target:
            outside = web.Application()

            async def away(request: web.Request) -> web.Response:
                raise web.HTTPFound(target.make_url(request.path))

            outside.router.add_get("/{path:.*}", away)
            async with TestServer(outside) as server:
                url = str(server.make_url("")).rstrip("/")
                with pytest.raises(Refused, match="redirects to another address, which is not followed"):
                    await info(url)
                refused = await failure(url, film, facts=FACTS_SAID)
                assert (refused.code, "redirects" in str(refused)) == ("http", True)
        assert not reached

    run(test())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos; amber has captions of both, and the other contestant is a server."""
    (tmp_path / "arena" / "videos").mkdir(parents=True)
    for stem in ("beach", "street"):
        write_video(tmp_path / "arena" / "videos" / f"{stem}.mp4", VIDEO_S)
        write_said(tmp_path / "arena" / "contestants" / "amber" / f"{stem}.json", [(0.2, "a"), (0.4, "wave")])
    return tmp_path / "arena"


async def until(condition) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


def test_votes_begin_when_a_video_is_recorded(root: Path):
    async def test():
        async with served(ScriptedPool(slots=0)) as server:
            recorder = Recorder(root, [LiveServer("birch", server.url)], again_s=0.1)
            await recorder.check()
            with contextlib.closing(VoteStore(root / "votes.sqlite3", seed="s", now=Clock())) as store:
                app = build_arena(
                    recorder.entries(), store, Access("127.0.0.1", None), ArenaLimits(requests_hz=1e3), live=recorder
                )
                async with TestClient(TestServer(app), cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
                    async with client.post("/v1/ballots") as answer:
                        assert (answer.status, "being recorded" in await answer.text()) == (503, True)
                    failures = root / "live" / "birch" / "failures.jsonl"
                    await until(failures.exists)
                    server.pool.slots = 8
                    await until(lambda: Recordings(root, "birch").number() == 2)
                    async with asyncio.timeout(60):
                        # (What is kept is shown when the folder has been read again.)
                        while (answer := await client.post("/v1/ballots")).status == 503:
                            await asyncio.sleep(0.01)
                    ballot = await answer.json()
                    assert answer.status == 200
                    words = {side: [text for _, text in ballot[side]] for side in ("left", "right")}
                    assert sorted(words.values()) == [["a", "wave"], [f"w{tick}" for tick in range(TICKS)]]
                    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
                    async with asyncio.timeout(60):
                        # (A busy machine shows the board of before until the next is counted.)
                        board = {"live": []}
                        while [one["recorded"] for one in board["live"]] != [2]:
                            await asyncio.sleep(0.1)
                            board = await (await client.get("/v1/leaderboard")).json()
        (live,) = board["live"]
        assert (live["name"], live["recorded"], live["waiting"]) == ("birch", 2, [])
        assert live["failures"]["beach"]["full"] >= 1
        assert "beach: " in board["html"]
        assert server.url not in json.dumps(board)  # where it is concerns no voter

    run(test())


def test_another_model_or_video_is_recorded_anew(root: Path):
    async def test():
        facts = SimpleNamespace(**vars(FACTS))
        async with served(facts=facts) as server:
            recorder = Recorder(root, [LiveServer("birch", server.url)], again_s=0.1)
            changed = asyncio.Event()

            async def recorded() -> None:
                changed.set()

            async def record_all() -> None:
                running = asyncio.create_task(recorder.run(recorded))
                await until(lambda: Recordings(root, "birch").number() == 2)
                running.cancel()

            await record_all()
            assert changed.is_set()
            before = {video.stem: video.commentaries["birch"] for video in recorder.entries().videos.values()}
            seats = len(server.pool.all_seats)
            await recorder.check()
            assert len(recorder.entries().videos) == 2  # nothing has changed
            # The video is another one: what was said of the former is set aside.
            write_video(root / "videos" / "beach.mp4", VIDEO_S + 0.3)
            await recorder.check()
            assert [path.name for path in (root / "former" / "birch-1").iterdir()] == ["beach.json"]
            assert list(recorder.entries().videos) == ["street"]
            await record_all()
            assert len(server.pool.all_seats) == seats + 1
            again = recorder.entries().videos["beach"].commentaries["birch"]
            assert len(again.words) > len(before["beach"].words)
            # The model is: everything is.
            facts.fingerprint = "6" * 64
            await recorder.check()
            assert len(list((root / "former" / "birch-2").iterdir())) == 2
            assert not recorder.entries().videos
        # A server that is away keeps what is recorded, and one outage is one failure.
        Recordings(root, "birch").keep("beach", Recording((("red", 0.0, 0.1),), 4, 0), {}, "")
        await recorder.check()
        running = asyncio.create_task(recorder.run(recorded))
        await asyncio.sleep(0.5)
        running.cancel()
        assert list(recorder.entries().videos) == ["beach"]
        assert live_reports(root, ["beach", "street"])[0].failures == {"": {"unreachable": 1}}

    run(test())


def test_recordings_are_contestants_without_their_server_too(root: Path):
    with pytest.raises(EntriesError, match="an arena needs two contestants"):
        read_entries(root)
    sha256 = video_sha256(root / "videos" / "beach.mp4")
    Recordings(root, "birch").keep("beach", Recording((("red", 0.0, 0.1),), 4, 1), FACTS_SAID, sha256)
    entries = read_entries(root)
    assert entries.contestants == ("amber", "birch")
    assert entries.videos["beach"].commentaries["birch"].words == ((0.1, "red"),)
    (root / "contestants" / "birch").mkdir()
    with pytest.raises(EntriesError, match="each needs its own name"):
        read_entries(root)


def test_names_are_not_taken_twice(root: Path):
    servers = [LiveServer(name, "http://127.0.0.1:1") for name in ("birch", "birch")]
    with pytest.raises(ValueError, match="the name birch is taken"):
        Recorder(root, servers)
    with pytest.raises(ValueError, match="the name amber is taken"):
        Recorder(root, [LiveServer("amber", "http://127.0.0.1:1")])


def test_files_that_are_no_recordings_are_said(root: Path):
    recordings = Recordings(root, "birch")
    recordings.failed(Failure("beach", "full", "all seats are taken"))
    (root / "live" / "birch" / "beach.json").write_text('{"words": []}')
    with pytest.raises(ValueError, match="beach.json: is no recording of a server; remove it"):
        recordings.set_aside({}, {})
    with (root / "live" / "birch" / "failures.jsonl").open("a") as file:
        file.write("half a li")
    with pytest.raises(ValueError, match=r"failures.jsonl:2: is no failure of a recording"):
        live_reports(root, ["beach"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--live=birch"], "an address of launch.serve is expected"),
        (["--live=amber=http://127.0.0.1:1"], "the name amber is taken"),
        (["--live_token_file=birch"], "NAME=FILE is expected"),
        (["--live_token_file=birch={token}"], "there is no --live=birch=ADDRESS"),
    ],
)
def test_flags_that_cannot_be_are_one_line(root: Path, tmp_path: Path, capsys, flags: list[str], said: str):
    (tmp_path / "token").write_text(TOKEN)
    flags = [flag.format(token=tmp_path / "token") for flag in flags]
    assert launch_arena.main([f"--root={root}", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (root / "votes.sqlite3").exists()


def test_the_token_of_voters_is_shown_to_no_server(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MMDUPLEX_TOKEN", TOKEN)
    (tmp_path / "token").write_text("of the server at b\n")
    servers = live_servers(["a=http://a", "b=http://b"], [f"b={tmp_path / 'token'}"])
    assert [(one.name, one.token) for one in servers] == [("a", None), ("b", "of the server at b")]
