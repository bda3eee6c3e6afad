"""Decoders that crash, hang, are killed or taken over: their stream has a gap, the others none, and nobody gets out."""

import asyncio
import dataclasses
import functools
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.decode import VideoReader
from mmduplex_jax.clock import Clock, TickSampler
from mmduplex_jax.serving import cage
from mmduplex_jax.serving.decoding import DecoderEnded, DecoderProcesses, _Process, _read_answer
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.pictures import IntakeConfig, IntakeState
from mmduplex_jax.serving.protocol import Frame, frame_bytes
from mmduplex_jax.serving.session import Session
from mmduplex_jax.serving.source_ticks import SourceConfig
from mmduplex_jax.serving.sources import Sources
from tests.data_pipelines.numbered_video import write_numbered
from tests.serving.faulty_decoders import ABORT, AHEAD, BACK, ESCAPE, LIE, RAISE, REFUSED, SOURCES_S, faulty
from tests.serving.served import PATIENCE_S, TICK_S, Server, Socket, picture, run, served
from tests.serving.slow_pictures import _skipped, h264_keyframe

FILTERED = cage.why_no_filter() is None
needs_filter = pytest.mark.skipif(not FILTERED, reason=f"system calls are not filtered here: {cage.why_no_filter()}")


def session_of(server: Server, stream: Socket) -> Session:
    return next(one for one in server.sessions if one.id == stream.hello["session"])


def lost(server: Server, reason: str) -> float:
    return server.sessions.counters.lost_decoders.labels(reason)._value.get()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def go_on(stream: Socket, ticks: range) -> None:
    """Each of the pictures is answered."""
    for tick in ticks:
        await stream.show(tick)
        status = await stream.hear("status")
        assert status["t_video_s"] == pytest.approx(tick * TICK_S)


@pytest.mark.parametrize("fault", ["kill", "stop", ABORT, LIE, RAISE, BACK, AHEAD])
def test_a_lost_decoder_costs_its_stream_a_gap_and_the_others_nothing(fault: str | bytes):
    async def test():
        async with (
            served(decoders=faulty()) as server,
            server.stream(mode="file") as stream,
            server.stream(mode="file") as other,
        ):
            await go_on(stream, range(3))
            await go_on(other, range(2))
            decoder = session_of(server, stream)._decoder
            pid = decoder._process._pid
            if fault == "kill":
                os.kill(pid, signal.SIGKILL)
            elif fault == "stop":
                decoder._wall_s = 0.2
                os.kill(pid, signal.SIGSTOP)
            await stream.show(3, picture(3) + (fault if isinstance(fault, bytes) else b""))
            await go_on(other, range(2, 5))
            error = await stream.hear("error")
            assert (error["code"], error["fatal"]) == ("decoder_lost", False)
            assert error["message"].startswith("picture 3 ")
            await server.until(lambda: is_gone(pid))
            decoder._wall_s = PATIENCE_S
            await go_on(stream, range(4, 7))
            await go_on(other, range(5, 7))
            assert not [message for message in other.heard if message["type"] == "error"]
            assert (lost(server, "ended"), lost(server, "silent")) == ((0, 1) if fault == "stop" else (1, 0))
            async with server.http.get(f"{server.url}/metrics") as answer:
                reason = "silent" if fault == "stop" else "ended"
                assert f'mmduplex_lost_decoders_total{{reason="{reason}"}} 1.0' in await answer.text()
        # Frames are of the picture that was sent, with the new decoder too.
        seat = min(server.pool.all_seats, key=lambda seat: len(seat.frames))
        assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [0, 1, 2, 4, 5, 6]

    run(test())


@pytest.mark.parametrize("lost_too", [False, True])
def test_a_stream_whose_clock_was_set_back_by_a_picture_that_is_refused_goes_on(lost_too: bool):
    async def test():
        async with served(decoders=faulty()) as server, server.stream(mode="file") as stream:
            await go_on(stream, range(20, 22))
            # (Refused once a tick shows it, after its time was taken.)
            await stream.show(0, picture(0)[:-20])
            assert "does not decode as JPEG" in (await stream.hear("error"))["message"]
            if lost_too:
                await stream.show(1, picture(1) + RAISE)
                assert (await stream.hear("error"))["code"] == "decoder_lost"
            for tick in range(1 + lost_too, 5):
                await stream.show(tick)
            await stream.say(type="end")
            await stream.hear_all()
            errors = [message["code"] for message in stream.heard if message["type"] == "error"]
            assert errors == ["bad_frame", *["decoder_lost"] * lost_too, "clock_set_back"]
            (seat,) = server.pool.all_seats
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [20, 21, *range(1 + lost_too, 5)]
            assert seat.calls == ["reset", "leave True"]

    run(test())


def test_a_stream_that_loses_many_decoders_ends():
    async def test():
        async with served(decoders=faulty(), limits=Limits(lost_decoders=2)) as server, server.stream() as stream:
            for tick in range(3):
                await stream.show(tick, picture(tick) + LIE)
            assert (await stream.hear("bye"))["reason"] == "protocol"
            fatal = [message["fatal"] for message in stream.heard if message["type"] == "error"]
            assert fatal == [False, False, True]

    run(test())


def test_after_a_lost_decoder_h264_goes_on_at_the_next_keyframe():
    async def test():
        async with served(decoders=faulty()) as server, server.stream(mode="file") as stream:
            show = lambda tick, data, keyframe: stream.socket.send_bytes(
                frame_bytes(Frame(tick, tick * TICK_S, "h264", keyframe, data))
            )
            key, same = h264_keyframe(2, 2), _skipped(0, 4)
            await show(0, key, True)
            await show(1, same, False)
            for _ in range(2):
                await stream.hear("status")
            os.kill(session_of(server, stream)._decoder._process._pid, signal.SIGKILL)
            for tick in range(2, 5):
                await show(tick, same, False)
            await show(5, key, True)
            assert "picture 2 " in (await stream.hear("error"))["message"]
            status = await stream.hear("status")
            assert status["t_video_s"] == pytest.approx(5 * TICK_S)
            assert status["dropped_frames"] == 2
            assert len([message for message in stream.heard if message["type"] == "error"]) == 1

    run(test())


# (Also within microseconds of a tick, where rounding decides.)
GAPS_US = st.lists(st.integers(1, 900_000) | st.integers(159_996, 160_004) | st.integers(1, 4), min_size=2, max_size=20)


@given(GAPS_US, st.data())
def test_a_sampler_that_goes_on_for_another_shows_no_tick_again(gaps_us: list[int], data):
    clock, times_s = Clock(), np.cumsum(gaps_us) / 1e6
    shown = lambda sampler, numbers: [tick for i in numbers for tick in sampler.push(float(times_s[i]), i)]
    cut, count = data.draw(st.integers(1, len(gaps_us) - 1)), len(gaps_us)
    one, lost, moved = (TickSampler[int](clock, 1.0) for _ in range(3))
    first = shown(one, range(cut))
    last_s, held = one.last_s, one.held
    rest = shown(one, range(cut, count))
    lost.begin_after(last_s)
    times = [t_s for t_s, _ in first + shown(lost, range(cut, count))]
    assert times == sorted(set(times))
    with pytest.raises(ValueError, match="came after"):
        lost.push(last_s, 0)
    # With what was held, the ticks are those that would have come anyway.
    moved.begin_after(last_s, held)
    assert shown(moved, range(cut, count)) == rest


INTAKE = IntakeConfig(Clock(), (32, 40), "pad", 1 << 20, gap_s=1.0)


def frames_at(times_s: list[float]) -> list[Frame]:
    return [Frame(i, t_s, "jpeg", True, picture(i)) for i, t_s in enumerate(times_s)]


TIMES_S = [0.0, 0.1, 0.2, 0.5, 0.61, 0.64, 0.7, 1.1]


@pytest.mark.parametrize("cut", range(1, len(TIMES_S)))
def test_a_decoder_that_goes_on_with_what_another_was_gives_what_it_would_have(cut: int):
    async def test():
        pictures, expected = frames_at(TIMES_S), []
        one = faulty().stream(INTAKE)
        for frame in pictures[:cut]:
            await one.take(frame)
        state = await one.saved()
        assert (state.shown is None, state.last_s) == (False, TIMES_S[cut - 1])
        moved = faulty().stream(INTAKE, state)
        # What has not begun is what it was given.
        assert await moved.saved() is state
        for frame in pictures[cut:]:
            there, here = await one.take(frame), await moved.take(frame)
            expected += there.ticks
            assert there[1:] == here[1:]
            assert [(tick.t_s, tick.change, tick.frame.tobytes()) for tick in there.ticks] == [
                (tick.t_s, tick.change, tick.frame.tobytes()) for tick in here.ticks
            ]
        assert expected
        for decoder in (one, moved):
            decoder.close()

    run(test())


def test_a_lost_decoder_of_a_stream_that_moved_costs_one_gap():
    async def test():
        pictures = frames_at([0.0, 0.16, 0.32, 0.48, 0.64])
        one = faulty().stream(INTAKE)
        for frame in pictures[:2]:
            await one.take(frame)
        for orders in ([], ["jump"], ["reset"]):
            moved = faulty().stream(INTAKE, await one.saved())
            for order in orders:
                await getattr(moved, order)()
            with pytest.raises(DecoderEnded):
                await moved.take(dataclasses.replace(pictures[2], data=pictures[2].data + ABORT))
            assert (await moved.saved()) == IntakeState(None if orders == ["reset"] else 0.16)
            # What was on the screen before is not shown where the lost picture would have been.
            taken = await moved.take(pictures[3])
            assert [(round(tick.t_s, 6), tick.change) for tick in taken.ticks] == [(0.48, 0.0)]
            assert taken.gap_s is None
            assert [round(tick.t_s, 6) for tick in (await moved.take(pictures[4])).ticks] == [0.64]
            moved.close()
        # One that is told to stand still before it begins repeats nothing either.
        moved = faulty().stream(INTAKE, await one.saved())
        await moved.jump()
        assert [round(tick.t_s, 6) for tick in (await moved.take(pictures[4])).ticks] == [0.64]
        moved.close()
        one.close()

    run(test())


@functools.cache
def png(width_px: int, height_px: int) -> bytes:
    """A black one: a thousandth as large as its pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + width_px) * height_px), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_of(width_px: int, height_px: int) -> bytes:
    """A small JPEG that says it is so large."""
    data = picture()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height_px, width_px) + data[at + 4 :]


def webp_of(width_px: int, height_px: int) -> bytes:
    """The head of a WebP that says it is so large."""
    body = b"WEBPVP8L" + struct.pack("<IBI", 20, 0x2F, (width_px - 1) | (height_px - 1) << 14) + bytes(15)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (lambda: png(10_000, 10_000), "jpeg"),
        (lambda: png(10_000, 10_000), "webp"),
        (lambda: jpeg_of(65_000, 65_000), "jpeg"),
        (lambda: webp_of(16_384, 16_384), "webp"),
    ],
)
def test_a_bomb_is_refused_unseen_and_its_decoder_goes_on(data, codec: str):
    async def test():
        async with served(decoders=faulty()) as server, server.stream(mode="file") as stream:
            await go_on(stream, range(1))
            pid = session_of(server, stream)._decoder._process._pid
            await stream.show(1, data(), codec)
            error = await stream.hear("error")
            assert (error["code"], error["fatal"]) == ("bad_frame", False)
            await go_on(stream, range(1, 3))
            assert session_of(server, stream)._decoder._process._pid == pid

    run(test())


@needs_filter
def test_who_takes_a_decoder_over_gets_nowhere():
    async def test():
        async with served(decoders=faulty()) as server, server.stream(mode="file") as stream:
            await stream.show(0, picture() + ESCAPE)
            message = (await stream.hear("error"))["message"]
            outcomes = json.loads(message[message.index("{") :])
            assert outcomes == REFUSED

    run(test())


LOCKED_IN = """
import json, sys, threading
from mmduplex_jax.serving import cage
from tests.serving.faulty_decoders import ESCAPES, tried
cage.lock_in(256 << 20, threads=True)
began = []
thread = threading.Thread(target=began.append, args=(1,))
thread.start()
thread.join()
outcomes = {name: tried(escape) for name, escape in ESCAPES.items()}
try:
    bytearray(300 << 20)
    outcomes["memory"] = "escaped"
except MemoryError:
    outcomes["memory"] = "MemoryError"
print(json.dumps([began, outcomes]))
"""


@needs_filter
def test_who_may_begin_threads_gets_no_further():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LOCKED_IN]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=root, timeout=PATIENCE_S, check=True)
    began, outcomes = json.loads(done.stdout)
    assert began == [1]
    assert outcomes == REFUSED | {"memory": "MemoryError"}


@pytest.mark.parametrize("holds", [False, True])
def test_without_descriptors_of_processes_none_is_killed_that_may_be_another(holds: bool):
    # (The first byte is unread: the end of a socket lies behind it.)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(b"x")
    if not holds:
        theirs.close()
    decoder = _Process(SimpleNamespace(fork=lambda file: ours), (8, 8))
    another = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    decoder._pid = another.pid
    decoder.close()
    if holds:
        assert another.wait(PATIENCE_S) == -signal.SIGKILL
    said, _ = another.communicate(None if holds else b"lives")
    assert (said, another.returncode) == ((b"", -signal.SIGKILL) if holds else (b"lives", 0))
    theirs.close()


def test_who_was_waited_for_is_not_killed_again(monkeypatch):
    processes = DecoderProcesses(Limits.decode_s)
    killed = []
    monkeypatch.setattr(os, "killpg", lambda *call, kill=os.killpg: (killed.append(call), kill(*call)))
    processes.close()
    processes.close()
    assert killed == [(processes._nursery.pid, signal.SIGKILL)]


def test_a_machine_without_the_filter_says_so(monkeypatch, caplog):
    monkeypatch.setattr(cage, "why_no_filter", lambda: "this is a test")

    async def test():
        with DecoderProcesses(Limits.decode_s) as decoders:
            async with served(decoders=decoders) as server, server.http.get(f"{server.url}/metrics") as answer:
                assert "mmduplex_decoders_caged 0.0" in await answer.text()

    with caplog.at_level(logging.WARNING):
        run(test())
    assert [record.cause for record in caplog.records if "without a filter" in record.message] == ["this is a test"]


@needs_filter
def test_a_machine_with_the_filter_says_so():
    async def test():
        async with served() as server, server.http.get(f"{server.url}/metrics") as answer:
            assert "mmduplex_decoders_caged 1.0" in await answer.text()

    run(test())


@pytest.mark.skipif(sys.platform != "linux", reason="the environment is read from /proc")
def test_decoders_know_no_token(monkeypatch):
    monkeypatch.setenv("MMDUPLEX_TOKEN", "hunter2")
    with DecoderProcesses(Limits.decode_s) as decoders:
        # (The kernel shows it a moment after the process has begun to run its program.)
        until_s = time.monotonic() + PATIENCE_S
        while not (environment := Path(f"/proc/{decoders._nursery.pid}/environ").read_bytes()):
            assert time.monotonic() < until_s
    assert b"PATH=" in environment
    assert b"hunter2" not in environment


def test_decoders_load_nothing_of_the_model():
    code = "import sys, mmduplex_jax.serving.decoding; print([name for name in sys.modules if name.startswith('jax')])"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.strip() == b"[]"


ANSWER = {
    "refused": None, "failed": None, "ticks": [], "state": [None, 0, 0, None], "shown": None, "before": None,
    "set_back_s": None, "gap_s": None,
}  # fmt: skip
SCALARS: list = [None, True, 0, -1, 17, 10**400, 0.5, float("nan"), float("inf"), "", "x" * 2000, [], {}]
LISTS = st.lists(st.sampled_from(SCALARS), max_size=3)


@given(st.sampled_from(sorted(ANSWER)), st.sampled_from(SCALARS) | LISTS | st.lists(LISTS, max_size=2))
def test_an_answer_is_as_it_should_be_or_none(name: str, lie):
    lies = {name: lie}
    try:
        answer = _read_answer(bytearray(json.dumps(ANSWER | lies).encode()))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return
    assert all(np.isfinite(t_s) and 0 <= index < 17 for t_s, index, _ in answer.ticks)
    assert all(index is None or 0 <= index < 17 for index in (answer.shown, answer.before))
    assert all(time_s is None or np.isfinite(time_s) for time_s in (answer.state.last_s, answer.state.set_back_s))
    assert (answer.state.shown, answer.state.before) == (None, None)
    assert answer.refused is None or len(answer.refused) <= 1000
    assert answer.failed is None or len(answer.failed) == 2


def test_a_deep_answer_is_none():
    with pytest.raises(RecursionError):
        _read_answer(bytearray(b"[" * 60_000))


# Sources.


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_numbered(tmp_path / "a.mp4", images=[np.full((64, 64, 3), 9 * i, np.uint8) for i in range(20)])
    return tmp_path / "a.mp4"


def test_a_file_is_the_same_in_the_cage(recording: Path):
    async def test():
        reading = faulty().source(SourceConfig(str(recording), Clock(), (32, 40), "crop", realtime=False))
        ticks = []
        while (tick := await reading.next()) is not None:
            ticks.append(tick)
        reading.close()
        with VideoReader(recording, Clock(), (32, 40)) as reader:
            expected = list(reader)
        assert [tick.t_s for tick in ticks] == [t_s for _, t_s, _ in expected]
        np.testing.assert_array_equal([tick.frame for tick in ticks], [frame for *_, frame in expected])

    run(test())


@pytest.mark.parametrize("name", sorted(SOURCES_S))
def test_a_source_whose_ticks_do_not_rise_ends_its_stream_only(recording: Path, name: str):
    lying = recording.rename(recording.with_name(name))

    async def test():
        async with (
            served(decoders=faulty(), sources=Sources([str(lying)])) as server,
            server.stream(mode="file") as other,
            server.stream(mode="file", source=str(lying)) as stream,
        ):
            bye = await stream.hear("bye")
            assert (bye["reason"], "it broke the decoder" in bye["message"]) == ("source", True)
            assert lost(server, "ended") == 1
            await go_on(other, range(2))
            seat = server.pool.all_seats[1]
            assert [round(t_s / TICK_S) for t_s, _ in seat.frames] == [0, 1, 2]

    run(test())


def test_a_source_whose_decoder_is_killed_ends_its_stream_only(recording: Path):
    async def test():
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
        address = f"tcp://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        async with (
            served(decoders=faulty(), sources=Sources([address])) as server,
            server.stream(mode="file") as other,
            server.stream(source=address) as stream,
        ):
            source = session_of(server, stream)._source
            await server.until(lambda: source.get_coro().cr_frame.f_locals["reading"]._process is not None)
            process = source.get_coro().cr_frame.f_locals["reading"]._process
            await server.until(lambda: process._pid)
            os.kill(process._pid, signal.SIGKILL)
            assert (await stream.hear("bye"))["reason"] == "source"
            await go_on(other, range(2))
            assert lost(server, "ended") == 1
        silent.close()

    run(test())


def test_a_source_that_hangs_is_ended_with_its_stream():
    async def test():
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
        address = f"tcp://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        async with served(decoders=faulty(), sources=Sources([address])) as server:
            async with server.stream(source=address) as stream:
                source = session_of(server, stream)._source
                await server.until(lambda: source.get_coro().cr_frame.f_locals["reading"]._process is not None)
                process = source.get_coro().cr_frame.f_locals["reading"]._process
                await server.until(lambda: process._pid)
                pid = process._pid
                await stream.say(type="end")
                await stream.hear("bye")
            await server.until(lambda: is_gone(pid))
        silent.close()

    run(test())
