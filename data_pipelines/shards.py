"""ArrayRecord shards: written by many processes, resumable, and read back by number with errors that name the place."""

import contextlib
import dataclasses
import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
from array_record.python import array_record_module

from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.manifest import MANIFEST_NAME, Manifest, Shard, ShardError, sha256_of
from data_pipelines.schema import Record, encode_record
from data_pipelines.sources import Rejected, Source

__all__ = [
    "ImageFormat",
    "Manifest",
    "Shard",
    "ShardDataset",
    "ShardError",
    "WriteReport",
    "open_dataset",
    "write_shards",
]

# One record a group, so that a random read touches one record; JPEG gains nothing from compression.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """How frames are stored, see `images.encode_frames`."""

    format: str = "jpeg"
    quality: int = 92


@dataclasses.dataclass(frozen=True)
class WriteReport:
    """What a call of `write_shards` did.

    Attributes:
      manifest: of the finished directory.
      written: names of the shards that this call wrote.
      kept: names of those that were there.
      damaged: names of those that were there and did not match the manifest; they are also in `written`.
    """

    manifest: Manifest
    written: tuple[str, ...]
    kept: tuple[str, ...]
    damaged: tuple[str, ...]


def write_shards(
    source: Source,
    directory: str | Path,
    *,
    config: dict[str, Any],
    units_per_shard: int,
    image: ImageFormat = ImageFormat(),
    workers: int = 1,
    verify: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> WriteReport:
    """Writes a source's records as shards and a manifest.

    A shard is written under a temporary name and renamed when it is whole; the manifest lists it from then on. A call
    that was killed is simply repeated: it keeps what the manifest lists and writes the rest, and the bytes are those
    that an undisturbed call would have written, with any number of workers.

    Args:
      source: the items.
      directory: made if it is not there.
      config: JSON values that the data is built from; a directory built from others is refused.
      units_per_shard: units a shard.
      image: how frames are stored.
      workers: processes; with 1 this process does it alone.
      verify: reads every shard that is there and compares its hash, instead of its length only.
      on_progress: called now and then, and at the end, with items done (kept shards included) and items in all.

    Raises:
      ShardError: the directory holds other data, is in use, or a worker process died.
      ValueError: a count is not positive, or the source is empty.
    """
    if units_per_shard < 1 or workers < 1:
        raise ValueError(f"units_per_shard and workers must be positive, got {units_per_shard} and {workers}")
    if len(source) < 1:
        raise ValueError("the source has no items, there is nothing to write")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    num_shards = -(-len(source) // units_per_shard)
    plan = Manifest(config=config, source=source.describe(), clock=source.clock, num_shards=num_shards)
    ranges = {
        f"shard-{shard:05d}-of-{num_shards:05d}.arrayrecord": (
            shard * units_per_shard,
            min((shard + 1) * units_per_shard, len(source)),
        )
        for shard in range(num_shards)
    }
    with _locked(directory):
        manifest, damaged = _resume(directory, plan, verify)
        kept = tuple(shard.name for shard in manifest.shards)
        done = sum(ranges[name][1] - ranges[name][0] for name in kept)
        tell = on_progress or (lambda *_: None)
        tell(done, len(source))
        todo = {name: span for name, span in ranges.items() if name not in kept}
        for shard in _write_all(source, directory, todo, image, workers, lambda new: tell(done + new, len(source))):
            manifest = manifest.with_shard(shard)
            manifest.save(directory)
        tell(len(source), len(source))
    return WriteReport(manifest, tuple(todo), kept, damaged)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the directory; the system lets go when the process ends, however it ends."""
    with open(directory / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"another process is writing shards into {directory}: wait for it or end it") from error
        yield


def _resume(directory: Path, plan: Manifest, verify: bool) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with the shards that can be kept, and the names of the damaged ones."""
    for leftover in directory.glob(".shard-*"):
        leftover.unlink()
    if not (directory / MANIFEST_NAME).exists():
        if any(directory.glob("*.arrayrecord")):
            raise ShardError(f"{directory} holds ArrayRecord files but no {MANIFEST_NAME}: choose another directory")
        plan.save(directory)
        return plan, ()
    there = Manifest.load(directory)
    differences = there.differences(plan)
    if differences:
        raise ShardError(
            f"{directory} holds data of another configuration; choose another directory or delete this one:\n  "
            + "\n  ".join(differences)
        )
    damaged = tuple(shard.name for shard in there.shards if shard.damage(directory, read_all=verify) is not None)
    if damaged:
        there = dataclasses.replace(there, shards=tuple(one for one in there.shards if one.name not in damaged))
        there.save(directory)
    return there, damaged


def _write_all(
    source: Source,
    directory: Path,
    todo: dict[str, tuple[int, int]],
    image: ImageFormat,
    workers: int,
    on_items: Callable[[int], None],
) -> Iterator[Shard]:
    if workers == 1 or len(todo) < 2:
        items = 0

        def count() -> None:
            nonlocal items
            items += 1
            on_items(items)

        for name, (begin, end) in todo.items():
            yield _write_shard(source, directory, name, begin, end, image, count)
        return
    # Fresh processes: a fork would copy the locks of threads that JAX or OpenCV may have started in this one.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_start_worker, initargs=(source, counter)
    )
    try:
        futures: set[Future[Shard]] = {
            pool.submit(_write_shard_in_worker, directory, name, begin, end, image)
            for name, (begin, end) in todo.items()
        }
        while futures:
            finished, futures = wait(futures, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            on_items(counter.value)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise ShardError(
            "a worker process died, out of memory perhaps. Finished shards are kept: run the same command again, "
            "with fewer workers if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker_source: Source
_worker_counter: Any


def _start_worker(source: Source, counter: Any) -> None:
    global _worker_source, _worker_counter
    _worker_source, _worker_counter = source, counter
    cv2.setNumThreads(1)  # the workers already use every core
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard_in_worker(directory: Path, name: str, begin: int, end: int, image: ImageFormat) -> Shard:
    def count() -> None:
        with _worker_counter.get_lock():
            _worker_counter.value += 1

    return _write_shard(_worker_source, directory, name, begin, end, image, count)


def _write_shard(
    source: Source,
    directory: Path,
    name: str,
    begin: int,
    end: int,
    image: ImageFormat,
    on_item: Callable[[], None],
) -> Shard:
    temporary = directory / f".{name}.{os.getpid()}"
    writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
    keys: set[str] = set()
    rejected: list[tuple[str, str, str]] = []
    records = ticks = words = longest_ticks = frame_px = units = 0
    last_unit = -1
    try:
        for unit, key, item in source.items(begin, end):
            if unit not in range(begin, end) or unit < last_unit:
                raise ShardError(f"{name}: unit {unit} came after {last_unit} when {begin}..{end - 1} were asked for")
            units += unit != last_unit
            last_unit = unit
            if key in keys:
                raise ShardError(f"{name}: the source gave the key {key!r} twice; a key names one record")
            keys.add(key)
            if isinstance(item, Rejected):
                rejected.append((key, item.cause, item.detail))
            else:
                _check_like_the_others(name, source, item, frame_px)
                writer.write(encode_record(item, image.format, image.quality))
                records += 1
                ticks += item.num_ticks
                words += len(item.words)
                longest_ticks = max(longest_ticks, item.num_ticks)
                frame_px = item.frame_px
            on_item()
        writer.close()
        if units != end - begin:
            raise ShardError(f"{name}: the source gave items of {units} of the units {begin}..{end - 1}")
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        shard = Shard(
            name=name,
            records=records,
            size_bytes=temporary.stat().st_size,
            sha256=sha256_of(temporary),
            ticks=ticks,
            words=words,
            longest_ticks=longest_ticks,
            frame_px=frame_px,
            rejected=tuple(rejected),
        )
        os.replace(temporary, directory / name)
    finally:
        temporary.unlink(missing_ok=True)
    return shard


def _check_like_the_others(name: str, source: Source, record: Record, frame_px: int) -> None:
    if record.clock != source.clock:
        raise ShardError(f"{name}: record {record.key!r} has {record.clock}, its source {source.clock}")
    if frame_px and record.frame_px != frame_px:
        raise ShardError(f"{name}: record {record.key!r} has frames of {record.frame_px} px, others {frame_px}")
