"""The parser: what it takes, what it refuses, and that nothing makes it fail in another way."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.serving.protocol import (
    Change,
    Frame,
    Hello,
    Order,
    ProtocolError,
    Resume,
    Sound,
    StreamConfig,
    Word,
    event_reply,
    frame_bytes,
    parse_frame,
    parse_sound,
    parse_text,
    sound_bytes,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "type",
    "version",
    "config",
    "resume",
    "mode",
    "fit",
    "delay_steps",
    "pad_bias",
    "session",
    "token",
    "last_seq",
    "sound",
    "hear",
)
KINDS = ("hello", "config", "pause", "play", "reset", "end", "ack", "HELLO", "", None, 3)


def test_a_hello_with_everything():
    text = json.dumps(
        {
            "type": "hello",
            "version": 1,
            "client": "a test/1.0",
            "config": {
                "mode": "file",
                "fit": "pad",
                "delay_steps": 2,
                "pad_bias": -1,
                "source": "a.mp4",
                "sound": "opus",
            },
            "resume": {"session": "abc-_1", "token": "T" * 32, "last_seq": 7},
            "unknown": {"fields": "are ignored"},
        }
    )
    assert parse_text(text) == Hello(
        StreamConfig("file", "pad", 2, -1.0, "a.mp4", "opus"), Resume("abc-_1", "T" * 32, 7), "a test/1.0"
    )


def test_a_hello_with_nothing_takes_defaults():
    assert parse_text('{"type":"hello","version":1}') == Hello(StreamConfig(), None, "")


def test_the_other_messages():
    assert parse_text('{"type":"config","pad_bias":1.5}') == Change(None, 1.5)
    assert parse_text('{"type":"config","delay_steps":0}') == Change(0, None)
    assert parse_text('{"type":"config","hear":false}') == Change(None, None, False)
    for order in ("pause", "play", "reset", "end"):
        assert parse_text(json.dumps({"type": order})) == Order(order)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "bad_message", "must be JSON"),
        ("[1]", "bad_message", "object with a `type`"),
        ("[" * 60_000, "bad_message", "must be JSON"),
        ("1" * 5000, "bad_message", "must be JSON"),
        ('{"type":"config","pad_bias":NaN}', "bad_message", "must be JSON"),
        ('{"type":"config","pad_bias":1e999}', "bad_config", "`pad_bias`"),
        ('{"type":"config","pad_bias":21}', "bad_config", "-20 to 20"),
        ('{"type":"config","pad_bias":true}', "bad_config", "`pad_bias`"),
        ('{"type":"config","delay_steps":-1}', "bad_message", "`delay_steps`"),
        ('{"type":"config","delay_steps":true}', "bad_message", "`delay_steps`"),
        ('{"type":"dance"}', "bad_message", "`type` is dance"),
        ('{"type":["hello"]}', "bad_message", "missing or no word"),
        ('{"type":"hello"}', "bad_version", "this server speaks 1"),
        ('{"type":"hello","version":2}', "bad_version", "`version` is 2"),
        ('{"type":"hello","version":true}', "bad_version", "no whole number"),
        ('{"type":"hello","version":1,"config":{"mode":"fast"}}', "bad_config", "`mode`"),
        ('{"type":"hello","version":1,"config":{"fit":[]}}', "bad_config", "`fit`"),
        ('{"type":"hello","version":1,"config":{"sound":"mp3"}}', "bad_config", "`sound`"),
        ('{"type":"hello","version":1,"config":{"sound":["opus"]}}', "bad_config", "`sound`"),
        ('{"type":"hello","version":1,"config":{"hear":1}}', "bad_config", "`hear`"),
        ('{"type":"config","hear":"no"}', "bad_config", "`hear`"),
        ('{"type":"hello","version":1,"config":[]}', "bad_message", "`config` must be an object"),
        ('{"type":"hello","version":1,"client":"two\\nlines"}', "bad_message", "printable line"),
        ('{"type":"hello","version":1,"client":"\\ud800"}', "bad_message", "printable line"),
        ('{"type":"hello","version":1,"resume":{}}', "bad_message", "resume.session"),
        ('{"type":"hello","version":1,"resume":{"session":"a","token":"b","last_seq":-1}}', "bad_message", "last_seq"),
        ('{"type":"hello","version":1,"resume":{"session":"../a","token":"b","last_seq":1}}', "bad_message", "session"),
    ],
)
def test_what_is_refused_is_named(text: str, code: str, said: str):
    with pytest.raises(ProtocolError) as caught:
        parse_text(text)
    assert caught.value.code == code
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_message_or_a_protocol_error(text: str):
    parses_or_refuses(text)


@given(JSON)
def test_any_json_is_a_message_or_a_protocol_error(value):
    parses_or_refuses(json.dumps(value))


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.sampled_from(KINDS),
    st.sampled_from([1, 1.0, True, 2, None]),
    st.dictionaries(st.sampled_from(FIELDS), JSON),
)
def test_anything_in_the_known_fields_is_a_message_or_a_protocol_error(fields, kind, version, config):
    parses_or_refuses(json.dumps({**fields, "type": kind, "version": version}))
    parses_or_refuses(json.dumps({"type": kind, "version": version, "config": config, "resume": config}))


def parses_or_refuses(text: str) -> None:
    try:
        message = parse_text(text)
    except ProtocolError:
        return
    if isinstance(message, Hello):
        assert message.config.mode in ("live", "file")
        assert abs(message.config.pad_bias) <= 20


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 10**15),
    st.sampled_from(["jpeg", "webp", "h264"]),
    st.booleans(),
    st.binary(min_size=1, max_size=40),
)
def test_a_picture_goes_there_and_back(number: int, t_us: int, codec: str, keyframe: bool, data: bytes):
    frame = Frame(number, t_us / 1e6, codec, keyframe or codec != "h264", data)
    assert parse_frame(frame_bytes(frame)) == frame


@given(st.binary(max_size=64))
def test_any_bytes_are_a_picture_or_a_protocol_error(data: bytes):
    try:
        frame = parse_frame(data)
    except ProtocolError:
        return
    assert frame.data
    assert frame.codec in ("jpeg", "webp", "h264")
    assert 0 <= frame.t_s <= 1e9


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((2, 1, 0, 0, 0, 0), "version 2"),
        ((1, 9, 0, 0, 0, 0), "codec 9"),
        ((1, 1, 2, 0, 0, 0), "flags 0x2"),
        ((1, 1, 0, 1, 0, 0), "0x1"),
        ((1, 1, 0, 0, 0, 2**63), "time is"),
    ],
)
def test_a_header_that_is_wrong_is_named(header: tuple[int, ...], said: str):
    with pytest.raises(ProtocolError, match=said):
        parse_frame(struct.pack(">BBBBIQ", *header) + b"picture")


@pytest.mark.parametrize(("codec", "t_s"), [("png", 0.0), ("jpeg", -1.0), ("jpeg", 1e10)])
def test_a_frame_that_has_no_header_is_refused(codec: str, t_s: float):
    with pytest.raises(ValueError, match=r"unknown|time must be"):
        frame_bytes(Frame(0, t_s, codec, True, b"picture"))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 10**15),
    st.sampled_from(["pcm16", "opus"]),
    st.integers(1, 192_000),
    st.booleans(),
    st.binary(min_size=1, max_size=40),
)
def test_sound_goes_there_and_back(step: int, t_us: int, codec: str, rate_hz: int, continues: bool, data: bytes):
    sound = Sound(t_us / 1e6, step, codec, rate_hz, continues, 2 * data)
    assert parse_sound(sound_bytes(sound)) == sound


@given(st.binary(max_size=64))
def test_any_bytes_are_sound_or_a_protocol_error(data: bytes):
    try:
        sound = parse_sound(data)
    except ProtocolError:
        return
    assert sound.data
    assert sound.codec in ("pcm16", "opus")
    assert sound.sample_rate_hz > 0


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ((2, 1, 0, 0, 0, 16_000, 0), b"ab", "version 2"),
        ((1, 3, 0, 0, 0, 16_000, 0), b"ab", "codec 3"),
        ((1, 1, 2, 0, 0, 16_000, 0), b"ab", "flags 0x2"),
        ((1, 1, 0, 1, 0, 16_000, 0), b"ab", "0x1"),
        ((1, 1, 0, 0, 0, 0, 0), b"ab", "0 samples a second"),
        ((1, 1, 0, 0, 0, 16_000, 0), b"abc", "2 bytes a sample"),
        ((1, 2, 0, 0, 0, 16_000, 0), b"", "a header of 20 bytes"),
        ((1, 2, 0, 0, 0, 16_000, 0), bytes(300_000), "a header of 20 bytes"),
    ],
)
def test_sound_whose_header_is_wrong_is_named(header: tuple[int, ...], data: bytes, said: str):
    with pytest.raises(ProtocolError, match=said):
        parse_sound(struct.pack(">BBBBIIQ", *header) + data)


def test_a_word_says_whether_a_sentence_ends_with_it_where_that_is_known():
    assert event_reply(Word(1, "red", 1.0, 1.5)) == {
        "type": "word", "seq": 1, "text": "red", "t_video_s": 1.0, "t_emit_s": 1.5
    }  # fmt: skip
    for ends in (False, True):
        assert event_reply(Word(2, "circle", 1.0, 1.5, ends))["ends_sentence"] is ends
