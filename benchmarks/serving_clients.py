"""A process of clients of a server, started by `benchmarks.serving`: reads its task from stdin, answers on stdout."""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from mmduplex_jax.client import Refused, Status, Stream, StreamLost, Word, connect
from mmduplex_jax.serving.protocol import Frame, frame_bytes

# Of a hostile phase, how long a line stands still: the server's patience and the client's coming back lie within.
_STALL_SHARE = 0.8
_CUT_S = (1.0, 4.0)
_RETRY_S = 0.5
_BYE_S = 20.0
# A time this close to a tick's is the tick's.
_AT = 1e-6
# So little fits between the server and a connection that stands still.
_BUFFER_BYTES = 4096
_CHUNK_BYTES = 2048
_FLOOD = 2000
# What a sender does between two of its kinds. It runs on the server's machine, whose cores it takes while it does not
# pause; a stranger's would be elsewhere.
_PAUSE_S = 0.1
_TOO_LARGE_BYTES = 3 << 20


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
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
            await _end(socket_)

    async def _bombs(self) -> None:
        """Pictures that claim to be huge, and one that takes long to decode for its size."""
        whole = self._pictures[0]
        at = next(i for i in range(len(whole)) if whole[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
        huge = whole[: at + 5] + struct.pack(">HH", 65_500, 65_500) + whole[at + 9 :]
        scans = whole[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 60_000
        async with self._greeted() as socket_:
            for number, data in enumerate((huge, scans) * 12):
                await socket_.send_bytes(frame_bytes(Frame(number, number * 0.5, "jpeg", True, data)))
            await _end(socket_)

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
            await _end(socket_)

    async def _resume(self) -> None:
        stranger = {"session": "x" * 12, "token": "y" * 32, "last_seq": self._random.randrange(2**53)}
        async with self._greeted(resume=stranger):
            pass


async def _end(socket_: aiohttp.ClientWebSocketResponse) -> None:
    """Ends a stream, and waits until the server has hung up."""
    await socket_.send_str('{"type":"end"}')
    while (await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
        pass


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
        self._reading: list[tuple[str, asyncio.Task[list[tuple[int, str, float]]]]] = []

    async def run(self) -> None:
        """Runs them to the end of the last phase, and until everything was told."""
        roles = {role: functools.partial(self._behaving, role=role) for role in ("steady", "twin")}
        roles |= {"stalling": self._stalling, "garbage": self._garbage, "dropping": self._dropping}
        async with asyncio.TaskGroup() as group:
            for role, count in self._task.clients.items():
                for _ in range(count):
                    group.create_task(roles[role](self._random.random()))
        self.feeds = {session: await words for session, words in self._reading}

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
                        words = words_of_feed(self._http, self._task.url, account)
                        self._reading.append((account.session, asyncio.create_task(words)))
                    await recorder.run(pictures, until_s)
                return
            except (Refused, StreamLost) as error:
                account.refused.append(error.code if isinstance(error, Refused) else "unreachable")
                await asyncio.sleep(_RETRY_S)

    async def _begin(self, share: float) -> None:
        """Clients begin spread over a second before the first phase, at no common time."""
        await asyncio.sleep(max(0.0, self._task.begin_s - 1.0 + share - time.monotonic()))

    async def _behaving(self, share: float, *, role: str) -> None:
        await self._begin(share)
        await self._stream(role, self._task.url, self._task.end_s, read_along=role == "twin")

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
