"""Videos as people have them: joined, encrypted, damaged, animated, as pictures or playlists; only VideoError comes."""

import contextlib
import os
import random
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.audio_track import AudioFormat
from data_pipelines.clip_reader import Clip, probe, read_clips
from data_pipelines.decode import VideoReader
from data_pipelines.images import decode_still
from data_pipelines.sources import Rejected
from data_pipelines.video_source import VideoError, redact
from data_pipelines.windows import Window
from tests.data_pipelines.numbered_video import (
    CLOCK,
    SIDE_PX,
    expected,
    number_in,
    numbered_image,
    numbers,
    write_numbered,
    write_tone,
)


def with_tag(tmp_path: Path, suffix: str, tag: bytes, other: bytes) -> Path:
    path = write_numbered(tmp_path / f"a{suffix}", count=10)
    data = path.read_bytes()
    assert tag in data
    path.write_bytes(data.replace(tag, other))
    return path


def encrypted(tmp_path: Path) -> Path:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb"}
    options = key | {"encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    return write_numbered(tmp_path / "a.mp4", count=10, container_options=options)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda tmp: with_tag(tmp, ".mp4", b"avc1\0\0\0", b"encv\0\0\0"), r"encrypted \(encv\)"),
        (lambda tmp: with_tag(tmp, ".mp4", b"avc1\0\0\0", b"zzz9\0\0\0"), r"no decoder for its codec \(zzz9\)"),
        (lambda tmp: with_tag(tmp, ".mkv", b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"), r"codec \(V_MPEG4/ISO/XYZ\)"),
        (encrypted, "the video is encrypted"),
    ],
)
def test_a_codec_that_libav_lacks_and_drm_are_named(tmp_path: Path, make, cause: str):
    path = make(tmp_path)
    window = Window(0, 0.0, 0.4)
    with path.open("rb") as file:
        for video in (path, path.read_bytes(), file):
            with pytest.raises(VideoError, match=cause):
                probe(video, "a clip")
            (rejected,) = read_clips(video, [window], CLOCK, SIDE_PX, name="a clip")
            assert isinstance(rejected, Rejected)
    with pytest.raises(VideoError, match=cause):
        VideoReader(path, CLOCK, SIDE_PX)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_damaged_header_is_a_video_error_or_a_video(tmp_path: Path, suffix: str):
    whole = write_numbered(tmp_path / f"a{suffix}", count=8).read_bytes()
    chance = random.Random(7)
    begin = max(0, whole.find(b"moov"))
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 10])):
            data[chance.randrange(begin, min(begin + 700, len(data)))] = chance.randrange(256)
        for read in (lambda video: probe(video, "a"), lambda video: len(list(clips_of(video)))):
            with contextlib.suppress(VideoError):
                read(bytes(data))


def clips_of(video) -> list[Clip | Rejected]:
    return list(read_clips(video, [Window(0, 0.0, 0.3)], CLOCK, SIDE_PX, audio=AudioFormat(), name="a"))


def test_joined_recordings_of_two_sizes_are_one_video(tmp_path: Path):
    first = write_numbered(tmp_path / "first.ts", count=50)
    tall = [np.pad(numbered_image(100 + i), ((20, 20), (0, 0), (0, 0))) for i in range(75)]
    second = write_numbered(tmp_path / "second.ts", images=tall)
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    at = lambda t_s: int(t_s * 25 + 1e-6) + (50 if t_s > 2 - 1e-6 else 0)
    want = [at(CLOCK.tick_time_s(tick)) for tick in range(CLOCK.ticks_in(5.0))]
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        assert [number_in(frame) for _, _, frame in reader] == want
        notes = " ".join(reader.info.notes)
    assert "size changes from 64x64 to 64x104" in notes
    assert "breaks of the packets' counter (joined or lost pieces): 1" in notes
    assert "does not decode" not in notes
    assert probe(path).end_s == pytest.approx(5.0, abs=0.05)
    (clip,) = read_clips(path, [Window(0, 1.0, 4.0)], CLOCK, SIDE_PX)
    assert [number_in(frame) for frame in clip.frames] == [
        at(1 + CLOCK.tick_time_s(k)) for k in range(len(clip.frames))
    ]


def test_a_gap_of_hours_is_left_out_of_a_stream_and_of_clips(tmp_path: Path):
    times_ms = [40 * i for i in range(25)] + [7_200_000 + 40 * i for i in range(25)]
    path = write_numbered(tmp_path / "a.mkv", count=50, times_ms=times_ms)
    with VideoReader(path, CLOCK, SIDE_PX) as reader:
        assert [number_in(frame) for _, _, frame in reader] == expected([i / 25 for i in range(50)], 2.0)
        (note,) = reader.info.notes
    assert "no picture for 2.0 h after 0.96 s" in note
    windows = [Window(0, 0.0, 0.9), Window(1, 0.5, 1.5), Window(2, 3600.0, 3601.0), Window(3, 7200.1, 7200.9)]
    whole = [isinstance(clip, Clip) for clip in read_clips(path, windows, CLOCK, SIDE_PX)]
    assert whole == [True, False, False, True]


# What leads to other files


def playlists(tmp_path: Path) -> list[Path]:
    (tmp_path / "secret").mkdir()
    segment = write_numbered(tmp_path / "secret" / "s.ts", count=10)
    m3u8 = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\n{segment}\n#EXT-X-ENDLIST\n"
    texts = {"a.m3u8": m3u8, "a.mp4": m3u8, "b.mp4": "ffconcat version 1.0\nfile 'secret/s.ts'\n"}
    texts["c.ffconcat"] = texts["b.mp4"]
    paths = [tmp_path / name for name in texts]
    for path, text in zip(paths, texts.values()):
        path.write_text(text)
    return paths


def test_a_playlist_is_played_only_where_it_is_named_as_the_source(tmp_path: Path):
    for path in playlists(tmp_path):
        for video in (path, path.read_bytes()):
            with pytest.raises(VideoError, match="cannot be opened"):
                probe(video, "a")
        with pytest.raises(VideoError, match="cannot be opened"):
            VideoReader(path, CLOCK, SIDE_PX)
        if path.suffix == ".mp4":
            with pytest.raises(VideoError, match="cannot be opened"):
                VideoReader(path, CLOCK, SIDE_PX, trusted=True)
    for name in ("a.m3u8", "c.ffconcat"):
        assert numbers(tmp_path / name, trusted=True) == expected([i / 25 for i in range(10)], 0.4)


def test_a_pipe_is_read_only_where_it_is_named_as_the_source(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.ts")
    for open_it in (probe, lambda path: VideoReader(path, CLOCK, SIDE_PX)):
        with pytest.raises(VideoError, match="it is a pipe, not a file"):
            open_it(tmp_path / "pipe.ts")
    with pytest.raises(VideoError, match="a device or a socket"):
        probe("/dev/null")
    data = write_numbered(tmp_path / "a.ts", count=20).read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe.ts").write_bytes, args=[data])
    writer.start()
    assert numbers(tmp_path / "pipe.ts", trusted=True) == expected([i / 25 for i in range(20)], 0.8)
    writer.join()


# Pictures


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / f"shot {i}.png"), cv2.cvtColor(numbered_image(i), cv2.COLOR_RGB2BGR))


def test_a_folder_of_pictures_and_a_pattern_are_videos(tmp_path: Path):
    write_pictures(tmp_path / "shots", 12)
    (tmp_path / "shots" / "notes.txt").touch()
    want = expected([i / 10 for i in range(12)], 1.2)
    for source in (tmp_path / "shots", tmp_path / "shots" / "shot %d.png", tmp_path / "shots" / "shot %04d.png"):
        assert numbers(source, trusted=True, image_rate_hz=10.0) == want
        with pytest.raises(VideoError):
            VideoReader(source, CLOCK, SIDE_PX)
    with VideoReader(tmp_path / "shots", CLOCK, SIDE_PX, trusted=True) as reader:
        assert "12 pictures; 25 a second are assumed" in reader.info.notes


def test_a_damaged_picture_of_a_folder_is_left_out_and_noted(tmp_path: Path):
    write_pictures(tmp_path / "shots", 12)
    (tmp_path / "shots" / "shot 5.png").write_bytes(b"no picture")
    with VideoReader(tmp_path / "shots", CLOCK, SIDE_PX, trusted=True, image_rate_hz=6.25) as reader:
        assert [number_in(frame) for _, _, frame in reader] == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
        assert any("pictures that do not decode: 1" in note for note in reader.info.notes)


def test_a_folder_without_pictures_says_what_a_source_is(tmp_path: Path):
    write_tone(tmp_path / "tone.m4a")
    with pytest.raises(VideoError, match="a folder without pictures; a source is one video"):
        VideoReader(tmp_path, CLOCK, SIDE_PX, trusted=True)
    with pytest.raises(VideoError, match="has no file of the pattern"):
        VideoReader(tmp_path / "%03d.jpg", CLOCK, SIDE_PX, trusted=True)


def animated_webp(durations_ms: list[int]) -> bytes:
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(numbered_image(i), cv2.COLOR_RGB2BGR) for i in range(len(durations_ms))]
    animation.durations = np.array(durations_ms)
    written, data = cv2.imencodeanimation(".webp", animation)
    assert written
    return data.tobytes()


def test_an_animated_webp_is_a_video(tmp_path: Path):
    (tmp_path / "a.webp").write_bytes(animated_webp([100, 300, 80, 240]))
    want = expected([0.0, 0.1, 0.4, 0.48], 0.72)
    assert numbers(tmp_path / "a.webp") == want
    assert probe(tmp_path / "a.webp").end_s == pytest.approx(0.72)
    (clip,) = read_clips((tmp_path / "a.webp").read_bytes(), [Window(0, 0.0, 0.72)], CLOCK, SIDE_PX)
    assert [number_in(frame) for frame in clip.frames] == want
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        probe(animated_webp([100, 100])[:60], "a")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_still_webp_is_upright_by_its_exif_as_a_jpeg_is(orientation: int):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[16:, 24:] = (200, 0, 0), (0, 0, 200)
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0, 0, 0, 0, 0])
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    tagged = jpeg[:2] + b"\xff\xe1" + (len(exif) + 8).to_bytes(2, "big") + b"Exif\0\0" + exif + jpeg[2:]
    webp = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()
    header = bytes([8, 0, 0, 0]) + (47).to_bytes(3, "little") + (31).to_bytes(3, "little")
    chunks = b"VP8X" + (10).to_bytes(4, "little") + header + webp[12:]
    chunks += b"EXIF" + len(exif).to_bytes(4, "little") + exif
    extended = b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks
    want, got = decode_still(tagged).astype(int), decode_still(extended).astype(int)
    assert got.shape == want.shape
    assert np.abs(got - want).mean() < 8  # two lossy codecs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:secret@camera/a?x=1", "rtsp://***@camera/a?x=1"),
        ("rtsp://me:se/cr#e?t@camera/a", "rtsp://***@camera/a"),
        ("rtsp://me:p@ss@camera/a", "rtsp://***@camera/a"),
        ("x of rtsp://me:p@h: broken, see https://a:b@c/d", "x of rtsp://***@h: broken, see https://***@c/d"),
        ("http://camera:8080/@user/v.mp4", "http://camera:8080/@user/v.mp4"),
        ("http://[::1]:80/@a", "http://[::1]:80/@a"),
        ("http://h/a?token=abc&x=1", "http://h/a?token=***&x=1"),
        ("srt://h:1?mode=caller&passphrase=abc", "srt://h:1?mode=caller&passphrase=***"),
        ("rtsp://h/user=admin_password=abc_channel=1", "rtsp://h/user=admin_password=***"),
        ("path/with@at.mp4", "path/with@at.mp4"),
    ],
)
def test_passwords_of_addresses_are_not_shown(text: str, shown: str):
    assert redact(text) == shown


def test_an_address_that_cannot_be_opened_keeps_its_password(tmp_path: Path):
    with pytest.raises(VideoError, match=r"rtsp://\*\*\*@127.0.0.1:1/a: cannot be opened") as caught:
        VideoReader("rtsp://me:secret@127.0.0.1:1/a", CLOCK, SIDE_PX)
    assert "secret" not in str(caught.value)


def test_lost_packets_cost_the_windows_that_refer_to_them(tmp_path: Path):
    data = write_numbered(tmp_path / "a.ts", count=125, options={"g": "25", "bf": "0"}).read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    lost = 2 * len(packets) // 5 + 3
    (tmp_path / "lossy.ts").write_bytes(b"".join(packets[:lost] + packets[lost + 1 :]))
    windows = [Window(k, float(k), k + 0.9) for k in range(5)]
    clips = list(read_clips(tmp_path / "lossy.ts", windows, CLOCK, SIDE_PX))
    refused = [number for number, clip in enumerate(clips) if isinstance(clip, Rejected)]
    assert refused in ([1], [2], [1, 2])
    assert "packets are missing" in clips[refused[0]].detail
    with VideoReader(tmp_path / "lossy.ts", CLOCK, SIDE_PX) as reader:
        assert len(list(reader)) == CLOCK.ticks_in(5.0)
        assert any("breaks of the packets' counter" in note for note in reader.info.notes)
