"""WebRTC from a program: a track's pictures in, words over the channel out; offers that are none."""

import asyncio
import contextlib
import fractions
import json

import numpy as np
import pytest

from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.protocol import Sound, parse_sound
from mmduplex_jax.serving.sound import SoundQueue
from mmduplex_jax.streaming.sound import SoundPiece
from tests.serving.scripted_pool import FACTS, VOICED, tone
from tests.serving.served import PATIENCE_S, Server, run, served

aiortc = pytest.importorskip("aiortc", reason="aiortc is not installed (the extra `live` has it)")
av = pytest.importorskip("av")
from mmduplex_jax.serving.voice_track import VoiceTrack  # noqa: E402  (it needs aiortc)
from mmduplex_jax.serving.webrtc import _is_keyframe  # noqa: E402


class Pictures(aiortc.VideoStreamTrack):
    """Grey pictures that get brighter, 25 a second."""

    def __init__(self, px: int = 64):
        super().__init__()
        self._px, self.count = px, 0

    async def recv(self):
        await asyncio.sleep(0.04)
        frame = av.VideoFrame.from_ndarray(
            np.full((self._px, self._px, 3), min(255, 40 + 2 * self.count), np.uint8), format="rgb24"
        )
        frame.pts, frame.time_base = self.count * 3600, fractions.Fraction(1, 90_000)
        self.count += 1
        return frame


class Peer:
    """A peer as a test uses it: `heard` is what came over the channel."""

    def __init__(
        self,
        server: Server,
        px: int = 64,
        resume: dict | None = None,
        name: str = "mmduplex",
        mode: str = "live",
        sound: str | None = None,
    ):
        self._server, self._resume, self._config = server, resume, {"mode": mode, "sound": sound}
        self.connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.connection.addTrack(Pictures(px))
        self.channel = self.connection.createDataChannel(name)
        self.channel.on("open", self._greet)
        self.channel.on("message", self._take)
        self.heard: list[dict] = []
        self.sounds: list[Sound] = []
        # What came on the track: float [L] at 48 kHz.
        self.samples = np.zeros(0, np.float32)
        if sound == "track":
            self.connection.addTransceiver("audio", direction="recvonly")
            self.connection.on(
                "track", lambda track: setattr(self, "listening", asyncio.create_task(self._hear(track)))
            )

    async def _hear(self, track) -> None:
        with contextlib.suppress(aiortc.mediastreams.MediaStreamError):
            while True:
                samples = (await track.recv()).to_ndarray().reshape(-1, 2)[:, 0] / np.float32(32768)
                self.samples = np.concatenate([self.samples, samples])

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.sounds.append(parse_sound(message))
        else:
            self.heard.append(json.loads(message))

    def _greet(self) -> None:
        self.say(type="hello", version=1, resume=self._resume, config=self._config)

    def say(self, **message) -> None:
        self.channel.send(json.dumps(message))

    async def __aenter__(self) -> "Peer":
        await self.connection.setLocalDescription(await self.connection.createOffer())
        local = self.connection.localDescription
        async with self._server.http.post(
            f"{self._server.url}/v1/webrtc", json={"type": local.type, "sdp": local.sdp}
        ) as answer:
            assert answer.status == 200, await answer.text()
            body = await answer.json()
        await self.connection.setRemoteDescription(aiortc.RTCSessionDescription(body["sdp"], body["type"]))
        return self

    async def __aexit__(self, *_) -> None:
        await self.connection.close()

    def of(self, kind: str) -> list[dict]:
        return [message for message in self.heard if message["type"] == kind]


def test_a_track_is_watched_and_words_come_over_the_channel():
    async def test():
        async with served() as server, Peer(server) as peer:
            await server.until(lambda: len(peer.of("word")) >= 8)
            assert [word["text"] for word in peer.of("word")][:8] == [f"w{i}" for i in range(8)]
            (seat,) = server.pool.all_seats
            ticks = [round(t_s / FACTS.clock.tick_s) for t_s, _ in seat.frames]
            assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
            means = [float(frame.mean()) for _, frame in seat.frames]
            assert means[-1] > means[0] > 30  # they get brighter
            peer.say(type="end")
            await server.until(lambda: peer.of("bye"))
            assert peer.of("bye")[0]["reason"] == "end"
            await server.until(lambda: not server.pool.seats)

    run(test())


def test_a_peer_that_comes_back_goes_on_in_its_own_time():
    async def test():
        async with served() as server:
            async with Peer(server) as peer:
                await server.until(lambda: len(peer.of("word")) >= 3)
            hello, last = peer.of("hello")[0], peer.of("word")[-1]
            resume = {"session": hello["session"], "token": hello["token"], "last_seq": last["seq"]}
            async with Peer(server, resume=resume) as peer:
                await server.until(lambda: len(peer.of("word")) >= 5)
                assert peer.of("hello")[0]["resumed"] is True
                assert peer.of("word")[0]["seq"] == last["seq"] + 1
            (seat,) = server.pool.all_seats
            assert np.all(np.diff([t_s for t_s, _ in seat.frames]) > 0)

    run(test())


def test_the_model_is_heard_on_a_track():
    async def test():
        async with served(facts=VOICED) as server, Peer(server, sound="track") as peer:
            loud = lambda: np.abs(peer.samples) > 0.2
            await server.until(lambda: loud().sum() > 12_000)
            assert peer.of("hello")[0]["sound"] == "track"
            assert peer.of("status")[-1]["sound"] == "on"
            assert not peer.sounds
            samples = peer.samples[np.argmax(loud()) :]
            spectrum = np.abs(np.fft.rfft(samples))
            assert np.argmax(spectrum) / len(samples) * 48_000 == pytest.approx(500, abs=5)
            # It stops with its stream.
            peer.say(type="end")
            await server.until(lambda: peer.connection.connectionState == "closed" or peer.of("bye"))

    run(test())


def test_sound_comes_over_the_channel_too():
    async def test():
        async with served(facts=VOICED) as server, Peer(server, sound="pcm16") as peer:
            await server.until(lambda: len(peer.sounds) >= 8)
            steps = [sound.step for sound in peer.sounds]
            assert steps == list(range(steps[0], steps[0] + len(steps)))

    run(test())


@pytest.mark.parametrize(
    ("facts", "audio", "status", "said"),
    [
        (FACTS, "a=rtpmap:111 opus/48000/2\r\na=recvonly\r\n", 400, "has no voice"),
        (VOICED, "a=rtpmap:111 opus/48000/2\r\na=sendrecv\r\n", 400, "must be recvonly"),
        (VOICED, "a=rtpmap:0 PCMU/8000\r\na=recvonly\r\n", 415, "sent as Opus"),
    ],
)
def test_a_track_that_cannot_be_listened_to_is_refused(facts, audio: str, status: int, said: str):
    sdp = f"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n{audio}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"

    async def test():
        async with served(facts=facts) as server:
            offer = {"type": "offer", "sdp": sdp}
            async with server.http.post(f"{server.url}/v1/webrtc", json=offer) as answer:
                assert answer.status == status
                assert said in (await answer.json())["error"]

    run(test())


def queue_of(*steps: int) -> SoundQueue:
    queue = SoundQueue(VOICED.sample_rate_hz, VOICED.clock, 10.0)
    for step in steps:
        queue.put(SoundPiece((step + 1) * VOICED.clock.step_s, step, tone(step)))
    return queue


def test_a_track_begins_after_a_moment_and_fades_where_there_is_nothing():
    queue = queue_of(0, 1)
    track = VoiceTrack(queue, VOICED.sample_rate_hz)
    frames = [track.next_samples() for _ in range(3 + 8 + 2)]
    # Step 2 comes too late; it is faded in, again after a moment.
    queue.put(SoundPiece(3 * VOICED.clock.step_s, 2, tone(2)))
    frames += [track.next_samples() for _ in range(3 + 4 + 2)]
    assert {len(frame) for frame in frames} == {320}
    sounding = [bool(np.abs(frame).max() > 0.25) for frame in frames]
    assert sounding == 3 * [False] + 8 * [True] + 5 * [False] + 4 * [True] + 2 * [False]
    assert np.abs(np.diff(np.concatenate(frames))).max() <= 1.1 * np.abs(np.diff(tone(0))).max()


def test_a_track_is_read_in_real_time():
    async def test():
        times_s, now_s = [], [5.0]
        track = VoiceTrack(queue_of(*range(4)), VOICED.sample_rate_hz, now=lambda: now_s[0])
        for _ in range(4):
            frame = await track.recv()
            times_s.append(frame.pts / frame.sample_rate)
            now_s[0] += 0.02
        assert times_s == pytest.approx([0.0, 0.02, 0.04, 0.06])
        # A loop that stood still goes on from there.
        now_s[0] += 30.0
        await asyncio.wait_for(track.recv(), 5.0)
        track.stop()
        with pytest.raises(aiortc.mediastreams.MediaStreamError):
            await track.recv()

    run(test())


def test_a_track_that_is_too_large_ends_the_stream():
    async def test():
        async with served(limits=Limits(pixels=50 * 50, bad_frames=3)) as server, Peer(server) as peer:
            await server.until(lambda: peer.of("bye"))
            assert "at most 2500 are taken" in peer.of("error")[0]["message"]
            assert peer.of("bye")[0]["reason"] == "protocol"

    run(test())


def test_a_track_is_no_file():
    async def test():
        async with served() as server, Peer(server, mode="file") as peer:
            await server.until(lambda: peer.of("bye"))
            assert peer.of("bye")[0]["reason"] == "protocol"
            assert "`mode` must be live" in peer.of("bye")[0]["message"]

    run(test())


def test_a_peer_without_the_channel_is_let_go():
    async def test():
        async with served(limits=Limits(hello_s=0.3)) as server, Peer(server, name="another") as peer:
            async with asyncio.timeout(PATIENCE_S):
                while peer.channel.readyState != "closed" and peer.connection.connectionState != "closed":
                    await asyncio.sleep(0.05)
            assert not server.pool.all_seats

    run(test())


@pytest.mark.parametrize("names", [("VP9",), ("AV1", "VP9", "rtx"), ()])
def test_a_browser_without_a_codec_that_is_decoded_is_told_which_are(names: tuple[str, ...]):
    codecs = "".join(f"a=rtpmap:{96 + i} {name}/90000\r\n" for i, name in enumerate(names))
    sdp = f"m=video 9 UDP/TLS/RTP/SAVPF 96\r\n{codecs}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"

    async def test():
        async with served() as server:
            offer = {"type": "offer", "sdp": sdp}
            async with server.http.post(f"{server.url}/v1/webrtc", json=offer) as answer:
                assert answer.status == 415
                error = (await answer.json())["error"]
                assert (
                    f"VP8 or H.264, this browser offers {', '.join(sorted(set(names) - {'rtx'})) or 'nothing'}" in error
                )

    run(test())


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("not json", 400, "must be JSON"),
        ("[" * 5000, 400, "must be JSON"),
        ('"text"', 400, "must be an SDP offer"),
        ('{"type": "offer", "sdp": 3}', 400, "must be an SDP offer"),
        ('{"type": "answer", "sdp": ""}', 400, "must be an SDP offer"),
        ('{"type": "offer", "sdp": ""}', 400, "a data channel, at most one video track"),
        (json.dumps({"type": "offer", "sdp": "m=audio 9 x\r\nm=audio 9 x\r\nm=application 9 x\r\n"}), 400, "one audio"),
        (
            json.dumps({"type": "offer", "sdp": "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"}),
            400,
            "cannot be",
        ),
        (json.dumps({"type": "offer", "sdp": "x" * 70_000}), 413, "Maximum request body size"),
    ],
)
def test_what_is_no_offer_is_refused(body: str, status: int, said: str):
    async def test():
        async with served() as server, server.http.post(f"{server.url}/v1/webrtc", data=body) as answer:
            assert answer.status == status
            assert said in (await answer.json())["error"]

    run(test())


def test_a_keyframe_of_h264_is_known_by_its_bytes():
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width = encoder.height = 64
    encoder.pix_fmt, encoder.time_base, encoder.options = "yuv420p", fractions.Fraction(1, 25), {"tune": "zerolatency"}
    packets = []
    for number in range(3):
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * number, np.uint8), format="rgb24")
        picture.pts, picture.time_base = number, encoder.time_base
        packets += encoder.encode(picture)
    assert [_is_keyframe("h264", bytes(packet)) for packet in packets] == [True, False, False]
    assert not _is_keyframe("h264", b"\x00\x00\x01")  # cut off behind a start code
