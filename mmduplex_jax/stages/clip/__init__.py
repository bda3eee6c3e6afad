"""Pictures, or short clips, and texts learn to find each other (CLIP, SigLIP)."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.stages.clip import evaluator
from mmduplex_jax.stages.clip import task as stage_task
from mmduplex_jax.stages.registry import Parts, Tower, answers_nothing

OUTPUT = ""
EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {}
build_task, pair_format = stage_task.build_task, stage_task.pair_format
make_evaluator, format_table = evaluator.ClipEvaluator, evaluator.format_table
make_answerer = answers_nothing("clip")


def video_tokens(task: stage_task.ClipTask) -> int:
    """The patches of a clip."""
    return task.patches


def parts(task: stage_task.ClipTask) -> Parts:
    """The vision tower may begin with another's weights."""
    return Parts(
        towers=(Tower("vision/", task.config.vision, "config.vision.", "config.pixels.", task.mean, task.std),)
    )
