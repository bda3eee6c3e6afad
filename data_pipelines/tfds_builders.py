"""Every source as a builder of `tensorflow_datasets`, read by `tfds.data_source` without TensorFlow.

    from configs.data import livecc
    from data_pipelines.tfds_builders import source_builder
    from mmduplex_jax.tokenizer.motion_field import motion_of

    config = livecc.get_config()
    config.annotations, config.root = "live_whisperx_526k_with_seeks.jsonl", "videos"
    values = config.to_dict()
    builder = source_builder(values, name="whisperx", data_dir="data/tfds", motion=motion_of(values))
    builder.download_and_prepare()

and from then on read anywhere, also where this package is not installed:

    import tensorflow_datasets as tfds

    examples = tfds.data_source("livecc/whisperx", split="train", data_dir="data/tfds", download=False)
    examples[0]["frames"], examples[0]["words"]

or by the loader:  make_loader(TfdsRecords(builder.data_path), tokenizer, batch_size=32).

A builder calls the same `Source.items` as `launch.prepare`, in one process and in the source's order; rejected inputs
are counted in the metadata and listed in rejected.jsonl beside the data. `launch.prepare` is the way for large data: it
works on all cores or on Apache Beam, resumes, stores small frames in sheets and writes WebP and raw frames too.
"""

import collections
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from data_pipelines.manifest import REJECTED_NAME, ShardError
from data_pipelines.schema import SCHEMA_VERSION, Event, Record, Word
from data_pipelines.sources import Item, Rejected, Source
from data_pipelines.sources.registry import description_of, source_of
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

# What tfds can name as the encoding of an image.
IMAGE_FORMATS = ("jpeg", "png")
SPLIT = "train"
_REMEDY = "delete the dataset and build it again"


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

    VERSION = tfds.core.Version(f"{SCHEMA_VERSION}.1.0")

    def __init__(self, **arguments: Any):
        """Args: those of `tfds.core.GeneratorBasedBuilder`; `config` must be a SourceConfig."""
        # Of the formats of tfds only ArrayRecord is read by number, and without TensorFlow.
        super().__init__(**({"file_format": "array_record"} | arguments))

    def source(self, values: Mapping[str, Any]) -> Source:
        """The source of a configuration."""
        return source_of(values)

    def _info(self) -> tfds.core.DatasetInfo:
        values = self._values()
        return self.dataset_info_from_configs(
            description=description_of(self.name),
            features=features_of(frame_size(values["frame_px"]), values["image"]["format"]),
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
                "configs/data; see data_pipelines/tfds_builders.py"
            )
        if config.values["image"]["format"] not in IMAGE_FORMATS:
            raise ValueError(
                f"tfds stores images as one of {IMAGE_FORMATS}, got config.image.format="
                f"{config.values['image']['format']!r}; `python -m launch.prepare` writes the others too"
            )
        if (config.values.get("motion") or {"keep": False})["keep"] and config.motion is None:
            raise ValueError(
                "config.motion.keep asks for motion fields: give SourceConfig(..., motion=motion_of(values)) with "
                "motion_of of mmduplex_jax/tokenizer/motion_field.py, or set config.motion.keep=False"
            )
        return config.values


def source_builder(
    values: Mapping[str, Any],
    *,
    name: str,
    data_dir: str | os.PathLike[str],
    motion: Callable[[np.ndarray], np.ndarray] | None = None,
) -> SourceBuilder:
    """A builder of the data set `SOURCE/NAME` for the source that a configuration names.

    Args:
      values: the configuration as plain values (`ConfigDict.to_dict()`).
      name: of this configuration of the source.
      data_dir: where data sets of tfds lie.
      motion: see `SourceConfig`.

    Raises:
      ValueError: the configuration names no source, or asks for what tfds cannot store.
    """
    description_of(values["source"])
    kind = type("Builder", (SourceBuilder,), {"name": values["source"], "__module__": __name__}, skip_registration=True)
    return kind(data_dir=os.fspath(data_dir), config=SourceConfig(name=name, values=values, motion=motion))


def _line_of(item: Item, content: Rejected) -> str:
    fields = {"key": item.key, "cause": content.cause, "detail": content.detail, "unit": item.unit}
    return json.dumps(fields, ensure_ascii=False) + "\n"


class TfdsRecords:
    """Records by number, as `dataset.RecordSource` has them: `make_loader(TfdsRecords(DIR), ...)`.

    Attributes:
      directory: of the dataset's version, `data_dir/NAME/CONFIG/VERSION`.
      clock: of every record.
      longest_ticks: of the longest record.
      frame_px: height and width of every record's frames.
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
                f"data_pipelines/tfds_builders.py says ({error})"
            ) from error
        metadata: Any = builder.info.metadata or {}
        if not {"clock", "longest_ticks", "rejected"} <= metadata.keys():
            raise ShardError(f"{self.directory} was not built by a builder of data_pipelines/tfds_builders.py")
        self.clock = Clock(**metadata["clock"])
        self.longest_ticks = int(metadata["longest_ticks"])
        self.rejected: dict[str, int] = dict(metadata["rejected"])
        self._flip_safe = bool(metadata.get("flip_safe", False))
        image = builder.info.features["frames"].feature
        self.frame_px = frame_size(image.shape[:2])
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


def features_of(frame_px: FrameSize, image_format: str, *, pictures: bool = True) -> tfds.features.FeaturesDict:
    """The features of a record.

    Where an example cannot leave a value out: an end that is not known is NaN, sound, motion or a text that is not
    there is empty. `provenance` is JSON.

    Args:
      frame_px: H and W of the frames.
      image_format: one of IMAGE_FORMATS.
      pictures: read frames as pictures, or as the bytes that they are stored in.
    """
    features = tfds.features

    # By default integers are stored as a list of int64, for uint8 eight times the room and eighty times as long to
    # read, and floats as a list of float32, which moves a word.
    def numbers(dtype: type[np.generic], *shape: int | None) -> tfds.features.Tensor:
        return features.Tensor(shape=shape, dtype=dtype, encoding=features.Encoding.BYTES)

    texts = features.Sequence(features.Text())
    picture = features.Image(shape=(*frame_px, 3), encoding_format=image_format)
    return features.FeaturesDict(
        {
            "key": features.Text(),
            "frames": features.Sequence(picture if pictures else features.Text()),
            "tick_times_s": numbers(np.float64, None),
            "step_hz": numbers(np.float64),
            "video_stride": features.Scalar(np.int64),
            "words": {
                "text": texts,
                "start_s": numbers(np.float64, None),
                "end_s": numbers(np.float64, None),
                "ends_sentence": numbers(np.bool_, None),
            },
            "timing": features.Text(),
            "words_from_s": numbers(np.float64),
            "caption": features.Text(),
            "language": features.Text(),
            "events": {"t_s": numbers(np.float64, None), "kind": texts, "subject": texts, "detail": texts},
            "provenance": features.Text(),
            "license": features.Text(),
            "audio": numbers(np.uint8, None),
            "motion": numbers(np.int8, None),
            "motion_shape": numbers(np.int64, None),
        }
    )


def example_of(record: Record, image_format: str, quality: int) -> dict[str, Any]:
    """A record as an example of `features_of`."""
    motion = record.motion
    return {
        "key": record.key,
        "frames": [io.BytesIO(_picture(frame, image_format, quality)) for frame in record.frames],
        "tick_times_s": np.asarray(record.tick_times_s, np.float64),
        "step_hz": np.float64(record.clock.step_hz),
        "video_stride": record.clock.video_stride,
        "words": {
            "text": [word.text for word in record.words],
            "start_s": np.array([word.start_s for word in record.words], np.float64),
            "end_s": np.array([np.nan if word.end_s is None else word.end_s for word in record.words], np.float64),
            "ends_sentence": np.array([word.ends_sentence for word in record.words], np.bool_),
        },
        "timing": record.timing,
        "words_from_s": np.float64(record.words_from_s),
        "caption": record.caption,
        "language": record.language,
        "events": {
            "t_s": np.array([event.t_s for event in record.events], np.float64),
            "kind": [event.kind for event in record.events],
            "subject": [event.subject for event in record.events],
            "detail": [event.detail for event in record.events],
        },
        "provenance": json.dumps(record.provenance, sort_keys=True, ensure_ascii=False),
        "license": record.license,
        "audio": np.frombuffer(record.audio or b"", np.uint8),
        "motion": np.zeros(0, np.int8) if motion is None else motion.reshape(-1),
        "motion_shape": np.zeros(0, np.int64) if motion is None else np.array(motion.shape, np.int64),
    }


def record_of(example: Mapping[str, Any], wanted: range | None = None) -> Record:
    """The record in an example as `tfds.data_source` gives it; the inverse of `example_of` but for what JPEG loses.

    Args:
      example: its frames are pictures or their bytes.
      wanted: ticks in a row; of others, frames that are bytes are not decoded but black.

    Raises:
      ValueError: a picture does not decode; a RecordError where the record contradicts itself.
    """
    words, events = example["words"], example["events"]
    # (Version 2.0 did not say where sentences end.)
    ends_sentence = words.get("ends_sentence", np.zeros(len(words["text"]), bool))
    shape = tuple(int(size) for size in np.atleast_1d(example["motion_shape"]))
    audio = np.asarray(example["audio"], np.uint8).tobytes()
    return Record(
        key=_text(example["key"]),
        frames=_frames(example["frames"], wanted),
        clock=Clock(float(example["step_hz"]), int(example["video_stride"])),
        words=tuple(
            Word(_text(text), float(start_s), None if np.isnan(end_s) else float(end_s), bool(ends))
            for text, start_s, end_s, ends in zip(words["text"], words["start_s"], words["end_s"], ends_sentence)
        ),
        timing=_text(example["timing"]),
        tick_times_s=np.asarray(example["tick_times_s"], np.float64).reshape(-1),
        events=tuple(
            Event(float(t_s), _text(kind), _text(subject), _text(detail))
            for t_s, kind, subject, detail in zip(events["t_s"], events["kind"], events["subject"], events["detail"])
        ),
        provenance=json.loads(_text(example["provenance"])),
        license=_text(example["license"]),
        words_from_s=float(example["words_from_s"]),
        caption=_text(example["caption"]),
        language=_text(example["language"]),
        audio=audio or None,
        motion=np.asarray(example["motion"], np.int8).reshape(shape) if shape else None,
    )


def _picture(frame: np.ndarray, image_format: str, quality: int) -> bytes:
    """One frame as a picture of its own: an example has no sheets of several."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    # Chroma at full resolution, as in shards.
    chroma = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *chroma] if image_format == "jpeg" else []
    written, data = cv2.imencode(f".{image_format}", bgr, options)
    if not written:
        raise ValueError(f"OpenCV could not write a {image_format} of {frame.shape[1]}×{frame.shape[0]} pixels")
    return data.tobytes()


def _frames(pictures: Sequence[Any], wanted: range | None) -> np.ndarray:
    """uint8 [T, H, W, 3] of pictures, or of the bytes of those that are wanted."""
    images = {
        tick: _pixels(picture, tick) if isinstance(picture, bytes) else np.asarray(picture)
        for tick, picture in enumerate(pictures)
        if wanted is None or tick in wanted
    }
    first = images[min(images)] if images else _pixels(pictures[0], 0)
    frames = np.zeros((len(pictures), *first.shape), np.uint8)
    for tick, image in images.items():
        frames[tick] = image
    return frames


def _pixels(data: bytes, tick: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"the frame of tick {tick} ({len(data)} bytes) is no JPEG or PNG picture")
    return image


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
