"""ArrayRecord shards: written by many processes or machines, resumable, whole in their number."""

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import multiprocessing
import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from array_record.python import array_record_module

from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.images import check_format
from data_pipelines.manifest import (
    MANIFEST_NAME,
    FilesChange,
    KeptUnit,
    Manifest,
    NotedItem,
    Part,
    RejectedItem,
    Shard,
    ShardError,
    UnitPart,
    finish,
    resume,
    save_part,
    sha256_of,
    shard_name,
)
from data_pipelines.schema import Record, encode_record
from data_pipelines.sources import Item, Listing, Rejected, Source, Unit
from data_pipelines.worker_process import start_worker
from mmduplex_jax.frame_size import StoredSize, frame_size, size_text, stored_size

__all__ = [
    "ImageFormat",
    "Manifest",
    "Progress",
    "Shard",
    "ShardDataset",
    "ShardError",
    "WriteReport",
    "open_dataset",
    "write_shards",
]

_POLL_S = 0.2
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


_DEFAULT_IMAGE = ImageFormat()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a call of `write_shards` is.

    Attributes:
      units: finished, those of kept shards included.
      num_units: in all.
      written_s: seconds of video that this call has written.
    """

    units: int
    num_units: int
    written_s: float


@dataclasses.dataclass(frozen=True)
class WriteReport:
    """What a call of `write_shards` did.

    Attributes:
      manifest: of the finished directory.
      written: names of the shards that this call wrote.
      kept: names of those that were there.
      damaged: names of those that were there and were not as they had been written; they are also in `written`.
      change: of the source's files since they were written; None where they are the same.
    """

    manifest: Manifest
    written: tuple[str, ...]
    kept: tuple[str, ...]
    damaged: tuple[str, ...]
    change: FilesChange | None = None


def write_shards(
    source: Source,
    directory: str | Path,
    *,
    config: dict[str, Any],
    units_per_shard: int,
    image: ImageFormat = _DEFAULT_IMAGE,
    workers: int = 1,
    verify: bool = False,
    motion: Motion | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> WriteReport:
    """Writes a source's records as shards, with rejected.jsonl, summary.json and manifest.json about them all.

    A shard is written under a temporary name and renamed when it is whole, and then its part in `parts` says that it is
    finished; the files about them all follow when every shard is. A call that was killed is simply repeated: it keeps
    what is finished and writes the rest, and the bytes are those that an undisturbed call would have written, with any
    number of workers, on any number of machines. Where only the files of the source have changed since (it is a
    `sources.Listing`), what was prepared of the others is taken over as it is.

    Args:
      source: the units.
      directory: made if it is not there.
      config: JSON values that the data is built from, image and motion included; a directory of others is refused.
      units_per_shard: units a shard.
      image: how frames are stored.
      workers: processes; with 1 this process does it alone. They also compare hashes.
      verify: reads every shard that is there and compares its hash, instead of its length only.
      motion: computes the motion field that is stored with each record, from its frames; none without it. Picklable.
      runner: writes by Apache Beam with its runner of that name instead; all machines must see `directory`.
      runner_options: for that runner, as on its command line.
      on_progress: called now and then, and at the end.

    Raises:
      ShardError: the directory holds other data or is in use, the disk is full, or a worker process died.
      ValueError: a count is not positive, or the source is empty.
    """
    if units_per_shard < 1 or workers < 1:
        raise ValueError(f"units_per_shard and workers must be positive, got {units_per_shard} and {workers}")
    num_units = len(source)
    if num_units < 1:
        raise ValueError("the source has no units, there is nothing to write")
    num_shards = -(-num_units // units_per_shard)
    plan = Manifest(config, source.describe(), source.clock, num_units, num_shards, flip_safe=source.flip_safe)
    tasks = [
        Task(number, num_shards, number * units_per_shard, min((number + 1) * units_per_shard, num_units))
        for number in range(num_shards)
    ]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    units = tuple(source.units()) if isinstance(source, Listing) else None
    with locked(directory), disk_has_room(str(directory)):
        there = resume(directory, plan, verify=verify, threads=workers, units=units)
        if there.change is not None:
            logging.warning("the files have changed since %s was written: %s", directory, there.change)
        finished = dict(there.finished)
        kept = tuple(task.name for task in tasks if task.name in finished)
        todo = [task for task in tasks if task.name not in finished]
        done_units, ticks = sum(shard.units for shard in finished.values()), 0

        def count(new_units: int, new_ticks: int) -> None:
            nonlocal done_units, ticks
            done_units, ticks = done_units + new_units, ticks + new_ticks
            on_progress(Progress(done_units, num_units, ticks * source.clock.tick_s))

        count(0, 0)
        if todo:
            (directory / MANIFEST_NAME).unlink(missing_ok=True)  # the directory is unfinished again
        writer = ShardWriter(source, directory.resolve(), image, motion, units, there.kept_units)
        for shard in _write_all(writer, todo, workers, runner, runner_options, count):
            finished[shard.name] = shard
        manifest = finish(directory, plan, finished)
        count(0, 0)
    return WriteReport(manifest, tuple(task.name for task in todo), kept, there.damaged, there.change)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory; the system lets go when the process ends, however it ends."""
    with open(directory / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"another process is writing shards into {directory}: wait for it or end it") from error
        yield


def _write_all(
    writer: "ShardWriter",
    todo: list[Task],
    workers: int,
    runner: str | None,
    runner_options: Sequence[str],
    on_written: OnWritten,
) -> Iterator[Shard]:
    if not todo:
        return
    if runner is not None:
        from data_pipelines.beam_runner import write_by_beam

        yield from write_by_beam(writer, todo, runner, runner_options, on_written)
    elif workers == 1 or len(todo) == 1:
        for task in todo:
            yield writer.write(task, on_written)
    else:
        yield from _write_by_processes(writer, todo, workers, on_written)


def _write_by_processes(
    writer: "ShardWriter", todo: list[Task], workers: int, on_written: OnWritten
) -> Iterator[Shard]:
    # Fresh processes: a fork would copy the locks of threads that JAX or OpenCV may have started in this one.
    context = multiprocessing.get_context("spawn")
    written, stop = context.Array("q", 2), context.Event()
    reported_units = reported_ticks = 0
    workers = min(workers, len(todo))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(writer, written, stop))
    waiting = iter(todo)
    running: set[Future[Shard]] = set()
    with _ctrl_c_noted() as raise_if_interrupted:
        try:
            while True:
                raise_if_interrupted()
                # A few ahead of the workers and no more: each wait looks at all that were handed in.
                for task in waiting:
                    with _workers_deaf_to_ctrl_c():
                        running.add(pool.submit(_write_in_worker, task))
                    if len(running) >= 2 * workers:
                        break
                if not running:
                    return
                finished, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                units, ticks = written[:]
                on_written(units - reported_units, ticks - reported_ticks)
                reported_units, reported_ticks = units, ticks
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise ShardError(
                "a worker process died, out of memory perhaps. Finished shards are kept: run the same command again, "
                "with fewer workers if it happens again"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_noted() -> Iterator[Callable[[], None]]:
    """Notes Ctrl-C while it is entered; what it gives raises KeyboardInterrupt if there was one.

    An exception that a signal raises in the middle of what waits for processes leaves a lock held behind it, and then
    the end waits for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread hears signals
        return
    received = threading.Event()

    def raise_if_interrupted() -> None:
        if received.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, lambda *_: received.set())
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _workers_deaf_to_ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. Those started in here never hear it; this one does, afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(Exception):
    """The parent has given up, so its workers do."""


_worker_writer: "ShardWriter"
_worker_written: Any
_worker_stop: Any


def _start_worker(writer: "ShardWriter", written: Any, stop: Any) -> None:
    global _worker_writer, _worker_written, _worker_stop
    _worker_writer, _worker_written, _worker_stop = writer, written, stop
    start_worker()


def _write_in_worker(task: Task) -> Shard:
    def count(units: int, ticks: int) -> None:
        if _worker_stop.is_set():
            raise _Stopped
        with _worker_written.get_lock():
            _worker_written[0] += units
            _worker_written[1] += ticks

    return _worker_writer.write(task, count)


@dataclasses.dataclass
class _Tally:
    """What was written of a shard, or of a unit."""

    records: int = 0
    ticks: int = 0
    words: int = 0
    longest_ticks: int = 0
    frame_px: StoredSize = 0

    def add(self, records: int, ticks: int, words: int, longest_ticks: int, frame_px: StoredSize) -> None:
        self.records += records
        self.ticks += ticks
        self.words += words
        self.longest_ticks = max(self.longest_ticks, longest_ticks)
        self.frame_px = frame_px or self.frame_px


@dataclasses.dataclass(frozen=True)
class ShardWriter:
    """Writes shards, each in whatever process; pickled to get there.

    Attributes:
      source: gives the items.
      directory: exists, and `parts` in it; every process must see it.
      image: how frames are stored.
      motion: computes the field that is stored with every record.
      units: of the source, where it lists them.
      kept_units: by their facts what was prepared of them before, which is taken over.
    """

    source: Source
    directory: Path
    image: ImageFormat
    motion: Motion | None = None
    units: Sequence[Unit] | None = None
    kept_units: Mapping[str, KeptUnit] = dataclasses.field(default_factory=dict)

    def write(self, task: Task, on_written: OnWritten = lambda units, ticks: None) -> Shard:
        """Writes a shard and its part.

        The file has a temporary name until it is whole and on the disk; its part in `parts` follows. Two processes may
        do the same shard at once, as Beam may have it: their bytes are the same.

        Args:
          task: which.
          on_written: called with each finished unit and each record.

        Raises:
          ShardError: the source breaks its promises, or the disk is full.
        """
        name = task.name
        temporary = self.directory / f".{name}.{uuid.uuid4().hex}.tmp"
        contents = _Contents(name, self)
        try:
            with array_record_file(temporary, name) as write:
                kept = [self._kept(unit) for unit in range(task.begin, task.end)]
                for is_kept, run in itertools.groupby(range(len(kept)), key=lambda number: kept[number] is not None):
                    numbers = list(run)
                    if not is_kept:
                        contents.prepare(task.begin + numbers[0], task.begin + numbers[-1] + 1, write, on_written)
                    for unit in kept[numbers[0] : numbers[-1] + 1]:
                        if unit is not None:
                            contents.take_over(unit, write)
                            on_written(1, unit.unit.ticks)
            with disk_has_room(name):
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                shard = Shard(
                    name=name,
                    units=task.end - task.begin,
                    size_bytes=temporary.stat().st_size,
                    sha256=sha256_of(temporary),
                    rejected=dict(sorted(Counter(item.cause for item in contents.rejected).items())),
                    notes=contents.notes_by_cause(),
                    **vars(contents.all),
                )
                os.replace(temporary, self.directory / name)
                save_part(self.directory, Part(shard, contents.rejected, contents.notes, contents.units))
        finally:
            temporary.unlink(missing_ok=True)
        return shard

    def _kept(self, unit: int) -> KeptUnit | None:
        return None if self.units is None else self.kept_units.get(self.units[unit].facts)


class _Contents:
    """What a shard holds, as it is written unit by unit."""

    def __init__(self, name: str, writer: ShardWriter):
        self.rejected: list[RejectedItem] = []
        self.notes: list[NotedItem] = []
        self.units: list[UnitPart] = []
        self.all = _Tally()
        self._name, self._writer = name, writer
        self._keys: set[str] = set()
        self._readers: dict[str, Any] = {}

    def notes_by_cause(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for note in self.notes:
            counts[note.cause] += note.times
        return dict(sorted(counts.items()))

    def take_over(self, kept: KeptUnit, write: Callable[[bytes], None]) -> None:
        """Writes what was prepared of a unit before."""
        reader = self._readers.get(kept.path)
        if reader is None:
            reader = self._readers[kept.path] = array_record_module.ArrayRecordReader(kept.path)
        unit = kept.unit
        for data in reader.read(list(range(kept.first, kept.first + unit.records))) if unit.records else ():
            write(data)
        self.all.add(unit.records, unit.ticks, unit.words, unit.longest_ticks, unit.frame_px)
        self.rejected += kept.rejected
        self.notes += kept.notes
        self.units.append(unit)

    def prepare(self, begin: int, end: int, write: Callable[[bytes], None], on_written: OnWritten) -> None:
        """Writes the records of the units `begin..end-1`; ShardError where the source breaks a promise."""
        due = begin
        for unit, items in itertools.groupby(self._writer.source.items(begin, end), key=lambda item: item.unit):
            if unit != due or unit >= end:
                wanted = f"unit {due} was due" if due < end else f"{begin}..{end - 1} were asked for"
                raise ShardError(f"{self._name}: the source gave an item of unit {unit} where {wanted}")
            self._prepare_unit(unit, items, write, on_written)
            due += 1
            on_written(1, 0)
        if due != end:
            raise ShardError(
                f"{self._name}: the source gave no item of unit {due}; every unit gives a record or says why not"
            )

    def _prepare_unit(
        self, unit: int, items: Iterator[Item], write: Callable[[bytes], None], on_written: OnWritten
    ) -> None:
        name, source = self._name, self._writer.source
        tally, rejected, notes = _Tally(), len(self.rejected), len(self.notes)
        for item in items:
            content = item.content
            self.notes += [NotedItem(item.key, note.cause, note.detail, note.count) for note in item.notes]
            if item.key in self._keys:
                raise ShardError(f"{name}: the source gave the key {item.key!r} twice; a key names one item")
            self._keys.add(item.key)
            if isinstance(content, Rejected):
                self.rejected.append(RejectedItem(item.key, content.cause, content.detail))
                continue
            _check_like_the_others(name, source, item.key, content, self.all.frame_px or tally.frame_px)
            if self._writer.motion is not None:
                content = dataclasses.replace(content, motion=self._writer.motion(content.frames))
            write(encode_record(content, self._writer.image.format, self._writer.image.quality))
            tally.add(1, content.num_ticks, len(content.words), content.num_ticks, stored_size(content.frame_px))
            on_written(0, content.num_ticks)
        self.all.add(**vars(tally))
        if self._writer.units is not None:
            counts = len(self.rejected) - rejected, len(self.notes) - notes
            self.units.append(UnitPart(*self._writer.units[unit], **vars(tally), rejected=counts[0], notes=counts[1]))


def _full_disk(name: str, error: Exception) -> ShardError:
    """What to say when a file could not be written for want of room."""
    return ShardError(
        f"{name} could not be written ({error}). Finished shards are kept: make room, or mend what it says, and run "
        "the same command again"
    )


@contextlib.contextmanager
def array_record_file(path: Path, name: str) -> Iterator[Callable[[bytes], None]]:
    """Appends to an ArrayRecord file, which is whole when this ends."""
    try:
        writer: Any = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    except RuntimeError as error:
        raise _full_disk(name, error) from error

    def write(data: bytes) -> None:
        try:
            writer.write(data)
        except RuntimeError as error:  # of an earlier record, as a rule: the writer is some records behind
            raise _full_disk(name, error) from error

    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the file is thrown away; the first error is the one to tell
            writer.close()
        raise
    try:
        writer.close()
    except RuntimeError as error:
        raise _full_disk(name, error) from error


@contextlib.contextmanager
def disk_has_room(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full_disk(str(error.filename or name), error) from error
        raise


def _check_like_the_others(name: str, source: Source, key: str, record: Record, frame_px: StoredSize) -> None:
    if record.key != key:
        raise ShardError(f"{name}: record {record.key!r} came as item {key!r}; a record's key is its item's")
    if record.clock != source.clock:
        raise ShardError(f"{name}: record {record.key!r} has {record.clock}, its source {source.clock}")
    if frame_px and record.frame_px != frame_size(frame_px):
        sizes = size_text(record.frame_px), size_text(frame_size(frame_px))
        raise ShardError(f"{name}: record {record.key!r} has frames of {sizes[0]}, others of {sizes[1]}")
