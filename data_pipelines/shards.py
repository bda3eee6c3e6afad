"""ArrayRecord shards: written by many processes or machines, resumable, whole in their number."""

import contextlib
import dataclasses
import fcntl
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.manifest import MANIFEST_NAME, Manifest, Shard, ShardError
from data_pipelines.orphans import end_with_parent
from data_pipelines.parts import finish, resume
from data_pipelines.shard_writer import ImageFormat, Motion, OnWritten, Task, full_disk, is_full_disk, write_one_shard
from data_pipelines.sources import Source

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
    number of workers, on any number of machines.

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
    with _locked(directory), _room(directory):
        finished, damaged = resume(directory, plan, verify=verify, threads=workers)
        kept = tuple(task.name for task in tasks if task.name in finished)
        todo = [task for task in tasks if task.name not in finished]
        units, ticks = sum(shard.units for shard in finished.values()), 0

        def count(new_units: int, new_ticks: int) -> None:
            nonlocal units, ticks
            units, ticks = units + new_units, ticks + new_ticks
            on_progress(Progress(units, num_units, ticks * source.clock.tick_s))

        count(0, 0)
        if todo:
            (directory / MANIFEST_NAME).unlink(missing_ok=True)  # the directory is unfinished again
        for shard in _write_all(source, directory, todo, image, motion, workers, runner, runner_options, count):
            finished[shard.name] = shard
        manifest = finish(directory, plan, finished)
        count(0, 0)
    return WriteReport(manifest, tuple(task.name for task in todo), kept, damaged)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the directory; the system lets go when the process ends, however it ends."""
    with open(directory / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"another process is writing shards into {directory}: wait for it or end it") from error
        yield


@contextlib.contextmanager
def _room(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(str(error.filename or directory), error) from error
        raise


def _write_all(
    source: Source,
    directory: Path,
    todo: list[Task],
    image: ImageFormat,
    motion: Motion | None,
    workers: int,
    runner: str | None,
    runner_options: Sequence[str],
    on_written: OnWritten,
) -> Iterator[Shard]:
    if not todo:
        return
    if runner is not None:
        from data_pipelines.beam_runner import write_by_beam

        yield from write_by_beam(source, directory, todo, image, motion, runner, runner_options, on_written)
    elif workers == 1 or len(todo) == 1:
        for task in todo:
            yield write_one_shard(source, directory, *task, image, motion, on_written)
    else:
        yield from _write_by_processes(source, directory, todo, image, motion, workers, on_written)


def _write_by_processes(
    source: Source,
    directory: Path,
    todo: list[Task],
    image: ImageFormat,
    motion: Motion | None,
    workers: int,
    on_written: OnWritten,
) -> Iterator[Shard]:
    # Fresh processes: a fork would copy the locks of threads that JAX or OpenCV may have started in this one.
    context = multiprocessing.get_context("spawn")
    written, stop = context.Array("q", 2), context.Event()
    told_units = told_ticks = 0
    workers = min(workers, len(todo))
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(source, image, motion, written, stop)
    )
    waiting = iter(todo)
    running: set[Future[Shard]] = set()
    try:
        while True:
            # A few ahead of the workers and no more: each wait looks at all that were handed in.
            for task in waiting:
                with _workers_deaf_to_ctrl_c():
                    running.add(pool.submit(_write_in_worker, directory, task))
                if len(running) >= 2 * workers:
                    break
            if not running:
                return
            finished, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            units, ticks = written[:]
            on_written(units - told_units, ticks - told_ticks)
            told_units, told_ticks = units, ticks
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
def _workers_deaf_to_ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. Those started in here never hear it; this one does, afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(Exception):
    """The parent has given up, so its workers do."""


_worker_inputs: tuple[Source, ImageFormat, Motion | None]
_worker_written: Any
_worker_stop: Any


def _start_worker(source: Source, image: ImageFormat, motion: Motion | None, written: Any, stop: Any) -> None:
    global _worker_inputs, _worker_written, _worker_stop
    _worker_inputs, _worker_written, _worker_stop = (source, image, motion), written, stop
    cv2.setNumThreads(1)  # the workers already use every core
    end_with_parent()


def _write_in_worker(directory: Path, task: Task) -> Shard:
    def count(units: int, ticks: int) -> None:
        if _worker_stop.is_set():
            raise _Stopped
        with _worker_written.get_lock():
            _worker_written[0] += units
            _worker_written[1] += ticks

    source, image, motion = _worker_inputs
    return write_one_shard(source, directory, *task, image, motion, count)
