"""A server on loopback over a scripted pool, and a client that speaks the bare protocol."""

import asyncio
import atexit
import contextlib
import functools
import json
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import aiohttp
import numpy as np
import simplejpeg
from aiohttp import web

from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.app import SESSIONS, build_app
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.protocol import Frame, Sound, frame_bytes, parse_sound
from mmduplex_jax.serving.sessions import Sessions
from tests.serving.scripted_pool import FACTS, ScriptedPool

TICK_S = FACTS.clock.tick_s
# Far over what anything here takes; a test that hangs says so.
PATIENCE_S = 60.0


@functools.cache
def decoders() -> DecoderProcesses:
    """Decoders that all servers of a test's process share: starting them takes longer than most tests."""
    processes = DecoderProcesses(Limits.decode_s)
    atexit.register(processes.close)
    return processes


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a test's coroutine to its end; one that hangs is an error."""
    asyncio.run(asyncio.wait_for(coroutine, 3 * PATIENCE_S))


def picture(tick: int = 0, px: int = 48) -> bytes:
    """A JPEG that is another one for each tick."""
    image = np.full((px, px, 3), (37 * tick) % 256, np.uint8)
    image[: px // 2, : px // 2] = (200, 40, (11 * tick) % 256)
    return simplejpeg.encode_jpeg(image, 90, "RGB", "444")


class Server:
    """Attributes: `url`, `pool`, `sessions`, `runner`, and `http` to ask it with."""

    def __init__(
        self, url: str, pool: ScriptedPool, sessions: Sessions, runner: web.AppRunner, http: aiohttp.ClientSession
    ):
        self.url, self.pool, self.sessions, self.runner, self.http = url, pool, sessions, runner, http

    @contextlib.asynccontextmanager
    async def socket(self, **arguments: Any) -> AsyncIterator["Socket"]:
        """A WebSocket to it, without a hello yet."""
        timeout = aiohttp.ClientWSTimeout(ws_close=0.2)
        async with self.http.ws_connect(f"{self.url}/v1/stream", timeout=timeout, **arguments) as socket:
            yield Socket(socket)

    @contextlib.asynccontextmanager
    async def stream(self, resume: dict[str, Any] | None = None, **config: Any) -> AsyncIterator["Socket"]:
        """A WebSocket that has said hello; `socket.hello` is the answer."""
        async with self.socket() as socket:
            await socket.say(type="hello", version=1, config=config, resume=resume)
            socket.hello = await socket.hear("hello")
            yield socket

    @contextlib.asynccontextmanager
    async def stream_as(self, headers: dict[str, str]) -> AsyncIterator["Socket"]:
        """A stream whose handshake has these headers."""
        async with self.socket(headers=headers) as socket:
            await socket.say(type="hello", version=1)
            socket.hello = await socket.hear("hello")
            yield socket

    async def until(self, condition) -> None:
        """Waits until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)


class Socket:
    """A WebSocket as a test uses it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket = socket
        self.hello: dict[str, Any] = {}
        self.heard: list[dict[str, Any]] = []
        self.sounds: list[Sound] = []

    def stop_reading(self) -> None:
        """From now on nothing is taken from the network, as by a client that hangs."""
        transport = self.socket._response.connection.transport
        transport.pause_reading()
        transport.resume_reading = lambda: None

    async def say(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def show(self, tick: int, data: bytes | None = None, codec: str = "jpeg") -> None:
        """Sends the picture of a tick."""
        data = picture(tick) if data is None else data
        await self.socket.send_bytes(frame_bytes(Frame(tick, tick * TICK_S, codec, True, data)))

    async def next(self) -> dict[str, Any] | None:
        """The next text message; None when the socket is closed. Sound before it is kept in `sounds`."""
        while (message := await self.socket.receive(PATIENCE_S)).type is aiohttp.WSMsgType.BINARY:
            self.sounds.append(parse_sound(message.data))
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        self.heard.append(json.loads(message.data))
        return self.heard[-1]

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; others before it are kept in `heard`."""
        while (message := await self.next()) is not None:
            if message["type"] == kind:
                return message
        raise AssertionError(f"the socket was closed before a {kind}; heard {self.heard}")

    async def hear_all(self) -> list[dict[str, Any]]:
        """Everything up to the end."""
        while await self.next() is not None:
            pass
        return self.heard

    def words(self) -> list[str]:
        return [message["text"] for message in self.heard if message["type"] == "word"]


@contextlib.asynccontextmanager
async def served(
    pool: ScriptedPool | None = None,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    access: Access | None = None,
    facts: Any = FACTS,
    **arguments: Any,
) -> AsyncIterator[Server]:
    """Runs a server for as long as the block lasts."""
    pool = pool or ScriptedPool()
    if limits is None or limits.decode_s == Limits.decode_s:
        arguments.setdefault("decoders", decoders())
    app = build_app(pool, facts, access or Access("127.0.0.1", token), limits=limits, **arguments)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        async with aiohttp.ClientSession(headers=headers) as http:
            yield Server(f"http://127.0.0.1:{port}", pool, app[SESSIONS], runner, http)
    finally:
        pool.may_go.set()
        await runner.cleanup()
        pool.close()


class ThreadedServer:
    """A server over a scripted pool, in a thread with a loop of its own."""

    def __init__(
        self,
        token: str | None = None,
        pool: ScriptedPool | None = None,
        limits: Limits | None = None,
        facts: Any = FACTS,
    ):
        self.pool = pool or ScriptedPool()
        self._token, self._limits, self._facts = token, limits, facts
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        app = build_app(
            self.pool, self._facts, Access("127.0.0.1", self._token), limits=self._limits, decoders=decoders()
        )
        self.runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self.runner.setup()
        self._site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await self._site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        self.sessions = app[SESSIONS]
        self._ready.set()
        await self._stop.wait()
        await self.runner.cleanup()

    def cut(self) -> None:
        """Cuts every connection."""

        def abort() -> None:
            for connection in self.runner.server.connections:
                connection.transport.abort()

        self.loop.call_soon_threadsafe(abort)

    def kill(self) -> None:
        """Nobody can reach it any more, and nobody is told."""

        def hang_up() -> None:
            self._site._server.close()
            for connection in self.runner.server.connections:
                connection.transport.abort()

        self.loop.call_soon_threadsafe(hang_up)

    def begin_anew(self) -> None:
        """Ends all streams."""

        async def end() -> None:
            for session in self.sessions:
                session.end("shutdown", "the test is over")
                await session.stopped()

        self.pool.may_go.set()
        self.pool.lag_s, self.pool.dropped = 0.01, 0
        asyncio.run_coroutine_threadsafe(end(), self.loop).result(30)
        self.pool.all_seats.clear()

    def close(self) -> None:
        self.pool.may_go.set()
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.pool.close()
