"""WebRTC: a camera's or a screen's track in, the protocol over a data channel. aiortc is loaded when it is needed."""

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import re
import time
from typing import Any

from mmduplex_jax.serving.connection import WireGone, converse
from mmduplex_jax.serving.intake import Decoded
from mmduplex_jax.serving.protocol import ProtocolError
from mmduplex_jax.serving.session import Session
from mmduplex_jax.serving.sessions import Sessions

_log = logging.getLogger(__name__)
CHANNEL = "mmduplex"
# What may wait to be sent, or to be read, of a client.
_BUFFERED_MAX, _BUFFERED_LOW = 256 << 10, 64 << 10
_MESSAGES_WAITING = 64
_FLUSH_S = 2.0
_MEDIA = re.compile(r"^m=(\w+) ", re.MULTILINE)


class WebRtcRefused(Exception):
    """An offer that is refused; `status` is HTTP's."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Peers:
    """The peer connections of a server.

    Attributes:
      available: aiortc is installed.
    """

    def __init__(self, sessions: Sessions, ice_servers: tuple[str, ...] = ()):
        self._sessions, self._ice_servers = sessions, ice_servers
        self._peers: set[_Peer] = set()
        self.available = importlib.util.find_spec("aiortc") is not None
        if self.available:
            # Now, while nobody waits: loading it takes a second.
            importlib.import_module("aiortc")

    async def answer(self, offer: Any) -> dict[str, str]:
        """The answer to an SDP offer with one data channel and at most one video track.

        Raises:
          WebRtcRefused: it is no such offer, there are too many peers, or aiortc is not installed.
        """
        if not self.available:
            raise WebRtcRefused(501, "this server has no WebRTC (its extra `live` is not installed); use the WebSocket")
        if self._sessions.draining:
            raise WebRtcRefused(503, "the server is going down")
        if len(self._peers) >= self._sessions.limits.connections:
            raise WebRtcRefused(503, f"{len(self._peers)} peers are connected already")
        sdp = offer.get("sdp") if isinstance(offer, dict) else None
        if not isinstance(sdp, str) or offer.get("type") != "offer":
            raise WebRtcRefused(400, "the body must be an SDP offer: {type: 'offer', sdp: ...}")
        media = sorted(_MEDIA.findall(sdp))
        if media not in (["application"], ["application", "video"]):
            raise WebRtcRefused(400, f"an offer has a data channel and at most one video track, got {media}")
        peer = _Peer(self._sessions, self._ice_servers)
        self._peers.add(peer)
        peer.on_closed = lambda: self._peers.discard(peer)
        try:
            return await peer.answer(sdp)
        except Exception as error:  # what aiortc raises at a broken offer is of many kinds
            _log.info("a WebRTC offer failed", extra={"error": repr(error)})
            await peer.close()
            raise WebRtcRefused(400, f"the offer cannot be answered: {type(error).__name__}") from error

    async def close(self) -> None:
        """Closes all of them."""
        await asyncio.gather(*(peer.close() for peer in list(self._peers)))


class _Channel:
    """A data channel as a wire."""

    def __init__(self, channel: Any, message_bytes: int):
        self._channel, self._message_bytes = channel, message_bytes
        self._received: asyncio.Queue[str | bytes | None] = asyncio.Queue(_MESSAGES_WAITING)
        self._low = asyncio.Event()
        self.gone = asyncio.Event()
        channel.bufferedAmountLowThreshold = _BUFFERED_LOW
        channel.on("message", self._on_message)
        channel.on("bufferedamountlow", self._low.set)
        channel.on("close", self.lose)

    def lose(self) -> None:
        """The other side is gone."""
        self.gone.set()
        self._low.set()
        with contextlib.suppress(asyncio.QueueFull):
            self._received.put_nowait(None)

    def _on_message(self, message: str | bytes) -> None:
        try:
            self._received.put_nowait(message)
        except asyncio.QueueFull:
            # The channel cannot be told to wait. Pictures belong on the track; whoever floods it is cut off.
            self.lose()

    async def receive(self) -> str | bytes:
        message = None if self.gone.is_set() and self._received.empty() else await self._received.get()
        if message is None:
            raise WireGone("the data channel was closed")
        if len(message) > self._message_bytes:
            raise ProtocolError("bad_message", f"a message has at most {self._message_bytes} bytes")
        return message

    async def send(self, text: str) -> None:
        while not self.gone.is_set() and self._channel.bufferedAmount > _BUFFERED_MAX:
            self._low.clear()
            await self._low.wait()
        if self.gone.is_set() or self._channel.readyState != "open":
            raise WireGone("the data channel is closed")
        self._channel.send(text)

    async def close(self, code: int, reason: str) -> None:
        """Lets what was sent go out; the peer is closed after it, which closes the channel."""
        deadline_s = time.monotonic() + _FLUSH_S
        while not self.gone.is_set() and self._channel.bufferedAmount and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)


class _Peer:
    """One peer connection: its track's pictures go to the session that its channel speaks for."""

    def __init__(self, sessions: Sessions, ice_servers: tuple[str, ...]):
        from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection

        # Without a list aiortc would ask a public STUN server.
        servers = [RTCIceServer(urls=address) for address in ice_servers]
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._sessions = sessions
        self._session: Session | None = None
        self._channel: _Channel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self.on_closed = lambda: None
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("track", self._on_track)
        self._connection.on("connectionstatechange", self._on_state)

    async def answer(self, sdp: str) -> dict[str, str]:
        from aiortc import RTCSessionDescription

        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        self._begin(self._give_up())
        local = self._connection.localDescription
        return {"type": local.type, "sdp": local.sdp}

    async def close(self) -> None:
        """Closes it; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._channel is not None:
            self._channel.lose()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self.on_closed()
        await self._connection.close()

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _give_up(self) -> None:
        """A peer that never opens its channel is let go."""
        await asyncio.sleep(self._sessions.limits.hello_s)
        if self._channel is None:
            await self.close()

    def _on_channel(self, channel: Any) -> None:
        if self._channel is None and channel.label == CHANNEL:
            self._channel = _Channel(channel, self._sessions.limits.message_bytes)
            self._begin(self._converse(self._channel))

    async def _converse(self, channel: _Channel) -> None:
        try:
            await converse(channel, self._sessions, on_session=self._on_session)
        finally:
            await self.close()

    def _on_session(self, session: Session) -> None:
        self._session = session

    def _on_track(self, track: Any) -> None:
        self._begin(self._watch(track))

    async def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            await self.close()

    async def _watch(self, track: Any) -> None:
        """Brings the track's pictures to the session. They are taken from the track at once: it holds any number."""
        from aiortc.mediastreams import MediaStreamError

        begin_s: float | None = None
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            session = self._session
            if session is None or session.ended is not None or frame.time is None:
                continue
            if begin_s is None:
                # A stream that goes on takes up its own time, with the time that it was away.
                before_s = session.received_s
                begin_s = (0.0 if before_s is None else before_s + time.monotonic() - session.seen_s) - frame.time
            try:
                await session.put(Decoded(max(0.0, begin_s + frame.time), frame))
            except ProtocolError as error:
                session.end("protocol", str(error))
