"""What tests of streams that move share: a stream that is shown, a server that is cut off, a function that waits."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from mmduplex_jax.client import Refused, Stream, connect
from mmduplex_jax.serving.protocol import Resume
from mmduplex_jax.serving.session import Session
from tests.serving.replicas import TICK_S, Replica, pictures
from tests.serving.served import PATIENCE_S


def count(metric, *labels: str) -> float:
    return (metric.labels(*labels) if labels else metric)._value.get()


def cut(replica: Replica) -> None:
    """Cuts its connections."""
    for connection in replica._runner.server.connections:
        connection.transport.abort()


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def slow(function, go_on: threading.Event):
    """The function, which waits first."""

    def waiting(*arguments, **named):
        assert go_on.wait(PATIENCE_S)
        return function(*arguments, **named)

    return waiting


@contextlib.asynccontextmanager
async def on_its_way(here: Replica, there: Replica, stream: Stream) -> AsyncIterator[Session]:
    """A stream's session on its way: what it is was taken here, and after the block the other replica has it."""
    (session,) = here.sessions
    go_on = threading.Event()
    write, here.handover.write = here.handover.write, slow(here.handover.write, go_on)
    draining = asyncio.create_task(here.sessions.drain(5.0))
    await until(lambda: session._saved_last)
    yield session
    stream._url, here.handover.write = there.url, write
    go_on.set()
    await draining


def resume_of(session: Session) -> Resume:
    return Resume(session.id, session.token, 0)


@contextlib.asynccontextmanager
async def shown(replica: Replica, ticks: int = 2) -> AsyncIterator[tuple[Stream, Session]]:
    """A file's stream of some ticks that have been answered, and its session; it is left where it is at the end."""
    before = list(replica.sessions)
    async with connect(replica.url, mode="file") as stream:
        for tick in range(ticks):
            await stream.send(tick * TICK_S, pictures(0, ticks)[tick])
        while stream._unanswered:
            await anext(stream)
        (session,) = [one for one in replica.sessions if one not in before]
        yield stream, session
        stream._error, stream._done = Refused("end", "the test is over"), True
