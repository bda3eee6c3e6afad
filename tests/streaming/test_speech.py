"""What is heard reaches a file, a film or a loudspeaker at its own time."""

import sys
import types
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.decode import Picture, Tick
from mmduplex_jax.streaming.render import Renderer
from mmduplex_jax.streaming.slot import NO_TOKENS, TickResult
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.streaming.speech import FORMATS, SoundDevice, check_speech, open_speech
from tests.streaming.scripted_stream import CLOCK, FRAME_PX

RATE_HZ, LENGTH = 16_000, 1280


def piece(step: int, loud: bool = True) -> SoundPiece:
    """The piece of a step, a tone of 500 Hz or silence."""
    samples = 0.5 * np.sin(2 * np.pi * 500 * np.arange(LENGTH) / RATE_HZ) * loud
    return SoundPiece(CLOCK.step_time_s(step + 1), step, samples.astype(np.float32))


def heard(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a file from its time 0 on, and their rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.channels == 1
        frames = list(container.decode(stream))
        rate_hz = stream.rate
        begin = round(float(frames[0].pts * frames[0].time_base) * rate_hz)
        samples = np.concatenate([frame.to_ndarray().reshape(-1).astype(np.float32) for frame in frames])
        scale = 32768 if frames[0].format.name.startswith("s16") else 1
    return np.concatenate([np.zeros(max(0, begin), np.float32), samples[max(0, -begin) :] / scale]), rate_hz


NOTHING = TickResult([], NO_TOKENS, [])


def loud_times_s(samples: np.ndarray, rate_hz: int) -> tuple[float, float]:
    """From when until when something is heard."""
    loud = np.flatnonzero(np.abs(samples) > 0.1) / rate_hz
    return loud[0], loud[-1]


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_file_has_the_streams_time(tmp_path: Path, kind: str):
    """Silence, six steps of a tone, a gap in time (frames were dropped), and two more."""
    path = tmp_path / f"a{kind}"
    path.write_bytes(b"older")
    file = open_speech(path, RATE_HZ)
    assert not path.exists()
    for step in range(16):
        if step not in (12, 13):
            file.on_sound(piece(step, loud=4 <= step < 10 or step >= 14))
    file.on_tick(None, NOTHING, 0)
    file.close([])
    samples, rate_hz = heard(path)
    assert rate_hz in (RATE_HZ, 48_000)  # a decoder of Opus gives 48 kHz
    assert len(samples) / rate_hz == pytest.approx(CLOCK.step_time_s(17), abs=0.05)
    begin_s, end_s = loud_times_s(samples[: round(1.0 * rate_hz)], rate_hz)
    assert begin_s == pytest.approx(CLOCK.step_time_s(5), abs=0.01)
    assert end_s == pytest.approx(CLOCK.step_time_s(11), abs=0.015)
    assert loud_times_s(samples[round(1.0 * rate_hz) :], rate_hz)[0] + 1.0 == pytest.approx(
        CLOCK.step_time_s(15), abs=0.01
    )
    if kind == ".wav":
        np.testing.assert_allclose(samples[5 * LENGTH : 6 * LENGTH], piece(4).samples, atol=1e-4)  # 16 bits


def test_where_nothing_is_heard_there_is_no_file(tmp_path: Path):
    open_speech(tmp_path / "a.wav", RATE_HZ).close([])
    assert not (tmp_path / "a.wav").exists()
    with pytest.raises(ValueError, match=r"--speech=a.mp3: sound is written as .wav, .opus, .ogg, .m4a, or played"):
        check_speech("a.mp3")
    check_speech("device")


@pytest.mark.parametrize("kind", [".mp4", ".mkv"])
def test_a_film_has_its_sound_in_step(tmp_path: Path, kind: str):
    """A white picture and a tone at the same moment."""
    path = tmp_path / f"a{kind}"
    film = Renderer(
        path, frame_px=FRAME_PX, fit="crop", tokens_per_s_max=8, tick_s=CLOCK.tick_s, sample_rate_hz=RATE_HZ
    )
    for number in range(12):
        t_s, white = CLOCK.tick_time_s(number), number == 6
        image = np.full((48, 64, 3), 255 * white, np.uint8)
        frame = np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8)
        # The first tick shows no picture: its sound waits for the file to begin.
        film.on_tick(Tick(number, t_s, frame, (Picture(t_s, image),) if number else ()), NOTHING, 0)
        for step in (2 * number, 2 * number + 1):
            film.on_sound(piece(step, loud=step in (11, 12)))  # the steps that end where tick 6 begins, and follow
    film.close([])
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name in ("aac", "opus", "libopus")
        white_s = [f.time for f in container.decode(video=0) if f.to_ndarray(format="gray")[:300].mean() > 200]
    begin_s, end_s = loud_times_s(*heard(path))
    assert begin_s == pytest.approx(white_s[0], abs=0.015)
    assert end_s == pytest.approx(white_s[0] + CLOCK.tick_s, abs=0.02)


def test_a_loudspeaker_gets_the_pieces_and_what_is_missing_is_said(monkeypatch):
    played = []

    class Error(Exception):
        pass

    class Stream:
        def __init__(self, samplerate, channels, dtype):
            if samplerate != RATE_HZ:
                raise Error("Invalid sample rate")
            played.append((channels, dtype))

        def start(self):
            played.append("start")

        def write(self, samples):
            played.append(samples.shape)

        def stop(self):
            played.append("stop")

        def close(self):
            played.append("close")

    monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(OutputStream=Stream, PortAudioError=Error))
    device = open_speech("device", RATE_HZ)
    device.on_sound(piece(0))
    device.on_tick(None, NOTHING, 0)
    device.close([])
    assert played == [(1, "float32"), "start", (LENGTH, 1), "stop", "close"]
    with pytest.raises(ValueError, match=r"no loudspeaker takes 8000 Hz \(Invalid sample rate\)"):
        SoundDevice(8000)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ValueError, match="pip install sounddevice"):
        SoundDevice(RATE_HZ)
