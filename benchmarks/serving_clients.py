"""A process of clients of a server, started by `benchmarks.serving`: reads its task from stdin, answers on stdout."""

import asyncio
import dataclasses
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.hostile_clients import BadLine, GarbageSender
from benchmarks.live_client import Account, LiveClient, NotGreeted, words_of_feed

# Of a hostile phase, how long a line stands still: the server's patience and the client's coming back lie within.
_STALL_SHARE = 0.8
_CUT_S = (1.0, 4.0)
_RETRY_S = 0.5


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
      url: of the server.
      pictures: a folder of JPEGs; each client begins elsewhere in it.
      clients: how many of each role: "steady" (behaves), "twin" (behaves, and its feed is read along), "stalling",
        "garbage", "dropping".
      begin_s: when the first phase begins, by the monotonic clock.
      phase_s: length of a phase.
      phases: of each, whether those that misbehave do so.
      delay_steps: of every stream; None takes the model's own.
      seed: of everything random.
    """

    url: str
    pictures: str
    clients: dict[str, int]
    begin_s: float
    phase_s: float
    phases: tuple[bool, ...]
    delay_steps: int | None
    seed: int

    @property
    def end_s(self) -> float:
        return self.begin_s + len(self.phases) * self.phase_s

    def hostile_phases(self) -> list[tuple[float, float]]:
        """Begin and end of each."""
        begins = (self.begin_s + index * self.phase_s for index in range(len(self.phases)))
        return [(begin_s, begin_s + self.phase_s) for begin_s, hostile in zip(begins, self.phases) if hostile]


class Clients:
    """All clients of one process.

    Attributes:
      accounts: of all their streams.
      feeds: words by session, as read along.
      garbage: what was sent, by kind.
    """

    def __init__(self, task: Task, http: aiohttp.ClientSession, pictures: Sequence[bytes]):
        self._task, self._http, self._pictures = task, http, pictures
        self._random = random.Random(task.seed)
        self.accounts: list[Account] = []
        self.feeds: dict[str, list[tuple[int, str, float]]] = {}
        self.garbage: dict[str, int] = {}
        self._reading: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Runs them to the end of the last phase, and until everything was told."""
        roles = {"steady": self._steady, "twin": self._twin, "stalling": self._stalling}
        roles |= {"garbage": self._garbage, "dropping": self._dropping}
        async with asyncio.TaskGroup() as group:
            for role, count in self._task.clients.items():
                for _ in range(count):
                    group.create_task(roles[role](self._random.random()))
        await asyncio.gather(*self._reading)

    async def _stream(self, role: str, url: Any, until_s: float, *, read_along: bool) -> None:
        """A stream up to a time; one that the server turns away at its hello is tried again until then."""
        first = self._random.randrange(len(self._pictures))
        pictures = [*self._pictures[first:], *self._pictures[:first]]
        while time.monotonic() < until_s:
            client = LiveClient(self._http, url, pictures, role, delay_steps=self._task.delay_steps)
            self.accounts.append(client.account)
            try:
                await client.run(until_s, greeted=self._read_along if read_along else None)
                return
            except NotGreeted as refusal:
                client.account.refused.append(refusal.code)
                await asyncio.sleep(_RETRY_S)

    async def _read_along(self, account: Account) -> None:
        async def read() -> None:
            self.feeds[account.session] = await words_of_feed(self._http, self._task.url, account)

        self._reading.append(asyncio.create_task(read()))

    async def _begin(self, share: float) -> None:
        """Clients begin spread over a second before the first phase, at no common time."""
        await asyncio.sleep(max(0.0, self._task.begin_s - 1.0 + share - time.monotonic()))

    async def _steady(self, share: float) -> None:
        await self._begin(share)
        await self._stream("steady", lambda: self._task.url, self._task.end_s, read_along=False)

    async def _twin(self, share: float) -> None:
        await self._begin(share)
        await self._stream("twin", lambda: self._task.url, self._task.end_s, read_along=True)

    async def _behind_a_bad_line(self, role: str, share: float, misbehave: Any) -> None:
        host, port = self._task.url.removeprefix("http://").split(":")
        line = BadLine(host, int(port))
        await line.open()
        await self._begin(share)
        spoiling = asyncio.create_task(misbehave(line))
        try:
            await self._stream(role, lambda: line.url, self._task.end_s, read_along=True)
        finally:
            spoiling.cancel()
            await asyncio.gather(spoiling, return_exceptions=True)
            await line.close()

    async def _stalling(self, share: float) -> None:
        async def stall(line: BadLine) -> None:
            for begin_s, end_s in self._task.hostile_phases():
                await _until(begin_s)
                line.stall()
                await _until(begin_s + _STALL_SHARE * (end_s - begin_s))
                line.go_on()

        await self._behind_a_bad_line("stalling", share, stall)

    async def _dropping(self, share: float) -> None:
        async def drop(line: BadLine) -> None:
            for begin_s, end_s in self._task.hostile_phases():
                await _until(begin_s)
                while time.monotonic() < end_s - _CUT_S[0]:
                    await asyncio.sleep(self._random.uniform(*_CUT_S))
                    line.cut()

        await self._behind_a_bad_line("dropping", share, drop)

    async def _garbage(self, share: float) -> None:
        """A stream that behaves in calm phases; garbage in the others."""
        await self._begin(share)
        sender = GarbageSender(self._http, self._task.url, self._pictures, self._random.randrange(1 << 30))
        for begin_s, end_s in self._task.hostile_phases():
            await self._stream("calm garbage", lambda: self._task.url, begin_s, read_along=False)
            await sender.run(end_s)
        await self._stream("calm garbage", lambda: self._task.url, self._task.end_s, read_along=False)
        for kind, count in sender.sent.items():
            self.garbage[kind] = self.garbage.get(kind, 0) + count


async def _until(when_s: float) -> None:
    await asyncio.sleep(max(0.0, when_s - time.monotonic()))


async def run(task: Task) -> dict[str, Any]:
    """Runs a task; returns accounts, feeds and what garbage was sent."""
    pictures = [path.read_bytes() for path in sorted(Path(task.pictures).glob("*.jpg"))]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        clients = Clients(task, http, pictures)
        await clients.run()
    accounts = [dataclasses.asdict(account) for account in clients.accounts]
    return {"accounts": accounts, "feeds": clients.feeds, "garbage": clients.garbage}


def main() -> int:
    """Reads a task from stdin, and writes what happened to stdout, as JSON."""
    fields = json.load(sys.stdin)
    task = Task(**fields | {"phases": tuple(fields["phases"])})
    json.dump(asyncio.run(run(task)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
