"""Pictures, or short clips, and texts learn to find each other (CLIP, SigLIP)."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.pairs import end_of_text
from mmduplex_jax.stages.clip import task as stage_task
from mmduplex_jax.stages.clip.evaluator import ClipEvaluator as make_evaluator
from mmduplex_jax.stages.clip.evaluator import format_table
from mmduplex_jax.stages.clip.task import pair_format
from mmduplex_jax.stages.registry import Parts, Tower
from mmduplex_jax.text_tokenizer import TextTokenizer

__all__ = ["EVALUATION_FLAGS", "build_task", "format_table", "make_evaluator", "pair_format", "parts"]

EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {}


def build_task(config: Any, tokenizer: TextTokenizer) -> stage_task.ClipTask:
    """The task of a config."""
    return stage_task.build(config, tokenizer.vocab_size, end_of_text(tokenizer))


def parts(task: stage_task.ClipTask) -> Parts:
    """The vision tower may begin with another's weights."""
    return Parts(
        towers=(Tower("vision/", task.config.vision, "config.vision.", "config.pixels.", task.mean, task.std),)
    )
