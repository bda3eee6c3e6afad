"""A picture, or a short clip, is a few tokens before its caption in one language model."""

from typing import Any

from mmduplex_jax.stages.registry import Language, Parts, Tower
from mmduplex_jax.stages.vlm import task as stage_task
from mmduplex_jax.stages.vlm.captioner import DECODING_FLAGS as EVALUATION_FLAGS
from mmduplex_jax.stages.vlm.evaluator import VlmEvaluator as make_evaluator
from mmduplex_jax.stages.vlm.evaluator import format_table
from mmduplex_jax.stages.vlm.task import pair_format
from mmduplex_jax.text_tokenizer import TextTokenizer

__all__ = ["EVALUATION_FLAGS", "build_task", "format_table", "make_evaluator", "pair_format", "parts"]


def build_task(config: Any, tokenizer: TextTokenizer) -> stage_task.VlmTask:
    """The task of a config."""
    return stage_task.build(config, tokenizer.vocab_size)


def parts(task: stage_task.VlmTask) -> Parts:
    """The language model and the vision tower may begin with others' weights."""
    c = task.config
    tower = Tower("vision/", c.vision, "config.vision.", "config.pixels.", task.mean, task.std)
    return Parts(Language(c.language.text, c.language.head), (tower,))
