"""What clients must not do: connections that are cut or stand still, and garbage of every kind."""

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import time
from collections.abc import Sequence

import aiohttp

from mmduplex_jax.serving.protocol import Frame, frame_bytes

# So little fits between the server and a connection that stands still.
_BUFFER_BYTES = 4096
_CHUNK_BYTES = 2048
_FLOOD = 2000
# What a sender does between two of its kinds. It runs on the server's machine, whose cores it takes while it does not
# pause; a stranger's would be elsewhere.
_PAUSE_S = 0.1
_TOO_LARGE_BYTES = 3 << 20


class BadLine:
    """A line between a client and the server, on this machine, that can be cut or made to stand still."""

    def __init__(self, host: str, port: int):
        self._host, self._port = host, port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def open(self) -> None:
        """Begins to listen at `url`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_BUFFER_BYTES)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stall(self) -> None:
        """Nothing passes any more, either way."""
        self._flowing.clear()

    def go_on(self) -> None:
        """Everything passes again."""
        self._flowing.set()

    def cut(self) -> None:
        """Every connection is reset."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Stops listening and resets what is open."""
        self.go_on()
        self.cut()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, (self._host, self._port))
        from_server, to_server = await asyncio.open_connection(sock=small, limit=_BUFFER_BYTES)
        self._writers |= {writer, to_server}
        up = asyncio.create_task(self._copy(reader, to_server))
        down = asyncio.create_task(self._copy(from_server, writer))
        self._tasks |= {up, down}
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, to_server):
            one.transport.abort()
            self._writers.discard(one)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


class GarbageSender:
    """Sends one kind of garbage after another, each on a connection of its own.

    Attributes:
      sent: how many, by kind.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, pictures: Sequence[bytes], seed: int):
        self._http, self._url, self._pictures = http, url, pictures
        self._too_much = os.urandom(_TOO_LARGE_BYTES)
        self._random = random.Random(seed)
        host, port = url.removeprefix("http://").split(":")
        self._host, self._port = host, int(port)
        self._kinds = {
            "noise": self._noise,
            "half_a_request": self._half_a_request,
            "texts": self._texts,
            "pictures": self._broken_pictures,
            "bomb": self._bombs,
            "too_large": self._too_large,
            "flood": self._flood,
            "resume": self._resume,
        }
        self.sent = dict.fromkeys(self._kinds, 0)

    async def run(self, until_s: float) -> None:
        """Goes on until `until_s`, by the monotonic clock. Being hung up on is what it is there for."""
        while time.monotonic() < until_s:
            kind = self._random.choice(list(self._kinds))
            with contextlib.suppress(ConnectionError, aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(max(0.1, until_s - time.monotonic())):
                    await self._kinds[kind]()
            self.sent[kind] += 1
            await asyncio.sleep(_PAUSE_S)

    async def _noise(self) -> None:
        _, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._random.randbytes(self._random.randint(1, 5000)))
        await writer.drain()
        writer.transport.abort()

    async def _half_a_request(self) -> None:
        _, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 4000)
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _greeted(self, **fields: object):
        """A WebSocket after its hello."""
        async with self._http.ws_connect(f"{self._url}/v1/stream") as socket_:
            await socket_.send_str(json.dumps({"type": "hello", "version": 1, "client": "garbage"} | fields))
            await socket_.receive()
            yield socket_

    async def _texts(self) -> None:
        async with self._greeted() as socket_:
            for text in ("{", "[" * 50_000, '{"type":"config","pad_bias":1e400}', '{"type":"\\ud800"}'):
                await socket_.send_str(self._random.choice([text, '{"type":"config","pad_bias":0}']))
            await socket_.send_str("\0" * 60_000)
            await socket_.receive()

    async def _broken_pictures(self) -> None:
        async with self._greeted() as socket_:
            for number in range(25):
                picture = bytearray(self._random.choice(self._pictures))
                for _ in range(20):
                    picture[self._random.randrange(len(picture))] = self._random.randrange(256)
                codec = self._random.choice(["jpeg", "webp", "h264"])
                await socket_.send_bytes(frame_bytes(Frame(number, number * 0.5, codec, True, bytes(picture))))
            await socket_.send_str('{"type":"end"}')
            while (await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                pass

    async def _bombs(self) -> None:
        """Pictures that claim to be huge, and one that takes long to decode for its size."""
        whole = self._pictures[0]
        at = next(i for i in range(len(whole)) if whole[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
        huge = whole[: at + 5] + struct.pack(">HH", 65_500, 65_500) + whole[at + 9 :]
        scans = whole[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 60_000
        async with self._greeted() as socket_:
            for number, data in enumerate((huge, scans) * 12):
                await socket_.send_bytes(frame_bytes(Frame(number, number * 0.5, "jpeg", True, data)))
            await socket_.send_str('{"type":"end"}')
            while (await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                pass

    async def _too_large(self) -> None:
        async with self._greeted() as socket_:
            await socket_.send_bytes(self._too_much)
            await socket_.receive()

    async def _flood(self) -> None:
        """Pictures far faster than a camera's, each a tick of its own, and the smallest messages there are."""
        async with self._greeted() as socket_:
            for number in range(_FLOOD):
                data = self._pictures[number % len(self._pictures)] if number % 20 == 0 else b"\0"
                await socket_.send_bytes(frame_bytes(Frame(number, number * 0.5, "jpeg", True, data)))
            await socket_.send_str('{"type":"end"}')
            while (await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                pass

    async def _resume(self) -> None:
        stranger = {"session": "x" * 12, "token": "y" * 32, "last_seq": self._random.randrange(2**53)}
        async with self._greeted(resume=stranger):
            pass
