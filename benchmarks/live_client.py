"""A stream on a server that keeps account of everything: pictures by the clock, words by number, over any connections.

It speaks the bare protocol (docs/protocol.md) and not through `mmduplex_jax.client`, which would hide a doubled word.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from mmduplex_jax.serving.protocol import SUBPROTOCOL, VERSION, Frame, frame_bytes

_HELLO_S = 20.0
_BYE_S = 20.0
_RETRY_S = 0.1
# A time this close to a tick's is the tick's.
_AT = 1e-6


class NotGreeted(ConnectionError):
    """The server refuses the stream; `code` says why."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


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
      refused: why connections that wanted to go on were turned away.
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


class LiveClient:
    """One stream, from its first hello to its bye.

    Attributes:
      account: what it was told.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: Callable[[], str],
        pictures: Sequence[bytes],
        role: str,
        *,
        delay_steps: int | None = None,
    ):
        """Makes it.

        Args:
          http: to connect with.
          url: where to connect to, asked for every connection.
          pictures: JPEGs, one a tick, over and over.
          role: for the account.
          delay_steps: how far the words run behind; None takes the model's own.
        """
        self._http, self._url, self._pictures, self._delay_steps = http, url, pictures, delay_steps
        self.account = Account(role)
        self._token = ""
        self._tick_s = 0.0
        self._sent_s: dict[int, float] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._ending = False

    async def run(self, until_s: float, *, greeted: Callable[[Account], Awaitable[None]] | None = None) -> Account:
        """Shows a picture every tick until `until_s` (monotonic), ends the stream and waits for its last word.

        Args:
          until_s: when.
          greeted: is called with the account after the first hello.

        Raises:
          NotGreeted: the server refuses the stream at its first hello.
          TimeoutError: the server does not say goodbye.
        """
        socket: aiohttp.ClientWebSocketResponse | None = await self._connect()
        if greeted is not None:
            await greeted(self.account)
        sending = asyncio.create_task(self._send_until(until_s))
        try:
            while self.account.bye is None:
                async with asyncio.timeout(max(0.0, until_s - time.monotonic()) + _BYE_S):
                    if socket is not None:
                        await self._listen(socket)
                    if self.account.bye is None:
                        socket = await self._again()
                        if socket is None and self.account.refused[-1:] == ["unknown_session"]:
                            break
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            if self._socket is not None:
                await self._socket.close()
        return self.account

    @property
    def _last_seq(self) -> int:
        return self.account.words[-1][0] if self.account.words else 0

    async def _again(self) -> aiohttp.ClientWebSocketResponse | None:
        try:
            return await self._connect()
        except NotGreeted as refusal:
            self.account.refused.append(refusal.code)
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.account.refused.append("unreachable")
        await asyncio.sleep(_RETRY_S)
        return None

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        account = self.account
        async with asyncio.timeout(_HELLO_S):
            socket = await self._http.ws_connect(f"{self._url()}/v1/stream", protocols=(SUBPROTOCOL,))
            hello: dict[str, Any] = {"type": "hello", "version": VERSION, "client": account.role}
            hello["config"] = {"mode": "live", "delay_steps": self._delay_steps}
            if account.session:
                resume = {"session": account.session, "token": self._token, "last_seq": self._last_seq}
                hello["resume"] = resume
            try:
                await socket.send_str(json.dumps(hello))
                message = await socket.receive()
            except BaseException:
                await socket.close()
                raise
        answer: dict[str, Any] = (
            json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {"type": "closed"}
        )
        if answer["type"] != "hello":
            await socket.close()
            raise NotGreeted(answer.get("code", answer["type"]))
        account.resumed += answer["resumed"]
        account.missing += answer["missed_words"]
        account.session, self._token, account.feed = answer["session"], answer["token"], answer["feed"]
        self._tick_s = answer["clock"]["video_stride"] / answer["clock"]["step_hz"]
        self._socket = socket
        if self._ending:
            await self._say_end()
        return socket

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Takes what comes until the connection ends."""
        account = self.account
        async for message in socket:
            now_s = time.monotonic()
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            said = json.loads(message.data)
            match said["type"]:
                case "word":
                    last = self._last_seq
                    account.doubled += said["seq"] <= last
                    account.missing += max(0, said["seq"] - last - 1)
                    account.words.append((said["seq"], said["text"], said["t_video_s"]))
                    if (since_s := self._since(said["t_video_s"], now_s)) is not None:
                        account.spoken.append((now_s, since_s * 1e3))
                case "status":
                    account.dropped_frames = said["dropped_frames"]
                    if (since_s := self._since(said["t_video_s"], now_s)) is not None:
                        account.answered.append((now_s, since_s * 1e3, said["lag_s"] * 1e3))
                case "bye":
                    account.bye = said["reason"], said["seq"]
        self._socket = None

    def _since(self, t_video_s: float, now_s: float) -> float | None:
        """Seconds since the picture on the screen at a time of the stream was sent."""
        sent_s = self._sent_s.get(int(t_video_s / self._tick_s + _AT))
        return None if sent_s is None else now_s - sent_s

    async def _send_until(self, until_s: float) -> None:
        began_s = time.monotonic()
        for tick in itertools.count():
            due_s = began_s + tick * self._tick_s
            if due_s >= until_s:
                break
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self._socket is not None and not self._socket.closed:
                picture = self._pictures[tick % len(self._pictures)]
                message = frame_bytes(Frame(tick, tick * self._tick_s, "jpeg", True, picture))
                # A connection that is gone is noticed by the reader, which makes another one.
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    self._sent_s[tick] = time.monotonic()
                    await self._socket.send_bytes(message)
        self._ending = True
        await self._say_end()

    async def _say_end(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await self._socket.send_str(json.dumps({"type": "end"}))


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
