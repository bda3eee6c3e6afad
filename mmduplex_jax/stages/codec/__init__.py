"""Sound and back: an audio codec of Mimi's architecture, trained on a folder of sound, or on that of records."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.stages.codec import evaluator
from mmduplex_jax.stages.codec import task as stage_task
from mmduplex_jax.stages.registry import Parts, answers_nothing

OUTPUT = ""
EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "codebooks": {"type": int, "metavar": "N", "help": "codes of a step that count (default: all)"},
    "save_sound": {"metavar": "DIR", "help": "write each piece and what its codes sound like there, as .wav"},
}
build_task, pair_format = stage_task.build_task, stage_task.sound_format
make_evaluator, format_table = evaluator.CodecEvaluator, evaluator.format_table
make_answerer = answers_nothing("codec")


def video_tokens(task: stage_task.CodecTask) -> int:
    """There are no pictures."""
    return 0


def parts(task: stage_task.CodecTask) -> Parts:
    """It has none that other weights fill."""
    return Parts()
