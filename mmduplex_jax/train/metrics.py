"""Metrics on disk: WORKDIR/metrics.jsonl and TensorBoard, and the means in between."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Counted over the whole run: samples whose record could not be read. One that is met again counts again.
CORRUPT_RECORDS = "corrupt_records"


class Window:
    """Means over the steps since the last line, and counts since the first step.

    Its JSON goes into checkpoints, so that a resumed line is the same.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0, corrupt_records: int = 0):
        self._sums, self.count, self.corrupt_records = dict(sums or {}), count, corrupt_records

    def add(self, metrics: Mapping[str, float], corrupt_records: int = 0) -> None:
        """Takes the metrics of a step, and how many of its samples were corrupt."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self.count += 1
        self.corrupt_records += corrupt_records

    def pop(self) -> dict[str, float]:
        """The means, which start anew, and the counts, which go on."""
        means = {name: total / self.count for name, total in self._sums.items()}
        self._sums, self.count = {}, 0
        return {**means, CORRUPT_RECORDS: self.corrupt_records}

    def to_json(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "count": self.count, CORRUPT_RECORDS: self.corrupt_records}


class MetricsLog:
    """Appends lines to `metrics.jsonl` and scalars to TensorBoard; a resumed run replaces what came after its step.

    Args:
      workdir: holds `metrics.jsonl` and `tensorboard/`.
      start_step: lines of later steps were written by a run that died after its last checkpoint; they are removed.
    """

    def __init__(self, workdir: Path, start_step: int):
        # Imported here: only the process that writes metrics needs it.
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        _keep_until(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1, max_queue=100)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """One line. None (not known) is written as null and left out of TensorBoard."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        # A killed process keeps what was flushed.
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _keep_until(path: Path, step: int) -> None:
    """Rewrites `path` (atomically) without lines of later steps and without a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            kept.append(line)
    new = path.with_suffix(".jsonl.new")
    new.write_text("".join(kept), encoding="utf-8")
    os.replace(new, path)


def is_finite(metrics: Mapping[str, float]) -> bool:
    """Whether the step was applied: its loss and gradient were finite."""
    return bool(metrics["finite"]) and math.isfinite(metrics["loss"])
