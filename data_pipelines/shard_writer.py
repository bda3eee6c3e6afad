"""One shard: written from its units by whatever process, whole or not at all."""

import contextlib
import dataclasses
import errno
import itertools
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

from data_pipelines.images import check_format
from data_pipelines.manifest import Shard, ShardError, sha256_of
from data_pipelines.parts import RejectedItem, save_part, shard_name
from data_pipelines.schema import Record, encode_record
from data_pipelines.sources import Item, Rejected, Source

# One record a group, so that a random read touches one record; pictures gain nothing from compression.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# uint8 [T, px, px, 3] -> int8 [T, Y, X, 4], a function of the frames alone; picklable.
Motion = Callable[[np.ndarray], np.ndarray]
# Called with units that are finished and ticks that are written since the last call.
OnWritten = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """How frames are stored, see `images.encode_frames`; ValueError for what is not possible."""

    format: str = "jpeg"
    quality: int = 92

    def __post_init__(self):
        check_format(self.format, self.quality)  # now, and not after the first video, which may be long


class Task(NamedTuple):
    """A shard that is to be written: the units `begin..end-1`, as file `number` of `num_shards`."""

    number: int
    num_shards: int
    begin: int
    end: int

    @property
    def name(self) -> str:
        return shard_name(self.number, self.num_shards)


def write_one_shard(
    source: Source,
    directory: Path,
    number: int,
    num_shards: int,
    begin: int,
    end: int,
    image: ImageFormat,
    motion: Motion | None = None,
    on_written: OnWritten = lambda units, ticks: None,
) -> Shard:
    """Writes the units `begin..end-1` of a source as shard `number` of `num_shards`, and its part.

    The file has a temporary name until it is whole and on the disk; its part in `parts` follows. Two processes may do
    the same shard at once, as Beam may have it: their bytes are the same.

    Args:
      source: gives the items.
      directory: exists, and `parts` in it; every process must see it.
      number: of the shard.
      num_shards: in all.
      begin: the first unit.
      end: one past the last.
      image: how frames are stored.
      motion: computes the field that is stored with every record.
      on_written: told of each finished unit and each record.

    Raises:
      ShardError: the source breaks its promises, or the disk is full.
    """
    name = shard_name(number, num_shards)
    temporary = directory / f".{name}.{uuid.uuid4().hex}.tmp"
    keys: set[str] = set()
    rejected: list[RejectedItem] = []
    records = ticks = words = longest_ticks = frame_px = 0
    try:
        with _writer(temporary, name) as write:
            for item in _items(source, begin, end, name, on_written):
                if item.key in keys:
                    raise ShardError(f"{name}: the source gave the key {item.key!r} twice; a key names one item")
                keys.add(item.key)
                if isinstance(item.content, Rejected):
                    rejected.append(RejectedItem(item.key, item.content.cause, item.content.detail))
                    continue
                record = item.content
                _check_like_the_others(name, source, item.key, record, frame_px)
                if motion is not None:
                    record = dataclasses.replace(record, motion=motion(record.frames))
                write(encode_record(record, image.format, image.quality))
                records += 1
                ticks += record.num_ticks
                words += len(record.words)
                longest_ticks = max(longest_ticks, record.num_ticks)
                frame_px = record.frame_px
                on_written(0, record.num_ticks)
        with _room_for(name):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            shard = Shard(
                name=name,
                units=end - begin,
                records=records,
                size_bytes=temporary.stat().st_size,
                sha256=sha256_of(temporary),
                ticks=ticks,
                words=words,
                longest_ticks=longest_ticks,
                frame_px=frame_px,
                rejected=dict(sorted(Counter(item.cause for item in rejected).items())),
            )
            os.replace(temporary, directory / name)
            save_part(directory, shard, rejected)
    finally:
        temporary.unlink(missing_ok=True)
    return shard


def full_disk(name: str, error: Exception) -> ShardError:
    """What to say when a file could not be written for want of room."""
    return ShardError(
        f"{name} could not be written ({error}). Finished shards are kept: make room, or mend what it says, and run "
        "the same command again"
    )


def is_full_disk(error: OSError) -> bool:
    """Whether the file system, a quota or a limit leaves no room."""
    return error.errno in _NO_ROOM


def _items(source: Source, begin: int, end: int, name: str, on_written: OnWritten) -> Iterator[Item]:
    """The source's items, once it is sure that no unit is left out; tells of each unit when it is finished."""
    due = begin
    for unit, items in itertools.groupby(source.items(begin, end), key=lambda item: item.unit):
        if unit != due or unit >= end:
            wanted = f"unit {due} was due" if due < end else f"{begin}..{end - 1} were asked for"
            raise ShardError(f"{name}: the source gave an item of unit {unit} where {wanted}")
        yield from items
        due += 1
        on_written(1, 0)
    if due != end:
        raise ShardError(f"{name}: the source gave no item of unit {due}; every unit gives a record or says why not")


@contextlib.contextmanager
def _writer(path: Path, name: str) -> Iterator[Callable[[bytes], None]]:
    """Appends to an ArrayRecord file, which is whole when this ends."""
    try:
        writer: Any = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    except RuntimeError as error:
        raise full_disk(name, error) from error

    def write(data: bytes) -> None:
        try:
            writer.write(data)
        except RuntimeError as error:  # of an earlier record, as a rule: the writer is some records behind
            raise full_disk(name, error) from error

    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the file is thrown away; the first error is the one to tell
            writer.close()
        raise
    try:
        writer.close()
    except RuntimeError as error:
        raise full_disk(name, error) from error


@contextlib.contextmanager
def _room_for(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(name, error) from error
        raise


def _check_like_the_others(name: str, source: Source, key: str, record: Record, frame_px: int) -> None:
    if record.key != key:
        raise ShardError(f"{name}: record {record.key!r} came as item {key!r}; a record's key is its item's")
    if record.clock != source.clock:
        raise ShardError(f"{name}: record {record.key!r} has {record.clock}, its source {source.clock}")
    if frame_px and record.frame_px != frame_px:
        raise ShardError(f"{name}: record {record.key!r} has frames of {record.frame_px} px, others {frame_px}")
