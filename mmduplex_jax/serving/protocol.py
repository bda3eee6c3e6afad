"""The protocol's messages: a client's, parsed strictly, so that nothing but these values goes further; the server's.

docs/protocol.md describes every field.

Nothing but the standard library is imported: clients read this module too.
"""

import dataclasses
import json
import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

VERSION = 1
SUBPROTOCOL = f"mmduplex.v{VERSION}"
# A browser cannot send headers with a WebSocket; it offers this prefix and its token as another subprotocol.
BEARER_SUBPROTOCOL = "mmduplex.bearer."

MODES = ("live", "file")
FITS = ("crop", "pad")
# How sound comes: as binary messages of either codec, or on the audio track of a WebRTC offer.
SOUNDS = ("pcm16", "opus", "track")
PAD_BIAS_MAX = 20.0
# A picture's time, in microseconds, by any clock, those included that count from 1970. Up to here a float64 in seconds
# is exact to a half of one.
_T_MAX_US = 4 * 10**15
# version, codec, flags, zero; number; time in microseconds
_FRAME = struct.Struct(">BBBBIQ")
FRAME_HEADER_BYTES = _FRAME.size
CODECS = {1: "jpeg", 2: "webp", 3: "h264"}
# Codecs whose pictures refer to earlier ones. (VP8 comes by WebRTC's tracks only.)
PREDICTED = frozenset({"h264", "vp8"})
_CODEC_NUMBERS = {name: number for number, name in CODECS.items()}
_KEYFRAME = 1
# version, codec, flags, zero; step; samples a second; time in microseconds
_SOUND = struct.Struct(">BBBBIIQ")
SOUND_HEADER_BYTES = _SOUND.size
SOUND_CODECS = {1: "pcm16", 2: "opus"}
_SOUND_NUMBERS = {name: number for number, name in SOUND_CODECS.items()}
_CONTINUES = 1
# One step's sound is far less: 2.7 s of 48,000 samples a second.
_SOUND_BYTES_MAX = 1 << 18
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Of a session: its replica's name before a dot, where it has one, and its own.
_SESSION = re.compile(r"([A-Za-z0-9_-]{1,63}\.)?[A-Za-z0-9_-]{1,64}")
_TEXT_MAX = 2048


class ProtocolError(ValueError):
    """A message that breaks the protocol.

    Attributes:
      code: a word for programs, one of those in docs/protocol.md.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Resume:
    """A session that a dropped connection left behind.

    Attributes:
      session, token: as the server's hello gave them.
      last_seq: the last word that arrived from it; 0: none.
      has_after_s: the client can send again every picture that is later than this; None: it has not kept them.
    """

    session: str
    token: str
    last_seq: int
    has_after_s: float | None = None


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How a stream begins.

    Attributes:
      mode: "live" never waits and drops the oldest pictures; "file" waits for the server and drops none.
      fit: how a picture of another shape becomes the model's frame (data_pipelines/geometry.py); None: as it was
        trained.
      delay_steps: how far words run behind the picture; None takes the model's own.
      pad_bias: added to silence's logit: more is quieter.
      source: a file or an address that the server itself watches; None: the client sends pictures.
      sound: how this connection gets the model's sound, one of SOUNDS; None: not at all.
      hear: whether it gets it from the beginning, or only when a Change says so.
    """

    mode: Literal["live", "file"] = "live"
    fit: Literal["crop", "pad"] | None = None
    delay_steps: int | None = None
    pad_bias: float = 0.0
    source: str | None = None
    sound: Literal["pcm16", "opus", "track"] | None = None
    hear: bool = True


@dataclasses.dataclass(frozen=True)
class Hello:
    """The first message: a new stream, or one to go on with."""

    config: StreamConfig
    resume: Resume | None
    client: str


@dataclasses.dataclass(frozen=True)
class Change:
    """Settings that change while the stream runs; None leaves one as it is."""

    delay_steps: int | None
    pad_bias: float | None
    hear: bool | None = None


@dataclasses.dataclass(frozen=True)
class Order:
    """A message without fields: pause, go on, forget everything, no more pictures will come."""

    order: Literal["pause", "play", "reset", "end"]


@dataclasses.dataclass(frozen=True)
class Frame:
    """An encoded picture.

    Attributes:
      number: counts pictures; the server repeats it in complaints and statuses. None where a track brought it.
      t_s: when it was on the screen, on the client's clock, from any zero.
      codec: one of CODECS' names.
      keyframe: decoding can begin here (stills always).
      data: encoded; of H.264 one access unit in Annex B form.
    """

    number: int | None
    t_s: float
    codec: str
    keyframe: bool
    data: bytes


Message = Hello | Change | Order


def parse_text(text: str) -> Message:
    """Reads a text message; ProtocolError says what is wrong with it.

    Fields that are not known are ignored, so that a newer client can speak to an older server of the same version.
    """
    try:
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("bad_message", f"a text message must be JSON: {_first_line(error)}") from error
    if not isinstance(message, dict):
        raise ProtocolError("bad_message", "a text message must be a JSON object with a `type`")
    kind = message.get("type")
    match kind:
        case "hello":
            return _hello(message)
        case "config":
            return Change(_delay(message), _bias(message), _truth(message, "hear"))
        case "pause" | "play" | "reset" | "end":
            return Order(kind)
    shown = kind if isinstance(kind, str) and _NAME.fullmatch(kind) else "missing or no word"
    raise ProtocolError("bad_message", f"`type` is {shown}; it must be hello, config, pause, play, reset or end")


def parse_frame(data: bytes) -> Frame:
    """Reads a binary message: a header of 16 bytes and an encoded picture; ProtocolError says what is wrong."""
    if len(data) <= FRAME_HEADER_BYTES:
        raise ProtocolError(
            "bad_message", f"a binary message is a header of {FRAME_HEADER_BYTES} bytes and a picture, got {len(data)}"
        )
    version, codec, flags, zero, number, t_us = _FRAME.unpack_from(data)
    if version != VERSION:
        raise ProtocolError("bad_version", f"a picture's header has version {version}, this server speaks {VERSION}")
    if codec not in CODECS:
        raise ProtocolError("bad_message", f"codec {codec} is unknown, choose one of {CODECS}")
    if flags & ~_KEYFRAME or zero:
        raise ProtocolError("bad_message", f"a picture's header has unknown flags {flags:#x}, {zero:#x}")
    if t_us > _T_MAX_US:
        raise ProtocolError("bad_message", f"a picture's time is {t_us} microseconds; at most {_T_MAX_US} are allowed")
    name = CODECS[codec]
    keyframe = bool(flags & _KEYFRAME) or name != "h264"
    return Frame(number, t_us / 1e6, name, keyframe, data[FRAME_HEADER_BYTES:])


def frame_bytes(frame: Frame) -> bytes:
    """The binary message of a picture (ValueError: a codec, a number or a time that has no place in the header)."""
    t_us = round(frame.t_s * 1e6)
    if frame.codec not in _CODEC_NUMBERS:
        raise ValueError(f"codec {frame.codec!r} is unknown, choose one of {tuple(_CODEC_NUMBERS)}")
    if not 0 <= t_us <= _T_MAX_US:
        raise ValueError(f"a picture's time must be 0 to {_T_MAX_US / 1e6:g} s, got {frame.t_s}")
    number = (frame.number or 0) & 0xFFFFFFFF
    header = (VERSION, _CODEC_NUMBERS[frame.codec], int(frame.keyframe), 0, number, t_us)
    return _FRAME.pack(*header) + frame.data


def _hello(message: dict[str, Any]) -> Hello:
    version = message.get("version")
    if type(version) is not int or version != VERSION:
        shown = version if type(version) is int else "missing or no whole number"
        raise ProtocolError("bad_version", f"`version` is {shown}; this server speaks {VERSION}")
    return Hello(
        config=parse_config(_object(message, "config")),
        resume=None if message.get("resume") is None else _resume(_object(message, "resume")),
        client=_line(message, "client") or "",
    )


def parse_config(fields: dict[str, Any]) -> StreamConfig:
    """The fields of a hello's `config`; ProtocolError says what is wrong with them."""
    mode, fit, sound = fields.get("mode", "live"), fields.get("fit"), fields.get("sound")
    if mode not in MODES:
        raise ProtocolError("bad_config", f"`mode` must be one of {MODES}")
    if fit is not None and fit not in FITS:
        raise ProtocolError("bad_config", f"`fit` must be one of {FITS}")
    if sound is not None and sound not in SOUNDS:
        raise ProtocolError("bad_config", f"`sound` must be one of {SOUNDS}")
    hear = _truth(fields, "hear") is not False
    return StreamConfig(mode, fit, _delay(fields), _bias(fields) or 0.0, _line(fields, "source"), sound, hear)


def _resume(fields: dict[str, Any]) -> Resume:
    session, token = fields.get("session"), fields.get("token")
    for name, value, form in (("session", session, _SESSION), ("token", token, _NAME)):
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ProtocolError("bad_message", f"`resume.{name}` must be what the server's hello gave")
    assert isinstance(session, str)
    assert isinstance(token, str)
    return Resume(session, token, _whole(fields, "last_seq"), _time(fields, "has_after_s"))


def _object(message: dict[str, Any], name: str) -> dict[str, Any]:
    value = message.get(name, {})
    if not isinstance(value, dict):
        raise ProtocolError("bad_message", f"`{name}` must be an object")
    return value


def _line(message: dict[str, Any], name: str) -> str | None:
    value = message.get(name)
    if value is not None and not (isinstance(value, str) and len(value) <= _TEXT_MAX and value.isprintable()):
        raise ProtocolError("bad_message", f"`{name}` must be one printable line of at most {_TEXT_MAX} characters")
    return value


def _whole(message: dict[str, Any], name: str) -> int:
    value = message.get(name)
    # (True is an int to Python.)
    if type(value) is not int or not 0 <= value < 2**53:
        raise ProtocolError("bad_message", f"`{name}` must be a whole number from 0")
    return value


def _time(message: dict[str, Any], name: str) -> float | None:
    value = message.get(name)
    if value is not None and (type(value) not in (int, float) or not abs(value) <= _T_MAX_US / 1e6):
        raise ProtocolError("bad_message", f"`{name}` must be a time in seconds")
    return None if value is None else float(value)


def _truth(message: dict[str, Any], name: str) -> bool | None:
    value = message.get(name)
    if value is not None and type(value) is not bool:
        raise ProtocolError("bad_config", f"`{name}` must be true or false")
    return value


def _delay(message: dict[str, Any]) -> int | None:
    if message.get("delay_steps") is None:
        return None
    return _whole(message, "delay_steps")


def _bias(message: dict[str, Any]) -> float | None:
    value = message.get("pad_bias")
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= PAD_BIAS_MAX or not math.isfinite(value):
        raise ProtocolError("bad_config", f"`pad_bias` must be a number from -{PAD_BIAS_MAX:g} to {PAD_BIAS_MAX:g}")
    return float(value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# What the server says.

Reply = dict[str, Any]
# Places of tokens: (row, column) of the centre and side, in the model's pixels, and the kind.
Places = Sequence[tuple[int, int, int, int]]

# Why a session ended, and the WebSocket's close code that goes with it.
CLOSE_CODES = {
    "end": 1000,
    "superseded": 1000,
    "shutdown": 1001,
    # (Service restart: the client comes back, and finds its stream at another replica.)
    "moved": 1012,
    "protocol": 1008,
    "idle": 1008,
    "too_slow": 1008,
    "unknown_session": 1008,
    "cannot_go_on": 1008,
    "source": 1000,
    "full": 1013,
    "overloaded": 1013,
    "draining": 1013,
    "internal": 1011,
}


def encode_reply(reply: Reply) -> str:
    """A reply as the text that is sent; ValueError for a number that JSON does not have."""
    return json.dumps(reply, separators=(",", ":"), allow_nan=False)


class Word(NamedTuple):
    """A word of a stream; times in seconds on the client's own clock (that of the pictures).

    Attributes:
      seq: its number in the stream, from 1.
      text: as written.
      t_video_s: the time of the picture that it is about.
      t_emit_s: when it was said.
      ends_sentence: whether a sentence ends with it; None, and not in the message, where the model does not say.
      scene_s: when its scene began, with the cut at which the stream began anew; None, and not in the message, before
        the first.
    """

    seq: int
    text: str
    t_video_s: float
    t_emit_s: float
    ends_sentence: bool | None = None
    scene_s: float | None = None


class Sound(NamedTuple):
    """A step's sound, encoded, of one channel.

    Attributes:
      t_s: when its first sample is to be heard, on the client's own clock (that of the pictures).
      step: the model's step, from 0 at the last reset, or cut (`streaming/cuts.py`).
      codec: one of SOUND_CODECS' names: "pcm16" is int16, lowest byte first; "opus" one packet.
      sample_rate_hz: of PCM, or what an Opus encoder was given.
      continues: it follows without a gap on the piece that was sent before it; else something was left out between, or
        it is the connection's first.
      data: encoded.
    """

    t_s: float
    step: int
    codec: str
    sample_rate_hz: int
    continues: bool
    data: bytes


def sound_bytes(sound: Sound) -> bytes:
    """The binary message of a step's sound."""
    header = (VERSION, _SOUND_NUMBERS[sound.codec], _CONTINUES if sound.continues else 0, 0)
    return _SOUND.pack(*header, sound.step, sound.sample_rate_hz, max(0, round(sound.t_s * 1e6))) + sound.data


def parse_sound(message: bytes) -> Sound:
    """Reads a binary message of the server's: a header of 20 bytes and sound; ProtocolError says what is wrong."""
    if not SOUND_HEADER_BYTES < len(message) <= SOUND_HEADER_BYTES + _SOUND_BYTES_MAX:
        raise ProtocolError(
            "bad_message", f"a message of sound is a header of {SOUND_HEADER_BYTES} bytes and sound, got {len(message)}"
        )
    version, codec, flags, zero, step, sample_rate_hz, t_us = _SOUND.unpack_from(message)
    if version != VERSION:
        raise ProtocolError("bad_version", f"the sound's header has version {version}, this client speaks {VERSION}")
    if codec not in SOUND_CODECS:
        raise ProtocolError("bad_message", f"codec {codec} of sound is unknown, there are {SOUND_CODECS}")
    if flags & ~_CONTINUES or zero:
        raise ProtocolError("bad_message", f"the sound's header has unknown flags {flags:#x}, {zero:#x}")
    if not sample_rate_hz:
        raise ProtocolError("bad_message", "the sound's header has 0 samples a second")
    name, data = SOUND_CODECS[codec], message[SOUND_HEADER_BYTES:]
    if name == "pcm16" and len(data) % 2:
        raise ProtocolError("bad_message", f"PCM has 2 bytes a sample, got {len(data)} bytes")
    return Sound(t_us / 1e6, step, name, sample_rate_hz, bool(flags & _CONTINUES), data)


class Status(NamedTuple):
    """What the tick at `t_video_s` did; all words that it gave came before. Fields as in docs/protocol.md.

    Never numbered: the newest counts, old ones may be left out. `sound` is None, and not in the message,
    where the stream is not heard, `sound_left_out` where it never was, `scene_s` before the first cut, and
    `picture` where pictures have no numbers. (Servers of before did not say `resets`, `picture` and `seq`.)
    """

    t_video_s: float
    step: int
    lag_s: float
    dropped_frames: int
    late_frames: int
    tokens: int
    tokens_per_s: int
    anchor: bool
    places: Places
    change: float
    sound: Literal["on", "off"] | None = None
    sound_left_out: int | None = None
    scene_s: float | None = None
    resets: int | None = None
    picture: int | None = None
    seq: int | None = None


def event_reply(event: Word | Status) -> Reply:
    """A word or a status as a message; what is None is left out."""
    fields = event._asdict()
    values = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items() if v is not None}
    return {"type": type(event).__name__.lower(), **values}


def config_reply(*, delay_steps: int, pad_bias: float) -> Reply:
    """The settings as they now are."""
    return {"type": "config", "delay_steps": delay_steps, "pad_bias": pad_bias}


def kept_reply(t_s: float | None) -> Reply:
    """What the stream is after the picture at `t_s` (None: before the first) is kept, should its server be lost."""
    return {"type": "kept", "t_s": t_s}


def error_reply(code: str, message: str, *, fatal: bool) -> Reply:
    """Something is wrong; where it is fatal, a bye follows."""
    return {"type": "error", "code": code, "message": message, "fatal": fatal}


def bye_reply(reason: str, message: str, *, seq: int, resumable: bool = False) -> Reply:
    """The last message: why, and the number of the last word that was said."""
    return {"type": "bye", "reason": reason, "message": message, "seq": seq, "resumable": resumable}
