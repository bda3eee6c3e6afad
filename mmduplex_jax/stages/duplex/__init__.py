"""Commentary while watching: the dual-stream model says what it sees, when it sees it."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.evals import report
from mmduplex_jax.models.dual_stream import TOKEN_CONTROLS
from mmduplex_jax.models.fusion import fusion_of
from mmduplex_jax.stages.duplex import answering, evaluator
from mmduplex_jax.stages.duplex import task as stage_task
from mmduplex_jax.stages.registry import Language, Parts, tokenizer_towers

OUTPUT = "commentary"
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
build_task = stage_task.build_task
make_evaluator, format_table = evaluator.DuplexEvaluator, report.format_table
make_answerer = answering.DuplexAnswerer


def pair_format(config: Any) -> None:
    """None: a sample is a clip with timed words."""


def video_tokens(task: stage_task.DuplexTask) -> int:
    """As many as the budget lets a clip have."""
    return task.config.tokenizer.token_capacity(task.ticks)


def parts(task: stage_task.DuplexTask) -> Parts:
    """A duplex may begin with a language model, a vision tower for its anchors, and a video tokenizer."""
    c = task.config
    gate = c.text.cross_gate if fusion_of(c.fusion).gated else None
    return Parts(Language(c.text, "tied" if c.tied else "own"), tokenizer_towers(c.tokenizer), c.tokenizer, gate)
