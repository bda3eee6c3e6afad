"""A picture, or a short clip, is a few tokens before its caption in one language model."""

from mmduplex_jax.stages.registry import Language, Parts, Tower
from mmduplex_jax.stages.vlm import answering, captioner, evaluator
from mmduplex_jax.stages.vlm import task as stage_task

OUTPUT = "captions"
EVALUATION_FLAGS = captioner.DECODING_FLAGS
build_task, pair_format = stage_task.build_task, stage_task.pair_format
make_evaluator, format_table = evaluator.VlmEvaluator, evaluator.format_table
make_answerer = answering.VlmAnswerer


def video_tokens(task: stage_task.VlmTask) -> int:
    """Those before a caption."""
    return task.config.prefix


def parts(task: stage_task.VlmTask) -> Parts:
    """The language model and the vision tower may begin with others' weights."""
    c = task.config
    tower = Tower("vision/", c.vision, "config.vision.", "config.pixels.", task.mean, task.std)
    return Parts(Language(c.language.text, c.language.head), (tower,))
