"""What an intruder tries: other pages, others' secrets and streams, bombs, connections that stall, sources."""

import asyncio
import base64
import contextlib
import gzip
import logging
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from mmduplex_jax.serving import sockets
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.sources import Sources
from tests.data_pipelines.numbered_video import write_numbered
from tests.serving.scripted_pool import ScriptedPool
from tests.serving.served import PATIENCE_S, Server, run, served
from tests.serving.test_listen import listening

TOKEN = "a-secret-of-more-than-16"
EVIL = "https://evil.example"


# Other pages.


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_form_of_another_page_begins_no_stream(kind: str):
    """The bodies that a page may post anywhere without asking first."""

    async def test():
        async with served() as server:
            headers = {"Origin": EVIL, "Content-Type": kind}
            body = b'{"type": "offer", "sdp": ""}'
            async with server.http.post(f"{server.url}/v1/webrtc", data=body, headers=headers) as answer:
                assert answer.status == 403
                assert "Access-Control-Allow-Origin" not in answer.headers

    run(test())


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),  # another port of this machine
        ("cross-site", "websocket", 403),
        ("cross-site", "navigate", 200),  # a link
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_pictures_and_scripts_of_another_page_are_refused(site: str, mode: str, status: int):
    async def test():
        async with served() as server:
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
            async with server.http.get(f"{server.url}/v1/info", headers=headers) as answer:
                assert answer.status == status

    run(test())


# Secrets, and the streams of others.


def test_no_secret_is_in_the_log(caplog):
    """Whatever is asked with a secret, well or badly, every level of every logger."""
    caplog.set_level(logging.DEBUG)

    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop, access=Access("127.0.0.1", TOKEN))
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            server = Server(f"http://127.0.0.1:{port}", pool, None, None, http)
            async with server.stream(mode="file") as stream:
                await stream.show(0)
                await stream.hear("word")
                hello = stream.hello
            url = f"{server.url}/v1/sessions/{hello['session']}/"
            for query in (f"key={hello['feed']}&follow=0", f"key={hello['token']}", f"token={TOKEN}"):
                async with http.get(f"{url}captions.vtt?{query}") as answer:
                    await answer.read()
            wrong = {"session": hello["session"], "token": hello["feed"], "last_seq": 0}
            async with server.socket() as other:
                await other.say(type="hello", version=1, resume=wrong)
                assert (await other.hear("error"))["code"] == "unknown_session"
            async with server.stream(resume=wrong | {"token": hello["token"]}) as again:
                await again.say(type="end")
                await again.hear_all()
        stop.set()
        await serving
        pool.close()
        records = [record for record in caplog.records if not record.name.startswith("aiohttp.client")]
        assert any("session resumed" in record.getMessage() for record in records)
        for record in records:
            logged = str(vars(record)) + record.getMessage()
            assert not any(secret in logged for secret in (hello["token"], hello["feed"], TOKEN)), logged

    run(test())


def test_a_secret_opens_its_own_stream_and_only_what_it_is_for():
    async def test():
        async with served() as server, server.stream(mode="file") as mine, server.stream(mode="file") as theirs:
            await theirs.show(0)
            await theirs.hear("word")
            own, other = mine.hello, theirs.hello
            for key in (own["feed"], own["token"], other["token"], other["session"], ""):
                for kind in ("words", "captions.vtt"):
                    url = f"{server.url}/v1/sessions/{other['session']}/{kind}"
                    async with server.http.get(url, params={"key": key, "follow": "0"}) as answer:
                        assert answer.status == 404
                        assert "w0" not in await answer.text()
            for token in (own["token"], own["feed"], other["feed"], other["session"]):
                async with server.socket() as stranger:
                    resume = {"session": other["session"], "token": token, "last_seq": 0}
                    await stranger.say(type="hello", version=1, resume=resume)
                    assert (await stranger.hear("error"))["code"] == "unknown_session"
            await mine.say(type="end")
            await mine.hear("bye")
            await theirs.show(1)
            assert (await theirs.hear("word"))["text"] == "w1"

    run(test())


def test_names_of_streams_cannot_be_guessed():
    async def test():
        async with served() as server:
            hellos = []
            for _ in range(4):
                async with server.stream() as stream:
                    hellos.append(stream.hello)
                    await stream.say(type="end")
                    await stream.hear_all()
        for name, bits in (("session", 72), ("token", 192), ("feed", 144)):
            values = [base64.urlsafe_b64decode(hello[name] + "=" * (-len(hello[name]) % 4)) for hello in hellos]
            assert all(8 * len(value) >= bits for value in values), name
            # No byte is the same in all of four: no counter, no clock. (By chance, one in a hundred thousand.)
            assert all(len(set(column)) > 1 for column in zip(*values)), name

    run(test())


def test_a_seat_that_is_taken_again_shows_nothing_of_the_stream_before():
    """Not even what that stream's last step says when the next one has begun."""

    async def test():
        pool = ScriptedPool(slots=1, last_word="SECRET")
        async with served(pool) as server:
            async with server.stream(mode="file", sound=None) as first:
                for tick in range(3):
                    await first.show(tick)
                    await first.hear("word")
                await first.say(type="end")
                await first.hear("bye")
                assert first.words() == ["w0", "w1", "w2", "SECRET"]
            (before,) = pool.all_seats
            async with server.stream(mode="file") as second:
                assert second.hello["seq"] == 0
                assert second.hello["t_s"] is None
                # What a step that was under way brings after its stream is gone.
                pool.thread.submit(before._answer, 9.0, before.frames[-1][1])
                await second.show(0)
                assert (await second.hear("word"))["seq"] == 1
                url = f"{server.url}/v1/sessions/{second.hello['session']}/captions.vtt"
                params = {"key": second.hello["feed"], "follow": "0"}
                async with server.http.get(url, params=params) as answer:
                    assert "SECRET" not in await answer.text()
                await second.show(1)
                await second.hear("word")
                assert second.words() == ["w0", "w1"]
                assert len(second.heard) == len([m for m in second.heard if m["type"] in ("hello", "word", "status")])

    run(test())


# Headers.


@pytest.mark.parametrize(
    "path",
    [
        "/static/x%0d%0aX-Evil:%201",
        "/v1/sessions/x%0d%0aX-Evil:%201/words?key=x%0d%0aX-Evil:%201",
        "/v1/world/1%0d%0aX-Evil:%201.mp4",
        "/%0d%0aX-Evil:%201",
    ],
)
def test_no_line_of_a_request_becomes_a_header(path: str):
    async def test():
        async with served() as server:
            url = aiohttp.client.URL(server.url + path, encoded=True)
            async with server.http.get(url, headers={"Last-Event-ID": "1"}) as answer:
                assert answer.status == 404
                assert "X-Evil" not in answer.headers

    run(test())


# Bombs.


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_unpacks_to_too_much_is_refused(encoding: str):
    zeros = bytes(32 << 20)
    packed = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    assert len(packed) < Limits.text_bytes

    async def test():
        async with served() as server:
            headers = {"Content-Encoding": encoding}
            async with server.http.post(f"{server.url}/v1/webrtc", data=packed, headers=headers) as answer:
                assert answer.status == 413

    run(test())


def test_messages_are_not_unpacked():
    """The server agrees to no compression; who compresses all the same is hung up on."""

    async def test():
        async with served() as server, server.stream(mode="file") as other:
            async with raw_socket(server, "Sec-WebSocket-Extensions: permessage-deflate\r\n") as (head, reader, writer):
                assert "permessage-deflate" not in head
                deflate = zlib.compressobj(wbits=-15)
                bomb = deflate.compress(b" " * (8 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
                writer.write(frame(1, bomb, compressed=True))
                code, _ = await closed_with(reader)
                assert code == 1002
            await other.show(0)
            assert (await other.hear("word"))["text"] == "w0"

    run(test())


SIZES = """
import sys
from mmduplex_jax.serving.pictures import PictureDecoder, PictureRefused
from mmduplex_jax.serving.protocol import Frame
from tests.serving.slow_pictures import h264_keyframe

def peak_bytes():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmPeak:")[1].split()[0])

decoder = PictureDecoder(32, "crop", int(sys.argv[1]))
decoder.take(Frame(0, 0.0, "h264", True, h264_keyframe(2, 2)))
before = peak_bytes()
try:
    decoder.take(Frame(0, 0.0, "h264", True, h264_keyframe(512, 512)))
    print("decoded", end=" ")
except PictureRefused:
    print("refused", end=" ")
print(peak_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory's peak is read from /proc")
@pytest.mark.parametrize(("pixels_max", "said"), [(1920 * 1200, "refused"), (8192 * 8192, "decoded")])
def test_the_size_of_h264_is_checked_before_anything_is_allocated(pixels_max: int, said: str):
    """The last one is allowed: it shows that memory for such a picture would be seen."""
    command = [sys.executable, "-c", SIZES, str(pixels_max)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=PATIENCE_S, check=True)
    outcome, grown = done.stdout.split()
    assert outcome == said
    assert (int(grown) > 8192 * 8192) == (said == "decoded")


# Connections that stall.


def test_a_body_that_does_not_come_is_not_waited_for():
    async def test():
        async with served(limits=Limits(hello_s=0.2)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(b"POST /v1/webrtc HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.readline()).split()[1] == b"408"
            writer.close()

    run(test())


def test_a_second_request_that_never_ends_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(sockets, "_KEEPALIVE_S", 0.3)

    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.readline()).split()[1] == b"200"
                dripping = asyncio.create_task(drip(writer, b"X-Slow: 1\r\n"))
                await reader.read()
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
        stop.set()
        await serving
        pool.close()

    run(test())


@pytest.mark.parametrize("greets", [False, True])
def test_a_message_that_never_ends_ends_its_connection(greets: bool):
    """Its parts come one after another, so that the connection is never silent."""

    async def test():
        async with served(limits=Limits(hello_s=0.3, idle_s=0.3)) as server:
            async with raw_socket(server) as (_, reader, writer):
                if greets:
                    writer.write(frame(1, b'{"type":"hello","version":1}'))
                writer.write(frame(1, b"{", last=False))
                dripping = asyncio.create_task(drip(writer, frame(0, b" ", last=False)))
                code, texts = await closed_with(reader)
                dripping.cancel()
                await asyncio.gather(dripping, return_exceptions=True)
                assert (b'"reason":"idle"' in texts) == greets
                assert (b'"code":"hello_missing"' in texts) == (not greets)
                assert code == 1008
            await server.until(lambda: not server.pool.seats)

    run(test())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system cannot tell who reads nothing")
def test_who_asks_and_reads_nothing_is_hung_up_on():
    async def test():
        stop = asyncio.Event()
        port, serving, pool = await listening(stop, connections_max=1, unread_s=1.0)
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect(("127.0.0.1", port))
            greedy.setblocking(False)
            ask = b"GET /static/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 64
            asking = asyncio.create_task(ask_for_ever(greedy, ask))
            async with asyncio.timeout(PATIENCE_S):
                # It has the only place there is, until it is hung up on.
                async with aiohttp.ClientSession() as http:
                    while True:
                        with contextlib.suppress(aiohttp.ClientError):
                            async with http.get(f"http://127.0.0.1:{port}/healthz") as answer:
                                assert answer.status == 200
                                break
                        await asyncio.sleep(0.1)
                with contextlib.suppress(ConnectionError):
                    await asking
        stop.set()
        await serving
        pool.close()

    run(test())


# Sources that lead on.


@pytest.mark.parametrize("kind", ["redirect", "m3u8", "ffconcat"])
def test_an_address_that_is_allowed_leads_to_no_file_of_the_servers(tmp_path: Path, kind: str):
    secret = tmp_path / "secret.mp4"
    write_numbered(secret, images=[np.full((64, 64, 3), 9 * i, np.uint8) for i in range(20)])

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        if kind == "redirect":
            return aiohttp.web.Response(status=302, headers={"Location": secret.as_uri()})
        listed = {
            "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n",
            "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        }
        return aiohttp.web.Response(text=listed[kind], content_type="application/vnd.apple.mpegurl")

    async def test():
        app = aiohttp.web.Application()
        app.router.add_get(f"/live/list.{kind}", answer)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/live/"
        async with served(sources=Sources([url])) as server:
            async with server.stream(mode="file", source=f"{url}list.{kind}") as stream:
                bye = await stream.hear("bye")
                # (A list that leads nowhere is a video without pictures.)
                assert bye["reason"] == "source", bye
                assert not stream.words()
            assert not server.pool.all_seats[0].frames
        await runner.cleanup()

    run(test())


@pytest.mark.parametrize(
    "source", ["http://169.254.169.254/latest", "http://[::1]/a", "http://10.0.0.1/a", "file:///etc/passwd"]
)
def test_an_address_that_nobody_allowed_is_not_asked(source: str):
    async def test():
        async with served(sources=Sources(["https://example.org/live/"])) as server, server.socket() as stream:
            await stream.say(type="hello", version=1, config={"source": source})
            assert (await stream.hear("error"))["code"] == "source_refused"
            assert not server.pool.all_seats

    run(test())


# A device that hangs.


def test_a_step_that_does_not_come_back_is_told_to_whoever_asks_for_health():
    async def test():
        async with served(hang_s=2.0) as server:

            async def asked(path: str) -> tuple[int, dict]:
                async with server.http.get(server.url + path) as answer:
                    return answer.status, await answer.json()

            server.pool.turn_s = 1.9
            assert await asked("/healthz") == (200, {"alive": True})
            server.pool.turn_s = 2.5
            status, said = await asked("/healthz")
            assert (status, said["alive"]) == (503, False)
            assert "has not come back for 2.5 s (--hang_s=2)" in said["error"]
            assert (await asked("/readyz"))[0] == 503
            async with server.http.get(f"{server.url}/metrics") as answer:
                assert "mmduplex_turn_seconds 2.5" in await answer.text()
            server.pool.turn_s = 0.0
            assert (await asked("/healthz"))[0] == (await asked("/readyz"))[0] == 200

    run(test())


# A WebSocket, byte by byte.


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


@contextlib.asynccontextmanager
async def raw_socket(
    server: Server, headers: str = ""
) -> AsyncIterator[tuple[str, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket after its handshake: the answer's head, and the bytes after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    key = base64.b64encode(os.urandom(16)).decode()
    request = f"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{headers}"
    writer.write(f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.split()[1] == "101"
    try:
        yield head, reader, writer
    finally:
        writer.close()


def frame(opcode: int, data: bytes, *, last: bool = True, compressed: bool = False) -> bytes:
    """A client's frame (RFC 6455, 5.2), masked with zeros."""
    head = bytes([last << 7 | compressed << 6 | opcode])
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    return head + length + bytes(4) + data


async def closed_with(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The code with which the server closes a WebSocket, and what it said before."""
    said = b""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            opcode, length = await reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack(">H", await reader.readexactly(2))
            data = await reader.readexactly(length)
            if opcode & 0x0F == 8:
                return struct.unpack(">H", data[:2])[0], said
            said += data


async def drip(writer: asyncio.StreamWriter, some: bytes) -> None:
    """Sends some bytes again and again, slowly."""
    while True:
        writer.write(some)
        await asyncio.sleep(0.05)


async def ask_for_ever(asking: socket.socket, request: bytes) -> None:
    """Sends requests for as long as they are taken."""
    while True:
        await asyncio.get_running_loop().sock_sendall(asking, request)
