"""Clips show at each tick the picture that was on the screen, with jumps and without, and say what breaks."""

import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines import clip_reader
from data_pipelines.clip_reader import Clip, probe, read_clips
from data_pipelines.decode import VideoReader
from data_pipelines.pictures import PictureStream
from data_pipelines.video_source import VideoError
from data_pipelines.windows import Window, cut_windows
from mmduplex_jax.clock import Clock
from tests.data_pipelines.numbered_video import CLOCK, SIDE_PX, number_in, numbered_image, write_numbered, write_tone

B_PICTURES = {"bf": "3", "g": "24", "x264-params": "b-adapt=0:b-pyramid=normal"}
OPEN_GROUPS = {"bf": "3", "g": "24", "x264-params": "b-adapt=0:open-gop=1"}
# At odd offsets; between the second and the third, and before the last, is more than it takes for a jump.
WINDOWS = [Window(0, 0.37, 2.9), Window(1, 2.11, 4.33), Window(2, 21.07, 24.5), Window(3, 36.93, 38.21)]
RATE_HZ, COUNT = 5, 200  # 40 s


def shown_at(times_s: list[float], window: Window, clock: Clock = CLOCK) -> list[int]:
    """For each tick of the window the last picture at or before it (the first, before all)."""
    ticks_s = [window.start_s + clock.tick_time_s(tick) + 1e-6 for tick in range(clock.ticks_in(window.duration_s))]
    return [max([i for i, t_s in enumerate(times_s) if t_s - times_s[0] <= tick_s], default=0) for tick_s in ticks_s]


def seen(clips: list[Clip]) -> list[list[int]]:
    return [[number_in(frame) for frame in clip.frames] for clip in clips]


def read(video, windows=WINDOWS, **arguments) -> list:
    return list(read_clips(video, windows, CLOCK, SIDE_PX, **arguments))


def assert_same(ones: list[Clip], others: list[Clip]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_allclose(one.tick_times_s, other.tick_times_s, atol=1e-9)


@pytest.fixture
def jumps(monkeypatch) -> list[float]:
    """The times to which a PictureStream was sent."""
    times_s: list[float] = []
    seek = PictureStream.seek
    monkeypatch.setattr(PictureStream, "seek", lambda self, t_s: (times_s.append(t_s), seek(self, t_s))[1])
    return times_s


# Times


@pytest.mark.parametrize(
    ("codec", "suffix", "options", "expected_jumps"),
    [
        ("libx264", ".mp4", B_PICTURES, 2),
        ("libx264", ".mp4", {"g": "500"}, 2),  # one key picture for all
        ("libx264", ".mkv", OPEN_GROUPS, 2),
        ("libx264", ".ts", B_PICTURES, 0),
        ("libx265", ".mp4", {"g": "24"}, 2),
        ("mpeg4", ".mov", {"bf": "2", "g": "24"}, 2),
        ("mpeg4", ".avi", {"g": "24"}, 0),
        ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "g": "24"}, 2),
    ],
)
def test_with_and_without_jumps_each_tick_sees_its_picture(
    tmp_path: Path, monkeypatch, jumps, codec, suffix, options, expected_jumps
):
    path = write_numbered(tmp_path / f"a{suffix}", codec, count=COUNT, rate=RATE_HZ, options=options)
    times_s = [number / RATE_HZ for number in range(COUNT)]
    clips = read(path)
    assert len(jumps) == expected_jumps
    assert seen(clips) == [shown_at(times_s, window) for window in WINDOWS]
    for clip, numbers in zip(clips, seen(clips)):
        shown_s = np.array([times_s[number] for number in numbers]) - clip.window.start_s
        np.testing.assert_allclose(clip.tick_times_s, shown_s, atol=1e-3)
    monkeypatch.setattr(clip_reader, "_SEEK_OVER_S", 1e9)
    straight = read(path)
    assert len(jumps) == expected_jumps
    assert_same(clips, straight)
    assert_same(clips, read(path.read_bytes()))
    with open(path, "rb") as file:
        assert_same(clips, read(file))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("start_ms", [0, 7000])
def test_variable_rate_and_a_start_other_than_zero(tmp_path: Path, jumps, suffix: str, start_ms: int):
    gaps = np.random.default_rng(11).integers(9, 420, COUNT - 1)
    times_ms = [start_ms, *(start_ms + np.cumsum(gaps)).tolist()]
    path = write_numbered(tmp_path / f"a{suffix}", times_ms=times_ms, count=COUNT, options=B_PICTURES)
    times_s = [t / 1000 for t in times_ms]
    last_s = times_s[-1] - times_s[0]
    assert probe(path).begin_s == 0
    assert abs(probe(path).end_s - last_s) < 0.5  # a header's length is in the order of decoding
    windows = [*WINDOWS[:3], Window(3, last_s - 3.3, last_s)]
    clips = read(path, windows)
    assert len(jumps) == 1 + (last_s - 3.3 - 24.5 > 10)
    assert seen(clips) == [shown_at(times_s, window) for window in windows]


def test_a_cut_by_an_edit_list_shows_what_a_player_shows(tmp_path: Path):
    path = write_numbered(
        tmp_path / "a.mp4", times_ms=[200 * i - 2000 for i in range(COUNT)], count=COUNT, options={"g": "40", "bf": "2"}
    )
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        ticks = [number_in(tick.frame) for tick in reader.ticks()]
    assert 0 < ticks[0] <= 10
    clips = read(path, [Window(0, 0.0, 4.0), Window(1, 24.0, 30.0)])  # 24 s is tick 150
    assert seen(clips) == [ticks[:25], ticks[150:188]]


def test_any_windows_of_any_cut(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", count=COUNT, rate=RATE_HZ, options=B_PICTURES)
    times_s = [number / RATE_HZ for number in range(COUNT)]
    rng = np.random.default_rng(3)
    for _ in range(4):
        window_s = rng.uniform(0.5, 12)
        windows = cut_windows(rng.uniform(0, 20), 40.0, window_s, rng.uniform(0, 0.9) * window_s, window_s / 3)
        wanted = [window for window in windows if rng.random() < 0.4]
        assert seen(read(path, wanted)) == [shown_at(times_s, window) for window in wanted]


@pytest.mark.parametrize("clock", [Clock(12.5, 1), Clock(12.5, 5), Clock(100.0, 1)])
def test_other_clocks(tmp_path: Path, clock: Clock):
    path = write_numbered(tmp_path / "a.mp4", count=50, options=B_PICTURES)
    window = Window(0, 0.33, 1.9)
    (clip,) = read_clips(path, [window], clock, SIDE_PX)
    assert seen([clip]) == [shown_at([i / 25 for i in range(50)], window, clock)]


def test_pictures_that_no_tick_sees_are_left_out_and_nothing_changes(tmp_path: Path, monkeypatch):
    path = write_numbered(tmp_path / "a.mp4", count=200, options={"bf": "3", "g": "50", "x264-params": "b-adapt=0"})
    decoded: list[float] = []
    shown = PictureStream.shown

    def counted(self):
        for picture in shown(self):
            decoded.append(picture.t_s)
            yield picture

    monkeypatch.setattr(PictureStream, "shown", counted)
    windows = [Window(0, 0.1, 3.0), Window(1, 5.0, 8.0)]
    clips = read(path, windows)
    assert len(decoded) < 150  # half of the pictures have no other built on them, and a tick sees one of four
    monkeypatch.setattr(PictureStream, "_can_leave_out", lambda self: False)
    assert_same(clips, read(path, windows))
    assert len(decoded) > 300
    assert seen(clips) == [shown_at([i / 25 for i in range(200)], window) for window in windows]


def test_ticks_before_the_first_picture_see_it(tmp_path: Path):
    path = _with_sound(tmp_path / "a.mp4", picture_from_s=1.0, sound_from_s=0.0)
    length = probe(path)
    assert (length.begin_s, length.end_s, length.has_audio) == (pytest.approx(1.0), pytest.approx(5.0), True)
    (clip,) = read(path, [Window(0, 0.0, 2.0)])
    assert seen([clip]) == [[0] * 7 + [(tick * 16 - 100) // 20 for tick in range(7, 13)]]
    np.testing.assert_allclose(clip.tick_times_s[:7], 1.0, atol=1e-3)


def test_sound_that_begins_a_little_earlier_does_not_put_off_the_video(tmp_path: Path):
    path = _with_sound(tmp_path / "a.mkv", picture_from_s=0.04, sound_from_s=0.0)
    assert (probe(path).begin_s, probe(path).end_s) == (0.0, pytest.approx(4.04, abs=2e-3))


def _with_sound(path: Path, picture_from_s: float, sound_from_s: float) -> Path:
    """Writes 20 numbered pictures at 5 a second, and 4 s of silence."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5, options={"bf": "0"})
        video.width = video.height = SIDE_PX
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts, frame.time_base = round(1000 * (picture_from_s + number / 5)), Fraction(1, 1000)
            container.mux(video.encode(frame))
        for start in range(0, 64000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = start + round(16000 * sound_from_s)
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


# Real clips


def test_the_timecode_in_a_real_clip(media_dir: Path):
    """The clip shows FFmpeg's test picture with its time in it: each tick's is the generator's picture of that time."""
    graph = av.filter.Graph()
    source, sink = graph.add("testsrc2", "size=321x241:rate=25:duration=1"), graph.add("buffersink")
    source.link_to(sink)
    graph.configure()
    made = np.stack([graph.pull().to_ndarray(format="gray")[:240:3, 40:280:3] for _ in range(25)]).astype(float)
    path = media_dir / "torchcodec__testsrc2_odd_height_and_width_vp9.mp4"
    for window in (Window(0, 0.0, 1.0), Window(0, 0.13, 0.97), Window(0, 0.31, 0.9)):
        for clock in (CLOCK, Clock(25.0, 1)):
            (clip,) = read_clips(path, [window], clock, 240)
            grey = clip.frames[:, ::3, ::3].mean(axis=3)
            which = [int(np.abs(made - one).mean(axis=(1, 2)).argmin()) for one in grey]
            assert which == shown_at([i / 25 for i in range(25)], window, clock)


def test_real_clips_are_what_the_live_reader_sees(media_dir: Path):
    paths = sorted(path for path in media_dir.iterdir() if path.suffix != ".json")
    assert len(paths) == 18
    # In this clip the sound begins 3 ms before the picture, by which a file's time is ahead of the live reader's.
    paths.remove(media_dir / "shared-assets__flower.webm")
    for path in paths:
        length = probe(path)
        with VideoReader(path, CLOCK, 48) as reader:
            ticks = np.stack([tick.frame for tick in reader.ticks()])
        third = len(ticks) // 3
        whole, rest = read_clips(
            path, [Window(0, 0.0, length.end_s), Window(1, CLOCK.tick_time_s(third), length.end_s)], CLOCK, 48
        )
        assert abs(len(whole.frames) - len(ticks)) <= 1
        np.testing.assert_array_equal(whole.frames[: len(ticks)], ticks[: len(whole.frames)], path.name)
        np.testing.assert_array_equal(rest.frames, whole.frames[third:], path.name)


# What breaks


def _cut(tmp_path: Path, suffix: str = ".mp4") -> Path:
    whole = write_numbered(
        tmp_path / f"whole{suffix}",
        count=COUNT,
        rate=RATE_HZ,
        options={"g": "20", "bf": "0", "sc_threshold": "0"},
        container_options={"movflags": "faststart"} if suffix == ".mp4" else {},
    ).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cut_file_gives_the_windows_before_the_cut(tmp_path: Path, suffix: str):
    path = _cut(tmp_path, suffix)
    windows = cut_windows(0, 40, 2.5, 0.5, 1)
    clips = read(path, windows, name="talk.mp4")
    whole = [clip for clip in clips if isinstance(clip, Clip)]
    assert 8 <= len(whole) <= 12
    assert clips[: len(whole)] == whole
    assert seen(whole) == [shown_at([i / RATE_HZ for i in range(COUNT)], window) for window in windows[: len(whole)]]
    for rejected in clips[len(whole) :]:
        assert rejected.cause == "cannot decode"
        assert re.match(r"talk.mp4: broken: it ends at [12]\d\.\d\d s of 40.00 s", rejected.detail)


def test_a_window_after_the_cut_is_rejected_when_jumped_to(tmp_path: Path):
    (clip,) = read(_cut(tmp_path), [Window(0, 35.0, 36.0)])
    assert clip.cause == "cannot decode"
    assert re.search(r"ends at [12]\d\.\d\d s of 40.00 s", clip.detail)


def test_only_the_windows_with_a_hole_are_rejected(tmp_path: Path):
    path = write_numbered(
        tmp_path / "a.mp4",
        count=COUNT,
        rate=RATE_HZ,
        options={"g": "20", "bf": "0", "sc_threshold": "0"},
        container_options={"movflags": "faststart"},
    )
    with av.open(str(path)) as container:
        key = [packet for packet in container.demux(video=0) if packet.is_keyframe][4]
    assert float(key.pts * key.time_base) == 16.0
    data = bytearray(path.read_bytes())
    data[key.pos : key.pos + key.size] = bytes(key.size)
    windows = cut_windows(0, 40, 2.0, 0, 1)
    clips = read(bytes(data), windows, name="talk.mp4")
    good = [number for number, clip in enumerate(clips) if isinstance(clip, Clip)]
    assert good == [*range(8), *range(10, 20)]  # the next key picture is at 20 s
    times_s = [i / RATE_HZ for i in range(COUNT)]
    assert seen([clips[i] for i in good]) == [shown_at(times_s, windows[i]) for i in good]
    assert clips[8].cause == "cannot decode"
    assert clips[8].detail.startswith("talk.mp4: broken near 16.00 s: Invalid data")
    # A window far behind it is reached by a jump over it.
    assert isinstance(read(bytes(data), [Window(0, 30.5, 32)])[0], Clip)


def test_what_is_no_video_is_rejected_for_every_window(tmp_path: Path):
    clips = read(b"this is no video" * 99, WINDOWS[:2], name="talk.mp4")
    assert [clip.cause for clip in clips] == ["cannot decode"] * 2
    assert clips[0].detail.startswith("talk.mp4: cannot be opened as a video: Invalid data")
    (clip,) = read(write_tone(tmp_path / "tone.m4a"), WINDOWS[:1])
    assert "has no video stream, only audio" in clip.detail
    for video, message in [(b"", "is empty"), (tmp_path / "gone.mp4", "no such file"), (io.BytesIO(), "is empty")]:
        assert message in read(video, WINDOWS[:1])[0].detail
        with pytest.raises(VideoError, match=message):
            probe(video)


def test_windows_behind_the_end_are_rejected(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", count=50)
    clips = read(path, [Window(0, 1.0, 2.2), Window(1, 1.0, 2.3), Window(2, 5.0, 6.0), Window(3, 50.0, 60.0)])
    assert isinstance(clips[0], Clip)  # containers round lengths; a quarter of a second is let pass
    assert "the pictures end at 2.00 s, the window at 2.30 s" in clips[1].detail
    assert [clip.cause for clip in clips[1:]] == ["cannot decode"] * 3


def test_windows_out_of_order_and_too_short_are_refused(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", count=50)
    with pytest.raises(ValueError, match="order of their starts"):
        read(path, WINDOWS[1::-1])
    assert read(path, []) == []


# Lengths


def test_a_length_that_no_header_says_is_that_of_the_packets(tmp_path: Path):
    path = tmp_path / "a.webm"
    with open(path, "wb") as file:  # what cannot go back has no place for a length
        plain = write_numbered(tmp_path / "b.webm", "libvpx-vp9", count=60, options={"deadline": "realtime"})
        with av.open(str(plain)) as source, av.open(_OneWay(file), "w", format="webm") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    with av.open(str(path)) as container:
        assert container.duration is None
    assert probe(path).end_s == pytest.approx(2.4, abs=0.05)


class _OneWay:
    """A file that can only be written on."""

    def __init__(self, file):
        self.write = file.write
