"""What a run sees, and what it takes to prepare and to read that; from figures measured in docs/data.md."""

from typing import Any, NamedTuple

from mmduplex_jax.stages.bflow.task import BFlowTask
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.vlm.task import VlmTask
from mmduplex_jax.train.task import Task

# docs/data.md: `launch.prepare` made 78 hours of video an hour on 4 cores, 382 MB each, at 256 px.
PREPARED_HOURS_PER_CORE_HOUR = 78 / 4
STORED_BYTES_PER_HOUR = 382e6
STORED_PX = 256
# docs/data.md: four cores read 9,300 frames a second of 224 px shards; decoding takes as long as there are pixels.
READ_FRAMES_PER_CORE_S = 9300 / 4
READ_PX = 224


class DataCost(NamedTuple):
    """What all steps of a run see.

    Attributes:
      samples: clips, or pairs of pictures and texts.
      frames_per_step: pictures that are read.
      text_tokens: slots of text, or places for the tokens of captions.
      video_tokens: the most that there are of tokens made of pictures; patches for `clip`.
      video_hours: of clips; where a sample is a picture, or a few frames of a piece, how long the pieces are.
      prepare_core_hours, stored_bytes: to prepare as many hours once; a run that sees its data E times needs an E-th.
      frames_read_per_core_s: what a core reads.
    """

    samples: int
    frames_per_step: int
    text_tokens: int
    video_tokens: int
    video_hours: float
    prepare_core_hours: float
    stored_bytes: float
    frames_read_per_core_s: float


def data_cost(task: Task, config: Any) -> DataCost:
    """The data of a config's run."""
    batch_size, steps = config.data.batch_size, config.train.steps
    example = task.example_batch(1)
    samples = batch_size * steps
    text = example["slots" if "slots" in example else "ids"].shape[1]
    hours = samples * config.data.clip_s / 3600
    return DataCost(
        samples=samples,
        frames_per_step=batch_size * example["frames"].shape[1],
        text_tokens=samples * text,
        video_tokens=samples * _video_tokens(task, config),
        video_hours=hours,
        prepare_core_hours=hours / PREPARED_HOURS_PER_CORE_HOUR,
        stored_bytes=stored_bytes(hours, config.frame_px),
        frames_read_per_core_s=READ_FRAMES_PER_CORE_S * (READ_PX / config.frame_px) ** 2,
    )


def stored_bytes(video_hours: float, frame_px: int) -> float:
    """Shards of frames of `frame_px`, as large as their pixels are many."""
    return video_hours * STORED_BYTES_PER_HOUR * (frame_px / STORED_PX) ** 2


def _video_tokens(task: Task, config: Any) -> int:
    if isinstance(task, DuplexTask | BFlowTask):
        return task.config.tokenizer.token_capacity(task.ticks)
    if isinstance(task, VlmTask):
        return task.config.prefix
    return (config.frame_px // config.vision.patch_px) ** 2 * config.time.frames
