"""The video tokenizer learns what happens from words that are timed to a second."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.stages.bflow import task as stage_task
from mmduplex_jax.stages.bflow.evaluator import BFlowEvaluator as make_evaluator
from mmduplex_jax.stages.bflow.evaluator import format_table
from mmduplex_jax.stages.registry import Parts, Tower, anchor_towers
from mmduplex_jax.text_tokenizer import TextTokenizer

__all__ = ["EVALUATION_FLAGS", "build_task", "format_table", "make_evaluator", "pair_format", "parts"]

EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {}


def build_task(config: Any, tokenizer: TextTokenizer) -> stage_task.BFlowTask:
    """The task of a config."""
    return stage_task.build(config, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id)


def pair_format(config: Any) -> None:
    """None: a sample is a clip with timed words."""


def parts(task: stage_task.BFlowTask) -> Parts:
    """The tokenizer may begin with others' weights, and so may the teacher whose view is predicted, if there is one."""
    tokenizer, prediction = task.config.tokenizer, task.config.prediction
    towers = anchor_towers(tokenizer)
    if prediction.teacher is not None:
        pixels = (prediction.mean, prediction.std)
        towers += (Tower(stage_task.TEACHER, prediction.teacher, "config.teacher.", "config.pixels.", *pixels),)
    return Parts(towers=towers, tokenizer=tokenizer)
