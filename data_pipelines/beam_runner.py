"""Shards written by Apache Beam, on one machine or on many that share a file system."""

import contextlib
import dataclasses
import logging
import pickle
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from data_pipelines.manifest import PARTS_NAME, Shard, ShardError, load_part
from data_pipelines.shards import OnWritten, ShardWriter, Task

_POLL_S = 2.0
_RUNNERS = {
    # By this name Beam fetches another runner over the network where it can, which heeds none of Direct's own options.
    "DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",  # Beam knows it by no shorter name
}
_SHARE_OUT = "--out must lie on a file system that all machines mount in the same place"


def write_by_beam(
    writer: ShardWriter,
    todo: Sequence[Task],
    runner: str,
    options: Sequence[str],
    on_written: OnWritten,
) -> Iterator[Shard]:
    """Writes the shards of `todo`, each by whichever worker Beam chooses, and yields them when all are written.

    Arguments as `shards.write_shards` has them. `on_written` is called from another thread meanwhile.

    Raises:
      ShardError: Beam is not installed, the pipeline failed, or its workers wrote where this process does not see it.
    """
    on_dask = runner == "DaskRunner"
    errors: tuple[type[Exception], ...] = (RuntimeError,)  # what Beam makes of its workers' errors
    try:
        import apache_beam as beam  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from apache_beam.options.pipeline_options import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            PipelineOptions,
        )

        if on_dask:
            from distributed import KilledWorker  # type: ignore[import-not-found, import-untyped, unused-ignore]

            errors = (RuntimeError, KilledWorker)
    except ImportError as error:
        needs, extra = ("Apache Beam and Dask", "dask") if on_dask else ("Apache Beam", "data")
        raise ShardError(
            f'--runner={runner} needs {needs}, which is not installed ({error}): pip install "mmduplex-jax[{extra}]"'
        ) from error

    place = writer.directory
    for name in ("apache_beam", "distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell each step of each worker
    # Beside the shards and not in the pipeline: it may know of millions of units, and Dask sends it with every task.
    pickled = place / f".writer.{uuid.uuid4().hex}.tmp"
    pipeline = beam.Pipeline(options=PipelineOptions(_options(runner, options)))
    (
        pipeline
        | "shards" >> beam.Create([tuple(task) for task in todo])
        | "spread" >> beam.Reshuffle()
        | "write" >> beam.Map(_WriteInWorker(pickled))
    )
    with _watched(place, todo, on_written):
        try:
            pickled.write_bytes(pickle.dumps(writer))
            state = _run(pipeline)
        except errors as error:
            raise ShardError(f"the pipeline of {runner} failed: {_cause(error)}") from error
        finally:
            pickled.unlink(missing_ok=True)
    if state != "DONE":
        raise ShardError(f"the pipeline of {runner} ended as {state}; run the same command again to go on")
    for task in todo:
        part = load_part(place, task.name)
        if part is None:
            # (Dask calls it done, too, when its scheduler was lost.)
            raise ShardError(
                f"{runner} has ended, but {task.name} is not in {place} as this process sees it. {_SHARE_OUT}; if it "
                "does, the workers were lost: run the same command again to go on"
            )
        yield part.shard
    for leftover in place.glob(".shard-*.tmp"):  # of workers that died: others have written their shards
        leftover.unlink(missing_ok=True)


def _options(runner: str, options: Sequence[str]) -> list[str]:
    """The command line for Beam."""
    # Dask would give 128 shards to a worker as one task.
    divided = any(option.startswith(("--dask_npartitions", "--dask_partition_size")) for option in options)
    divide = ["--dask_partition_size=1"] if runner == "DaskRunner" and not divided else []
    return [f"--runner={_RUNNERS.get(runner, runner)}", *divide, *options]


def _run(pipeline: Any) -> str:
    """Runs a `beam.Pipeline`; returns the state in which it ended."""
    result = pipeline.run()
    try:
        return result.wait_until_finish()
    finally:
        client = getattr(result, "client", None)  # Dask's: what is not done is given up, a cluster of its own ends
        if client is not None:
            client.close()


def _cause(error: Exception) -> str:
    """A line about what went wrong in a worker."""
    if isinstance(error.__cause__, ImportError):
        return f"{error.__cause__}: its scheduler and workers must have the packages and files that this process has"
    # The message ends with the worker's error, after the worker's traceback, which stays in this one's.
    return (str(error).strip() or repr(error)).splitlines()[-1]


@dataclasses.dataclass(frozen=True)
class _WriteInWorker:
    """Writes a task's shard by the `ShardWriter` that is pickled in a file. Beam wants no arguments but the task."""

    pickled: Path

    def __call__(self, task: tuple[int, int, int, int]) -> int:
        cv2.setNumThreads(1)  # the workers already use every core
        _writer_of(self.pickled).write(Task(*task))
        return task[0]


_loaded = threading.local()  # a thread has its own, as nobody promises that a source can be used by several


def _writer_of(pickled: Path) -> ShardWriter:
    if getattr(_loaded, "pickled", None) != pickled:
        try:
            _loaded.writer = pickle.loads(pickled.read_bytes())
        except FileNotFoundError as error:
            raise ShardError(f"a worker does not see {pickled.parent} as it was begun. {_SHARE_OUT}") from error
        _loaded.pickled = pickled
    return _loaded.writer


@contextlib.contextmanager
def _watched(directory: Path, todo: Sequence[Task], on_written: OnWritten) -> Iterator[None]:
    """Tells of the parts that appear meanwhile, from a thread: Beam itself is silent until the end."""
    ended = threading.Event()
    missing = {Path(task.name).stem + ".json": task.name for task in todo}

    def look() -> None:
        for path in [path.name for path in (directory / PARTS_NAME).iterdir() if path.name in missing]:
            part = load_part(directory, missing.pop(path))
            if part is not None:
                on_written(part.shard.units, part.shard.ticks)

    def watch() -> None:
        while not ended.wait(_POLL_S):
            look()

    watcher = threading.Thread(target=watch, name="beam progress")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        look()
