"""A dataset that one of our builders made, as records by number for the loader."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.manifest import ShardError
from data_pipelines.schema import Record
from data_pipelines.tfds_builders.record_example import features_of, record_of
from data_pipelines.tfds_builders.source_builder import SPLIT
from mmduplex_jax.clock import Clock

_REMEDY = "delete the dataset and build it again"


class TfdsRecords:
    """Records by number, as `dataset.RecordSource` has them: `make_loader(TfdsRecords(DIR), ...)`.

    Attributes:
      directory: of the dataset's version, `data_dir/NAME/CONFIG/VERSION`.
      clock: of every record.
      longest_ticks: of the longest record.
      frame_px: side of every record's frames.
      rejected: how many inputs gave no record, by cause.
    """

    def __init__(self, directory: str | os.PathLike[str], split: str = SPLIT):
        """Opens a dataset.

        Args:
          directory: as `Builder(...).data_path` says it.
          split: also a part of one, as "train[:90%]".

        Raises:
          ShardError: it holds no finished dataset of our builders, or none of this split.
        """
        self.directory = Path(directory)
        try:
            builder = tfds.builder_from_directory(self.directory)
            self._source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise ShardError(
                f"{self.directory} holds no split {split!r} of a dataset of tfds: build it as "
                f"data_pipelines/tfds_builders/__init__.py says ({error})"
            ) from error
        metadata: Any = builder.info.metadata or {}
        if not {"clock", "longest_ticks", "rejected"} <= metadata.keys():
            raise ShardError(f"{self.directory} was not built by a builder of data_pipelines/tfds_builders")
        self.clock = Clock(**metadata["clock"])
        self.longest_ticks = int(metadata["longest_ticks"])
        self.rejected: dict[str, int] = dict(metadata["rejected"])
        self._flip_safe = bool(metadata.get("flip_safe", False))
        image = builder.info.features["frames"].feature
        self.frame_px = int(image.shape[0])
        self._features = features_of(self.frame_px, image.encoding_format, pictures=False)
        self._key = tfds.features.FeaturesDict({"key": tfds.features.Text()})

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int, ticks: Callable[[int], range] | None = None) -> Record:
        """A record.

        Args:
          index: its number.
          ticks: of the record's number of ticks, gives those whose frames are wanted; others may be black.

        Raises:
          ShardError: it is damaged; says where.
          IndexError: there is no such record.
        """
        example = self._example(index, self._features)
        try:
            return record_of(example, None if ticks is None else ticks(len(example["frames"])))
        except ValueError as error:
            raise ShardError(f"{self._place(index)}: {error}; {_REMEDY}") from error

    def key(self, index: int) -> str:
        """A record's key, its frames left as they are; errors as `read` has them."""
        return self._example(index, self._key)["key"].decode("utf-8")

    def flip_safe(self, index: int) -> bool:
        """Whether a record may be flipped: its source said so."""
        return self._flip_safe

    def _example(self, index: int, features: tfds.features.FeaturesDict) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.directory}: there are {len(self)}")
        try:
            return features.deserialize_example_np(self._source[index])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ShardError(f"{self._place(index)} cannot be read ({error}); {_REMEDY}") from error

    def _place(self, index: int) -> str:
        return f"{self.directory}, record {index}"
