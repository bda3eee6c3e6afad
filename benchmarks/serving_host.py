"""What a stream costs the machine that serves it, the model's step left out: the part `host` of `benchmarks.serving`.

The server is `launch.serve` with a model whose step does nothing and reports every slot of every tick, so that what its
process takes is sockets, messages and the pool's work. Pictures and sources are decoded in processes of their own,
whose time and memory are counted apart. All is counted in processors' time for a second of video that was answered;
nothing by the wall, so that a busy machine lengthens it only a little. Streams of
files wait for the server; WebRTC cannot, and comes slowed down.

`python -m benchmarks.serving_host --checkpoint=world --port=0` is that server.
"""

import asyncio
import dataclasses
import functools
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import av
import jax
import jax.numpy as jnp

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
_WARM_TICKS, _PATIENCE_S, _GO_S = 12, 600.0, 3.0
# WebRTC does not wait for a machine that is busy: pictures come at this share of their pace.
_PACE = 0.25


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


def cpu_s(process: int | str) -> float:
    """Processor time of a process so far, in the kernel and out of it."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def decoders_of(server: int) -> list[int]:
    """The processes that decode a server's streams: the children of its only child."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="ascii").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
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
    """

    def __init__(self) -> None:
        self.received_bytes = self.sent_bytes = self.ticks = 0

    def take(self, message: str) -> None:
        self.received_bytes += len(message)
        self.ticks += '"status"' in message[:40]


async def by_websocket(
    url: str, http: aiohttp.ClientSession, traffic: Traffic, hello: dict, messages: Sequence[bytes]
) -> None:
    """A stream over a WebSocket: sends all messages, as fast as they are taken, and reads."""
    async with http.ws_connect(f"{url}/v1/stream", protocols=("mmduplex.v1",)) as socket:
        await socket.send_str(json.dumps(hello))
        reading = asyncio.create_task(_read(socket, traffic))
        try:
            for message in messages:
                await socket.send_bytes(message)
            await reading
        finally:
            reading.cancel()


async def _read(socket: aiohttp.ClientWebSocketResponse, traffic: Traffic) -> None:
    async for message in socket:
        traffic.take(message.data)


async def by_webrtc(url: str, http: aiohttp.ClientSession, traffic: Traffic, hello: dict[str, Any], of: Film) -> None:
    """A stream whose film comes on a track, as it is encoded, at its pace."""
    import aiortc

    class Track(aiortc.MediaStreamTrack):
        kind = "video"
        packets, began_s = _packets(of), time.monotonic()

        async def recv(self) -> av.Packet:
            t_s, packet = next(self.packets)
            await asyncio.sleep(max(0.0, self.began_s + t_s / _PACE - time.monotonic()))
            traffic.sent_bytes += packet.size
            return packet

    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    try:
        connection.addTrack(Track())
        codecs = aiortc.RTCRtpSender.getCapabilities("video").codecs
        connection.getTransceivers()[0].setCodecPreferences([one for one in codecs if one.mimeType == "video/H264"])
        channel = connection.createDataChannel("mmduplex")
        channel.on("open", lambda: channel.send(json.dumps(hello)))
        channel.on("message", traffic.take)
        await connection.setLocalDescription(await connection.createOffer())
        offer = {"type": "offer", "sdp": connection.localDescription.sdp}
        async with http.post(f"{url}/v1/webrtc", json=offer) as answer:
            answer.raise_for_status()
            told = await answer.json()
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(told["sdp"], told["type"]))
        await asyncio.Event().wait()
    finally:
        await connection.close()


def _packets(of: Film) -> Iterator[tuple[float, av.Packet]]:
    with av.open(str(of.path)) as container:
        stream, began = container.streams.video[0], None
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            began = packet.pts if began is None else began
            yield float((packet.pts - began) * packet.time_base), packet


def jpegs(of: Film, clock: Clock, frame_px: tuple[int, int]) -> list[bytes]:
    """A JPEG of the model's size for every tick, as the page sends them."""
    shown = VideoReader(of.path, clock, frame_px, "pad")
    pictures = [(t_s, *encode(frame, _QUALITY)) for _, t_s, frame in shown]
    return [frame_bytes(Frame(number, t_s, "jpeg", True, data)) for number, (t_s, data, _) in enumerate(pictures)]


async def _measured(server: Any, clients: Sequence[Any], traffic: Traffic, ticks: int, tick_s: float) -> dict:
    """What so many clients take of a server for a second of a stream, over `ticks` of each."""
    streams = len(clients)
    before = Taken.by(server.pid)
    tasks = [asyncio.create_task(client) for client in clients]

    async def answered(number: int) -> tuple[Taken, dict[str, int]]:
        while traffic.ticks < number:
            if ended := [task for task in tasks if task.done()]:
                ended[0].result()
                raise ValueError(f"a stream ended after {traffic.ticks} ticks of all: the film is too short")
            await asyncio.sleep(0.05)
        return await asyncio.to_thread(Taken.by, server.pid), dict(vars(traffic))

    try:
        async with asyncio.timeout(_PATIENCE_S):
            first, known = await answered(_WARM_TICKS * streams)
            last, heard = await answered(known["ticks"] + ticks * streams)
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
            clients = [make(server.url, http, traffic, hello) for _ in range(count)]
            found[name] = await _measured(server, clients, traffic, clock.ticks_in(seconds), clock.tick_s)
            print(name, found[name], file=sys.stderr, flush=True)
            await asyncio.sleep(_GO_S)  # they go before others come

        pictures = await asyncio.to_thread(jpegs, films[0], clock, frame_px)
        await measure("jpeg", functools.partial(by_websocket, messages=pictures), streams, mode="file")
        # (They are on their way before they are taken.)
        found["jpeg"]["in_bytes_per_s"] = round(sum(map(len, pictures)) / films[0].length_s)
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
