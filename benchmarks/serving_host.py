"""What a stream costs the machine that serves it, the model's step left out: the part `host` of `benchmarks.serving`.

The server is `launch.serve` with a model whose step does nothing and reports every slot of every tick, so that what its
process takes is sockets, messages and the pool's work. Pictures and sources are decoded in processes of their own,
whose time and memory are counted apart. All is counted in processors' time for a second of video that was answered;
nothing by the wall, so that a busy machine lengthens it only a little. Clients send no further ahead than they are
answered: a server that nobody waits for drops pictures, and is counted for ticks that it never answers.

`python -m benchmarks.serving_host --checkpoint=world --port=0` is that server.
"""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import av
import jax
import jax.numpy as jnp

from benchmarks.turns import cpu_s, process_stats
from data_pipelines.decode import VideoReader
from launch import serve
from mmduplex_jax.client import encode
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator
from mmduplex_jax.serving.protocol import Frame, frame_bytes
from mmduplex_jax.typing import PyTree

# Width, height and bits a second of what cameras and browsers send, 25 pictures a second.
SIZES = ((640, 360, 1_000_000), (1280, 720, 2_500_000))
FPS = 25
_QUALITY = 90  # of JPEGs
_FILMED_S = 8
# Every stream is answered, and decoders and buffers are there, before anything counts; all may take so long.
_WARM_TICKS, _PATIENCE_S = 12, 600.0
# For a handshake, and for the last message, on a machine whose cores others have.
GREETING_S, _BYE_S, _LOOK_S = 60.0, 60.0, 0.05
# A client is so far ahead of what was answered: of a file more than waits in the server; of a track no more than a live
# stream's inbox holds (8 pictures), which drops what comes above that.
_FILE_AHEAD_S, _TRACK_AHEAD_S = 4.0, 0.32
# A track whose server answers nothing for so long (a picture may be lost) goes on at this share of its pace.
_UNANSWERED_S, _PACE = 5.0, 0.25
_END = json.dumps({"type": "end"})


class Film(NamedTuple):
    """A video, encoded as a camera does: no picture refers to a later one, a keyframe every two seconds."""

    path: Path
    width_px: int
    height_px: int
    length_s: float


def film(source: Path, folder: Path, size: tuple[int, int, int], length_s: float) -> Film:
    """The first pictures of a video over and over, at least `length_s` long, as H.264 in an MPEG transport stream."""
    width_px, height_px, bits_per_s = size
    path = folder / f"{width_px}x{height_px}.ts"
    with av.open(str(source)) as given:
        shown = itertools.islice(given.decode(video=0), _FILMED_S * FPS)
        pictures = [one.reformat(width_px, height_px, "yuv420p") for one in shown]
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width_px, height_px, "yuv420p", bits_per_s
        stream.options = {"preset": "veryfast", "tune": "zerolatency", "g": str(2 * FPS)}
        packets = []
        for number, picture in enumerate(pictures):
            picture.pts, picture.time_base, picture.pict_type = number, Fraction(1, FPS), 0
            packets += stream.encode(picture)
        packets += stream.encode()
        begin, every = [packet.pts for packet in packets], len(pictures)
        turns = math.ceil(length_s * FPS / every)
        for turn in range(turns):
            for packet, pts in zip(packets, begin):
                again = av.Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = stream, Fraction(1, FPS), packet.is_keyframe
                again.pts = again.dts = pts + turn * every
                out.mux(again)
    return Film(path, width_px, height_px, turns * every / FPS)


def decoders_of(server: int) -> list[int]:
    """The processes that decode a server's streams: the children of its only child."""
    parents = {pid: int(fields[1]) for pid, fields in process_stats().items()}
    return [pid for pid, parent in parents.items() if parents.get(parent) == server]


def private_bytes(pid: int) -> int:
    """Memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


class Taken(NamedTuple):
    """What a server has taken so far: seconds, bytes, and files that are open in its process."""

    server_cpu_s: float
    decoders_cpu_s: float
    server_bytes: int
    decoders_bytes: int
    files: int

    @classmethod
    def by(cls, server: int) -> "Taken":
        decoders = decoders_of(server)
        return cls(
            cpu_s(server),
            sum(map(cpu_s, decoders)),
            private_bytes(server),
            sum(map(private_bytes, decoders)),
            len(os.listdir(f"/proc/{server}/fd")),
        )


class Traffic:
    """What clients and the server have sent each other, without headers of the network.

    Attributes:
      ticks: that were answered.
      leaving: the clients have been asked to end their streams.
    """

    def __init__(self) -> None:
        self.received_bytes = self.sent_bytes = self.ticks = 0
        self.leaving = False
        self._streams: list[Told] = []

    def stream(self) -> "Told":
        """Another stream's part in it."""
        self._streams.append(Told(self))
        return self._streams[-1]

    def leave(self) -> None:
        """Asks every client to end its stream, so that nothing of it waits for somebody who comes back."""
        self.leaving = True
        for stream in self._streams:
            stream.wake()

    @property
    def counts(self) -> dict[str, int]:
        return {"received_bytes": self.received_bytes, "sent_bytes": self.sent_bytes, "ticks": self.ticks}


class Told:
    """What a server has told one stream.

    Attributes:
      traffic: that it is a part of.
      greeted, ended: its hello and its bye have come.
      answered_s: the time of the last tick that was answered.
      heard_s: when something came last, by the monotonic clock.
    """

    def __init__(self, traffic: Traffic):
        self.traffic = traffic
        self.greeted = self.ended = False
        self.answered_s, self.heard_s = 0.0, time.monotonic()
        self._lost = ""
        self._news = asyncio.Event()

    def take(self, text: str) -> None:
        """Takes a message."""
        message = json.loads(text)
        self.traffic.received_bytes += len(text)
        self.heard_s = time.monotonic()
        match message["type"]:
            case "hello":
                self.greeted = True
            case "status":
                self.traffic.ticks += 1
                self.answered_s = message["t_video_s"]
            case "bye":
                self.ended = True
            case "error" if message["fatal"]:
                self.lose(f"the server refused a stream: {message['code']}, {message['message']}")
        self.wake()

    def lose(self, why: str) -> None:
        """Nothing more will come; whoever waits is told why, the first time."""
        self._lost = self._lost or why
        self.wake()

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        self._news.set()

    async def until(self, holds: Callable[[], bool], within_s: float | None = None) -> None:
        """Waits until something holds; TimeoutError, and ConnectionError where the stream was lost before."""
        async with asyncio.timeout(within_s):
            while not holds():
                if self._lost:
                    raise ConnectionError(self._lost)
                self._news.clear()
                await self._news.wait()

    async def until_greeted(self) -> None:
        """Waits for the server's hello; ConnectionError where it does not come."""
        try:
            await self.until(lambda: self.greeted, GREETING_S)
        except TimeoutError:
            raise ConnectionError(f"the server greeted nobody for {GREETING_S:g} s") from None

    async def until_bye(self) -> None:
        """Waits for the server's last message; ConnectionError where it does not come."""
        try:
            await self.until(lambda: self.ended, _BYE_S)
        except TimeoutError:
            raise ConnectionError(f"a stream was ended, and no bye came for {_BYE_S:g} s") from None


async def by_websocket(
    url: str, http: aiohttp.ClientSession, told: Told, hello: dict, messages: Sequence[tuple[float, bytes]]
) -> None:
    """A stream over a WebSocket, from hello to bye: sends (time, message), as fast as they are answered, and reads."""
    async with http.ws_connect(f"{url}/v1/stream", protocols=("mmduplex.v1",)) as socket:
        tasks = [asyncio.create_task(_read(socket, told))]
        try:
            await socket.send_str(json.dumps(hello))
            await told.until_greeted()
            tasks.append(sending := asyncio.create_task(_send(socket, told, messages)))
            sending.add_done_callback(lambda _: told.wake())
            await told.until(lambda: told.ended or told.traffic.leaving or (bool(messages) and sending.done()))
            sending.cancel()
            if not told.ended:
                await socket.send_str(_END)
                await told.until_bye()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _send(socket: aiohttp.ClientWebSocketResponse, told: Told, messages: Sequence[tuple[float, bytes]]) -> None:
    for t_s, message in messages:
        await told.until(lambda t_s=t_s: t_s <= told.answered_s + _FILE_AHEAD_S)
        told.traffic.sent_bytes += len(message)
        await socket.send_bytes(message)


async def _read(socket: aiohttp.ClientWebSocketResponse, told: Told) -> None:
    try:
        async for message in socket:
            told.take(message.data)
    finally:
        told.lose(f"the server hung up: {socket.close_code}")


async def by_webrtc(url: str, http: aiohttp.ClientSession, told: Told, hello: dict[str, Any], of: Film) -> None:
    """A stream whose film comes on a track, as it is encoded, from hello to bye."""
    import aiortc
    from aiortc.mediastreams import MediaStreamError

    class Track(aiortc.MediaStreamTrack):
        kind = "video"
        packets = _packets(of)
        sent_s = 0.0

        async def recv(self) -> av.Packet:
            # (What comes before there is a stream is not watched, and the next keyframe far.)
            try:
                await told.until_greeted()
                t_s, packet = next(self.packets)
                await _due(told, t_s, self.sent_s)
            except (StopIteration, ConnectionError) as error:
                told.lose(str(error) or "the film is over")
                raise MediaStreamError from error
            self.sent_s = time.monotonic()
            told.traffic.sent_bytes += packet.size
            return packet

    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    try:
        connection.addTrack(Track())
        codecs = aiortc.RTCRtpSender.getCapabilities("video").codecs
        connection.getTransceivers()[0].setCodecPreferences([one for one in codecs if one.mimeType == "video/H264"])
        channel = connection.createDataChannel("mmduplex")
        channel.on("open", lambda: channel.send(json.dumps(hello)))
        channel.on("message", told.take)
        channel.on("close", lambda: told.lose("the data channel was closed"))
        await connection.setLocalDescription(await connection.createOffer())
        offer = {"type": "offer", "sdp": connection.localDescription.sdp}
        async with http.post(f"{url}/v1/webrtc", json=offer) as answer:
            if answer.status != 200:
                raise ConnectionError(f"the server refused an offer: {answer.status}, {await answer.text()}")
            body = await answer.json()
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(body["sdp"], body["type"]))
        await told.until_greeted()
        await told.until(lambda: told.ended or told.traffic.leaving)
        if not told.ended:
            channel.send(_END)
            await told.until_bye()
    finally:
        await connection.close()


async def _due(told: Told, t_s: float, before_s: float) -> None:
    """Waits until a track's picture may come: at the film's pace, and answered so far, or at a slow one.

    Args:
      t_s: the picture's, in the film.
      before_s: when the one before it was sent, by the monotonic clock.
    """
    await asyncio.sleep(before_s + 1.0 / FPS - time.monotonic())
    while t_s > told.answered_s + _TRACK_AHEAD_S:
        left_s = max(told.heard_s + _UNANSWERED_S, before_s + 1.0 / (FPS * _PACE)) - time.monotonic()
        if left_s <= 0.0:
            return
        heard_s = told.heard_s
        with contextlib.suppress(TimeoutError):
            await told.until(lambda heard_s=heard_s: told.heard_s > heard_s, left_s)


def _packets(of: Film) -> Iterator[tuple[float, av.Packet]]:
    with av.open(str(of.path)) as container:
        stream, began = container.streams.video[0], None
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            began = packet.pts if began is None else began
            yield float((packet.pts - began) * packet.time_base), packet


def jpegs(of: Film, clock: Clock, frame_px: tuple[int, int]) -> list[tuple[float, bytes]]:
    """A JPEG of the model's size for every tick, its time and its message, as the page sends them."""
    shown = VideoReader(of.path, clock, frame_px, "pad")
    pictures = [(t_s, *encode(frame, _QUALITY)) for _, t_s, frame in shown]
    return [
        (t_s, frame_bytes(Frame(number, t_s, "jpeg", True, data))) for number, (t_s, data, _) in enumerate(pictures)
    ]


async def _measured(server: Any, clients: Sequence[Any], traffic: Traffic, ticks: int, tick_s: float) -> dict:
    """What so many clients take of a server for a second of a stream, over `ticks` of each; then they have left."""
    streams = len(clients)
    before = Taken.by(server.pid)
    tasks = [asyncio.create_task(client) for client in clients]

    async def answered(number: int) -> tuple[Taken, dict[str, int]]:
        while traffic.ticks < number:
            if ended := [task for task in tasks if task.done()]:
                ended[0].result()
                raise ValueError(f"a stream ended after {traffic.ticks} ticks of all: the film is too short")
            await asyncio.sleep(_LOOK_S)
        return await asyncio.to_thread(Taken.by, server.pid), traffic.counts

    try:
        async with asyncio.timeout(_PATIENCE_S):
            first, known = await answered(_WARM_TICKS * streams)
            last, heard = await answered(known["ticks"] + ticks * streams)
            traffic.leave()
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    stream_s = (heard["ticks"] - known["ticks"]) * tick_s
    rate = lambda name: round((heard[name] - known[name]) / stream_s)
    return {
        "streams": streams,
        "server_cores": round((last.server_cpu_s - first.server_cpu_s) / stream_s, 5),
        "decoder_cores": round((last.decoders_cpu_s - first.decoders_cpu_s) / stream_s, 5),
        "server_bytes": (last.server_bytes - before.server_bytes) // streams,
        "decoder_bytes": (last.decoders_bytes - before.decoders_bytes) // streams,
        "files": (last.files - before.files) / streams,
        "in_bytes_per_s": rate("sent_bytes"),
        "out_bytes_per_s": rate("received_bytes"),
    }


async def host(server: Any, source: Path, folder: Path, streams: int, seconds: float) -> dict[str, Any]:
    """What a stream takes by what is sent, a row each, over `seconds` of each; by WebRTC half as many streams come."""
    clock = Clock(**server.info["clock"])
    size = server.info["frame_px"]
    frame_px = (size, size) if isinstance(size, int) else tuple(size)
    found: dict[str, Any] = {}
    films = [await asyncio.to_thread(film, source, folder, size, 2 * seconds + 10) for size in SIZES]
    async with aiohttp.ClientSession() as http:

        async def measure(name: str, make: Any, count: int, **config: Any) -> None:
            hello = {"type": "hello", "version": 1, "client": name, "config": config}
            traffic = Traffic()
            clients = [make(server.url, http, traffic.stream(), hello) for _ in range(count)]
            found[name] = await _measured(server, clients, traffic, clock.ticks_in(seconds), clock.tick_s)
            print(name, found[name], file=sys.stderr, flush=True)
            # (The next ones need their places, and are not to be taken for their decoders.)
            until_s = time.monotonic() + _PATIENCE_S
            while decoders_of(server.pid) or (await asyncio.to_thread(server.metrics))["sessions"]:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"after {name}: streams, or their decoders, did not go for {_PATIENCE_S:g} s")
                await asyncio.sleep(_LOOK_S)

        pictures = await asyncio.to_thread(jpegs, films[0], clock, frame_px)
        await measure("jpeg", functools.partial(by_websocket, messages=pictures), streams, mode="file")
        # (They are on their way before they are taken.)
        found["jpeg"]["in_bytes_per_s"] = round(sum(len(message) for _, message in pictures) / films[0].length_s)
        for one in films:
            named = f"{one.width_px}x{one.height_px}"
            await measure(f"webrtc {named}", functools.partial(by_webrtc, of=one), max(1, streams // 2))
            watch = functools.partial(by_websocket, messages=())
            await measure(f"source {named}", watch, streams, mode="file", source=str(one.path))
            found[f"source {named}"]["in_bytes_per_s"] = round(one.path.stat().st_size / one.length_s)
    return found


# The server.


@dataclasses.dataclass(frozen=True)
class Idle:
    """A live model whose step does nothing; its ticks report every slot."""

    live: Any

    @property
    def config(self) -> Any:
        return self.live.config

    def init_state(self, params: PyTree, batch: int) -> PyTree:
        return self.live.init_state(params, batch)

    def live_step(self, params: PyTree, state: PyTree, *given: Any, cap: Any) -> tuple[PyTree, Any]:
        _, output = jax.eval_shape(functools.partial(self.live.live_step, cap=cap), params, state, *given)
        full = lambda of, value: jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), of)
        return state, full(output, 0)._replace(report=full(output.report, 1))

    def reset_row(self, params: PyTree, state: PyTree, row: Any) -> PyTree:
        return self.live.reset_row(params, state, row)


def idle(model: Commentator) -> Commentator:
    """A model as it is served, its step left out."""
    return dataclasses.replace(model, live=Idle(model.live))


def main(argv: Sequence[str] | None = None) -> int:
    """`launch.serve` with such a model; its exit code."""
    load, make = serve.load, serve.random_commentator
    serve.load = lambda *given, **named: idle(load(*given, **named))
    serve.random_commentator = lambda *given: idle(make(*given))
    return serve.main(argv)


if __name__ == "__main__":
    sys.exit(main())
