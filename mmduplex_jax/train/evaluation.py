"""Evaluation during a training: `config.evals`.

Every `every` steps the held-out sets are scored by the evaluator of `launch.evaluate`; the numbers go to
`metrics.jsonl` and TensorBoard as `eval/SET/...`, and the parameters of the best step by the metric `best` are kept in
WORKDIR/best, which any command takes as a checkpoint. Nothing of the training is consumed: a run with evaluations ends
with the same bits as one without.

A run may end where it learns no more: after `patience` evaluations whose best is better by less than the share
`min_gain` than the best before them (early stopping; Prechelt, 1998). Both are fields that a config may lack. Such a
run stays ended; with another patience it goes on.

Of several processes the first evaluates, on its first device, with parameters that all of them gather.
"""

import difflib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mmduplex_jax.evals.evaluator import EvaluationStopped, Report, scalars
from mmduplex_jax.sharding import replicated
from mmduplex_jax.train.distributed import StopSignal
from mmduplex_jax.train.metrics import MetricsLog
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.checkpoint import Checkpoints, RunFacts

BEST = "best"


class Evaluate(Protocol):
    """A held-out set."""

    def __call__(self, params: PyTree, should_stop: Callable[[], bool]) -> Report:
        """The scores of parameters; EvaluationStopped as soon as `should_stop` says so."""


class Evaluations:
    """The evaluations of a run.

    Args:
      held_out: sets by name.
      config: of the run.
      workdir: of the run.
      facts: of the run, for the best checkpoint.
      mesh: where the parameters lie.
      metadata: of the checkpoint that the run goes on from, if it does.
      metrics_log: where numbers go; None in all processes but the first.
      finish_saving: waits for the run's own checkpoint to be on disk.
      stop: a signal ends an evaluation, which is done again when the run goes on.
      log: where lines for people go.
    """

    def __init__(
        self,
        held_out: Mapping[str, Evaluate],
        config: Any,
        workdir: Path,
        facts: RunFacts,
        mesh: Mesh,
        metadata: Mapping[str, Any] | None,
        metrics_log: MetricsLog | None,
        finish_saving: Callable[[], None],
        stop: StopSignal,
        log: Callable[[str], None],
    ):
        evals = config.get("evals") or {}
        self._held_out, self._mesh, self._log_metrics, self._stop, self._log = held_out, mesh, metrics_log, stop, log
        self._finish_saving = finish_saving
        self._every, self._last_step = evals.get("every", 0) if held_out else 0, config.train.steps
        # "-word_nll": less is better.
        self._sign = -1.0 if evals.get("best", "").startswith("-") else 1.0
        self._metric = evals.get("best", "").lstrip("-")
        self._patience, self._min_gain = evals.get("patience") or 0, evals.get("min_gain") or 0.0
        if self._patience and not self._metric:
            raise ValueError("config.evals.patience ends a run by its scores: name the one, as in config.evals.best=f1")
        before = (metadata or {}).get("evaluations") or {}
        self._best, self._best_step = before.get("best"), before.get("best_step")
        self._scores: list[float] = before.get("scores") or []
        self._evaluated_step = before.get("evaluated_step")
        self._checkpoints = Checkpoints(workdir / BEST, 1, facts) if self._every and self._metric else None

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._checkpoints:
            self._checkpoints.__exit__(*exc)

    def to_json(self) -> dict[str, Any]:
        """What a run that goes on must know."""
        return {
            "best": self._best,
            "best_step": self._best_step,
            "evaluated_step": self._evaluated_step,
            "scores": self._scores,
        }

    @property
    def flat(self) -> bool:
        """Whether the last `patience` evaluations have brought too little for the run to go on."""
        before, last = self._scores[: -self._patience], self._scores[-self._patience :]
        if not self._patience or not before:
            return False
        return max(last) - max(before) < self._min_gain * abs(max(before))

    def due(self, step: int) -> bool:
        """Whether the sets are to be scored after a step: every `every` steps, and after the last."""
        return bool(self._every) and step > 0 and (step % self._every == 0 or step == self._last_step)

    def catch_up(self, step: int, params: PyTree) -> None:
        """Scores the step that a run goes on from, where a signal ended that."""
        if self.due(step) and self._evaluated_step != step:
            self.run(step, params)

    def run(self, step: int, params: PyTree) -> float:
        """Scores all sets, of all processes the first alone; keeps the parameters if they are the best so far.

        Returns:
          The seconds that it took.

        Raises:
          ValueError: no score has the name that `config.evals.best` gives.
        """
        began = time.perf_counter()
        # None: stopped; not a number: scored, and not the metric.
        score: float | None = math.nan
        one_device = on_one_device(params, self._mesh)
        if jax.process_index() == 0:
            score = self._score(step, one_device)
        if jax.process_count() > 1:
            told = np.array([score is not None, 0.0 if score is None else score], np.float64)
            done, value = np.asarray(multihost_utils.broadcast_one_to_all(told)).tolist()
            score = value if done else None
        if score is not None:
            self._evaluated_step = step
            if math.isfinite(score):
                self._scores.append(score)
            if self._checkpoints and math.isfinite(score) and (self._best is None or score > self._best):
                self._best, self._best_step = score, step
                # One save at a time: those of two managers would meet in the same barriers of Orbax.
                self._finish_saving()
                self._checkpoints.save_params(step, params)
                self._checkpoints.finish()
                self._log(f"step {step}: the best so far by {self._metric}, kept in {BEST}/")
        return time.perf_counter() - began

    def _score(self, step: int, params: PyTree) -> float | None:
        """The metric that decides (larger is better), not a number where none does; None where a signal came."""
        found: dict[str, float] = {}
        for name, evaluate in self._held_out.items():
            self._log(f"step {step}: evaluating on {name}")
            try:
                report = evaluate(params, lambda: self._stop.received is not None)
            except EvaluationStopped:
                return None
            found |= scalars(report, f"{name}/")
        if self._log_metrics:
            self._log_metrics.write(step, {f"eval/{name}": value for name, value in found.items()}, board="")
        if not self._metric:
            return math.nan
        first = next(iter(self._held_out))
        name = self._metric if self._metric in found else f"{first}/{self._metric}"
        if name not in found:
            close = difflib.get_close_matches(f"{first}/{self._metric}", found, n=3, cutoff=0.3) or sorted(found)[:8]
            raise ValueError(
                f"config.evals.best={self._metric!r}: no number has this name; there are, among others, "
                + ", ".join(close)
            )
        self._log(f"step {step}: {name} {found[name]:.4g}")
        return self._sign * found[name]


def on_one_device(params: PyTree, mesh: Mesh) -> PyTree:
    """Parameters as they are used by one device alone; a collective, which all processes must call."""
    if mesh.size == 1:
        return params
    whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(params)
    return jax.tree.map(lambda array: array.addressable_data(0), whole)
