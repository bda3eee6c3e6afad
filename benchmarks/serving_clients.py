"""A process of clients of a server, started by `benchmarks.serving`: reads its task from stdin, answers on stdout."""

import asyncio
import dataclasses
import itertools
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.hostile_clients import BadLine, GarbageSender
from mmduplex_jax.client import Refused, Status, Stream, StreamLost, Word, connect

# Of a hostile phase, how long a line stands still: the server's patience and the client's coming back lie within.
_STALL_SHARE = 0.8
_CUT_S = (1.0, 4.0)
_RETRY_S = 0.5
_BYE_S = 20.0
# A time this close to a tick's is the tick's.
_AT = 1e-6


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


@dataclasses.dataclass
class Account:
    """What a stream was told, to be compared with what the server says that it told.

    Attributes:
      role: of the client.
      session: its id; empty before the first hello.
      feed: the secret with which others may read its words.
      words: (number, text, time in the stream) in the order in which they came.
      answered: of every status (when it came, ms since the client sent that tick's picture, ms that the server says).
      spoken: of every word (when it came, ms since the client sent the picture that it is about).
      doubled: words whose number had come before.
      missing: numbers that were passed over.
      resumed: connections that went on with the stream.
      refused: why the stream, or its going on, was turned away.
      dropped_frames: that the server left out.
      bye: the last message's reason, and the number of the last word in it.
    """

    role: str
    session: str = ""
    feed: str = ""
    words: list[tuple[int, str, float]] = dataclasses.field(default_factory=list)
    answered: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)
    spoken: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    doubled: int = 0
    missing: int = 0
    resumed: int = 0
    refused: list[str] = dataclasses.field(default_factory=list)
    dropped_frames: int = 0
    bye: tuple[str, int] | None = None


class Recorder:
    """Shows a stream a JPEG a tick, over and over, and keeps account of what it is told."""

    def __init__(self, stream: Stream, account: Account):
        self._stream, self._account = stream, account
        clock = stream.hello["clock"]
        self._tick_s = clock["video_stride"] / clock["step_hz"]
        self._sent_s: dict[int, float] = {}
        account.session, account.feed = stream.hello["session"], stream.hello["feed"]

    async def run(self, pictures: Sequence[bytes], until_s: float) -> None:
        """Until `until_s` (monotonic), and then to the last word; TimeoutError where that does not come."""
        sending = asyncio.create_task(self._send(pictures, until_s))
        stream, account = self._stream, self._account
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic()) + _BYE_S):
                async for event in stream:
                    self._record(event)
        except (Refused, StreamLost) as error:
            account.refused.append(error.code if isinstance(error, Refused) else "unreachable")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            account.doubled, account.missing, account.resumed = stream.doubled, stream.missing, stream.reconnections
            if stream.bye is not None:
                account.bye = stream.bye["reason"], stream.bye["seq"]

    def _record(self, event: object) -> None:
        now_s, account = time.monotonic(), self._account
        if isinstance(event, Word):
            account.words.append((event.seq, event.text, event.t_video_s))
            if (since_s := self._since(event.t_video_s, now_s)) is not None:
                account.spoken.append((now_s, since_s * 1e3))
        elif isinstance(event, Status):
            account.dropped_frames = event.dropped_frames
            if (since_s := self._since(event.t_video_s, now_s)) is not None:
                account.answered.append((now_s, since_s * 1e3, event.lag_s * 1e3))

    def _since(self, t_video_s: float, now_s: float) -> float | None:
        """Seconds since the picture on the screen at a time of the stream was sent."""
        sent_s = self._sent_s.get(int(t_video_s / self._tick_s + _AT))
        return None if sent_s is None else now_s - sent_s

    async def _send(self, pictures: Sequence[bytes], until_s: float) -> None:
        began_s = time.monotonic()
        for tick in itertools.count():
            due_s = began_s + tick * self._tick_s
            if due_s >= until_s:
                break
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            left_out, self._sent_s[tick] = self._stream.left_out, time.monotonic()
            await self._stream.send_encoded(tick * self._tick_s, pictures[tick % len(pictures)], "jpeg")
            if self._stream.left_out > left_out:
                del self._sent_s[tick]
        await self._stream.end()


async def words_of_feed(http: aiohttp.ClientSession, url: str, account: Account) -> list[tuple[int, str, float]]:
    """The words of a stream as a reader of its feed is told them, undisturbed by what its client does; to its end."""
    words: list[tuple[int, str, float]] = []
    address = f"{url}/v1/sessions/{account.session}/words"
    no_limit = aiohttp.ClientTimeout(total=None)
    async with http.get(address, params={"key": account.feed}, timeout=no_limit) as answer:
        answer.raise_for_status()
        event = ""
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data" and event == "word":
                word = json.loads(value)
                words.append((word["seq"], word["text"], word["t_video_s"]))
    return words


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

    async def _stream(self, role: str, url: str, until_s: float, *, read_along: bool) -> None:
        """A stream up to a time; one that the server turns away at its hello is tried again until then."""
        first = self._random.randrange(len(self._pictures))
        pictures = [*self._pictures[first:], *self._pictures[:first]]
        while time.monotonic() < until_s:
            account = Account(role)
            self.accounts.append(account)
            try:
                async with connect(url, delay_steps=self._task.delay_steps, client=role) as stream:
                    recorder = Recorder(stream, account)
                    if read_along:
                        self._reading.append(asyncio.create_task(self._read_along(account)))
                    await recorder.run(pictures, until_s)
                return
            except (Refused, StreamLost) as error:
                account.refused.append(error.code if isinstance(error, Refused) else "unreachable")
                await asyncio.sleep(_RETRY_S)

    async def _read_along(self, account: Account) -> None:
        self.feeds[account.session] = await words_of_feed(self._http, self._task.url, account)

    async def _begin(self, share: float) -> None:
        """Clients begin spread over a second before the first phase, at no common time."""
        await asyncio.sleep(max(0.0, self._task.begin_s - 1.0 + share - time.monotonic()))

    async def _steady(self, share: float) -> None:
        await self._begin(share)
        await self._stream("steady", self._task.url, self._task.end_s, read_along=False)

    async def _twin(self, share: float) -> None:
        await self._begin(share)
        await self._stream("twin", self._task.url, self._task.end_s, read_along=True)

    async def _behind_a_bad_line(self, role: str, share: float, misbehave: Any) -> None:
        host, port = self._task.url.removeprefix("http://").split(":")
        line = BadLine(host, int(port))
        await line.open()
        await self._begin(share)
        spoiling = asyncio.create_task(misbehave(line))
        try:
            await self._stream(role, line.url, self._task.end_s, read_along=True)
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
            await self._stream("calm garbage", self._task.url, begin_s, read_along=False)
            await sender.run(end_s)
        await self._stream("calm garbage", self._task.url, self._task.end_s, read_along=False)
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
