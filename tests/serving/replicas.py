"""Replicas of a small model that remembers all it was shown, behind a load balancer, in one process."""

import asyncio
import contextlib
import copy
import functools
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from aiohttp import web

from mmduplex_jax.client import Event, Stream, Word, connect
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Delays
from mmduplex_jax.models.live import StepOutput, TokenReport
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.app import SESSIONS, build_app
from mmduplex_jax.serving.handover import Handover
from mmduplex_jax.streaming import pool as pool_module
from mmduplex_jax.streaming.batch import UNCAPPED, StreamBatch
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool
from tests.serving.served import decoders
from tests.streaming.scripted_stream import FRAME_PX, words_that_may_go_on

CLOCK = Clock()
TICK_S = CLOCK.tick_s
SLOTS = 6
WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = words_that_may_go_on(*WORDS)
FACTS = SimpleNamespace(
    name="remembers", fingerprint="7" * 64, clock=CLOCK, frame_px=(FRAME_PX, FRAME_PX), fit="crop",
    tokens_per_s_max=8, sample_rate_hz=None, delays=Delays(0, 4, 1),
)  # fmt: skip


class Memory(NamedTuple):
    step: jax.Array
    seen: jax.Array


class Remembers:
    """Says a word in two steps of every four; which one follows from every frame since the stream's first."""

    def init_state(self, params, batch):
        return Memory(jnp.zeros((batch,), jnp.int32), jnp.ones((2, batch), jnp.int32))

    def reset_row(self, params, state, row):
        return Memory(state.step.at[row].set(0), state.seen.at[:, row].set(1))

    def live_step(self, params, state, frame, active, delay, pad_bias, *, cap):
        tick = active & (state.step % CLOCK.video_stride == 0)
        shown = frame[:, ::5, ::5].astype(jnp.int32).sum(axis=(1, 2, 3))
        first = jnp.where(tick, (state.seen[0] * 31 + shown) % 9973, state.seen[0])
        second = jnp.where(active, (state.seen[1] * 7 + first) % 9967, state.seen[1])
        phase = state.step % 4
        said = jnp.where(phase == 3, second % len(WORDS), jnp.where(phase == 2, TOKENIZER.word_id, TOKENIZER.pad_id))
        nobody = jnp.zeros((len(frame), 1), bool)
        none = nobody.astype(jnp.int32)
        report = TokenReport(nobody, nobody[:, 0], none[:, 0], jnp.zeros((len(frame), 1, 2), jnp.int32), none, none)
        output = StepOutput(said.astype(jnp.int32), state.step, jnp.zeros((len(frame), 1)), report)
        return Memory(state.step + active, jnp.stack([first, second])), output


@functools.cache
def compiled_batch() -> StreamBatch:
    batch = StreamBatch(Remembers(), {}, FRAME_PX, count=SLOTS)
    batch.make_movable()
    return batch


def new_batch(*_, **__) -> StreamBatch:
    """A batch of its own, over programs that are compiled once."""
    batch = copy.copy(compiled_batch())
    batch.configure(np.zeros(SLOTS), np.zeros(SLOTS), np.full(SLOTS, UNCAPPED))
    batch.make_movable = lambda: None
    batch.restart()
    return batch


def new_pool() -> StreamPool:
    made, pool_module.StreamBatch = pool_module.StreamBatch, new_batch
    try:
        pool = StreamPool(
            Remembers(), {}, TOKENIZER, CLOCK, FRAME_PX, slots=SLOTS, policy=DeadlinePolicy(gather_s=0.0),
            tokens_per_s_max=8, movable=True,
        )  # fmt: skip
    finally:
        pool_module.StreamBatch = made
    pool.start()
    return pool


class Replica:
    """A server of the model. Attributes: `name`, `port`, `sessions`; `alive` until it is stopped or killed."""

    def __init__(self, name: str, folder: Path, *, decoding=decoders, **settings: float):
        self.name, self.folder, self._decoding = name, folder, decoding
        self._settings = {"snapshot_s": 0.0, "notice_s": 0.05} | settings
        self.alive = False

    async def start(self) -> "Replica":
        self._pool = new_pool()
        self.handover = Handover(self.folder, self.name, FACTS, self._pool.row_layout, token=None, **self._settings)
        app = build_app(
            self._pool, FACTS, Access("127.0.0.1", None), decoders=self._decoding(), handover=self.handover,
            operator_token="the-operator's-own-secret", drain_s=5.0,
        )  # fmt: skip
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await self._site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.sessions = app[SESSIONS]
        self.alive = True
        return self

    @property
    def ready(self) -> bool:
        return self.alive and not self.sessions.draining

    async def stop(self) -> None:
        """As at SIGTERM."""
        await self.sessions.drain(5.0)
        self.alive = False
        await self._end()

    async def kill(self) -> None:
        """As at SIGKILL: nothing is said and nothing is written from now on."""
        self.alive = False

        def nothing(*_, **__):
            raise OSError("this replica was killed")

        for name in ("write", "wanted", "forget", "sweep", "claim", "want", "touch"):
            setattr(self.handover, name, nothing)
        self._site._server.close()
        for connection in self._runner.server.connections:
            connection.transport.abort()
        await self._end()

    async def _end(self) -> None:
        await self._runner.cleanup()
        self.handover.close()
        await asyncio.to_thread(self._pool.stop)


class Balancer:
    """Forwards connections: a session's own replica where its name is in the address, else any one that is ready.

    Args:
      blind: it does not look at names.
    """

    def __init__(self, replicas: list[Replica], seed: int = 0, *, blind: bool = False):
        self.replicas, self._dice, self._blind = replicas, random.Random(seed), blind
        self._copying: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for task in self._copying:
                task.cancel()

    def _chosen(self, head: str) -> Replica | None:
        if not self._blind:
            for replica in self.replicas:
                if replica.alive and (f"={replica.name}." in head or f"/{replica.name}." in head):
                    return replica
        ready = [replica for replica in self.replicas if replica.ready]
        return self._dice.choice(ready) if ready else None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readline()
        replica = self._chosen(head.decode())
        try:
            if replica is None:
                raise ConnectionError
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", replica.port)
        except ConnectionError:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        to_writer.write(head)
        for source, sink in ((reader, to_writer), (to_reader, writer)):
            task = asyncio.create_task(_copy(source, sink))
            self._copying.add(task)
            task.add_done_callback(self._copying.discard)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()  # (also where it is cancelled: from Python 3.12 on a server waits for its connections)


@contextlib.asynccontextmanager
async def replicas(folder: Path, count: int = 3, **settings) -> AsyncIterator[list[Replica]]:
    """Some replicas; those that live at the end are stopped."""
    started = [await Replica(f"r{i}", folder, **settings).start() for i in range(count)]
    try:
        yield started
    finally:
        for replica in started:
            if replica.alive:
                await replica.stop()


@functools.cache
def pictures(seed: int, ticks: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (ticks, FRAME_PX, FRAME_PX, 3), dtype=np.uint8))


async def watch(
    url: str, seed: int, ticks: int, *, every_s: float = 0.0, mode: str = "file"
) -> tuple[list[Event], Stream]:
    """Everything that a stream of pictures gets, and the stream."""
    async with connect(url, mode=mode) as stream:

        async def show() -> None:
            for tick, picture in enumerate(pictures(seed, ticks)):
                await stream.send(tick * TICK_S, picture)
                await asyncio.sleep(every_s)
            await stream.end()

        showing = asyncio.create_task(show())
        events = [event async for event in stream]
        await showing
        return events, stream


def words_of(events: list[Event]) -> list[Word]:
    return [event for event in events if isinstance(event, Word)]
