"""The video tokenizer learns what happens from words that are timed to a second."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.stages.bflow import evaluator
from mmduplex_jax.stages.bflow import task as stage_task
from mmduplex_jax.stages.registry import Parts, Tower, answers_nothing, tokenizer_towers

OUTPUT = ""
EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {}
build_task = stage_task.build_task
make_evaluator, format_table = evaluator.BFlowEvaluator, evaluator.format_table
make_answerer = answers_nothing("bflow")


def pair_format(config: Any) -> None:
    """None: a sample is a clip with timed words."""


def video_tokens(task: stage_task.BFlowTask) -> int:
    """As many as the budget lets a clip have."""
    return task.config.tokenizer.token_capacity(task.ticks)


def parts(task: stage_task.BFlowTask) -> Parts:
    """The tokenizer may begin with others' weights, and so may the teacher whose view is predicted, if there is one."""
    tokenizer, prediction = task.config.tokenizer, task.config.prediction
    towers = tokenizer_towers(tokenizer)
    if prediction.teacher is not None:
        pixels = (prediction.mean, prediction.std)
        towers += (Tower(stage_task.TEACHER, prediction.teacher, "config.teacher.", "config.pixels.", *pixels),)
    return Parts(towers=towers, tokenizer=tokenizer)
