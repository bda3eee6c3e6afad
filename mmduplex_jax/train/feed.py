"""Batches on the devices before the step asks for them, each with the iterator's state after it."""

import dataclasses
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from data_pipelines.samples import is_corrupt
from mmduplex_jax.train.task import Batch


class DataError(RuntimeError):
    """The loader gave something else than the task takes, or nothing."""


@dataclasses.dataclass(frozen=True)
class Fed:
    """One batch.

    Attributes:
      batch: the task's arrays, on the devices.
      index: int64 `[B]` on the host, the records in it (of this process); None where the loader names none.
      corrupt: bool `[B]`, on the devices as the batch is: samples whose record could not be read.
      iterator_state: JSON of the data iterator's state right after this batch. The iterator itself runs ahead, so a
        checkpoint must take this one.
    """

    batch: Batch
    index: np.ndarray | None
    corrupt: jax.Array
    iterator_state: str


class Feed:
    """Iterates `Fed` batches, read and transferred by a thread that stays at most `depth` ahead.

    Args:
      data: a checkpointable iterator (`get_state`) of dicts of NumPy arrays.
      example: the arrays that go to the devices and their global shapes.
      sharding: how each lies on the mesh.
      depth: batches that wait on the devices.
    """

    def __init__(self, data: Any, example: Mapping[str, jax.ShapeDtypeStruct], sharding: NamedSharding, depth: int = 2):
        self._data, self._example, self._sharding = data, example, sharding
        self._ready: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        while self._thread.is_alive():
            # The thread may stand at a full queue; what it put there is of no use any more.
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(timeout=0.05)

    def __iter__(self) -> Iterator[Fed]:
        return self

    def __next__(self) -> Fed:
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                self._ready.put(self._read())
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is asked for
            self._ready.put(error)

    def _read(self) -> Fed:
        try:
            arrays = next(self._data)
        except StopIteration:
            raise DataError("the data ended before the last step: make the loader repeat") from None
        # Grain may go on changing the state it returns; JSON is a copy.
        state = json.dumps(self._data.get_state())
        batch = {}
        for name, wanted in self._example.items():
            if name not in arrays:
                raise DataError(f"the task takes {name!r} and the loader gives only {sorted(arrays)}")
            local = (wanted.shape[0] // jax.process_count(), *wanted.shape[1:])
            array = arrays[name]
            if array.shape != local or array.dtype != wanted.dtype:
                raise DataError(
                    f"batch[{name!r}] is {array.dtype}{list(array.shape)} and the task takes "
                    f"{wanted.dtype}{list(local)}: do config.data, config.clock and config.frame_px fit the shards?"
                )
            batch[name] = jax.make_array_from_process_local_data(self._sharding, array, wanted.shape)
        index = arrays.get("index")
        rows = next(iter(self._example.values())).shape[0]
        corrupt = np.zeros(rows // jax.process_count(), bool) if index is None else is_corrupt(index)
        placed = jax.make_array_from_process_local_data(self._sharding, corrupt, (rows,))
        return Fed(batch, index, placed, state)
