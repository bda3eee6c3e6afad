"""A client of `launch.serve`: pictures out, words in, over a connection that may drop. docs/protocol.md says the rest.

    async with connect("http://127.0.0.1:8080", mode="file") as stream:
        speaking = asyncio.create_task(show(stream))       # await stream.send(t_s, image) ...; await stream.end()
        async for event in stream:
            if isinstance(event, Word):
                print(event.text)
            elif isinstance(event, Heard):                  # with sound="pcm16", of a model with a voice
                play(event.samples, event.sample_rate_hz)

It needs aiohttp (the extra `live`), NumPy and OpenCV, and no JAX. `mmduplex_jax.client.session` is for programs that
block, one tick after another.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from mmduplex_jax.client.sound import Heard, SoundDecoder
from mmduplex_jax.serving.protocol import SUBPROTOCOL, VERSION, Frame, Status, Word, frame_bytes, parse_sound

__all__ = [
    "TOKEN_VARIABLE", "Event", "Heard", "Notice", "Refused", "Status", "Stream", "StreamLost", "Word", "connect",
    "encode", "info", "read_token",
]  # fmt: skip

_log = logging.getLogger(__name__)

# Pictures of a file that the server has not answered yet; they are sent again where a connection drops.
_UNANSWERED_MAX = 16
# Pictures of a file that are answered are kept until the server has kept what came of them, in at most so many bytes.
_ANSWERED_BYTES = 64 << 20
# Of a live stream the last pictures are kept, and sent where a connection that takes it up has not got them; so far
# apart, as the server takes no more at once.
_RECENT_MAX, _RECENT_APART_S = 16, 0.01
# A stream that is taken up may be refused for the moment: where it is asked for goes down, or is full.
_COME_BACK = frozenset({"draining", "full", "overloaded"})
_GATEWAY = frozenset({502, 503, 504})
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_HEARTBEAT_S = 20.0
_LEAVE_S = 1.0
TOKEN_VARIABLE = "MMDUPLEX_TOKEN"
_CONNECT_S = 10.0
# Times that go back by so much or more begin a stream anew, as on the server.
_SET_BACK_S = 0.5


class Refused(ConnectionError):
    """The server refuses or has ended the stream, and why.

    Attributes:
      code: one of the error codes or reasons in docs/protocol.md, or "http" where there was no WebSocket.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class StreamLost(ConnectionError):
    """The connection dropped, and the server could not be reached again while it kept the stream."""


class Notice(NamedTuple):
    """Something that does not end the stream: an error's code, "config" (new settings), "connection" or "missed"."""

    code: str
    message: str


Event = Word | Status | Heard | Notice


@dataclasses.dataclass
class _Sent:
    """A picture that the server may not have; `left` where it was never on its way."""

    number: int
    t_s: float
    message: bytes
    keyframe: bool
    left: bool = False


class Stream:
    """A stream on a server; made by `connect`. Iterating it gives events until its end; then `bye` says why it ended.

    Attributes:
      hello: the server's answer; its fields are in docs/protocol.md.
      bye: the server's last message; None until then.
      last_seq: the number of the last word.
      reconnections: how often the connection dropped and was made anew.
      left_out: pictures of a live stream that could not be sent when it was their time.
      doubled, missing: words that came again, which are not given out; numbers of words that never came.
    """

    def __init__(self, http: Any, url: str, config: dict[str, Any], client: str):
        self._http, self._url, self._config, self._client = http, url, config, client
        self._file = config["mode"] == "file"
        self._events: deque[Event] = deque()
        self._changed = asyncio.Condition()
        self._socket: Any = None
        # Of a file those that are not answered, of a live stream the last ones.
        self._unanswered: deque[_Sent] = deque()
        # Of a file: those that are answered, and might have to be sent again where the server is lost; up to which time
        # there are none; and how many times the server must still say that it kept the stream, until that is of use.
        self._answered: deque[_Sent] = deque()
        self._answered_bytes, self._has_after_s, self._unkept = 0, -1.0, 0
        self._wants_keyframe = self._moved = False
        # The last of "pause" and "play", and the number of the first picture after it.
        self._standing: tuple[str, int] | None = None
        # That were ordered.
        self._resets = 0
        self._away_s: float | None = None
        self._attempt = 0
        self._number = 0
        # The latest time of a file's pictures since the last reset, or since the clock was set back.
        self._sent_s: float | None = None
        self._ending = self._writing = False
        self._error: Exception | None = None
        self._done = False
        self.hello: dict[str, Any] = {}
        self.bye: dict[str, Any] | None = None
        self.last_seq = self.reconnections = self.left_out = self.doubled = self.missing = 0

    # What its owner calls.

    async def send(self, t_s: float, image: np.ndarray, quality: int | None = None) -> None:
        """Shows a picture; see `encode` and `send_encoded`."""
        await self.send_encoded(t_s, *encode(image, quality))

    async def send_encoded(self, t_s: float, data: bytes, codec: str, *, keyframe: bool = True) -> None:
        """Shows an encoded picture.

        Of a file, waits while many are on their way, and sends what is lost with a connection again. Of a live stream,
        a picture that cannot be sent now is left out; without a connection the last ones wait for the next.

        Args:
          t_s: when it was on the screen; at the time of one of the server's ticks it is used at once.
          data: a JPEG, a WebP, or an access unit of H.264 in Annex B form.
          codec: "jpeg", "webp" or "h264".
          keyframe: of H.264, whether decoding can begin here.

        Raises:
          Refused, StreamLost: the stream has ended that way.
        """
        number, self._number = self._number, self._number + 1
        message = frame_bytes(Frame(number, t_s, codec, keyframe, data))
        self._wants_keyframe = self._wants_keyframe and not keyframe
        if self._wants_keyframe:
            self.left_out += 1
            return
        if not self._file:
            self._raise_end()
            if self._writing:
                self.left_out += 1
                return
            self._keep_recent(_Sent(number, t_s, message, keyframe, left=self._socket is None))
            if self._socket is None:
                return
            self._writing = True
            try:
                await self._write(message)
            finally:
                self._writing = False
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._done or len(self._unanswered) < _UNANSWERED_MAX)
            self._raise_end()
            if self._sent_s is not None and self._sent_s - t_s >= _SET_BACK_S:
                # The server begins anew there; what was sent before is forgotten, and need not be sent again.
                self._unanswered.clear()
                self._disturb()
                self._sent_s = None
            # (A picture that is only too late is left out there.)
            self._sent_s = t_s if self._sent_s is None else max(self._sent_s, t_s)
            self._unanswered.append(_Sent(number, t_s, message, keyframe))
        # Without a connection it goes with the next one's beginning.
        await self._write(message)

    async def configure(
        self, *, delay_steps: int | None = None, pad_bias: float | None = None, hear: bool | None = None
    ) -> None:
        """Changes the settings; a Notice "config" comes when they hold.

        Args:
          delay_steps, pad_bias: as of `connect`.
          hear: of a stream with `sound`, whether it is heard; where it is not, its sound is not made.
        """
        if delay_steps is not None:
            self._config["delay_steps"] = delay_steps
        if pad_bias is not None:
            self._config["pad_bias"] = pad_bias
        if hear is not None:
            self._config["hear"] = hear
        self._disturb()
        await self._order({"type": "config", "delay_steps": delay_steps, "pad_bias": pad_bias, "hear": hear})

    async def order(self, order: Literal["pause", "play", "reset"]) -> None:
        """Pauses, plays on, or forgets everything; after the pictures that were sent before."""
        if order != "reset":
            self._standing = order, self._number
            self._disturb()
            await self._order({"type": order})
            return
        self._raise_end()
        # What was sent before is forgotten, and need not be sent again.
        self._unanswered.clear()
        self._disturb()
        self._sent_s = None
        self._resets += 1
        # Without a connection it goes with the next one's beginning, and so does one that is lost with a connection.
        await self._write(json.dumps({"type": order}))

    async def end(self) -> None:
        """No more pictures will come; the stream ends when the model has taken all."""
        if not self._ending:
            self._ending = True
            if self._socket is not None:
                await self._write(json.dumps({"type": "end"}))

    async def leave(self) -> None:
        """Lets the server give the slot to others, where the stream has not ended; waits for nothing."""
        if not self._done:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_S):
                    await self.end()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        async with self._changed:
            await self._changed.wait_for(lambda: self._done or bool(self._events))
            if self._events:
                return self._events.popleft()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    # The connection.

    async def run(self) -> None:
        """Keeps the connection until the stream ends; `connect` runs it."""
        try:
            while self.bye is None:
                try:
                    await self._connected()
                except Refused as refused:
                    if not self.hello or refused.code not in _COME_BACK:
                        raise
                    await self._wait_to_retry(refused)
        except (Refused, StreamLost) as error:
            self._error = error
        except (ValueError, LookupError, TypeError) as error:
            self._error = Refused("bad_message", f"{self._url} speaks another protocol: {error!r}")
        finally:
            async with self._changed:
                self._done, self._socket = True, None
                self._changed.notify_all()

    async def _connected(self) -> None:
        """One connection, from its hello to its end; returns when it dropped or the stream has ended."""
        aiohttp = _load_aiohttp()
        socket, before = await self._reach(), self.hello
        async with socket:
            hello = {"type": "hello", "version": VERSION, "client": self._client, "config": self._config}
            if self.hello:
                resume = {"session": self.hello["session"], "token": self.hello["token"], "last_seq": self.last_seq}
                if self._file and not self._unkept:
                    resume["has_after_s"] = self._has_after_s
                hello["resume"] = resume
            try:
                await socket.send_str(json.dumps(hello))
                decoder = SoundDecoder()
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await self._take_message(json.loads(message.data), socket)
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        await self._emit(decoder.decode(parse_sound(message.data)))
            except Refused:
                raise
            except (ConnectionError, aiohttp.ClientError) as error:
                _log.debug("the connection dropped: %s", error)
            if socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                raise Refused("too_large", f"a picture was too large for the server: {self.hello.get('limits')}")
        moved = self._moved and self.hello is not before
        if self._socket is None and self.bye is None and not moved:
            await self._wait_to_retry(StreamLost("the connection dropped before its hello"))
        self._socket = None

    async def _wait_to_retry(self, error: Exception) -> None:
        """Waits a little, longer each time; raises the error where the server keeps the stream no longer."""
        now_s = time.monotonic()
        self._away_s = now_s if self._away_s is None else self._away_s
        if now_s - self._away_s >= (self.hello["limits"]["resume_s"] if self.hello else _CONNECT_S):
            raise error
        await asyncio.sleep(_RETRY_S[min(self._attempt, len(_RETRY_S) - 1)])
        self._attempt += 1

    async def _reach(self) -> Any:
        """A WebSocket to the server; after a drop it is tried for as long as the server keeps the stream."""
        aiohttp = _load_aiohttp()
        # (What stands before several servers finds by the session's name the one that has it.)
        named = {"session": self.hello["session"]} if self.hello and not self._moved else None
        while True:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    socket = await self._http.ws_connect(
                        f"{self._url}/v1/stream",
                        params=named,
                        protocols=(SUBPROTOCOL,),
                        heartbeat=_HEARTBEAT_S,
                        max_msg_size=1 << 20,
                    )
            except Refused:  # a redirect
                raise
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if isinstance(error, aiohttp.WSServerHandshakeError) and not (self.hello and error.status in _GATEWAY):
                    raise _refused(self._url, error.status, error.message) from error
                lost = StreamLost(f"{self._url} cannot be reached: {str(error) or type(error).__name__}")
                if not self.hello:
                    raise lost from error
                await self._wait_to_retry(lost)
                continue
            return socket

    async def _take_message(self, message: dict[str, Any], socket: Any) -> None:
        match message:
            case {"type": "hello"}:
                await self._take_hello(message, socket)
            case {"type": "word", "seq": seq}:
                if seq <= self.last_seq:
                    self.doubled += 1
                else:
                    self.missing += seq - self.last_seq - 1
                    self.last_seq = seq
                    await self._emit(Word(**{name: message[name] for name in Word._fields if name in message}))
            case {"type": "status"}:
                await self._emit(Status(**{name: message[name] for name in Status._fields if name in message}))
            case {"type": "kept", "t_s": t_s}:
                self._unkept = max(0, self._unkept - 1)
                if not self._unkept:
                    self._drop_answered(-1.0 if t_s is None else t_s)
            case {"type": "config"}:
                settings = f"delay {message['delay_steps']} steps, bias {message['pad_bias']:g}"
                await self._emit(Notice("config", settings))
            case {"type": "error", "fatal": True}:
                raise Refused(message["code"], message["message"])
            case {"type": "error"}:
                await self._emit(Notice(message["code"], message["message"]))
            case {"type": "bye", "resumable": True}:
                # It goes on elsewhere; what is shown meanwhile is sent there.
                self._socket, self._moved = None, True
            case {"type": "bye"}:
                self.bye = message
                if message["reason"] != "end":
                    raise Refused(message["reason"], message["message"])

    async def _take_hello(self, hello: dict[str, Any], socket: Any) -> None:
        first, self.hello = not self.hello, hello
        # (Only now: one that refuses it for the moment is not where it is.)
        self._away_s, self._attempt, self._moved = None, 0, False
        if not first:
            self.reconnections += 1
            await self._emit(Notice("connection", "the connection dropped and was made anew"))
        if hello["missed_words"]:
            self.last_seq += hello["missed_words"]
            self.missing += hello["missed_words"]
            await self._emit(Notice("missed", f"{hello['missed_words']} words were no longer kept"))
        if not first:
            wanted = {name: self._config[name] for name in ("delay_steps", "pad_bias")}
            if any(value is not None and value != hello[name]["now"] for name, value in wanted.items()):
                await socket.send_str(json.dumps({"type": "config", **wanted}))
            # (Servers of before did not say how many resets came to them.)
            resets = hello.get("resets", self._resets)
            # All pictures that are left came after the last reset.
            after_s = -1.0 if hello["t_s"] is None or resets < self._resets else hello["t_s"]
            if self._unanswered and after_s > self._unanswered[-1].t_s + _SET_BACK_S:
                # The clock was set back, and none of what was shown since came in.
                after_s = -1.0
            if hello.get("wants_keyframe"):
                self._leave_out_up_to_keyframe(after_s)
            sent, standing = -1, self._standing
            # More may be added meanwhile; when none is left the socket is everybody's, and no picture lies between.
            while (
                some := [
                    one
                    for one in (*self._answered, *self._unanswered)
                    if one.number > sent and one.t_s > after_s + 1e-6
                ]
            ) or not (standing is None and resets >= self._resets):
                if resets < self._resets:
                    self._unkept, resets, after_s = 2, resets + 1, -1.0
                    await socket.send_str(json.dumps({"type": "reset"}))
                    continue
                if standing is not None:
                    some = [one for one in some if one.number < standing[1]]
                    if not some:
                        # (It may have come while the stream was on its way.)
                        await socket.send_str(json.dumps({"type": standing[0]}))
                        standing = None
                for one in some:
                    one.left = False
                    await socket.send_bytes(one.message)
                    sent = one.number
                    if not self._file:
                        await asyncio.sleep(_RECENT_APART_S)
            if self._ending:
                await socket.send_str(json.dumps({"type": "end"}))
        self._socket = socket
        async with self._changed:
            self._changed.notify_all()

    def _keep_recent(self, picture: _Sent) -> None:
        """Keeps a live stream's picture in place of the oldest."""
        if self._unanswered and picture.t_s < self._unanswered[-1].t_s - _SET_BACK_S:
            self._unanswered.clear()
        self._unanswered.append(picture)
        if len(self._unanswered) > _RECENT_MAX:
            self.left_out += self._unanswered.popleft().left

    def _leave_out_up_to_keyframe(self, after_s: float) -> None:
        """Lets go of pictures that nothing can decode any more: what they refer to was shown to another server."""
        while self._unanswered and not (self._unanswered[0].keyframe and self._unanswered[0].t_s > after_s):
            self.left_out += self._unanswered.popleft().t_s > after_s
        self._wants_keyframe = not self._unanswered

    async def _emit(self, event: Event) -> None:
        async with self._changed:
            self._events.append(event)
            # (What is of before the last reset, or before the clock was set back, answers no picture after it, though
            # their times may be the same.)
            if isinstance(event, Status) and (event.resets is None or event.resets >= self._resets):
                last = math.inf if event.picture is None else event.picture
                while (
                    self._unanswered
                    and self._unanswered[0].t_s <= event.t_video_s + 1e-6
                    and self._unanswered[0].number <= last
                ):
                    self._keep_answered(self._unanswered.popleft())
            self._changed.notify_all()

    def _keep_answered(self, picture: _Sent) -> None:
        """A picture is answered: it is kept where the server might be lost with what came of it."""
        if not (self._file and self.hello.get("keeps_streams")):
            self._answered.clear()
            self._answered_bytes = 0
            return
        if not self._answered or picture.number > self._answered[-1].number:
            self._answered.append(picture)
            self._answered_bytes += len(picture.message)
        while self._answered_bytes > _ANSWERED_BYTES:
            self._drop_answered(self._answered[0].t_s)

    def _drop_answered(self, t_s: float) -> None:
        """Lets go of pictures up to this time."""
        self._has_after_s = max(self._has_after_s, t_s)
        while self._answered and self._answered[0].t_s <= t_s + 1e-6:
            self._answered_bytes -= len(self._answered.popleft().message)

    def _disturb(self) -> None:
        """Something beside pictures is sent: only what the server keeps after it is what the pictures make of it.

        (What it said to be kept first may have been kept before.)
        """
        self._answered.clear()
        self._answered_bytes, self._has_after_s, self._unkept = 0, -1.0, 2

    async def _order(self, message: dict[str, Any]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._done or self._socket is not None)
        self._raise_end()
        await self._write(json.dumps(message))

    async def _write(self, message: str | bytes) -> None:
        aiohttp = _load_aiohttp()
        socket = self._socket
        if socket is None:
            return
        try:
            await (socket.send_bytes if isinstance(message, bytes) else socket.send_str)(message)
        except (ConnectionError, aiohttp.ClientError) as error:
            # The reader of this socket sees it too, and makes another connection.
            _log.debug("the connection dropped while sending: %s", error)

    def _raise_end(self) -> None:
        if self._error is not None:
            raise self._error
        if self._done:
            raise Refused("end", "the stream has ended")


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    mode: Literal["live", "file"] = "live",
    fit: Literal["crop", "pad"] | None = None,
    delay_steps: int | None = None,
    pad_bias: float = 0.0,
    source: str | None = None,
    sound: Literal["pcm16", "opus"] | None = None,
    client: str = "mmduplex_jax.client",
) -> AsyncIterator[Stream]:
    """A stream on the server at `url`, with its hello done; it ends with the block.

    Args:
      url: as `http://127.0.0.1:8080`.
      token: that the server asks for.
      mode: "live" drops pictures rather than wait, "file" waits and drops none.
      fit: how a picture of another shape becomes the model's frame; None: as it was trained.
      delay_steps: how far words run behind the picture; None takes the model's own.
      pad_bias: more is quieter.
      source: a file or an address that the server is to watch, where it allows that.
      sound: how the model's voice comes, as `Heard` beside words: "pcm16" as it is, "opus" in an eighth of the bytes or
        less; None: it is not heard. What is said while the connection is gone is not heard later.
      client: a name for the server's log.

    Raises:
      Refused: the server does not want this stream.
      StreamLost: there is no server.
      ValueError: no http address.
    """
    _check_url(url)
    config = {"mode": mode, "delay_steps": delay_steps, "pad_bias": pad_bias, "source": source}
    if fit is not None:
        config["fit"] = fit
    if sound is not None:
        config["sound"] = sound
    async with _session(token) as http:
        stream = Stream(http, url.rstrip("/"), config, client)
        running = asyncio.create_task(stream.run(), name=f"stream on {url}")
        try:
            async with stream._changed:
                await stream._changed.wait_for(lambda: stream._done or stream._socket is not None)
            stream._raise_end()
            yield stream
        finally:
            await stream.leave()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def encode(image: np.ndarray, quality: int | None = None) -> tuple[bytes, str]:
    """A picture as it is sent, and its codec.

    Args:
      image: uint8 [H, W, 3] RGB.
      quality: of a JPEG, 1 to 100; None sends a WebP without loss.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    suffix, options = ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]
    if quality is not None:
        suffix = ".jpg"
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    written, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not written:
        raise ValueError(f"OpenCV could not write a {suffix} of {image.shape[1]}×{image.shape[0]} pixels")
    return data.tobytes(), "webp" if quality is None else "jpeg"


def read_token(path: str | None) -> str | None:
    """The first line of the file, or else that of the environment; None where neither is there.

    Raises:
      OSError: the file cannot be read.
      ValueError: its first line is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    token = (Path(path).read_text(encoding="utf-8").splitlines() or [""])[0].strip()
    if not token:
        raise ValueError(f"--token_file={path}: its first line is empty, the token should be there")
    return token


def _load_aiohttp() -> Any:
    """The module aiohttp; an error that says how to get it where it is not installed."""
    try:
        import aiohttp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the client needs aiohttp: install mmduplex-jax with its extra `live`") from error
    return aiohttp


async def info(url: str, token: str | None = None) -> dict[str, Any]:
    """A server's model; the fields are in docs/protocol.md.

    Raises:
      Refused: the server refuses it.
      StreamLost: there is no server.
      ValueError: no http address.
    """
    aiohttp = _load_aiohttp()
    _check_url(url)
    timeout = aiohttp.ClientTimeout(total=_CONNECT_S)
    try:
        async with (
            _session(token, timeout=timeout) as http,
            http.get(f"{url.rstrip('/')}/v1/info") as answer,
        ):
            if answer.status != 200:
                raise _refused(url, answer.status, answer.reason or "")
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StreamLost(f"{url} cannot be reached: {str(error) or type(error).__name__}") from error


def _check_url(url: str) -> None:
    """ValueError for what is no server's address."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is no server's address (http://127.0.0.1:8080)")


def _session(token: str | None, **arguments: Any) -> Any:
    """A session of aiohttp that shows a token, and goes where it is sent to and nowhere else.

    A redirect would let a server point its clients at addresses that only they can reach.
    """
    aiohttp = _load_aiohttp()

    async def refuse(session: Any, context: Any, redirected: Any) -> None:
        raise Refused("http", f"{redirected.url} redirects to another address, which is not followed: name that one")

    watched = aiohttp.TraceConfig()
    watched.on_request_redirect.append(refuse)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return aiohttp.ClientSession(headers=headers, trace_configs=[watched], **arguments)


def _refused(url: str, status: int, message: str) -> Refused:
    """A refusal by HTTP's status, in words."""
    known = {401: "it wants another token", 403: "it refuses this origin or host name"}
    return Refused("http", f"{url}: {known.get(status, f'{status} {message}')}")
