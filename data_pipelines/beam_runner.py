"""Shards written by Apache Beam, on one machine or on many that share a file system."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from data_pipelines.manifest import PARTS_NAME, Shard, ShardError, load_part
from data_pipelines.shards import OnWritten, ShardWriter, Task

_POLL_S = 2.0
# By this name Beam fetches another runner over the network where it can, which heeds none of the options --direct_...
_RUNNERS = {"DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}


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
    try:
        import apache_beam as beam  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from apache_beam.options.pipeline_options import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            PipelineOptions,
        )
    except ImportError as error:
        raise ShardError(
            f'--runner={runner} needs Apache Beam, which is not installed ({error}): pip install "mmduplex-jax[data]"'
        ) from error

    place = writer.directory
    logging.getLogger("apache_beam").setLevel(logging.WARNING)  # it tells each step of each worker
    pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={_RUNNERS.get(runner, runner)}", *options]))
    (
        pipeline
        | "shards" >> beam.Create([tuple(task) for task in todo])
        | "spread" >> beam.Reshuffle()
        | "write" >> beam.Map(_WriteInWorker(writer))
    )
    with _watched(place, todo, on_written):
        try:
            state = pipeline.run().wait_until_finish()
        except RuntimeError as error:  # what Beam makes of its workers' errors
            # Its message ends with the worker's error, after the worker's traceback, which stays in this one's.
            last = (str(error).strip() or repr(error)).splitlines()[-1]
            raise ShardError(f"the pipeline of {runner} failed: {last}") from error
    if state != "DONE":
        raise ShardError(f"the pipeline of {runner} ended as {state}; run the same command again to go on")
    for task in todo:
        part = load_part(place, task.name)
        if part is None:
            raise ShardError(
                f"{task.name} was written by a worker of {runner}, but not into {place} as this process sees it: "
                "--out must lie on a file system that all machines mount in the same place"
            )
        yield part.shard


@dataclasses.dataclass(frozen=True)
class _WriteInWorker:
    """Writes a task's shard; pickled to get to the workers. Beam wants no arguments but the task."""

    writer: ShardWriter

    def __call__(self, task: tuple[int, int, int, int]) -> int:
        cv2.setNumThreads(1)  # the workers already use every core
        self.writer.write(Task(*task))
        return task[0]


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
