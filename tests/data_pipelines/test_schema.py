"""A record survives being written, and damage to its bytes is found."""

import dataclasses
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.flip import flip_record, flip_text
from data_pipelines.images import FORMATS
from data_pipelines.schema import Codes, Event, Record, RecordError, Thing, Word, decode_record, encode_record, key_of
from mmduplex_jax.clock import Clock


def same_but_frames(one, other):
    for field in dataclasses.fields(Record):
        if field.name not in ("frames", "tick_times_s", "motion"):
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    np.testing.assert_array_equal(one.tick_times_s, other.tick_times_s)


def test_lossless_round_trip(record):
    written = record(3)
    back = decode_record(encode_record(written, "png"))
    same_but_frames(written, back)
    np.testing.assert_array_equal(back.frames, written.frames)
    assert back.frames.dtype == np.uint8
    assert back.tick_times_s.tolist() == [0.0, 0.16, 0.32, 0.48, 0.64, 0.8]


def test_optional_fields_round_trip(record):
    motion = np.arange(-6, 6, dtype=np.int8).reshape(6, 2)
    times_s = np.array([0.0, 0.15, 0.33, 0.47, 0.66, 0.79])
    written = dataclasses.replace(
        record(1),
        audio=b"\x00audio",
        motion=motion,
        tick_times_s=times_s,
        timing="line",
        words_from_s=0.4,
        caption="Ein roter Kreis – links.",
        language="de",
    )
    back = decode_record(encode_record(written))
    same_but_frames(written, back)
    np.testing.assert_array_equal(back.motion, motion)
    assert back.motion.dtype == np.int8
    silent = decode_record(encode_record(record(1)))
    assert silent.audio is None
    assert silent.motion is None


@pytest.mark.parametrize("image_format", FORMATS)
def test_frames_survive_in_every_format(record, image_format):
    written = record(3)
    back = decode_record(encode_record(written, image_format, 92))
    same_but_frames(written, back)
    assert np.abs(back.frames.astype(int) - written.frames).mean() < 10  # of 255, on steep gradients; WebP loses most


def test_same_record_same_bytes(record):
    assert encode_record(record(5)) == encode_record(record(5))


def test_key_without_frames(record):
    assert key_of(encode_record(record(7))) == "small/000007"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": np.zeros((2, 4, 6), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((2, 4, 4, 3), np.float32)}, "frames must be"),
        ({"frames": np.zeros((0, 4, 4, 3), np.uint8)}, "frames must be"),
        ({"timing": "roughly"}, "timing 'roughly'"),
        ({"tick_times_s": np.zeros(3)}, "tick times"),
        ({"motion": np.zeros((2, 1), np.int16)}, "motion must be int8"),
        ({"words": (Word(" ", 0.0),)}, "visible text"),
        ({"words": (Word("red", float("nan")),)}, "finite"),
        ({"things": (Thing("car", np.zeros((3, 4), np.float32)),)}, "boxes of a car"),
        ({"codes": Codes(np.zeros((2, 3), np.int16), "a")}, r"codes must be int16 \[4, K\], a row a step"),
        ({"codes": Codes(np.zeros((4, 3), np.int32), "a")}, "codes must be int16"),
        ({"codes": Codes(np.full((4, 3), -2, np.int16), "a")}, "codes must be 0 or more, or -1"),
        ({"words_from_s": -0.1}, "words_from_s must be"),
        ({"words_from_s": float("nan")}, "words_from_s must be"),
    ],
)
def test_contradictions_are_refused(arguments, message):
    good = {"key": "clip 1", "frames": np.zeros((2, 4, 4, 3), np.uint8), "clock": Clock()}
    with pytest.raises(RecordError, match=f"clip 1.*{message}"):
        Record(**good | arguments)


@given(st.data())
def test_a_changed_byte_is_found(data):
    encoded = encode_record(Record("k", np.full((1, 8, 8, 3), 7, np.uint8), Clock(), (Word("red", 0.0),)))
    place = data.draw(st.integers(0, len(encoded) - 1))
    damaged = bytearray(encoded)
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RecordError):
        decode_record(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello", msgpack.packb([1, 2])])
def test_other_bytes_are_no_record(data):
    with pytest.raises(RecordError):
        decode_record(data)


def test_another_version_says_what_to_do():
    body = msgpack.packb({"key": "k"})
    with pytest.raises(RecordError, match="schema version 99.*launch.prepare"):
        decode_record(msgpack.packb({"schema": 99, "crc32": zlib.crc32(body), "body": body}))


def test_flip(record):
    seen = flip_record(dataclasses.replace(record(2), caption="Left,  then\nright."))
    assert seen.caption == "Right,  then\nleft."
    np.testing.assert_array_equal(seen.frames, record(2).frames[:, :, ::-1])
    assert [word.text for word in seen.words] == ["red", "circle", "right"]
    assert seen.events == (Event(0.0, "enters", "red circle", "right"),)
    twice = dataclasses.replace(flip_record(seen), caption="")
    same_but_frames(twice, record(2))
    np.testing.assert_array_equal(twice.frames, record(2).frames)


def test_things_round_trip_and_flip(record):
    """To a 16th of a bit, and where something is not there it is not there flipped."""
    boxes = np.zeros((6, 4), np.float32)
    boxes[2:] = [0.25, 0.0, 1.0, 0.125]
    written = dataclasses.replace(record(2), things=(Thing("car", boxes),))
    back = decode_record(encode_record(written))
    assert [thing.noun for thing in back.things] == ["car"]
    np.testing.assert_allclose(back.things[0].boxes, boxes, atol=1e-5)
    flipped = flip_record(back).things[0].boxes
    np.testing.assert_allclose(flipped[2:], np.tile([0.25, 0.875, 1.0, 1.0], (4, 1)), atol=1e-5)
    assert not flipped[:2].any()
    nobody = dataclasses.replace(record(2), things=())
    assert decode_record(encode_record(nobody)).things == ()
    assert decode_record(encode_record(record(2))).things is None


def test_codes_round_trip_and_are_lost_where_a_flip_changes_what_is_said(record):
    codes = Codes(np.arange(-1, 23, dtype=np.int16).reshape(12, 2), "some codec")
    written = dataclasses.replace(record(2), codes=codes)
    back = decode_record(encode_record(written))
    np.testing.assert_array_equal(back.codes.values, codes.values)
    assert (back.codes.values.dtype, back.codes.codec) == (np.int16, "some codec")
    assert decode_record(encode_record(record(2))).codes is None
    assert {word.text for word in back.words} & {"left", "right"}
    assert flip_record(back).codes is None
    same = flip_record(dataclasses.replace(back, words=(Word("red", 0.0),)))
    assert same.codes.values is back.codes.values


def test_flip_refuses_stored_motion(record):
    with pytest.raises(ValueError, match="motion"):
        flip_record(dataclasses.replace(record(2), motion=np.zeros((6, 2), np.int8)))


@pytest.mark.parametrize(
    ("text", "flipped"),
    [("left", "right"), ("Left,", "Right,"), ("RIGHT!", "LEFT!"), ("leftover", "leftover"), ("circle", "circle")],
)
def test_flipped_words(text, flipped):
    assert flip_text(text) == flipped
