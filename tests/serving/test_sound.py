"""Sound on its way to clients: in order and in step, over drops, and what gives way when it is not taken."""

import asyncio
import socket
from types import SimpleNamespace

import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.protocol import Sound
from mmduplex_jax.serving.sound import Joined, Queued, SoundEncoder, SoundQueue, pcm16, sounds_of
from mmduplex_jax.streaming.sound import FADE_S, SoundPiece
from tests.serving.scripted_pool import VOICED, ScriptedPool, tone
from tests.serving.served import TICK_S, run, served

av = pytest.importorskip("av")
RATE_HZ, STEP_S = VOICED.sample_rate_hz, Clock().step_s
# A step of the tone's samples, its greatest; what a click adds to it is judged against it.
TONE_JUMP = float(np.abs(np.diff(tone(0))).max())


def piece(step: int, t_s: float | None = None) -> SoundPiece:
    return SoundPiece((step + 1) * STEP_S if t_s is None else t_s, step, tone(step))


def voiced(pool: ScriptedPool | None = None, **arguments):
    return served(pool, facts=VOICED, **arguments)


async def show_all(socket, ticks: range) -> None:
    for tick in ticks:
        await socket.show(tick)
        # (More than the decoder is behind would be dropped.)
        await socket.hear("status")


def samples_of(sounds: list[Sound]) -> np.ndarray:
    return np.concatenate([np.frombuffer(sound.data, "<i2") for sound in sounds])


def test_sound_comes_in_step_with_words_without_a_gap():
    async def test():
        async with voiced() as server, server.stream(sound="pcm16") as socket:
            assert (socket.hello["sound"], socket.hello["sample_rate_hz"]) == ("pcm16", RATE_HZ)
            assert socket.hello["sounds"] == ["pcm16", "opus"]
            await show_all(socket, range(6))
            await socket.say(type="end")
            await socket.hear("bye")
            assert [sound.step for sound in socket.sounds] == list(range(12))
            assert [sound.t_s for sound in socket.sounds] == pytest.approx([STEP_S * (i + 1) for i in range(12)])
            assert [sound.continues for sound in socket.sounds] == [False] + 11 * [True]
            np.testing.assert_array_equal(samples_of(socket.sounds), np.tile(pcm16(tone(0)), 12))
            statuses = [one for one in socket.heard if one["type"] == "status"]
            assert {(one["sound"], one["sound_left_out"]) for one in statuses} == {("on", 0)}
            assert server.pool.all_seats[0].speaking

    run(test())


def test_opus_is_a_packet_a_step_and_sounds_as_what_was_said():
    async def test():
        async with voiced() as server, server.stream(sound="opus") as socket:
            await show_all(socket, range(6))
            await socket.say(type="end")
            await socket.hear("bye")
            assert [sound.step for sound in socket.sounds] == list(range(12))
            assert {(sound.codec, sound.sample_rate_hz) for sound in socket.sounds} == {("opus", RATE_HZ)}
            decoder = av.CodecContext.create("libopus", "r")
            decoder.sample_rate, decoder.layout = 48_000, "mono"
            frames = [frame for sound in socket.sounds for frame in decoder.decode(av.Packet(sound.data))]
            samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
            assert len(samples) == 12 * 3840
            # A tone of 500 Hz, about as loud. (The first packet builds up.)
            spectrum = np.abs(np.fft.rfft(samples[3840:] / 32767.0))
            assert np.argmax(spectrum) / (len(samples) - 3840) * 48_000 == pytest.approx(500, abs=2)
            assert np.std(samples[3840:]) / 32767 == pytest.approx(0.3 / np.sqrt(2), rel=0.1)

    run(test())


def test_who_does_not_ask_hears_nothing_and_costs_nothing():
    async def test():
        async with voiced() as server, server.stream() as socket:
            assert socket.hello["sound"] is None
            await show_all(socket, range(2))
            await socket.say(type="end")
            await socket.hear("bye")
            assert not socket.sounds
            assert all("sound" not in one for one in socket.heard if one["type"] == "status")
            assert not server.pool.all_seats[0].speaking

    run(test())


@pytest.mark.parametrize(
    ("facts", "sound", "said"),
    [
        ({"sample_rate_hz": None}, "pcm16", "has no voice"),
        ({"sample_rate_hz": 22_050}, "opus", "no opus of a voice of 22050 Hz"),
        ({}, "track", "only a WebRTC offer"),
        ({}, "mp3", "`sound` must be one of"),
        ({}, True, "`sound` must be one of"),
    ],
)
def test_sound_that_is_not_to_be_had_is_refused(facts, sound, said):
    async def test():
        async with served(facts=SimpleNamespace(**vars(VOICED) | facts)) as server, server.socket() as socket:
            await socket.say(type="hello", version=1, config={"sound": sound})
            error = await socket.hear("error")
            assert (error["code"], error["fatal"]) == ("bad_config", True)
            assert said in error["message"]
            assert not server.pool.all_seats

    run(test())


def test_after_a_drop_sound_goes_on_with_what_is_said_now():
    async def test():
        async with voiced() as server:
            async with server.stream(sound="pcm16") as socket:
                hello = socket.hello
                await show_all(socket, range(2))
            await server.until(lambda: next(iter(server.sessions)).detached_s is not None)
            # Nobody hears what is said meanwhile, and no sound is made.
            seat = server.pool.all_seats[0]
            assert not seat.speaking
            seat.offer(2 * TICK_S, np.zeros((32, 32, 3), np.uint8))
            await server.until(lambda: next(iter(server.sessions)).words.seq == 3)
            resume = {"session": hello["session"], "token": hello["token"], "last_seq": 2}
            async with server.stream(resume, sound="opus") as socket:
                assert socket.hello["sound"] == "opus"
                seat.offer(3 * TICK_S, np.zeros((32, 32, 3), np.uint8))
                await socket.say(type="end")
                await socket.hear("bye")
                assert socket.words() == ["w2", "w3"]
                assert [(sound.step, sound.continues) for sound in socket.sounds] == [(6, False), (7, True)]

    run(test())


def test_who_is_muted_costs_no_sound_until_it_is_wanted():
    async def test():
        async with voiced() as server, server.stream(sound="pcm16", hear=False) as socket:
            seat = server.pool.all_seats[0]
            await show_all(socket, range(2))
            assert not socket.sounds
            await socket.say(type="config", hear=True)
            await socket.hear("config")
            await show_all(socket, range(2, 4))
            await socket.say(type="config", hear=False)
            await socket.hear("config")
            await show_all(socket, range(4, 6))
            await socket.say(type="end")
            await socket.hear("bye")
            assert [(sound.step, sound.continues) for sound in socket.sounds] == [
                (4, False),
                (5, True),
                (6, True),
                (7, True),
            ]
            assert [call for call in seat.calls if "speak" in call] == ["speak True", "speak False"]
            statuses = [one.get("sound") for one in socket.heard if one["type"] == "status"]
            assert statuses == [None, None, "on", "on", None, None]

    run(test())


def test_who_asked_for_no_sound_cannot_turn_it_on():
    async def test():
        async with voiced() as server, server.stream() as socket:
            await socket.say(type="config", hear=True)
            assert "asked for no `sound`" in (await socket.hear("error"))["message"]

    run(test())


def test_where_sound_gives_way_to_the_load_the_client_and_the_operator_are_told():
    async def test():
        async with voiced() as server, server.stream(sound="pcm16") as socket:
            await show_all(socket, range(2))
            server.pool.sounds = False
            await show_all(socket, range(2, 5))
            server.pool.sounds = True
            await show_all(socket, range(5, 6))
            await socket.say(type="end")
            await socket.hear("bye")
            assert socket.words() == [f"w{i}" for i in range(6)]
            statuses = [(one["sound"], one["sound_left_out"]) for one in socket.heard if one["type"] == "status"]
            assert statuses == [("on", 0)] * 2 + [("off", 2), ("off", 4), ("off", 6), ("on", 6)]
            # Silence is sent instead, so that the sound goes on without a gap.
            assert [(sound.step, sound.continues) for sound in socket.sounds] == [(i, i > 0) for i in range(12)]
            assert [bool(np.frombuffer(sound.data, "<i2").any()) for sound in socket.sounds] == (
                4 * [True] + 6 * [False] + 2 * [True]
            )
            async with server.http.get(f"{server.url}/metrics") as answer:
                metrics = await answer.text()
            assert 'mmduplex_sound_left_out_steps_total{reason="overload"} 6.0' in metrics
            assert "mmduplex_sound_steps_total 6.0" in metrics

    run(test())


def test_a_client_that_reads_slowly_loses_sound_and_no_word():
    async def test():
        ticks = 400
        pool = ScriptedPool()
        async with voiced(pool) as server, server.stream(sound="pcm16") as socket:
            session = next(iter(server.sessions))
            seat = pool.all_seats[0]
            transport = socket.socket._response.connection.transport
            transport.pause_reading()
            for tick in range(ticks):
                seat.offer(tick * TICK_S, np.zeros((32, 32, 3), np.uint8))
            await server.until(lambda: session.words.seq == ticks)
            left_out = server.sessions.counters.sound_left_out.labels("slow_reader")._value.get()
            transport.resume_reading()
            await socket.say(type="end")
            await socket.hear("bye")
            assert socket.words() == [f"w{i}" for i in range(ticks)]
            assert left_out > 0
            assert len(socket.sounds) == 2 * ticks - left_out
            assert [sound.step for sound in socket.sounds] == sorted({sound.step for sound in socket.sounds})
            # Each gap is said to be one, and nothing else is.
            steps = [sound.step for sound in socket.sounds]
            gaps = [not sound.continues for sound in socket.sounds[1:]]
            assert gaps == [after != before + 1 for before, after in zip(steps, steps[1:])]

    run(test())


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system does not bound what is unsent")
def test_little_sound_waits_in_buffers_in_which_it_cannot_give_way():
    async def test():
        async with voiced() as server, server.stream(sound="pcm16"):
            bounds = [
                (
                    connection.transport.get_extra_info("socket").getsockopt(
                        socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT
                    ),
                    connection.transport.get_write_buffer_limits()[1],
                )
                for connection in server.runner.server.connections
            ]
            assert bounds == [(16 << 10, 16 << 10)]

    run(test())


def test_a_file_waits_and_loses_no_sound():
    async def test():
        async with voiced(limits=Limits(sound_s=0.2)) as server, server.stream(mode="file", sound="pcm16") as socket:

            async def show() -> None:
                for tick in range(60):
                    await socket.show(tick)
                await socket.say(type="end")

            showing = asyncio.create_task(show())
            await socket.hear("bye")
            await showing
            assert [sound.step for sound in socket.sounds] == list(range(120))
            assert sum(not sound.continues for sound in socket.sounds) == 1

    run(test())


def test_a_reset_begins_the_sound_anew():
    queue = SoundQueue(RATE_HZ, Clock(), 0.5)
    taken = []
    for one in (piece(0), piece(1), piece(0), piece(1), piece(2, t_s=9.0)):
        queue.put(one)
        taken.append(queue.take())
    assert [queued.continues for queued in taken] == [False, True, False, True, False]


@pytest.mark.parametrize("reset", [False, True])
def test_sound_goes_on_at_a_cut_and_not_at_a_reset(reset: bool):
    queue = SoundQueue(RATE_HZ, Clock(), 0.5)
    queue.put(piece(5))
    queue.take()
    if reset:
        queue.clear()
    queue.put(piece(0, t_s=piece(6).t_s))
    assert queue.take().continues != reset


def test_the_oldest_sound_gives_way():
    queue, left_out = SoundQueue(RATE_HZ, Clock(), 0.32), []
    queue.on_left_out = lambda: left_out.append(1)
    for step in range(6):
        assert queue.has_room(1) == (step < 4)
        queue.put(piece(step))
    assert len(left_out) == 2
    assert [queue.take().piece.step for _ in range(4)] == [2, 3, 4, 5]
    assert queue.take() is None


def test_joints_are_faded_and_what_goes_on_is_left_as_it_is():
    joined = Joined(RATE_HZ)
    first = [joined.add(Queued(piece(step), step > 0)) for step in range(3)]
    # Then two steps are left out.
    second = [joined.add(Queued(piece(5), False)), joined.add(Queued(piece(6), True)), joined.end()]
    heard, fade = np.concatenate(first + second), round(FADE_S * RATE_HZ)
    assert len(heard) == 5 * 1280
    assert np.abs(np.diff(heard)).max() <= TONE_JUMP * 1.1
    assert heard[0] == heard[-1] == 0.0
    assert len(joined.end()) == 0
    whole = np.tile(tone(0), 3)
    np.testing.assert_array_equal(heard[fade : len(whole) - fade], whole[fade:-fade])


def test_what_is_too_loud_is_cut_off_at_full_scale():
    samples = np.array([-3.0, -1.0, 0.0, 0.5, 7.0], np.float32)
    np.testing.assert_array_equal(pcm16(samples), [-32767, -32767, 0, 16384, 32767])


def test_a_voice_without_opus_steps_has_pcm_alone():
    assert sounds_of(None, Clock()) == ()
    assert sounds_of(24_000, Clock()) == ("pcm16", "opus")
    assert sounds_of(24_000, Clock(step_hz=8.0)) == ("pcm16",)
    message = SoundEncoder("pcm16", 22_050, Clock()).encode(Queued(piece(0), True))
    assert message.sample_rate_hz == 22_050
