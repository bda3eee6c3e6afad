"""What `launch.evaluate` does with a model of stage `duplex`: it watches clips by itself and is scored on its words."""

import argparse
import dataclasses
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from data_pipelines.schema import Record
from data_pipelines.world.commentator import split_phrases
from mmduplex_jax.evals.evaluation import Evaluation
from mmduplex_jax.evals.report import build_report
from mmduplex_jax.evals.teacher_forced import mean_nll
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.weights.trained import Trained


def evaluate_duplex(
    trained: Trained, records: Iterable[Record], number: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Runs the model over clips, with progress on stderr.

    Args:
      trained: a model of stage `duplex`.
      records: the clips.
      number: of them.
      args: `tokenizer_control`, `delay`, `pad_bias`, `batch` and `seed` of `launch.evaluate`.

    Returns:
      The report of `evals/report.py`, and what was asked for.

    Raises:
      ValueError: the model was not trained for the delay, or a clip does not have its clock or frame size.
    """
    assert isinstance(trained.task, DuplexTask)
    delays = trained.config.delay
    delay_steps = delays.eval if args.delay is None else args.delay
    if not delays.min <= delay_steps <= delays.max:
        raise ValueError(
            f"--delay={delay_steps}: this model was trained for delays of {delays.min} to {delays.max} steps"
        )
    model = dataclasses.replace(trained.task.config, token_control=args.tokenizer_control)
    module = DualStream(model)
    evaluation = Evaluation(
        LiveModel(model),
        lambda params, frames, slots, delay: module.apply({"params": params}, frames, slots, delay)[0],
        trained.tokenizer,
        trained.clock,
        trained.config.frame_px,
        split_phrases,
        delay_steps=delay_steps,
        pad_bias=args.pad_bias,
        batch_size=min(args.batch, number),
    )
    results, nll = [], []
    with tqdm(total=number, unit="clip", desc="evaluate", disable=None) as progress:
        for batch, part in evaluation.run(trained.params, records):
            results += batch
            nll.append(part)
            progress.update(len(batch))
    report = build_report(results, trained.clock, word_nll=mean_nll(nll), seed=args.seed)
    return report | {
        "tokenizer_control": args.tokenizer_control,
        "delay_steps": delay_steps,
        "pad_bias": args.pad_bias,
    }
