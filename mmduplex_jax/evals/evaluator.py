"""What an evaluation is: a stage's evaluator, and metrics, each a function in a file.

`launch.evaluate`, the notebook and the training (`config.evals`) run the same evaluators with the same metrics. A
metric takes what a model did on every clip, as the stage's evaluator gives it, and returns numbers by name:

    def longest_silence(clips: Sequence[ClipResult]) -> dict[str, float]:
        return {"mean_s": ..., "max_s": ...}

It is named as `package.module:longest_silence` or `path/to/file.py:longest_silence`.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.typing import PyTree

Metric = Callable[[Sequence[Any]], Mapping[str, float | None]]
Report = dict[str, Any]

# No config trains on this seed, so its clips of the built-in world are new to every model.
UNSEEN_SEED = 1_000_003
BATCH = 32
# Of frames up to this size so many clips are evaluated at a time, of larger ones as many as hold no more pixels.
_BATCH_PX = 128


def default_batch(frame_px: FrameSize) -> int:
    """How many clips to evaluate at a time, so that 24 GB hold them: 2 to `BATCH`. No score depends on it."""
    return min(BATCH, max(2, BATCH * _BATCH_PX**2 // (frame_px[0] * frame_px[1])))


class EvaluationStopped(Exception):
    """A training was told to stop while it was evaluated; its evaluation is done again when it goes on."""


class Evaluator(Protocol):
    """Runs a model over clips, as often as asked, each time with other parameters. Nothing of a training is changed."""

    def run(self, params: PyTree, records: Iterable[Record], number: int) -> Report:
        """Every score as JSON values, with progress on stderr.

        Args:
          params: of the model, unboxed, on one device.
          records: the clips.
          number: of them.

        Raises:
          ValueError: a clip does not fit the model, or nothing can be scored; says what to do.
        """


def check_clock(record: Record, clock: Clock) -> None:
    """Raises ValueError where a record was prepared with another clock than the model's."""
    if record.clock != clock:
        raise ValueError(
            f"{record.key} has {record.clock}, the model {clock}: evaluate on data prepared with the model's clock"
        )


def load_metrics(names: str) -> dict[str, Metric]:
    """Metrics by name, from names separated by commas.

    Raises:
      ValueError: one is no `module:function` that can be imported and called.
    """
    return {name: _load_metric(name) for name in (part.strip() for part in names.split(",")) if name}


def _load_metric(name: str) -> Metric:
    where, colon, function = name.rpartition(":")
    if not colon or not function.isidentifier():
        raise ValueError(f"--metrics={name}: give module:function or file.py:function")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"metric_{Path(where).stem}", where)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        metric = getattr(module, function)
    except (ImportError, OSError, AttributeError) as error:
        raise ValueError(f"--metrics={name}: {error}") from error
    if not callable(metric):
        raise ValueError(f"--metrics={name}: {function} cannot be called")
    return metric


def apply_metrics(metrics: Mapping[str, Metric], clips: Sequence[Any]) -> Report:
    """What goes into a report under `metrics`: numbers by the name of the function."""
    return {name.rpartition(":")[2]: dict(metric(clips)) for name, metric in metrics.items()}


def metric_lines(report: Report) -> list[str]:
    """The metrics of a report as lines."""
    return [
        f"{name}: "
        + ", ".join(f"{key} {'-' if value is None else format(value, '.4g')}" for key, value in found.items())
        for name, found in report.get("metrics", {}).items()
    ]


def scalars(report: Report, prefix: str = "") -> dict[str, float]:
    """Every number of a report by its path, `words/f1`; what is None, not finite or in a list is left out."""
    found: dict[str, float] = {}
    for name, value in report.items():
        if isinstance(value, Mapping):
            found |= scalars(dict(value), f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = float(value)
    return found
