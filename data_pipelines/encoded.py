"""Encoded clips: what a model's tokens look at in each clip, chosen once and kept beside its words, without its frames.

`launch.encode` writes them from prepared shards, a file for a shard; a training reads them instead of pixels
(`config.data.encoded`). What the arrays mean is the model's affair: here they have names, shapes and rows.

A clip's arrays are stored without the rows that hold nothing. An array whose rows are `LEADING` has its first rows, one
of another kind those that the array of that name says; all others are its `fill`.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from data_pipelines.dataset import RecordFiles
from data_pipelines.manifest import ShardError, sha256_of
from data_pipelines.schema import Record, RecordError, encode_record, stored_record
from data_pipelines.shards import array_record_file, disk_has_room, locked
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize

VERSION = 1
MANIFEST_NAME = "encoded.json"
PLAN_NAME = "encoded-plan.json"
PARTS_NAME = "parts"
LEADING = ""
_REMEDY = "delete that file and run the `python -m launch.encode` that wrote it again: it writes what is missing"


class ArraySpec(NamedTuple):
    """One of a clip's arrays, as a training gets it.

    Attributes:
      name: of it.
      shape: the same for all clips.
      dtype: NumPy's name.
      rows: name of the array that says which of its rows are stored; `LEADING` for the first ones.
      fill: what the other rows hold.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: str = LEADING
    fill: int = 0


@dataclasses.dataclass(frozen=True)
class EncodedShard:
    """A finished file.

    Attributes:
      name: its name in the directory.
      pieces: how many clips each record gave, in the order of the records (a longer record gives several).
      size_bytes: its length.
      sha256: of the whole file, in hexadecimal.
    """

    name: str
    pieces: tuple[int, ...]
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class EncodedManifest:
    """What a directory of encoded clips holds.

    Attributes:
      facts: what decides the arrays, as JSON values; another training must have the same (`differences`).
      arrays: of every clip.
      clock, frame_px: of every clip's frames.
      num_ticks: of every clip; shorter ones are filled up with black frames.
      mirrored: whether every clip is also there flipped left to right, behind itself.
      flip_safe: whether flipped ones may be learned from.
      fit: how pictures were fitted to the frames; None where the data do not say.
      cameras: real cameras of which pictures were encoded; None where it is not known.
      sources: SHA-256 of the shards that files are made from, in order.
      shards: the files, in order; none in a plan of what is to be written.
    """

    facts: Mapping[str, Any]
    arrays: tuple[ArraySpec, ...]
    clock: Clock
    frame_px: FrameSize
    num_ticks: int
    mirrored: bool
    flip_safe: bool
    fit: str | None
    cameras: tuple[str, ...] | None
    sources: tuple[str, ...]
    shards: tuple[EncodedShard, ...] = ()

    @cached_property
    def num_records(self) -> int:
        return sum(len(shard.pieces) for shard in self.shards)

    @cached_property
    def num_clips(self) -> int:
        """Clips, flipped ones not counted."""
        return sum(sum(shard.pieces) for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """A hash of all that is in the directory."""
        identity = json.dumps(self._identity(), sort_keys=True) + "".join(shard.sha256 for shard in self.shards)
        return hashlib.sha256(identity.encode()).hexdigest()

    def differences(self, facts: Mapping[str, Any]) -> list[str]:
        """What the facts of another differ in, one line each: `name was …, is …`."""
        theirs, ours = dict(_leaves(self.facts)), dict(_leaves(facts))
        return [
            f"{name} was {theirs.get(name, 'absent')!r}, is {ours.get(name, 'absent')!r}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]

    def _identity(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "shards"}
        values |= {"version": VERSION, "clock": dataclasses.asdict(self.clock)}
        return values | {"arrays": [array._asdict() for array in self.arrays]}

    def to_json(self) -> str:
        """The same manifest gives the same text; a file takes a line."""
        head = json.dumps(self._identity(), indent=1, sort_keys=True)
        shards = ",\n".join("  " + json.dumps(vars(shard), sort_keys=True) for shard in self.shards)
        return head.removesuffix("\n}") + f',\n "shards": [\n{shards}\n ]\n}}\n'

    @classmethod
    def load(cls, directory: Path) -> "EncodedManifest":
        """Reads the manifest of a finished directory.

        Raises:
          ShardError: there is none, or it is of another version.
        """
        path = directory / MANIFEST_NAME
        if path.is_file():
            return cls.read(path)
        if (directory / PARTS_NAME / PLAN_NAME).is_file():
            plan = cls.read(directory / PARTS_NAME / PLAN_NAME)
            finished = sum(1 for _ in (directory / PARTS_NAME).glob("encoded-*-of-*.json"))
            raise ShardError(
                f"{directory} is unfinished ({finished} of {len(plan.sources)} files): run the same `python -m "
                "launch.encode` again, it goes on where it was"
            )
        raise ShardError(
            f"{directory} holds no encoded clips: `python -m launch.encode --data=DIR --out=…` writes them"
        )

    @classmethod
    def read(cls, path: Path) -> "EncodedManifest":
        """Reads a manifest or a plan; errors as `load` has them."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("version") != VERSION:
                raise ShardError(f"{path} was written by other code: encode the clips again into another directory")
            shards = values.pop("shards")
            cameras = values.pop("cameras")
            return cls(
                arrays=tuple(ArraySpec(**{**array, "shape": tuple(array["shape"])}) for array in values.pop("arrays")),
                clock=Clock(**values.pop("clock")),
                frame_px=tuple(values.pop("frame_px")),
                cameras=None if cameras is None else tuple(cameras),
                sources=tuple(values.pop("sources")),
                shards=tuple(EncodedShard(**{**shard, "pieces": tuple(shard["pieces"])}) for shard in shards),
                **values,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path} is damaged ({error!r}): run the same `python -m launch.encode` again") from error


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested mappings by their paths; a list counts as one."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def is_encoded(directory: str | Path) -> bool:
    """Whether a directory is one of encoded clips, finished or not, rather than of shards."""
    return any((Path(directory) / name).is_file() for name in (MANIFEST_NAME, f"{PARTS_NAME}/{PLAN_NAME}"))


class EncodedClip(NamedTuple):
    """A clip without its frames.

    Attributes:
      record: that it is a piece of; its frames are of one black pixel.
      ticks: of the record that the clip shows.
      arrays: all of `EncodedManifest.arrays`, by name.
    """

    record: Record
    ticks: range
    arrays: dict[str, np.ndarray]


def pack_clip(record: Record, ticks: range, arrays: Mapping[str, np.ndarray]) -> bytes:
    """A clip as bytes.

    Args:
      record: of which its frames, sound and motion are left out.
      ticks: of the record that the clip shows.
      arrays: their stored rows, and the arrays that say which these are.
    """
    bare = dataclasses.replace(record, frames=np.zeros((record.num_ticks, 1, 1, 3), np.uint8), audio=None, motion=None)
    stored = {name: [array.dtype.name, list(array.shape), array.tobytes()] for name, array in arrays.items()}
    body = msgpack.packb(
        {"record": encode_record(bare, "raw"), "ticks": [ticks.start, ticks.stop], "arrays": stored},
        use_bin_type=True,
    )
    return msgpack.packb({"version": VERSION, "crc32": zlib.crc32(body), "body": body})


def room_for(specs: Sequence[ArraySpec], *size: int) -> dict[str, np.ndarray]:
    """Memory for the arrays of so many clips (of one by default), without any of their rows yet."""
    return {spec.name: np.full((*size, *spec.shape), spec.fill, spec.dtype) for spec in specs}


def unpack_clip(data: bytes, specs: Sequence[ArraySpec], room: dict[str, np.ndarray] | None = None) -> EncodedClip:
    """The inverse of `pack_clip`, with all rows of all arrays; RecordError where the bytes are damaged.

    Args:
      data: what it gave.
      specs: of the arrays that are wanted.
      room: what `room_for` gave of one clip, or a part of what it gave of several; by default new memory.
    """
    try:
        envelope = msgpack.unpackb(data)
        if envelope["version"] != VERSION or zlib.crc32(envelope["body"]) != envelope["crc32"]:
            raise RecordError("damaged: the checksum of the clip's body does not match, or it is of other code")
        body = msgpack.unpackb(envelope["body"])
        stored = {
            name: np.frombuffer(values, dtype).reshape(shape) for name, (dtype, shape, values) in body["arrays"].items()
        }
        arrays = room_for(specs) if room is None else room
        for spec in specs:
            rows = stored[spec.name]
            arrays[spec.name][slice(len(rows)) if spec.rows == LEADING else stored[spec.rows]] = rows
        return EncodedClip(stored_record(body["record"]).record, range(*body["ticks"]), arrays)
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(f"damaged: no encoded clip ({error!r})") from error


class EncodedDataset(RecordFiles):
    """The encoded records of a directory by number."""

    manifest: EncodedManifest

    def __init__(self, directory: str | Path):
        """Opens a finished directory.

        Raises:
          ShardError: it is unfinished, or a file is missing or truncated.
        """
        manifest = EncodedManifest.load(Path(directory))
        super().__init__(Path(directory), manifest, (len(shard.pieces) for shard in manifest.shards))
        for shard in manifest.shards:
            path = self.directory / shard.name
            if not path.is_file() or path.stat().st_size != shard.size_bytes:
                raise ShardError(f"{path} is missing or has another length than it was written with: {_REMEDY}")
        # Of every shard, the number of the first clip of each record in it.
        self._firsts = [list(itertools.accumulate(shard.pieces, initial=0)) for shard in manifest.shards]

    @property
    def longest_ticks(self) -> int:
        return self.manifest.num_ticks

    def key(self, index: int) -> str:
        """The key of a record."""
        return self.read(index).key

    def read(self, index: int, ticks: Callable[[int], range] | None = None) -> Record:
        """A record, whose frames are of one black pixel; ShardError where it cannot be read.

        `ticks` is there for whoever reads a `ShardDataset`, which decodes those frames alone: here are none to decode.
        """
        return self.clip(index, 0, mirrored=False, arrays=False).record

    def pieces(self, index: int) -> int:
        """How many clips a record gave."""
        shard, position = self._place(index)
        return self.manifest.shards[shard].pieces[position]

    def clip(
        self,
        index: int,
        piece: int,
        *,
        mirrored: bool,
        arrays: bool = True,
        room: dict[str, np.ndarray] | None = None,
    ) -> EncodedClip:
        """A clip of a record.

        Args:
          index: of the record.
          piece: which of its clips.
          mirrored: flipped left to right; only where the manifest says `mirrored`.
          arrays: whether its arrays are wanted.
          room: where they are wanted, see `unpack_clip`.

        Raises:
          ShardError: it cannot be read; says which file and record.
        """
        number, position = self._place(index)
        shard, copies = self.manifest.shards[number], 1 + self.manifest.mirrored
        path = self.directory / shard.name
        at = (self._firsts[number][position] + piece) * copies + mirrored
        try:
            return unpack_clip(self._reader(path).read([at])[0], self.manifest.arrays if arrays else (), room)
        except (RuntimeError, RecordError) as error:
            raise ShardError(f"{path}, record {position} of {len(shard.pieces)}: {error}; {_REMEDY}") from error


# Writing: a file for each shard of the source, in order, resumed where it stopped.


def file_name(number: int, count: int) -> str:
    """Of a shard's clips."""
    return f"encoded-{number:05d}-of-{count:05d}.arrayrecord"


def write_encoded(
    directory: Path,
    plan: EncodedManifest,
    clips_of: Callable[[int, Callable[[bytes], None]], tuple[int, ...]],
    on_written: Callable[[str, bool], None] = lambda name, kept: None,
) -> EncodedManifest:
    """Writes what is missing of a directory.

    Args:
      directory: made if need be.
      plan: the manifest without its shards.
      clips_of: given the number of a source's shard and what writes bytes, writes all its clips, the flipped one behind
        each where there is one; returns how many (flipped ones not counted) each record gave.
      on_written: called with the name of each file, and whether it was there already.

    Returns:
      The finished manifest.

    Raises:
      ShardError: the directory holds something else or something damaged, another process is writing there, or the
        disk is full.
    """
    parts = directory / PARTS_NAME
    parts.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        _agree(directory, plan)
        shards = []
        for number in range(len(plan.sources)):
            name = file_name(number, len(plan.sources))
            part = parts / f"{Path(name).stem}.json"
            shard = _finished(directory, name, part)
            on_written(name, shard is not None)
            if shard is None:
                (directory / MANIFEST_NAME).unlink(missing_ok=True)  # the directory is unfinished again
                shard = _write_file(directory / name, functools.partial(clips_of, number))
                _save(part, json.dumps(vars(shard)))
            shards.append(shard)
        manifest = dataclasses.replace(plan, shards=tuple(shards))
        _save(directory / MANIFEST_NAME, manifest.to_json())
    return manifest


def _agree(directory: Path, plan: EncodedManifest) -> None:
    """Keeps the plan in the directory; ShardError where another one is there."""
    kept = directory / PARTS_NAME / PLAN_NAME
    if not kept.is_file():
        _save(kept, plan.to_json())
        return
    there = EncodedManifest.read(kept)
    if there.to_json() != plan.to_json():
        wrong = there.differences(plan.facts)
        ours, theirs = json.loads(plan.to_json()), json.loads(there.to_json())
        others = [name for name in ours if ours[name] != theirs[name] and name != "facts"]
        wrong += [f"{name} is not the same" for name in others]
        raise ShardError(
            f"{directory} was begun with another tower, sight or data:\n  "
            + "\n  ".join(wrong)
            + "\n-> set them as they were to go on, or encode into another directory"
        )


def _finished(directory: Path, name: str, part: Path) -> EncodedShard | None:
    """A file that is there whole, as its part says; None where it is not; ShardError where the part is damaged."""
    if not part.is_file():
        return None
    try:
        values = json.loads(part.read_text(encoding="utf-8"))
        shard = EncodedShard(**{**values, "pieces": tuple(values["pieces"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{part} is damaged ({error!r}): {_REMEDY}") from error
    path = directory / name
    return shard if path.is_file() and path.stat().st_size == shard.size_bytes else None


def _write_file(path: Path, clips: Callable[[Callable[[bytes], None]], tuple[int, ...]]) -> EncodedShard:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with array_record_file(temporary, path.name) as write:
            pieces = clips(write)
        with disk_has_room(path.name):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            shard = EncodedShard(path.name, pieces, temporary.stat().st_size, sha256_of(temporary))
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return shard


def _save(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    with disk_has_room(path.name):
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
