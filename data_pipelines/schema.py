"""The record: frames at the tick rate, timed words, provenance. One schema for every source."""

import dataclasses
import functools
import json
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from data_pipelines import images
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

SCHEMA_VERSION = 2

# A box's edges are kept as 16 bits each.
_BOX_STEPS = 65535

# How well a word is timed: to the word (an aligner, a simulator), to its subtitle line, or not at all (a caption).
TIMINGS = ("word", "line", "clip")


@dataclasses.dataclass(frozen=True)
class Word:
    """A spoken word; times count from the clip's first frame.

    Attributes:
      text: as written.
      start_s: when it begins.
      end_s: when it ends, None where the source does not say.
      ends_sentence: whether a sentence ends with it.
    """

    text: str
    start_s: float
    end_s: float | None = None
    ends_sentence: bool = False


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened, known exactly because a simulator (or a person) says so.

    Attributes:
      t_s: when, in seconds from the clip's first frame.
      kind: what ("enters", "stops", "collides", ...).
      subject: who, as "colour shape" ("red circle").
      detail: the rest that a sentence must get right: a side, a new colour, or the other thing; "" if nothing.
    """

    t_s: float
    kind: str
    subject: str
    detail: str = ""

    @property
    def attributes(self) -> tuple[str, str, str]:
        """What a phrase about this event must say, all of it right."""
        return (self.kind, self.subject, self.detail)


@dataclasses.dataclass(frozen=True)
class Thing:
    """A thing in the picture, and where it is.

    Attributes:
      noun: the word that names it ("car").
      boxes: float32 [T, 4], at each tick its top, left, bottom and right edge as shares of the frame's height and
        width, within the frame; all 0 while it is not there.
    """

    noun: str
    boxes: np.ndarray


class RecordError(ValueError):
    """Bytes that are not a record of this schema, or a record that contradicts itself."""


@dataclasses.dataclass(frozen=True)
class Codes:
    """A sound as codes, a frame of them a step of the clock.

    Attributes:
      values: int16 [S, K], of K codebooks; -1 where it is not known what is to be heard.
      codec: what made them and turns them back into sound, as it names itself; codes of two codecs do not mix.
    """

    values: np.ndarray
    codec: str


@dataclasses.dataclass(frozen=True)
class Record:
    """A clip: what is seen at each tick, what is said, and where it comes from. Times count from the first frame.

    Attributes:
      key: names the clip among all, e.g. "world/plain/7/000012".
      frames: uint8 [T, H, W, 3] RGB, one a tick.
      clock: the steps and ticks of this clip.
      words: in the order in which they are spoken.
      timing: how well the words' times are known, one of TIMINGS.
      words_from_s: from when on the words are here. What is said before belongs to an earlier clip that overlaps this
        one, so silence before it means nothing.
      caption: an untimed text about the whole clip, "" if there is none; `words` may spread it over the clip, and
        `timing` is then "clip".
      language: of the words and the caption, as the source names it; "" if it does not say.
      tick_times_s: float64 [T], when the source showed each frame; the clock's tick times where the source has no own.
      events: what happened, if something knows it (the world does).
      provenance: where the clip comes from: JSON values by name, of source, file, start_s, end_s (in the file), sha256
        (of the file), byte_offset and byte_length (in a tar or a file of lines) those that apply, and others.
      license: under which the clip is used, "" if the source does not say.
      audio: an encoded audio track with its own header (Ogg or WAV), as long as the clip, if there is one.
      motion: int8 motion fields computed when the shard was built, if there are any; the first axis is T.
      things: all that moves, and what has moved, if something knows it (the world's look `real` does); None where
        nothing does.
      codes: what is to be heard of the commentator; None where the clip has no such sound.
    """

    key: str
    frames: np.ndarray
    clock: Clock
    words: tuple[Word, ...] = ()
    timing: str = "word"
    tick_times_s: np.ndarray | None = None
    events: tuple[Event, ...] = ()
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    license: str = ""
    words_from_s: float = 0.0
    caption: str = ""
    language: str = ""
    audio: bytes | None = None
    motion: np.ndarray | None = None
    things: tuple[Thing, ...] | None = None
    codes: Codes | None = None

    def __post_init__(self):
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] < 1:
            raise RecordError(f"{self.key}: frames must be uint8 [T, H, W, 3], got {self.frames.dtype} {list(shape)}")
        if self.timing not in TIMINGS:
            raise RecordError(f"{self.key}: timing {self.timing!r} is unknown, choose one of {TIMINGS}")
        times_s = self.tick_times_s
        if times_s is None:
            times_s = np.array([self.clock.tick_time_s(tick) for tick in range(shape[0])])
            object.__setattr__(self, "tick_times_s", times_s)
        if times_s.shape != (shape[0],):
            raise RecordError(f"{self.key}: {shape[0]} frames, but {times_s.shape} tick times")
        if self.motion is not None and (self.motion.dtype != np.int8 or self.motion.shape[:1] != shape[:1]):
            raise RecordError(f"{self.key}: motion must be int8 [T, ...], got {self.motion.dtype} {self.motion.shape}")
        for thing in self.things or ():
            if thing.boxes.shape != (shape[0], 4):
                raise RecordError(
                    f"{self.key}: boxes of a {thing.noun} must be [{shape[0]}, 4], got {thing.boxes.shape}"
                )
        if self.codes is not None:
            self._check_codes(self.codes)
        if not 0.0 <= self.words_from_s < math.inf:
            raise RecordError(f"{self.key}: words_from_s must be finite and not negative, got {self.words_from_s}")
        for word in self.words:
            if not word.text.strip() or not math.isfinite(word.start_s):
                raise RecordError(f"{self.key}: a word needs a visible text and a finite start time, got {word}")

    def _check_codes(self, codes: Codes) -> None:
        values, steps = codes.values, self.clock.step_of_tick(self.frames.shape[0])
        if values.dtype != np.int16 or values.ndim != 2 or values.shape[0] != steps or values.shape[1] < 1:
            raise RecordError(
                f"{self.key}: codes must be int16 [{steps}, K], a row a step, got {values.dtype} {list(values.shape)}"
            )
        if values.min() < -1:
            raise RecordError(f"{self.key}: codes must be 0 or more, or -1 where not known, got {values.min()}")

    @property
    def num_ticks(self) -> int:
        return self.frames.shape[0]

    @property
    def frame_px(self) -> FrameSize:
        """Height and width of the frames."""
        return self.frames.shape[1], self.frames.shape[2]


def encode_record(record: Record, image_format: str = "jpeg", quality: int = 92) -> bytes:
    """A record as bytes: msgpack, in an envelope with the schema version and a checksum.

    The same record gives the same bytes, which is what makes a rebuilt shard identical to the first.
    """
    sheets = images.encode_frames(record.frames, image_format, quality)
    motion = record.motion
    fields = {
        "key": record.key,
        "clock": [record.clock.step_hz, record.clock.video_stride],
        "frames": dataclasses.asdict(sheets),
        "tick_times_s": np.asarray(record.tick_times_s, "<f8").tobytes(),
        "words": [_word_fields(word) for word in record.words],
        "timing": record.timing,
        "words_from_s": float(record.words_from_s),
        "caption": record.caption,
        "language": record.language,
        "events": [[float(event.t_s), event.kind, event.subject, event.detail] for event in record.events],
        "provenance": json.dumps(record.provenance, sort_keys=True, ensure_ascii=False),
        "license": record.license,
        "audio": record.audio,
        "motion": None if motion is None else {"shape": list(motion.shape), "data": motion.tobytes()},
    }
    if record.things is not None:  # only where they are known, so that other records are as they were before
        fields["things"] = [[thing.noun, _packed_boxes(thing.boxes)] for thing in record.things]
    if record.codes is not None:
        fields["codes"] = _code_fields(record.codes)
    return _enveloped(fields)


def with_codes(data: bytes, codes: Codes | None) -> bytes:
    """An encoded record with these codes, or none, in the place of its sound track; all else is as it is.

    Raises:
      RecordError: as of `decode_record`, and where there is not a row of codes for every step.
    """
    fields = _fields_of(data)
    fields["audio"] = None
    fields.pop("codes", None)
    if codes is not None:
        steps = Clock(*fields["clock"]).step_of_tick(images.Sheets(**fields["frames"]).num_frames)
        if len(codes.values) != steps:
            raise RecordError(f"{fields['key']}: {len(codes.values)} rows of codes for {steps} steps")
        fields["codes"] = _code_fields(codes)
    return _enveloped(fields)


def _enveloped(fields: dict[str, Any]) -> bytes:
    body = msgpack.packb(fields)
    return msgpack.packb({"schema": SCHEMA_VERSION, "crc32": zlib.crc32(body), "body": body})


def _code_fields(codes: Codes) -> dict[str, Any]:
    values = codes.values
    return {"codec": codes.codec, "shape": list(values.shape), "data": values.astype("<i2").tobytes()}


class StoredRecord(NamedTuple):
    """A record whose frames are decoded when they are asked for, and where they are wanted.

    Attributes:
      record: all else; its frames are black and take no memory.
      draw: `(out, ticks, mirrored)`: puts the frames of these ticks into `out`, see `images.decode_into`.
    """

    record: Record
    draw: Callable[[np.ndarray, Sequence[int], bool], None]


def decode_record(data: bytes, ticks: Callable[[int], range] | None = None) -> Record:
    """The inverse of `encode_record` (but for what JPEG loses).

    Args:
      data: what it gave.
      ticks: given T, which frames are wanted; the others may stay black, which saves most of the time that decoding
        takes. By default all.

    Raises:
      RecordError: the bytes are damaged, no record at all, or of another schema version.
    """
    fields = _fields_of(data)
    sheets = images.Sheets(**fields["frames"])
    try:
        frames = images.decode_frames(sheets, None if ticks is None else ticks(sheets.num_frames))
    except ValueError as error:
        raise RecordError(f"{fields['key']}: {error}") from error
    return _record_of(fields, frames)


def stored_record(data: bytes) -> StoredRecord:
    """What `encode_record` gave, its frames not yet decoded; errors as of `decode_record`, those of frames then."""
    fields = _fields_of(data)
    sheets = images.Sheets(**fields["frames"])

    def draw(out: np.ndarray, ticks: Sequence[int], mirrored: bool) -> None:
        try:
            images.decode_into(out, sheets, ticks, mirrored)
        except ValueError as error:
            raise RecordError(f"{fields['key']}: {error}") from error

    return StoredRecord(_record_of(fields, _black(sheets.num_frames, *frame_size(sheets.frame_px))), draw)


@functools.lru_cache(maxsize=64)
def _black(*shape: int) -> np.ndarray:
    """Frames that take no memory, and that cannot be written to."""
    return np.broadcast_to(np.uint8(0), (*shape, 3))


def _record_of(fields: dict[str, Any], frames: np.ndarray) -> Record:
    motion = fields["motion"]
    return Record(
        key=fields["key"],
        frames=frames,
        clock=Clock(*fields["clock"]),
        words=tuple(Word(*word) for word in fields["words"]),
        timing=fields["timing"],
        words_from_s=fields["words_from_s"],
        caption=fields["caption"],
        language=fields["language"],
        tick_times_s=np.frombuffer(fields["tick_times_s"], "<f8").astype(np.float64),
        events=tuple(Event(*event) for event in fields["events"]),
        provenance=json.loads(fields["provenance"]),
        license=fields["license"],
        audio=fields["audio"],
        motion=None if motion is None else np.frombuffer(motion["data"], np.int8).reshape(motion["shape"]),
        things=_things_of(fields),
        codes=_codes_of(fields),
    )


def key_of(data: bytes) -> str:
    """The key of an encoded record, its frames left as they are; errors as `decode_record` has them."""
    return _fields_of(data)["key"]


def _fields_of(data: bytes) -> dict[str, Any]:
    envelope = _unpack(data, "the envelope")
    if not isinstance(envelope, dict) or not {"schema", "crc32", "body"} <= envelope.keys():
        raise RecordError("not a record: the envelope lacks its schema version, checksum or body")
    if envelope["schema"] != SCHEMA_VERSION:
        raise RecordError(
            f"the record has schema version {envelope['schema']}, this code reads {SCHEMA_VERSION}: "
            "run `launch.prepare` again with this version of the code"
        )
    if zlib.crc32(envelope["body"]) != envelope["crc32"]:
        raise RecordError("damaged: the checksum of the record's body does not match")
    return _unpack(envelope["body"], "the body")


def _packed_boxes(boxes: np.ndarray) -> bytes:
    return np.round(np.clip(boxes, 0, 1) * _BOX_STEPS).astype("<u2").tobytes()


def _things_of(fields: dict[str, Any]) -> tuple[Thing, ...] | None:
    if "things" not in fields:
        return None
    unpacked = lambda data: np.frombuffer(data, "<u2").reshape(-1, 4).astype(np.float32) / _BOX_STEPS
    return tuple(Thing(noun, unpacked(data)) for noun, data in fields["things"])


def _codes_of(fields: dict[str, Any]) -> Codes | None:
    if "codes" not in fields:
        return None
    stored = fields["codes"]
    values = np.frombuffer(stored["data"], "<i2").reshape(stored["shape"]).astype(np.int16)
    return Codes(values, stored["codec"])


def _word_fields(word: Word) -> list[Any]:
    """A word in a record; whether it ends a sentence only where it does, as records had it before."""
    return [word.text, float(word.start_s), _optional_float(word.end_s), *([True] if word.ends_sentence else [])]


def _optional_float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _unpack(data: bytes, what: str) -> Any:
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(f"damaged: {what} of the record is no msgpack ({error})") from error
