"""Reading: a directory of shards as records by number."""

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from array_record.python import array_record_module

from data_pipelines.geometry import shrink_frames
from data_pipelines.manifest import MANIFEST_NAME, Manifest, ShardError, damages
from data_pipelines.schema import Record, RecordError, StoredRecord, decode_record, key_of, stored_record
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize

# Random access: read what is asked for and nothing ahead, in the thread that asks.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
# Each holds a file open, of which a process may have about a thousand. Opening takes a tenth of a millisecond.
_OPEN_READERS = 128
_REMEDY = "delete that file and run the `python -m launch.prepare` that wrote it again: it rewrites what is missing"


class RecordSource(Protocol):
    """Records by number, as the loader wants them; picklable, and read from several threads at once."""

    @property
    def clock(self) -> Clock:
        """The clock of every record."""

    @property
    def longest_ticks(self) -> int:
        """Ticks of the longest record."""

    @property
    def frame_px(self) -> FrameSize:
        """Height and width of every record's frames."""

    def __len__(self) -> int:
        """The number of records."""

    def read(self, index: int, ticks: Callable[[int], range] | None = None) -> Record:
        """A record; ShardError if it cannot be read. Frames outside of `ticks(T)` may be black, see `decode_record`."""

    def key(self, index: int) -> str:
        """A record's key."""

    def flip_safe(self, index: int) -> bool:
        """Whether a record may be flipped left to right: in its words "left" and "right" are sides of the picture."""


class RecordFiles:
    """Files of records with a manifest beside them; each record is read when it is asked for.

    Attributes:
      directory: where the files are.
      manifest: what they are; its `shards` are the files, in order.
    """

    manifest: Any

    def __init__(self, directory: Path, manifest: Any, counts: Iterable[int]):
        """`counts` are the records of each file."""
        self.directory, self.manifest = directory, manifest
        self._ends = list(itertools.accumulate(counts))
        self._open()

    def _open(self) -> None:
        self._readers: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def clock(self) -> Clock:
        return self.manifest.clock

    @property
    def frame_px(self) -> FrameSize:
        return self.manifest.frame_px

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def flip_safe(self, index: int) -> bool:
        """Whether a record may be flipped: its data set's manifest says so."""
        return self.manifest.flip_safe

    def _place(self, index: int) -> tuple[int, int]:
        """A record's file, as its number, and its position in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.directory}: there are {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _reader(self, path: Path) -> Any:
        with self._lock:
            reader = self._readers.get(path.name)
            if reader is not None:
                self._readers.move_to_end(path.name)
                return reader
        reader = array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)
        with self._lock:
            self._readers[path.name] = reader
            if len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)  # closed when the last thread that reads from it is done
        return reader

    def __getstate__(self) -> dict[str, Any]:
        # Readers stay with their process; another one opens its own.
        return {name: value for name, value in self.__dict__.items() if name not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class ShardDataset(RecordFiles):
    """The records of one directory."""

    manifest: Manifest

    def __init__(self, directory: str | Path, *, verify: bool = False):
        """Opens a directory that `write_shards` finished.

        Args:
          directory: with manifest.json.
          verify: reads every shard and compares its hash (a second or so a gigabyte); otherwise only lengths are
            compared here, and each record's checksum when it is read.

        Raises:
          ShardError: the directory is unfinished, or a shard is missing, truncated or (with `verify`) changed.
        """
        manifest = Manifest.load(Path(directory))
        super().__init__(Path(directory), manifest, (shard.records for shard in manifest.shards))
        for name, damage in damages(self.directory, manifest.shards, read_all=verify).items():
            raise ShardError(f"{self.directory / name} {damage}: {_REMEDY}")

    @property
    def longest_ticks(self) -> int:
        return self.manifest.longest_ticks

    def __getitem__(self, index: int) -> Record:
        return self.read(index)

    def read(self, index: int, ticks: Callable[[int], range] | None = None) -> Record:
        """A record, of whose frames only `ticks(T)` are wanted (by default all), see `decode_record`.

        Raises:
          ShardError: it cannot be read; says which file and record.
        """
        data, place = self._read(index)
        try:
            return decode_record(data, ticks)
        except RecordError as error:
            raise ShardError(f"{place}: {error}; {_REMEDY}") from error

    def peek(self, index: int) -> StoredRecord:
        """A record whose frames `draw` decodes, where they are wanted; errors as of `read`, those of frames then."""
        data, place = self._read(index)
        try:
            record, draw = stored_record(data)
        except RecordError as error:
            raise ShardError(f"{place}: {error}; {_REMEDY}") from error

        def draw_or_say_where(out: np.ndarray, ticks: Sequence[int], mirrored: bool) -> None:
            try:
                draw(out, ticks, mirrored)
            except RecordError as error:
                raise ShardError(f"{place}: {error}; {_REMEDY}") from error

        return StoredRecord(record, draw_or_say_where)

    def key(self, index: int) -> str:
        """The key of a record, without decoding its frames."""
        data, place = self._read(index)
        try:
            return key_of(data)
        except RecordError as error:
            raise ShardError(f"{place}: {error}; {_REMEDY}") from error

    def stored(self, index: int) -> bytes:
        """A record as it is stored; errors as of `read`."""
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[bytes, str]:
        """A record's bytes, and its place in words."""
        number, position = self._place(index)
        shard = self.manifest.shards[number]
        path = self.directory / shard.name
        place = f"{path}, record {position} of {shard.records} (number {index} of the dataset)"
        try:
            reader = self._reader(path)
            records = reader.num_records()
            if not reader.ok() or records != shard.records:
                raise ShardError(f"{path} holds {records} records, {MANIFEST_NAME} says {shard.records}: {_REMEDY}")
            return reader.read([position])[0], place
        except RuntimeError as error:  # what array_record raises; ShardError is one and says all there is to say
            if isinstance(error, ShardError):
                raise
            raise ShardError(f"{place} cannot be read ({error}); {_REMEDY}") from error


def peek(source: RecordSource, index: int) -> StoredRecord:
    """A record whose frames are decoded when they are wanted: by a source that has `peek`, or by reading it again."""
    if hasattr(source, "peek"):
        return source.peek(index)

    def draw(out: np.ndarray, ticks: Sequence[int], mirrored: bool) -> None:
        frames = source.read(index, lambda num_ticks: range(min(ticks), max(ticks) + 1)).frames[np.asarray(ticks)]
        out[...] = shrink_frames(frames[:, :, ::-1] if mirrored else frames, (out.shape[1], out.shape[2]))

    return StoredRecord(source.read(index, lambda num_ticks: range(0)), draw)


def open_dataset(directory: str | Path, *, verify: bool = False) -> ShardDataset:
    """The records of a directory of shards by number; see `ShardDataset`."""
    return ShardDataset(directory, verify=verify)
