"""Frames survive their pictures: pixel for pixel where a format promises it, nearly so where it does not."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.geometry import shrink_frames
from data_pipelines.images import FORMATS, Sheets, decode_frames, decode_into, encode_frames


def scene(num_frames, px, seed=0):
    """Smooth moving colours, as pictures of a camera have them."""
    picture = cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8), (px, px))
    return np.stack([np.roll(picture, 3 * tick, axis=1) for tick in range(num_frames)])


@pytest.mark.parametrize(
    ("num_frames", "px", "sheets"), [(1, 16, 1), (16, 16, 1), (75, 64, 1), (300, 8, 2), (3, 30, 3), (2, 136, 2)]
)
def test_sheets_change_no_frame(num_frames, px, sheets):
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, px, px, 3), dtype=np.uint8)
    encoded = encode_frames(frames, "png")
    assert len(encoded.data) == sheets
    np.testing.assert_array_equal(decode_frames(encoded), frames)


@given(num_frames=st.integers(1, 40), px=st.sampled_from([2, 8, 24, 30]), seed=st.integers(0, 9), data=st.data())
def test_lossless_formats_and_wanted_ticks(num_frames, px, seed, data):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, px, px, 3), dtype=np.uint8)
    begin = data.draw(st.integers(0, num_frames - 1))
    wanted = range(begin, data.draw(st.integers(begin + 1, num_frames)))
    for image_format in ("raw", "png"):
        encoded = encode_frames(frames, image_format)
        np.testing.assert_array_equal(decode_frames(encoded), frames)
        np.testing.assert_array_equal(decode_frames(encoded, wanted)[wanted.start : wanted.stop], frames[wanted])


@pytest.mark.parametrize(("image_format", "at_most"), [("jpeg", 1.5), ("webp", 3.0), ("png", 0), ("raw", 0)])
@pytest.mark.parametrize("px", [64, 256])
def test_loss_is_small(image_format, at_most, px):
    """On smooth colours, of 255: WebP's chroma has half the resolution."""
    frames = scene(5, px)
    assert np.abs(decode_frames(encode_frames(frames, image_format, 92)).astype(int) - frames).mean() <= at_most


def test_jpeg_keeps_colour():
    # Red and blue stripes one pixel wide: with chroma at half the resolution they would mix to purple.
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, :, ::2, 0] = 200
    stripes[:, :, 1::2, 2] = 200
    decoded = decode_frames(encode_frames(stripes)).astype(int)
    assert decoded[:, :, ::2, 0].min() > 150
    assert decoded[:, :, 1::2, 0].max() < 50


@pytest.mark.parametrize("image_format", FORMATS)
def test_neighbours_do_not_bleed(image_format):
    """A frame's pixels are a function of that frame, whatever lies beside it."""
    frames = scene(20, 16)
    alone = decode_frames(encode_frames(frames[7:8], image_format, 50))[0]
    frames[6], frames[8] = 255, 0
    np.testing.assert_array_equal(decode_frames(encode_frames(frames, image_format, 50))[7], alone)


def test_lower_quality_takes_less_room():
    frames = scene(3, 256)
    for image_format in ("jpeg", "webp"):
        sizes = [sum(map(len, encode_frames(frames, image_format, quality).data)) for quality in (30, 85, 95)]
        assert sizes == sorted(set(sizes))


def test_sheets_that_do_not_fit_are_refused():
    encoded = encode_frames(np.zeros((20, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="do not fit 1 sheets"):
        decode_frames(dataclasses.replace(encoded, num_frames=300))
    with pytest.raises(ValueError, match="need"):
        decode_frames(dataclasses.replace(encoded, num_frames=40))
    with pytest.raises(ValueError, match="is no JPEG of its frame"):
        decode_frames(Sheets([b"nothing"], 1, 1, 1, 16))
    with pytest.raises(ValueError, match="frame 0 has 7 bytes, 16×16 pixels are 768"):
        decode_frames(Sheets([b"nothing"], 1, 1, 1, 16, "raw"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 8, 8, 3), np.float32),), "must be uint8"),
        ((np.zeros((2, 8, 9), np.uint8),), "must be uint8"),
        ((np.zeros((2, 8, 8, 3), np.uint8), "gif"), "'gif' is unknown"),
        ((np.zeros((2, 8, 8, 3), np.uint8), "webp", 0), "quality must be 1..100"),
    ],
)
def test_what_cannot_be_encoded_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        encode_frames(*arguments)


def test_large_jpegs_have_the_pixels_that_opencv_finds_in_them():
    frames = np.random.default_rng(0).integers(0, 256, (2, 136, 136, 3), np.uint8)
    encoded = encode_frames(frames, "jpeg", 90)
    assert len(encoded.data) == 2
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in encoded.data]
    np.testing.assert_array_equal(decode_frames(encoded), pictures)
    with pytest.raises(ValueError, match="sheet 0 .* 136×136 pixels, its frame 144×144"):
        decode_frames(dataclasses.replace(encoded, frame_px=144))


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("px", [64, 160])  # several to a sheet, and alone
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_in_their_place_are_those_of_the_whole_clip(image_format, px, mirrored):
    """To the bit, as they are and shrunk, at any ticks."""
    encoded, ticks = encode_frames(scene(20, px), image_format), [1, 2, 2, 18]
    stored = decode_frames(encoded)[ticks]
    expected = np.ascontiguousarray(stored[:, :, ::-1]) if mirrored else stored
    for size in (px, px // 2, px * 7 // 8, px * 5 // 8):
        place = np.full((len(ticks), size, size, 3), 7, np.uint8)
        decode_into(place, encoded, ticks, mirrored)
        np.testing.assert_array_equal(place, shrink_frames(expected, size))


def test_places_that_no_frame_fits_are_refused():
    encoded = encode_frames(scene(3, 16), "png")
    with pytest.raises(ValueError, match="16x16 px are smaller than the 32x32 px"):
        decode_into(np.zeros((1, 32, 32, 3), np.uint8), encoded, [0])
    with pytest.raises(ValueError, match="shorter"):
        decode_into(np.zeros((2, 16, 16, 3), np.uint8), encoded, [0])
