"""The clips that are evaluated on: new ones of the built-in world, or prepared shards."""

import collections
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from data_pipelines.dataset import open_dataset
from data_pipelines.schema import Record
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig

# Below this many clips, making them takes less time than starting processes.
_FEW = 8


def world_records(config: WorldConfig, seed: int, clips: int, processes: int | None = None) -> Iterator[Record]:
    """Clips `0 … clips - 1` of a seed, made as they are asked for and a little ahead, in order.

    Args:
      config: of the world.
      seed: no config trains on the default of `launch.evaluate`, so its clips are new to every model.
      clips: how many.
      processes: that make them; None: one a core that this process may use.
    """
    processes = processes or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if clips < _FEW or processes == 1:
        yield from (world_record(config, seed, index) for index in range(clips))
        return
    ahead = 8 * processes  # enough that nobody waits while a batch is decoded, and no more memory than that
    # Not forked: JAX has threads, and a fork of them may hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        made: collections.deque[Future[Record]] = collections.deque()
        try:
            for index in range(clips):
                made.append(pool.submit(world_record, config, seed, index))
                if len(made) >= ahead:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for future in made:
                future.cancel()


def world_record(config: WorldConfig, seed: int, index: int) -> Record:
    """One clip of the world as a record."""
    ((_, record),) = WorldSource(config, seed, index + 1).records(index, index + 1)
    return record


def shard_records(folder: str | Path, seed: int, clips: int) -> tuple[int, Iterator[Record]]:
    """Up to `clips` records of a prepared folder, chosen by `seed`, in the order in which they lie there.

    Returns:
      How many there are, and the records.

    Raises:
      ShardError: the folder holds no shards, or damaged ones.
    """
    dataset = open_dataset(folder)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:clips])
    return len(chosen), (dataset[int(index)] for index in chosen)
