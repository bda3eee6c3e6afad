"""Pictures of any kind to ticks: which one each tick shows, what is decoded, what is refused unseen."""

import contextlib
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.clock import Clock
from mmduplex_jax.serving.pictures import (
    Intake,
    IntakeConfig,
    PictureDecoder,
    PictureRefused,
    TickSampler,
    jpeg_size,
    webp_size,
)
from mmduplex_jax.serving.protocol import Frame

CLOCK = Clock()
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def webp(quality: int = 101, image: np.ndarray = IMAGE) -> bytes:
    """A WebP; at a quality over 100 without loss."""
    return cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def frame(data: bytes, codec: str, t_s: float = 0.0, keyframe: bool = True) -> Frame:
    return Frame(0, t_s, codec, keyframe, data)


def intake(pixels_max: int = 10_000, px: int = 32, fit: str = "crop") -> Intake:
    return Intake(IntakeConfig(CLOCK, px, fit, pixels_max, gap_s=1.0))


@given(st.lists(st.integers(1, 900_000), min_size=1, max_size=30))
def test_each_tick_shows_the_last_picture_at_or_before_it(gaps_us: list[int]):
    sampler: TickSampler[int] = TickSampler(CLOCK, gap_s=1.0)
    times_s = [sum(gaps_us[: i + 1]) / 1e6 for i in range(len(gaps_us))]
    shown = [tick for i, t_s in enumerate(times_s) for tick in sampler.push(t_s, i)]
    ticks = [round(t_s / CLOCK.tick_s) for t_s, _ in shown]
    # Every tick from the first picture to the last one, once, in order: no gap here is longer than is filled.
    assert ticks == list(range(CLOCK.ticks_in(times_s[0]), CLOCK.ticks_in(times_s[0]) + len(ticks)))
    due = [tick for tick in range(10_000) if CLOCK.tick_time_s(tick) <= times_s[-1] + 2e-6]
    assert len(ticks) == len(due) - CLOCK.ticks_in(times_s[0])
    for t_s, picture in shown:
        assert times_s[picture] <= t_s + 3e-6
        if picture + 1 < len(times_s):
            assert times_s[picture + 1] > t_s - 3e-6


def test_a_picture_at_a_ticks_time_is_shown_at_once():
    sampler: TickSampler[str] = TickSampler(CLOCK, gap_s=1.0)
    assert sampler.push(0.0, "a") == [(0.0, "a")]
    assert sampler.push(0.1, "b") == []
    assert sampler.push(0.16, "c") == [(pytest.approx(0.16), "c")]
    assert sampler.push(0.5, "d") == [(pytest.approx(0.32), "c"), (pytest.approx(0.48), "c")]


def test_a_long_gap_is_jumped_over_and_a_pause_is_none():
    sampler: TickSampler[str] = TickSampler(CLOCK, gap_s=0.32)
    sampler.push(0.0, "a")
    assert sampler.push(1000.0, "b") == [(pytest.approx(0.16), "a"), (pytest.approx(0.32), "a"), (1000.0, "b")]
    sampler.jump()
    assert sampler.push(1000.32, "c") == [(pytest.approx(1000.32), "c")]


SMOOTH = np.broadcast_to(np.linspace(0, 255, 56, dtype=np.uint8)[None, :, None], (40, 56, 3))


@pytest.mark.parametrize(
    ("image", "data", "codec", "tolerance"),
    [
        (IMAGE, webp(), "webp", 0),
        (SMOOTH, webp(95, SMOOTH), "webp", 4),  # lossy: a few grey levels
        (IMAGE, simplejpeg.encode_jpeg(IMAGE, 100, "RGB", "444"), "jpeg", 6),  # noise at the best quality
    ],
)
def test_stills_are_decoded_and_cut(image: np.ndarray, data: bytes, codec: str, tolerance: int):
    (tick,) = intake(px=40).take(frame(data, codec)).ticks
    assert tick.frame.shape == (40, 40, 3)
    np.testing.assert_allclose(tick.frame.astype(int), image[:, 8:48], atol=tolerance)


def test_only_what_a_tick_shows_is_decoded():
    taken = intake()
    taken.take(frame(webp(), "webp", 0.0))
    # A header that is right with a picture that is not: nobody looks at it, for another one comes before the tick.
    broken = webp()[:60]
    assert taken.take(frame(broken, "webp", 0.05)).ticks == []
    assert taken.take(frame(webp(), "webp", 0.1)).ticks == []
    assert len(taken.take(frame(webp(), "webp", 0.2)).ticks) == 1


def test_pictures_that_come_late_are_counted():
    taken = intake()
    taken.take(frame(webp(), "webp", 1.0))
    assert taken.take(frame(webp(), "webp", 1.0)).ticks == []
    last = taken.take(frame(webp(), "webp", 0.51))
    assert (last.ticks, last.late, last.set_back_s) == ([], 2, None)


def test_where_a_refused_picture_set_the_clock_back_the_next_one_says_so():
    taken = intake()
    taken.take(frame(webp(), "webp", 5.12))
    # (Its header is right, so that it is refused only where a tick shows it.)
    with pytest.raises(PictureRefused):
        taken.take(frame(webp()[:60], "webp", 0.0))
    # Whoever goes on for it says so too.
    for one in (Intake(taken._config, taken.state), Intake(taken._config, taken.saved()), taken):
        with pytest.raises(PictureRefused):
            one.take(frame(webp()[:60], "webp", 0.16))
        last = one.take(frame(webp(), "webp", 0.32))
        assert ([tick.t_s for tick in last.ticks], last.set_back_s) == ([pytest.approx(0.32)], pytest.approx(5.12))
        assert one.take(frame(webp(), "webp", 0.48)).set_back_s is None


def test_after_a_reset_no_clock_was_set_back():
    taken = intake()
    taken.take(frame(webp(), "webp", 5.12))
    with pytest.raises(PictureRefused):
        taken.take(frame(webp()[:60], "webp", 0.0))
    taken.reset()
    assert taken.take(frame(webp(), "webp", 0.0)).set_back_s is None


def test_what_changes_is_the_share_of_pixels():
    taken = intake()
    half = np.zeros((32, 32, 3), np.uint8)
    half[:16] = 255
    changes = []
    for tick, image in enumerate([np.zeros_like(half), half, half]):
        (one,) = taken.take(frame(webp(image=image), "webp", CLOCK.tick_time_s(tick))).ticks
        changes.append(one.change)
    assert changes == [0.0, 0.5, 0.0]


def encoded(images: list[np.ndarray], codec: str = "libx264") -> list[tuple[bytes, bool]]:
    """H.264 access units in Annex B form (or VP8's frames), and which are keyframes."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = images[0].shape[1], images[0].shape[0], "yuv420p"
    context.time_base = Fraction(1, 25)
    context.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "1000"} if codec == "libx264" else {}
    packets = [p for image in images for p in context.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))]
    packets += context.encode(None)
    return [(bytes(packet), packet.is_keyframe) for packet in packets]


def test_h264_is_decoded_from_a_keyframe_on():
    images = [np.full((64, 64, 3), value, np.uint8) for value in (40, 120, 200)]
    taken, seen = intake(), []
    for tick, (data, keyframe) in enumerate(encoded(images)):
        seen += taken.take(frame(data, "h264", CLOCK.tick_time_s(tick), keyframe)).ticks
    assert [round(float(tick.frame.mean()), -1) for tick in seen] == [40, 120, 200]
    assert [tick.t_s for tick in seen] == pytest.approx([0.0, 0.16, 0.32])
    with pytest.raises(PictureRefused, match="no keyframe"):
        intake().take(frame(encoded(images)[1][0], "h264", 0.0, False))


def test_h264_goes_on_at_the_next_keyframe_after_damage():
    images = [np.full((64, 64, 3), value, np.uint8) for value in (40, 200)]
    decoder = PictureDecoder(32, "crop", 10_000)
    (good, _), *_ = encoded(images)
    decoder.take(frame(good, "h264"))
    with pytest.raises(PictureRefused, match=r"H\.264"):
        decoder.take(frame(b"\x00\x00\x00\x01\x65" + b"\xff" * 40, "h264", 0.1, False))
    with pytest.raises(PictureRefused, match="no keyframe"):
        decoder.take(frame(good, "h264", 0.2, False))
    assert len(decoder.take(frame(good, "h264", 0.3))) == 1


@pytest.mark.parametrize("codec", ["jpeg", "webp", "h264", "vp8"])
def test_what_is_too_large_is_refused(codec: str):
    large = np.zeros((128, 128, 3), np.uint8)
    data = {
        "jpeg": lambda: simplejpeg.encode_jpeg(large, 90, "RGB", "444"),
        "webp": lambda: webp(90, large),
        "h264": lambda: encoded([large])[0][0],
        "vp8": lambda: encoded([large], "libvpx")[0][0],
    }[codec]()
    with pytest.raises(PictureRefused, match=r"at most 10000|H\.264"):
        intake(pixels_max=10_000).take(frame(data, codec))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_in_the_metadata_is_not_applied(orientation: int):
    """As docs/protocol.md says; OpenCV would turn the WebP."""
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0\0\0\0\0\0\0"
    plain = webp()[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + (55).to_bytes(3, "little") + (39).to_bytes(3, "little")
    body = b"WEBP" + canvas + plain + b"EXIF" + struct.pack("<I", len(exif)) + exif
    turned = b"RIFF" + struct.pack("<I", len(body)) + body
    app1 = b"Exif\0\0" + exif
    jpeg = simplejpeg.encode_jpeg(IMAGE, 100, "RGB", "444")
    turned_jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + jpeg[2:]
    for data, same, codec in ((turned, webp(), "webp"), (turned_jpeg, jpeg, "jpeg")):
        (tick,) = intake(px=40).take(frame(data, codec)).ticks
        (expected,) = intake(px=40).take(frame(same, codec)).ticks
        np.testing.assert_array_equal(tick.frame, expected.frame)


def test_headers_tell_the_size():
    assert webp_size(webp()) == (56, 40)
    assert webp_size(webp(80)) == (56, 40)
    assert jpeg_size(simplejpeg.encode_jpeg(IMAGE, 90, "RGB", "420")) == (56, 40)


def test_a_canvas_that_is_larger_than_its_picture_counts():
    inner = webp()[12:]
    canvas = struct.pack("<B3x", 0) + (9999).to_bytes(3, "little") + (7999).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + inner
    assert webp_size(b"RIFF" + struct.pack("<I", len(body)) + body) == (10000, 8000)


def test_a_jpeg_of_countless_scans_is_refused():
    data = simplejpeg.encode_jpeg(IMAGE, 90, "RGB", "444")
    with pytest.raises(PictureRefused, match="more than 64 scans"):
        jpeg_size(data + b"\xff\xda" * 64)


@given(st.binary(max_size=80), st.integers(0, 60), st.sampled_from(["jpeg", "webp"]))
def test_no_bytes_do_anything_but_decode_or_be_refused(data: bytes, keep: int, codec: str):
    whole = webp() if codec == "webp" else simplejpeg.encode_jpeg(IMAGE, 90, "RGB", "444")
    with contextlib.suppress(PictureRefused):
        for tick in intake().take(frame(whole[:keep] + data, codec)).ticks:
            assert tick.frame.shape == (32, 32, 3)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_no_h264_does_anything_but_decode_or_be_refused(data: bytes, keep: int):
    taken = intake()
    for t_s in (0.0, 0.16):
        with contextlib.suppress(PictureRefused):
            for tick in taken.take(frame(H264[:keep] + data, "h264", t_s)).ticks:
                assert tick.frame.shape == (32, 32, 3)


H264 = encoded([IMAGE])[0][0]


def test_ticks_that_come_too_fast_are_not_decoded():
    now_s = 0.0
    fast = Intake(IntakeConfig(CLOCK, 32, "crop", 10_000, gap_s=1.0, ticks_hz=1.0), now=lambda: now_s)
    broken = webp()[:40]
    taken = []
    for tick, data in enumerate([webp(), broken, broken, webp()]):
        now_s = 1.0 if tick == 3 else 0.0
        taken.append(fast.take(frame(data, "webp", tick * CLOCK.tick_s)))
    assert [[round(tick.t_s / CLOCK.tick_s) for tick in one.ticks] for one in taken] == [[0], [], [], [3]]
    assert taken[-1].too_fast == 2
