"""What the server may watch by itself: only what lies under what was allowed."""

import asyncio
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.video_source import redact
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.protocol import ProtocolError
from mmduplex_jax.serving.sources import Sources
from tests.data_pipelines.numbered_video import write_numbered
from tests.serving.faulty_decoders import faulty
from tests.serving.served import run, served


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos2").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    return Sources([str(tmp_path / "videos"), "rtsp://camera.local/", "https://example.org:8443/live/"])


@pytest.mark.parametrize(
    "source",
    [
        "{tmp}/videos/a.mp4",
        "{tmp}/videos/deep/a.mp4",
        "{tmp}/videos/deep/../a.mp4",
        "rtsp://camera.local/stream?quality=high",
        "RTSP://CAMERA.local/stream",
        "https://example.org:8443/live/a.m3u8",
    ],
)
def test_what_is_allowed(sources: Sources, tmp_path: Path, source: str):
    sources.check(source.format(tmp=tmp_path))


@pytest.mark.parametrize(
    "source",
    [
        "{tmp}/secret.mp4",
        "{tmp}/videos/../secret.mp4",
        "{tmp}/videos/link.mp4",  # leads out of the folder
        "{tmp}/videos2/a.mp4",
        "{tmp}",
        "a.mp4",
        "0",  # a camera of the server's
        "",
        "file://{tmp}/videos/a.mp4",
        "concat:{tmp}/videos/a.mp4|{tmp}/secret.mp4",
        "rtsp://camera.local.evil.example/",
        "rtsp://camera.local@evil.example/",
        "rtsp://camera.local:8554/stream",
        "rtsps://camera.local/stream",
        "http://camera.local/stream",
        "https://example.org:8443/live/../private/a.m3u8",
        "https://example.org:8443/live/%2e%2e/private/a.m3u8",
        "https://example.org:8443/live\\..\\private",
        "https://example.org:8443/livestock",
        "https://example.org/live/a.m3u8",
        "https://example.org:99999/live/a.m3u8",
    ],
)
def test_what_is_not(sources: Sources, tmp_path: Path, source: str):
    with pytest.raises(ProtocolError, match="does not watch that source") as caught:
        sources.check(source.format(tmp=tmp_path))
    assert caught.value.code == "source_refused"


@pytest.mark.parametrize("spelling", ["file:{tmp}/secret.mp4", "concat:{tmp}/secret.mp4", "0", "a.mp4"])
def test_what_is_opened_is_a_file_and_no_protocol_or_camera(tmp_path: Path, monkeypatch, spelling: str):
    (tmp_path / "videos").mkdir()
    monkeypatch.chdir(tmp_path / "videos")
    spelling = spelling.format(tmp=tmp_path)
    # Each names something within the folder that is allowed, to this program; to libav the first two lead out of it.
    assert Sources(["."]).check(spelling) == str(tmp_path / "videos" / spelling)


@pytest.mark.parametrize(
    ("source", "logged"),
    [
        ("rtsp://me:secret@camera.local/a?key=secret", "rtsp://***@camera.local/a?key=***"),
        ("rtsp://camera.local?key=secret", "rtsp://camera.local?key=***"),
        ("https://a@b:secret@camera.local/@a", "https://***@camera.local/@a"),
        ("videos/a?.mp4", "videos/a?.mp4"),
    ],
)
def test_no_secret_is_logged(source: str, logged: str):
    assert redact(source) == logged


@pytest.mark.parametrize("source", ["rtsp://me:sec ret@camera.local/", "rtsp://me:'secret'@camera.local/"])
def test_what_would_hide_a_secret_from_redaction_is_no_address(source: str):
    with pytest.raises(ProtocolError):
        Sources(["rtsp://camera.local/"]).check(source)


def test_nothing_is_allowed_by_default(tmp_path: Path):
    with pytest.raises(ProtocolError):
        Sources().check(str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(("allowed", "said"), [("no/such/folder", "no file or folder"), ("rtsp:///x", "names no host")])
def test_what_cannot_be_allowed(allowed: str, said: str):
    with pytest.raises(ValueError, match=said):
        Sources([allowed])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    write_numbered(tmp_path / "videos" / "a.mp4", images=[np.full((64, 64, 3), 9 * i, np.uint8) for i in range(20)])
    return tmp_path / "videos" / "a.mp4"


def playlist(kind: str, target: Path) -> str:
    return {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile {target.name}\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n",
    }[kind]


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat", "sdp"])
def test_a_playlist_in_an_allowed_folder_is_refused(recording: Path, kind: str):
    """It may name any file of the server's, and any address."""
    listed = recording.parent / f"list.{kind}"
    listed.write_text(playlist(kind, recording))

    async def test():
        sources = Sources([str(recording.parent)])
        async with served(sources=sources) as server, server.stream(mode="file", source=str(listed)) as stream:
            bye = await stream.hear("bye")
            assert bye["reason"] == "source"
            assert "the source broke: " in bye["message"]
            assert not stream.words()
            await server.until(lambda: not server.pool.seats)

    run(test())


def test_a_recording_in_an_allowed_folder_is_watched(recording: Path):
    async def test():
        sources = Sources([str(recording.parent)])
        async with served(sources=sources) as server, server.stream(mode="file", source=str(recording)) as stream:
            assert (await stream.hear("bye"))["reason"] == "end"
            assert stream.words()

    run(test())


def test_a_recording_stands_still_while_its_stream_is_paused(recording: Path):
    async def test():
        sources, limits = Sources([str(recording.parent)]), Limits(file_ticks=2)
        config = {"mode": "file", "source": str(recording)}
        async with served(sources=sources) as server, server.stream(**config) as stream:
            whole = await stream.hear_all()
        words = [message["text"] for message in whole if message["type"] == "word"]
        async with served(sources=sources, limits=limits) as server:
            server.pool.may_go.clear()
            async with server.stream(**config) as stream:
                (seat,), (session,) = server.pool.all_seats, server.sessions
                await server.until(lambda: len(seat.frames) == 2)
                await stream.say(type="pause")
                await server.until(lambda: seat.paused)
                server.pool.may_go.set()
                await server.until(lambda: session.words.seq == 2)
                await asyncio.sleep(0.2)
                assert session.words.seq == 2
                await stream.say(type="play")
                async with asyncio.timeout(5.0):
                    assert (await stream.hear("bye"))["reason"] == "end"
                assert stream.words() == words

    run(test())


def test_a_named_pipe_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ProtocolError, match="does not watch that source"):
        Sources([str(tmp_path)]).check(str(tmp_path / "a.mp4"))


@pytest.mark.parametrize("error", ["AttributeError", "MemoryError", "KeyError", "OSError"])
def test_whatever_breaks_a_source_is_told_and_frees_the_seat(error: str, caplog):
    address = f"rtsp://me:hunter2@camera.local/{error}?key=hunter2"

    async def test():
        sources = Sources(["rtsp://camera.local/"])
        async with served(sources=sources, decoders=faulty()) as server, server.stream(source=address) as stream:
            bye = await stream.hear("bye")
            assert bye["reason"] == "source"
            assert error in bye["message"]
            await server.until(lambda: not server.pool.seats)

    with caplog.at_level(logging.INFO):
        run(test())
    logged = [json.dumps(vars(record), default=str) for record in caplog.records]
    assert any("source failed" in line for line in logged)
    assert not any("hunter2" in line for line in logged)
