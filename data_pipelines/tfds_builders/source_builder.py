"""A source as a `tensorflow_datasets` builder: the same items as `launch.prepare` writes, in the files of tfds."""

import abc
import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from data_pipelines.schema import SCHEMA_VERSION
from data_pipelines.sources import Item, Rejected, Source
from data_pipelines.tfds_builders.record_example import IMAGE_FORMATS, example_of, features_of

REJECTED_NAME = "rejected.jsonl"
SPLIT = "train"


@dataclasses.dataclass
class SourceConfig(tfds.core.BuilderConfig):
    """What to build: a name for it, and a configuration of `configs/data`.

    Attributes:
      values: the configuration as plain values (`ConfigDict.to_dict()`).
      motion: computes the motion fields that `values` may ask for, see `shards.write_shards`.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    motion: Callable[[np.ndarray], np.ndarray] | None = None


class SourceBuilder(tfds.core.GeneratorBasedBuilder):
    """Builds the records of a source as one split, "train", in ArrayRecord files and in the source's order.

    What is rejected is counted by its cause in the dataset's metadata and listed in rejected.jsonl beside the data.
    """

    VERSION = tfds.core.Version(f"{SCHEMA_VERSION}.0.0")
    DESCRIPTION = ""

    def __init__(self, **arguments: Any):
        """Args: those of `tfds.core.GeneratorBasedBuilder`; `config` must be a SourceConfig."""
        # Of the formats of tfds only ArrayRecord is read by number, and without TensorFlow.
        super().__init__(**({"file_format": "array_record"} | arguments))

    @abc.abstractmethod
    def source(self, values: Mapping[str, Any]) -> Source:
        """The source of a configuration."""

    def _info(self) -> tfds.core.DatasetInfo:
        values = self._values()
        return self.dataset_info_from_configs(
            description=self.DESCRIPTION,
            features=features_of(values["frame_px"], values["image"]["format"]),
            metadata=tfds.core.MetadataDict(),
            # Otherwise examples are stored by the hash of their keys.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        del dl_manager  # the data is on this machine, or where its source reads it
        return {SPLIT: self._generate_examples(self.source(self._values()))}

    def _generate_examples(self, source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
        image, motion = self._values()["image"], self.builder_config.motion
        rejected: collections.Counter[str] = collections.Counter()
        ticks: collections.Counter[int] = collections.Counter()
        notes: collections.Counter[str] = collections.Counter()
        with (self.data_path / REJECTED_NAME).open("w") as file:
            for item in source.items(0, len(source)):
                for note in item.notes:
                    notes[note.cause] += note.count
                if isinstance(item.content, Rejected):
                    rejected[item.content.cause] += 1
                    file.write(_line_of(item, item.content))
                    continue
                record = item.content
                if motion is not None:
                    record = dataclasses.replace(record, motion=motion(record.frames))
                ticks[record.num_ticks] += 1
                yield record.key, example_of(record, image["format"], image["quality"])
        for cause, count in sorted(rejected.items()):
            logging.warning("%s: rejected, %s: %d", self.name, cause, count)
        self.info.metadata.update(
            {
                "source": json.loads(json.dumps(source.describe())),
                "clock": dataclasses.asdict(source.clock),
                "flip_safe": source.flip_safe,
                "longest_ticks": max(ticks, default=0),
                "rejected": dict(sorted(rejected.items())),
                "notes": dict(sorted(notes.items())),
            }
        )

    def _values(self) -> Mapping[str, Any]:
        """The configuration.

        Raises:
          ValueError: there is none, or it asks for what tfds cannot store.
        """
        config = self.builder_config
        if not isinstance(config, SourceConfig) or not config.values:
            raise ValueError(
                f"{self.name} needs config=SourceConfig(name=..., values=CONFIG.to_dict()) with a CONFIG of "
                "configs/data; see data_pipelines/tfds_builders/__init__.py"
            )
        if config.values["image"]["format"] not in IMAGE_FORMATS:
            raise ValueError(
                f"tfds stores images as one of {IMAGE_FORMATS}, got config.image.format="
                f"{config.values['image']['format']!r}; `python -m launch.prepare` writes the others too"
            )
        if (config.values.get("motion") or {"keep": False})["keep"] and config.motion is None:
            raise ValueError(
                "config.motion.keep asks for motion fields: give SourceConfig(..., motion=motion_of(values)) with "
                "motion_of of launch/prepare.py, or set config.motion.keep=False"
            )
        return config.values


def _line_of(item: Item, content: Rejected) -> str:
    fields = {"key": item.key, "cause": content.cause, "detail": content.detail, "unit": item.unit}
    return json.dumps(fields, ensure_ascii=False) + "\n"
