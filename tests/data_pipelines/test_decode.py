"""Every tick sees the picture that was on the screen, whatever the codec, the container, the times and the shape."""

import gc
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.decode import VideoReader
from data_pipelines.geometry import Orientation
from data_pipelines.pictures import DecodedPicture
from data_pipelines.video_source import VideoError, VideoInfo
from mmduplex_jax.clock import Clock
from tests.data_pipelines.numbered_video import (
    CLOCK,
    SIDE_PX,
    expected,
    number_in,
    numbered_image,
    numbers,
    write_numbered,
)

# Bars survive the worst of these codecs at such sizes; the settings make files of many short groups with B-pictures.
B_PICTURES = {"bf": "3", "g": "12", "x264-params": "b-adapt=0"}
# The header promises a rate of bits that the pictures exceed, so that a length guessed from it is far too long.
SLOW_IN_NAME = {"b": "400", "maxrate": "400", "bufsize": "40000", "qmax": "2", "qmin": "2"}


# Real clips


def _clips(media_dir: Path) -> list[dict]:
    return json.loads((media_dir / "manifest.json").read_text())["clips"]


def _shown(path: Path) -> list[tuple[float, av.VideoFrame]]:
    """Every picture of a file's best video stream with its time from the first, decoded without threads."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        frames = list(container.decode(stream))
    return [(float((f.pts - frames[0].pts) * f.time_base), f) for f in frames]


def test_every_real_clip_gives_the_ticks_of_its_length(media_dir: Path):
    for clip in _clips(media_dir):
        with VideoReader(media_dir / clip["file"], CLOCK, 48) as reader:
            ticks = list(reader.ticks())
        assert [t.tick for t in ticks] == list(range(len(ticks))), clip["file"]
        assert [t.t_s for t in ticks] == [CLOCK.tick_time_s(k) for k in range(len(ticks))], clip["file"]
        assert all(t.frame.shape == (48, 48, 3) and t.frame.dtype == np.uint8 for t in ticks), clip["file"]
        assert abs(len(ticks) - CLOCK.ticks_in(clip["duration"])) <= 1, clip["file"]
        assert reader.info.codec == clip["vcodec"], clip["file"]
        assert reader.length_s == pytest.approx(clip["duration"], abs=0.1), clip["file"]


@pytest.mark.parametrize(
    "name",
    [
        "torchcodec__test_non_zero_start.mp4",
        "torchcodec__discard_first_keyframe.mp4",
        "torchcodec__testsrc2_odd_height_and_width_vp9.mp4",
        "torchcodec__nasa_13013.mp4",
        "ffmpeg-python__in.mp4",
    ],
)
def test_ticks_of_a_real_clip_are_its_pictures_at_those_times(media_dir: Path, name: str):
    shown = _shown(media_dir / name)
    with VideoReader(media_dir / name, CLOCK, 40, picture_px=10_000) as reader:
        for tick in reader.ticks():
            frame = [f for t_s, f in shown if t_s <= tick.t_s + 1e-6][-1]
            image = tick.pictures[-1].image
            want = frame.to_ndarray(format="rgb24", width=image.shape[1], height=image.shape[0])  # pixels become square
            np.testing.assert_array_equal(image, want)


def test_a_turned_clip_is_upright_and_its_size_is_known_at_once(media_dir: Path):
    path = media_dir / "torchcodec__nasa_13013_rotated.mp4"
    shown = _shown(path)
    assert {f.rotation for _, f in shown} == {90}
    with VideoReader(path, CLOCK, 40, picture_px=10_000) as reader:
        assert (reader.info.width_px, reader.info.height_px) == (270, 480)
        first = next(reader.ticks())
    # A player turns it by 90 degrees anticlockwise, which is what rot90 does.
    np.testing.assert_array_equal(first.pictures[0].image, np.rot90(shown[0][1].to_ndarray(format="rgb24")))


# Times


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", ".mp4", B_PICTURES),
        ("libx264", ".mkv", B_PICTURES),
        ("libx264", ".ts", B_PICTURES),
        ("libx265", ".mp4", {"g": "12"}),
        ("mpeg4", ".mp4", {"bf": "2", "g": "12"}),
        ("mpeg4", ".avi", {"g": "12"}),
        ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("mpeg2video", ".mpg", {"bf": "2", "g": "12"}),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
def test_constant_rate_in_every_codec_and_container(
    tmp_path: Path, codec: str, suffix: str, options: dict, rate: Fraction
):
    path = write_numbered(tmp_path / f"a{suffix}", codec, count=50, rate=rate, options=options)
    times_s = [float(i / rate) for i in range(50)]
    if suffix in (".mkv", ".webm"):
        times_s = [round(t, 3) for t in times_s]  # Matroska counts in milliseconds
    assert numbers(path) == expected(times_s, float(50 / rate))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("start_ms", [0, 7000])
def test_variable_rate_and_a_start_other_than_zero(tmp_path: Path, suffix: str, start_ms: int):
    gaps = np.random.default_rng(5).integers(7, 600, 39)
    times_ms = [start_ms, *(start_ms + np.cumsum(gaps)).tolist()]
    path = write_numbered(tmp_path / f"a{suffix}", times_ms=times_ms, options={"bf": "2"})
    seen = numbers(path)
    want = expected([t / 1000 for t in times_ms], (times_ms[-1] - start_ms) / 1000 + 1.0)
    # How long the last picture stays is for the container to say; up to it there is no doubt.
    assert CLOCK.ticks_in((times_ms[-1] - start_ms) / 1000) <= len(seen)
    assert seen == want[: len(seen)]


@pytest.mark.parametrize("clock", [Clock(12.5, 1), Clock(12.5, 5), Clock(25.0, 1), Clock(100.0, 1)])
def test_other_clocks_slower_and_faster_than_the_video(tmp_path: Path, clock: Clock):
    path = write_numbered(tmp_path / "a.mp4", count=30)
    assert numbers(path, clock) == expected([i / 25 for i in range(30)], 30 / 25, clock)


def test_missing_times_are_assumed_and_said(tmp_path: Path):
    path = write_numbered(tmp_path / "a.h264", container_format="h264")
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        seen = [number_in(frame) for _, _, frame in reader]
    assert seen == expected([i / 25 for i in range(40)], 40 / 25)
    assert any("no time stamp" in note for note in reader.info.notes)


def test_a_length_guessed_from_the_bit_rate_is_no_claim(tmp_path: Path):
    path = write_numbered(
        tmp_path / "a.m1v", "mpeg1video", container_format="mpeg1video", options=SLOW_IN_NAME, count=100
    )
    with av.open(str(path)) as container:
        assert container.duration / av.time_base > 8
    shown = _shown(path)
    assert numbers(path) == expected([t_s for t_s, _ in shown], shown[-1][0] + 1 / 25)


def test_a_cut_by_an_edit_list_shows_what_a_player_shows(tmp_path: Path):
    # The pictures before time zero are in the file (the decoder needs them), and a player does not show them.
    path = write_numbered(
        tmp_path / "a.mp4", times_ms=[40 * i - 400 for i in range(40)], options={"g": "40", "bf": "0"}
    )
    shown = [number_in(f.to_ndarray(format="rgb24")) for _, f in _shown(path)]
    assert 0 < shown[0] <= 10
    assert numbers(path) == [shown[i] for i in expected([i * 0.04 for i in range(len(shown))], len(shown) * 0.04)]


def test_no_picture_is_kept_after_it_was_shown(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", images=[numbered_image(i) for i in range(60)])
    gc.collect()
    gc.disable()  # it would let go of what holds itself
    try:
        with VideoReader(path, CLOCK, SIDE_PX) as reader:
            kept = [sum(type(one) is av.VideoFrame for one in gc.get_objects()) for _ in reader]
        mine = av.VideoFrame(16, 16, "rgb24")
        assert any(one is mine for one in gc.get_objects())  # (else nothing would have been counted)
    finally:
        gc.enable()
    assert len(kept) > 10
    assert max(kept) < 10


# Geometry


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_file_is_upright(tmp_path: Path, rotation: int):
    upright = [numbered_image(i) for i in range(20)]
    stored = [np.rot90(image, -rotation // 90).copy() for image in upright]
    path = write_numbered(tmp_path / "a.mp4", images=stored, rotation=rotation)
    assert numbers(path) == expected([i / 25 for i in range(20)], 20 / 25)


def test_crop_takes_the_centre_and_pad_everything(tmp_path: Path):
    image = np.zeros((60, 120, 3), np.uint8)
    image[:, :30], image[:, 30:90], image[:, 90:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    path = write_numbered(tmp_path / "a.mkv", "ffv1", images=[image] * 5, pix_fmt="bgr0")
    with VideoReader(path, CLOCK, 30) as reader:
        cropped = next(iter(reader))[2]
    assert (cropped == (30, 200, 30)).all()
    with VideoReader(path, CLOCK, 40, fit="pad") as reader:
        padded = next(iter(reader))[2]
    assert (padded[:10] == 0).all()
    assert (padded[30:] == 0).all()
    assert (padded[20, [2, 20, 37]] == [(200, 30, 30), (30, 200, 30), (30, 30, 200)]).all()
    with pytest.raises(ValueError, match="fit must be one of"):
        VideoReader(path, CLOCK, 30, fit="stretch")


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("ffv1", "gray"), ("ffv1", "bgra"), ("ffv1", "yuv420p10le"), ("libx265", "yuv420p10le")]
)
def test_grey_alpha_and_ten_bits_become_rgb(tmp_path: Path, codec: str, pix_fmt: str):
    path = write_numbered(tmp_path / "a.mkv", codec, count=10, pix_fmt=pix_fmt)
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        for (_, _, frame), number in zip(reader, expected([i / 25 for i in range(10)], 0.4)):
            assert np.abs(frame.astype(int) - numbered_image(number).astype(int)).mean() < 8


def test_odd_sizes_keep_all_their_pixels(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 255, (35, 51, 3), dtype=np.uint8)
    path = write_numbered(tmp_path / "a.mkv", "ffv1", images=[image] * 3, pix_fmt="bgr0")
    with VideoReader(path, CLOCK, 32, picture_px=10_000) as reader:
        np.testing.assert_array_equal(next(reader.ticks()).pictures[0].image, image)


# Streaming


def test_nothing_is_read_ahead_of_what_is_asked_for(tmp_path: Path):
    path = write_numbered(tmp_path / "a.ts", count=250, options={"g": "10"})
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        ticks = reader.ticks()
        for _ in range(3):
            next(ticks)
        assert reader.length_s < 5.0  # frame threads hold some pictures back, not the rest of the file
        ticks.close()


def test_a_second_pass_is_an_error_and_not_an_empty_video(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", count=10)
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        assert len(list(reader)) == CLOCK.ticks_in(0.4)
        with pytest.raises(VideoError, match="read once"):
            next(iter(reader))


def test_a_camera_is_timed_by_arrival(monkeypatch: pytest.MonkeyPatch):
    arrivals_s = [i * 0.05 for i in range(21)]

    class FakeCamera:
        pixel_aspect, first_s = 1.0, 0.0

        def __init__(self, index: int):
            self.info = VideoInfo(str(index), SIDE_PX, SIDE_PX, 20.0, None, "camera", live=True)

        def shown(self):
            for number, t_s in enumerate(arrivals_s):
                frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
                yield DecodedPicture(t_s, 0.0, frame, Orientation(), "", True)

        def close(self) -> None:
            """It is none."""

    monkeypatch.setattr("data_pipelines.decode.Camera", FakeCamera)
    for source in (3, "3"):
        assert numbers(source) == expected(arrivals_s, arrivals_s[-1])


def test_a_camera_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch):
    class Closed:
        def __init__(self, index: int):
            self.index = index

        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            self.index = -1

    monkeypatch.setattr("data_pipelines.decode.cv2.VideoCapture", Closed)
    with pytest.raises(VideoError, match="camera 7 cannot be opened"):
        VideoReader(7, CLOCK, 32)
