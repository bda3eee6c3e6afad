"""Records as examples of `tensorflow_datasets`, and back. Neither way needs TensorFlow."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.schema import Event, Record, Word
from mmduplex_jax.clock import Clock

# What tfds can name as the encoding of an image.
IMAGE_FORMATS = ("jpeg", "png")


def features_of(frame_px: int, image_format: str, *, pictures: bool = True) -> tfds.features.FeaturesDict:
    """The features of a record.

    Where an example cannot leave a value out: an end that is not known is NaN, sound, motion or a text that is not
    there is empty. `provenance` is JSON.

    Args:
      frame_px: H = W of the frames.
      image_format: one of IMAGE_FORMATS.
      pictures: read frames as pictures, or as the bytes that they are stored in.
    """
    features = tfds.features

    # By default integers are stored as a list of int64, for uint8 eight times the room and eighty times as long to
    # read, and floats as a list of float32, which moves a word.
    def numbers(dtype: type[np.generic], *shape: int | None) -> tfds.features.Tensor:
        return features.Tensor(shape=shape, dtype=dtype, encoding=features.Encoding.BYTES)

    texts = features.Sequence(features.Text())
    picture = features.Image(shape=(frame_px, frame_px, 3), encoding_format=image_format)
    return features.FeaturesDict(
        {
            "key": features.Text(),
            "frames": features.Sequence(picture if pictures else features.Text()),
            "tick_times_s": numbers(np.float64, None),
            "step_hz": numbers(np.float64),
            "video_stride": features.Scalar(np.int64),
            "words": {"text": texts, "start_s": numbers(np.float64, None), "end_s": numbers(np.float64, None)},
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
    shape = tuple(int(size) for size in np.atleast_1d(example["motion_shape"]))
    audio = np.asarray(example["audio"], np.uint8).tobytes()
    return Record(
        key=_text(example["key"]),
        frames=_frames(example["frames"], wanted),
        clock=Clock(float(example["step_hz"]), int(example["video_stride"])),
        words=tuple(
            Word(_text(text), float(start_s), None if np.isnan(end_s) else float(end_s))
            for text, start_s, end_s in zip(words["text"], words["start_s"], words["end_s"])
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
