"""How good is a model of stage `duplex`? It watches clips by itself and is scored on its words."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm

from data_pipelines.schema import Record
from data_pipelines.world.grammar import splitter_of
from mmduplex_jax.evals.evaluation import Evaluation, mean_nll
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, Metric, Report, apply_metrics
from mmduplex_jax.evals.report import build_report
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree


class DuplexEvaluator:
    """Clips through the live step, as a viewer would see them; the metrics are given `evals.report.ClipResult`s."""

    def __init__(
        self,
        task: DuplexTask,
        config: Any,
        tokenizer: TextTokenizer,
        *,
        batch: int = BATCH,
        seed: int = UNSEEN_SEED,
        metrics: Mapping[str, Metric] | None = None,
        tokenizer_control: str = "real",
        delay: int | None = None,
        pad_bias: float = 0.0,
    ):
        """Takes a model apart.

        Args:
          seed: of the control that talks at random.
          metrics: further ones, of `ClipResult`.
          tokenizer_control: what the video tokens hold, of `TOKEN_CONTROLS`.
          delay: steps that the words run behind the picture; the config's `delay.eval` where it is not given.
          pad_bias: added to silence's logit: more is quieter.

        Raises:
          ValueError: the model was not trained for the delay.
        """
        delays = config.delay
        self._delay_steps = delays.eval if delay is None else delay
        if not delays.min <= self._delay_steps <= delays.max:
            raise ValueError(
                f"--delay={self._delay_steps}: this model was trained for delays of {delays.min} to {delays.max} steps"
            )
        if tokenizer_control == "shuffled" and batch < 2:
            raise ValueError("--tokenizer_control=shuffled takes another clip's tokens: --batch must be at least 2")
        self._control, self._pad_bias, self._batch, self._seed = tokenizer_control, pad_bias, batch, seed
        self._metrics = metrics or {}
        model = dataclasses.replace(task.config, token_control=tokenizer_control)
        self._clock = model.clock
        module = DualStream(model)
        forward = lambda params, frames, slots, delay: module.apply({"params": params}, frames, slots, delay)[0]
        parts = (LiveModel(model), forward, tokenizer, self._clock, config.frame_px, splitter_of)
        self._evaluation = functools.cache(
            lambda batch: Evaluation(*parts, delay_steps=self._delay_steps, pad_bias=self._pad_bias, batch_size=batch)
        )

    def run(self, params: PyTree, records: Iterable[Record], number: int) -> Report:
        """The report of `evals/report.py`, and what was asked for; see `mmduplex_jax.evals.evaluator.Evaluator`."""
        if self._control == "shuffled" and number < 2:
            raise ValueError("--tokenizer_control=shuffled takes another clip's tokens: --clips must be at least 2")
        batch = min(self._batch, number)
        iterator = iter(records)
        first = list(itertools.islice(iterator, batch))
        _check_known(first)
        results, nll = [], []
        with tqdm(total=number, unit="clip", desc="evaluate", disable=None) as progress:
            for found, part in self._evaluation(batch).run(params, itertools.chain(first, iterator)):
                results += found
                nll.append(part)
                progress.update(len(found))
        report = build_report(results, self._clock, word_nll=mean_nll(nll), seed=self._seed)
        return report | {
            "tokenizer_control": self._control,
            "delay_steps": self._delay_steps,
            "pad_bias": self._pad_bias,
            "metrics": apply_metrics(self._metrics, results),
        }


def _check_known(records: list[Record]) -> None:
    """Says at once, before anything is compiled, what cannot be scored."""
    if any(record.events for record in records):
        return
    if not any(record.words for record in records):
        raise ValueError(
            f"{records[0].key if records else 'there'} and the {len(records)} clips from it on have neither words nor "
            "events, so nothing can be scored: prepare them with words"
        )
    print(
        "these clips list no events, so there are no event scores: scored is what is said against their words",
        file=sys.stderr,
        flush=True,
    )
