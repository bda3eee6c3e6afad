"""WebRTC: a camera's or a screen's track in, the protocol over a data channel, the model's voice on a track out.

aiortc is loaded when it is needed.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import re
import time
from typing import Any, NamedTuple

import av

from mmduplex_jax.serving.connection import WireGone, converse
from mmduplex_jax.serving.pictures import is_vp8_keyframe
from mmduplex_jax.serving.protocol import Frame, ProtocolError
from mmduplex_jax.serving.session import Session
from mmduplex_jax.serving.sessions import Sessions
from mmduplex_jax.serving.sound import SoundQueue

_log = logging.getLogger(__name__)
CHANNEL = "mmduplex"
# What may wait to be sent, or to be read, of a client.
_BUFFERED_MAX, _BUFFERED_LOW = 256 << 10, 16 << 10
_MESSAGES_WAITING = 64
_FLUSH_S = 2.0
_MEDIA = re.compile(r"^m=(\w+) ", re.MULTILINE)
_CODEC = re.compile(r"^a=rtpmap:\d+ ([\w.-]+)/90000", re.MULTILINE)
# The part of an offer that is about a track for sound, and what must be in it: it is heard, and nothing is said on it.
_AUDIO = re.compile(r"^m=audio .*?(?=^m=|\Z)", re.MULTILINE | re.DOTALL)
_LISTENS = re.compile(r"^a=recvonly\s*$", re.MULTILINE)
_OPUS = re.compile(r"^a=rtpmap:\d+ opus/48000", re.MULTILINE | re.IGNORECASE)
# What of a track is decoded, by its name in SDP.
_CODECS = {"VP8": "vp8", "H264": "h264"}
# Browsers offer a dozen candidates, which are addresses that this server will send to.
_MEDIA_TAKEN = ("application", "video", "audio")
_CANDIDATES_MAX, _LINES_MAX = 64, 1000
# Of the time stamps of video tracks.
_RTP_HZ = 90_000
_NAL_IDR = 5


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
            _leave_undecoded()

    async def answer(self, offer: Any) -> dict[str, str]:
        """The answer to an SDP offer with one data channel, at most one video track, and at most one to listen to.

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
        if "application" not in media or len(set(media)) < len(media) or not set(media) <= set(_MEDIA_TAKEN):
            message = "an offer has a data channel, at most one video track, and at most one audio track to listen to"
            raise WebRtcRefused(400, f"{message}; got {media}")
        if "audio" in media:
            self._check_audio(_AUDIO.findall(sdp)[0])
        if sdp.count("a=candidate:") > _CANDIDATES_MAX or sdp.count("\n") > _LINES_MAX:
            raise WebRtcRefused(400, f"an offer has at most {_CANDIDATES_MAX} candidates and {_LINES_MAX} lines")
        offered = sorted(set(_CODEC.findall(sdp)) - {"rtx", "red", "ulpfec", "flexfec-03"})
        if "video" in media and not _CODECS.keys() & {name.upper() for name in offered}:
            message = f"a track must be VP8 or H.264, this browser offers {', '.join(offered) or 'nothing'}"
            raise WebRtcRefused(415, f"{message}; use the WebSocket, which takes JPEG")
        peer = _Peer(self._sessions, self._ice_servers)
        self._peers.add(peer)
        peer.on_closed = lambda: self._peers.discard(peer)
        try:
            return await peer.answer(sdp)
        except Exception as error:  # what aiortc raises at a broken offer is of many kinds
            _log.info("a WebRTC offer failed", extra={"error": repr(error)})
            await peer.close()
            raise WebRtcRefused(400, f"the offer cannot be answered: {type(error).__name__}") from error

    def _check_audio(self, section: str) -> None:
        """WebRtcRefused for an audio track on which this model cannot be heard."""
        if self._sessions.facts.sample_rate_hz is None:
            raise WebRtcRefused(400, "this model has no voice: leave the audio track out of the offer")
        if not _LISTENS.search(section):
            raise WebRtcRefused(400, "the audio track is for listening: its direction must be recvonly")
        if not _OPUS.search(section):
            raise WebRtcRefused(415, "sound is sent as Opus, which the offer does not have")

    async def close(self) -> None:
        """Closes all of them."""
        await asyncio.gather(*(peer.close() for peer in list(self._peers)))


class _Channel:
    """A data channel as a wire."""

    def __init__(self, channel: Any, message_bytes: int, track: SoundQueue | None):
        self._channel, self._message_bytes, self.track = channel, message_bytes, track
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
            # The channel cannot be made to wait. Pictures belong on the track; whoever floods it is cut off.
            self.lose()

    async def receive(self) -> str | bytes:
        message = None if self.gone.is_set() and self._received.empty() else await self._received.get()
        if message is None:
            raise WireGone("the data channel was closed")
        if len(message) > self._message_bytes:
            raise ProtocolError("bad_message", f"a message has at most {self._message_bytes} bytes")
        return message

    async def send(self, message: str | bytes) -> None:
        # Sound waits sooner than words, and gives way where it waits long.
        most = _BUFFERED_LOW if isinstance(message, bytes) else _BUFFERED_MAX
        while not self.gone.is_set() and self._channel.bufferedAmount > most:
            self._low.clear()
            await self._low.wait()
        if self.gone.is_set() or self._channel.readyState != "open":
            raise WireGone("the data channel is closed")
        self._channel.send(message)

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
        self._sound: SoundQueue | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self.on_closed = lambda: None
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("track", lambda track: self._begin(self._watch(track)))
        self._connection.on("connectionstatechange", self._on_state)

    async def answer(self, sdp: str) -> dict[str, str]:
        from aiortc import RTCSessionDescription

        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        if _AUDIO.search(sdp):
            self._connection.addTrack(self._voice())
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        self._begin(self._give_up())
        local = self._connection.localDescription
        return {"type": local.type, "sdp": local.sdp}

    def _voice(self) -> Any:
        """The track on which it hears the model; its sound comes through a queue of its own."""
        from mmduplex_jax.serving.voice_track import VoiceTrack

        facts, limits = self._sessions.facts, self._sessions.limits
        assert facts.sample_rate_hz is not None
        self._sound = SoundQueue(facts.sample_rate_hz, facts.clock, limits.sound_s)
        return VoiceTrack(self._sound, facts.sample_rate_hz)

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
            self._channel = _Channel(channel, self._sessions.limits.message_bytes, self._sound)
            self._begin(self._converse(self._channel))

    async def _converse(self, channel: _Channel) -> None:
        try:
            await converse(channel, self._sessions, on_session=self._on_session)
        finally:
            await self.close()

    def _on_session(self, session: Session) -> None:
        self._session = session

    async def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            await self.close()

    async def _watch(self, track: Any) -> None:
        """Brings the track's pictures to the session. They are taken from the track at once: it holds any number."""
        from aiortc.mediastreams import MediaStreamError

        begin_s: float | None = None
        while True:
            try:
                picture: _Undecoded = await track.recv()
            except MediaStreamError:
                return
            session = self._session
            if session is None or session.ended is not None:
                # Who watches begins with a keyframe.
                picture.track.wants_keyframe = True
                continue
            if begin_s is None:
                # A stream that goes on takes up its own time, with the time that it was away.
                before_s = session.received_s
                begin_s = (
                    0.0 if before_s is None else before_s + time.monotonic() - session.last_activity_s
                ) - picture.t_s
            t_s = max(0.0, begin_s + picture.t_s)
            try:
                await session.put(Frame(None, t_s, picture.codec, picture.keyframe, picture.data))
            except ProtocolError as error:
                session.end("protocol", str(error))
            picture.track.wants_keyframe = session.wants_keyframe


class _Undecoded(NamedTuple):
    """A track's picture as it came; `track` takes whether the sender is asked for a keyframe."""

    t_s: float
    codec: str
    keyframe: bool
    data: bytes
    track: "_PassOn"


class _PassOn:
    """Stands in for aiortc's decoders, which work in this process and without bounds: hands pictures on as they are."""

    def __init__(self, codec: str):
        self._codec = codec
        self.wants_keyframe = False

    def decode(self, encoded: Any) -> list[_Undecoded]:
        """The picture; where a keyframe is wanted InvalidDataError, at which aiortc asks the sender for one."""
        data = bytes(encoded.data)
        keyframe = _is_keyframe(self._codec, data)
        if self.wants_keyframe and not keyframe:
            self.wants_keyframe = False  # (asked once; whoever still wants it says so again)
            raise av.error.InvalidDataError(0, "a keyframe is wanted")
        return [_Undecoded(encoded.timestamp / _RTP_HZ, self._codec, keyframe, data, self)]


def _is_keyframe(codec: str, data: bytes) -> bool:
    if codec == "vp8":
        return is_vp8_keyframe(data)
    starts = (match.end() for match in re.finditer(rb"\x00\x00\x01", data))
    return any(at < len(data) and data[at] & 0x1F == _NAL_IDR for at in starts)


def _leave_undecoded() -> None:
    """Loads aiortc, now, while nobody waits: it takes a second; and keeps it from decoding video.

    (Sound it may decode: a server is sent none, and a peer in the same process hears it.)
    """
    receiver: Any = importlib.import_module("aiortc.rtcrtpreceiver")
    decoder_of = importlib.import_module("aiortc.codecs").get_decoder

    def decoder(codec: Any) -> Any:
        name = codec.name.upper()
        return _PassOn(_CODECS[name]) if name in _CODECS else decoder_of(codec)

    receiver.get_decoder = decoder
    # It warns of every picture that asks for a keyframe.
    logging.getLogger("aiortc.rtcrtpreceiver").setLevel(logging.ERROR)
