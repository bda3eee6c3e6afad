"""Sound keeps step with the pictures, whatever begins first, and is silent where there is none."""

import io
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.audio_track import AudioFormat, encode_audio
from data_pipelines.clip_reader import read_clips
from data_pipelines.windows import Window
from tests.data_pipelines.numbered_video import CLOCK, SIDE_PX, numbered_image, write_numbered

PCM, OPUS = AudioFormat("pcm", 16000), AudioFormat("opus", 24000)
TOLERANCE_S = 0.02


def write_beeps(
    path: Path,
    codec: str,
    beeps_s: list[float],
    *,
    rate_hz: int = 44100,
    layout: str = "stereo",
    sound_s: tuple[float, float] = (0.0, 30.0),
    picture_from_s: float = 0.0,
) -> Path:
    """Writes 30 s of pictures, 5 a second, and beeps of a tenth of a second at times of the container's clock."""
    begin, end = (round(time_s * rate_hz) for time_s in sound_s)
    samples = np.zeros(end, np.float32)
    beep = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate_hz // 10) / rate_hz).astype(np.float32)
    for beep_s in beeps_s:
        at = round(beep_s * rate_hz)
        samples[at : at + beep.size] = beep[: max(0, end - at)]
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=5, options={"g": "10"})
        video.width = video.height = SIDE_PX
        audio = container.add_stream(codec, rate=rate_hz, layout=layout)
        packets = []
        for number in range(150):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts, frame.time_base = number + round(picture_from_s * 5), Fraction(1, 5)
            packets += video.encode(frame)
        packets += video.encode(None)
        channels = audio.codec_context.layout.nb_channels
        for start in range(begin, end, 1024):
            some = np.broadcast_to(samples[start : start + 1024], (channels, len(samples[start : start + 1024])))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(some), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            packets += audio.encode(frame)
        packets += audio.encode(None)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def tracks(path: Path, windows: list[tuple[float, float]], audio: AudioFormat) -> list[bytes | None]:
    cut = [Window(number, begin_s, end_s) for number, (begin_s, end_s) in enumerate(windows)]
    return [clip.audio for clip in read_clips(path, cut, CLOCK, SIDE_PX, audio=audio)]


def decode(track: bytes) -> tuple[np.ndarray, int]:
    """float [N] and the rate."""
    with av.open(io.BytesIO(track)) as container:
        frames = list(container.decode(audio=0))
        kind = container.streams.audio[0]
        assert kind.codec_context.layout.nb_channels == 1
        to_float = av.AudioResampler("flt", "mono", kind.rate)
        parts = [part.to_ndarray()[0] for frame in frames for part in to_float.resample(frame)]
    return np.concatenate(parts), kind.rate


def onsets_s(track: bytes) -> list[float]:
    """When beeps begin: loud, and quiet for the tenth of a second before."""
    samples, rate_hz = decode(track)
    loud = np.flatnonzero(np.abs(samples) > 0.1) / rate_hz
    if not loud.size:
        return []
    return [float(loud[0]), *(loud[1:][np.diff(loud) > 0.1]).tolist()]


@pytest.mark.parametrize("audio", [PCM, OPUS], ids=["pcm", "opus"])
@pytest.mark.parametrize(
    ("suffix", "codec", "rate_hz", "layout"),
    [
        (".mp4", "aac", 44100, "stereo"),
        (".mp4", "aac", 48000, "5.1"),
        (".mkv", "libopus", 48000, "stereo"),
        (".mkv", "flac", 22050, "mono"),
        (".mp4", "libmp3lame", 32000, "mono"),
        (".ts", "mp2", 48000, "stereo"),
        (".avi", "pcm_s16le", 44100, "stereo"),
    ],
)
def test_a_beep_is_heard_when_it_is_seen(tmp_path: Path, audio, suffix, codec, rate_hz, layout):
    path = write_beeps(tmp_path / f"a{suffix}", codec, [2.0, 21.5, 22.0], rate_hz=rate_hz, layout=layout)
    windows = [(0.0, 3.0), (1.47, 2.93), (1.95, 2.5), (5.0, 6.0), (21.03, 24.0)]
    found = tracks(path, windows, audio)
    expected = [[2.0], [0.53], [0.05], [], [0.47, 0.97]]
    for track, (begin_s, end_s), beeps_s in zip(found, windows, expected):
        assert onsets_s(track) == pytest.approx(beeps_s, abs=TOLERANCE_S)
        samples, rate = decode(track)
        # An Opus decoder hands out whole packets of 20 ms; what is too long is silence.
        assert -1e-3 <= len(samples) / rate - (end_s - begin_s) <= (1e-3 if audio is PCM else 0.021)
        if beeps_s:
            assert np.abs(samples).max() == pytest.approx(0.5, abs=0.12)


def test_pcm_has_the_length_of_the_window_and_the_rate_asked_for(tmp_path: Path):
    path = write_beeps(tmp_path / "a.mp4", "aac", [2.0])
    (track,) = tracks(path, [(0.37, 3.91)], AudioFormat("pcm", 8000))
    with wave.open(io.BytesIO(track)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        assert file.getnframes() == round(3.54 * 8000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_begins_and_ends_inside(tmp_path: Path, suffix: str):
    path = write_beeps(tmp_path / f"a{suffix}", "aac", [4.0], sound_s=(3.0, 5.0))
    for track, expected in zip(
        tracks(path, [(0.0, 6.0), (3.5, 4.5), (6.0, 8.0), (20.0, 21.0)], PCM), [[4.0], [0.5], [], []]
    ):
        assert onsets_s(track) == pytest.approx(expected, abs=TOLERANCE_S)
    samples, rate_hz = decode(tracks(path, [(0.0, 6.0)], PCM)[0])
    assert not samples[: round(2.9 * rate_hz)].any()
    assert not samples[round(5.1 * rate_hz) :].any()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pictures_that_begin_after_the_sound(tmp_path: Path, suffix: str):
    # The beep comes with picture 10, two seconds after the first picture and three after the first sound.
    path = write_beeps(tmp_path / f"a{suffix}", "aac", [3.0], picture_from_s=1.0)
    cut = [Window(0, 1.0, 4.0), Window(1, 2.5, 3.5)]
    for clip, expected_s in zip(read_clips(path, cut, CLOCK, SIDE_PX, audio=PCM), (2.0, 0.5)):
        (onset_s,) = onsets_s(clip.audio)
        assert onset_s == pytest.approx(expected_s, abs=TOLERANCE_S)
        before, after = (clip.frames[CLOCK.tick_at(onset_s + d)].mean(axis=(0, 2)) for d in (-0.2, 0.2))
        ten = numbered_image(10).mean(axis=(0, 2))
        assert np.abs(after - ten).mean() < 10 < np.abs(before - ten).mean()


def test_sound_goes_on_where_recordings_are_joined(tmp_path: Path):
    parts = [write_beeps(tmp_path / f"{at}.ts", "mp2", [at], rate_hz=48000).read_bytes() for at in (7.0, 11.0)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    first, between, second = tracks(tmp_path / "joined.ts", [(5.0, 10.0), (25.0, 35.0), (40.0, 43.0)], PCM)
    assert onsets_s(first) == pytest.approx([2.0], abs=0.1)
    assert onsets_s(between) == []
    assert onsets_s(second) == pytest.approx(
        [1.0], abs=0.1
    )  # the sound of a part is not exactly as long as its pictures


def test_a_tone_has_no_seams(tmp_path: Path):
    """Matroska counts in milliseconds, and packets that are placed by that alone would overlap and gape."""
    path = tmp_path / "a.mkv"
    rate_hz, hz = 44100, 441.0
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width = video.height = SIDE_PX
        audio = container.add_stream("libopus", rate=48000, layout="mono")
        for number in range(50):
            container.mux(video.encode(av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")))
        tone = (0.5 * np.sin(2 * np.pi * hz * np.arange(48000 * 10) / 48000)).astype(np.float32)
        for start in range(0, tone.size, 960):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 960], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    (track,) = tracks(path, [(2.013, 6.0)], AudioFormat("pcm", rate_hz))
    samples, _ = decode(track)
    middle = samples[rate_hz // 10 : -rate_hz // 10].astype(float)
    # Each sample of a tone follows from the two before it; a seam breaks that.
    error = middle[2:] - 2 * np.cos(2 * np.pi * hz / rate_hz) * middle[1:-1] + middle[:-2]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)
    assert np.abs(error).max() < 0.01


def test_a_file_without_sound_has_no_track(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", count=50)
    assert tracks(path, [(0.0, 1.0)], PCM) == [None]


def test_the_same_sound_gives_the_same_bytes(tmp_path: Path):
    path = write_beeps(tmp_path / "a.mp4", "aac", [2.0])
    windows = [(0.5, 3.0), (1.5, 4.0)]
    assert tracks(path, windows, OPUS) == tracks(path, windows, OPUS)
    assert tracks(path, windows, OPUS)[1] == tracks(path, windows[1:], OPUS)[0]


def test_opus_is_as_large_as_asked_for():
    noise = np.random.default_rng(0).integers(-8000, 8000, 24000 * 4).astype(np.int16)
    sizes = [len(encode_audio(noise, AudioFormat("opus", 24000, kbps))) for kbps in (16, 64)]
    assert sizes[0] == pytest.approx(4 * 16000 / 8, rel=0.3)
    assert sizes[1] == pytest.approx(4 * 64000 / 8, rel=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mp3",), "audio.format 'mp3' is unknown"),
        (("opus", 44100), "Opus has rates"),
        (("pcm", 0), "must be positive"),
    ],
)
def test_formats_that_are_not_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AudioFormat(*arguments)


def test_real_sound_is_not_silent(media_dir: Path):
    (track,) = tracks(media_dir / "shared-assets__friday.mp4", [(1.0, 6.0)], OPUS)
    samples, rate_hz = decode(track)
    assert np.sqrt((samples.astype(float) ** 2).mean()) > 0.01
    (silent,) = tracks(media_dir / "sample-videos__car-detection.mp4", [(1.0, 6.0)], PCM)
    assert np.abs(decode(silent)[0]).max() < 0.01
