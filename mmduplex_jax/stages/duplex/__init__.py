"""Commentary while watching: the dual-stream model says what it sees, when it sees it."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.evals.report import format_table
from mmduplex_jax.models.dual_stream import TOKEN_CONTROLS
from mmduplex_jax.models.fusion import fusion_of
from mmduplex_jax.stages.duplex import task as stage_task
from mmduplex_jax.stages.duplex.evaluator import DuplexEvaluator as make_evaluator
from mmduplex_jax.stages.registry import Language, Parts, anchor_towers
from mmduplex_jax.text_tokenizer import TextTokenizer

__all__ = ["EVALUATION_FLAGS", "build_task", "format_table", "make_evaluator", "pair_format", "parts"]

EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "tokenizer_control": {
        "choices": TOKEN_CONTROLS,
        "help": "ruin what the video tokens hold: another clip's contents, or none (default: real)",
    },
    "delay": {
        "type": int,
        "metavar": "STEPS",
        "help": "steps the words run behind the picture (default: the config's delay.eval)",
    },
    "pad_bias": {"type": float, "help": "added to silence's logit: more is quieter (default: 0.0)"},
}


def build_task(config: Any, tokenizer: TextTokenizer) -> stage_task.DuplexTask:
    """The task of a config."""
    return stage_task.build(config, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id)


def pair_format(config: Any) -> None:
    """None: a sample is a clip with timed words."""


def parts(task: stage_task.DuplexTask) -> Parts:
    """A duplex may begin with a language model, a vision tower for its anchors, and a video tokenizer."""
    c = task.config
    gate = c.text.cross_gate if fusion_of(c.fusion).gated else None
    return Parts(Language(c.text, "tied" if c.tied else "own"), anchor_towers(c.tokenizer), c.tokenizer, gate)
