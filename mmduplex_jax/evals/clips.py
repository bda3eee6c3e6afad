"""The clips that are evaluated on: new ones of the built-in world, or prepared shards."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_pipelines.dataset import open_dataset
from data_pipelines.schema import Record
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig

# Clips that are made while others are decoded: two batches of the usual size.
_AHEAD = 64


def world_records(config: WorldConfig, seed: int, clips: int) -> Iterator[Record]:
    """Clips `0 … clips - 1` of a seed, in order, made by a thread a little ahead of whoever asks for them.

    A clip takes some hundredths of a second, less than a model needs to watch it, so one thread is enough.
    """
    source = WorldSource(config, seed, clips)

    def make(index: int) -> Record:
        (item,) = source.items(index, index + 1)
        assert isinstance(item.content, Record)  # the world rejects nothing
        return item.content

    made: deque[Future[Record]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="world") as thread:
        try:
            for index in range(clips):
                made.append(thread.submit(make, index))
                if len(made) > _AHEAD:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for future in made:  # nobody wants them if the caller stops early
                future.cancel()


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
