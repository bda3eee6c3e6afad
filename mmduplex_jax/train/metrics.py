"""What a run measures: means on disk (WORKDIR/metrics.jsonl and TensorBoard), speed, goodput, and the line for people.

Goodput is the share of a run's whole time, since it was first started, that went into steps which counted. What does
not count: starting and compiling, restoring, waiting for data, evaluating, writing checkpoints, steps that were lost
because a run died after its last checkpoint, and the time until it was started again (as ML Goodput, Google, 2024).
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmduplex_jax.planning.devices import Peak, mfu

# Counted over the whole run: samples whose record could not be read. One that is met again counts again.
CORRUPT_RECORDS = "corrupt_records"
STARTED_FILE = "started.json"
# In every line of `metrics.jsonl`: seconds in steps since the run's first, which a run that goes on reads again.
STEPS_S = "steps_s"


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

    def write(self, step: int, values: Mapping[str, float | None], board: str = "train/") -> None:
        """One line. None (not known) is written as null and left out of TensorBoard, where names begin with `board`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        # A killed process keeps what was flushed.
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"{board}{name}", value, step)

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


class Progress:
    """Measures between two lines.

    Args:
      end_step: where the run ends, for the time to go.
      video_s_per_step: seconds of video in a batch.
      flops_per_step: the model's operations, recomputation not counted (`planning/traced.py`).
      peak: of one device; None where it is not known.
      num_devices: devices that share the step.
    """

    def __init__(
        self, *, end_step: int, video_s_per_step: float, flops_per_step: float, peak: Peak | None, num_devices: int
    ):
        self._end_step, self._video_s = end_step, video_s_per_step
        self._flops, self._peak, self._num_devices = flops_per_step, peak, num_devices
        self._since, self._steps, self._wait_s = time.perf_counter(), 0, 0.0
        self._save_s, self._cpu_since = 0.0, time.process_time()

    def add_wait(self, wait_s: float) -> None:
        """Counts time in which the loop had no batch to go on with."""
        self._wait_s += wait_s

    def add_save(self, save_s: float) -> None:
        """Counts time in which the loop stood still for a checkpoint."""
        self._save_s += save_s

    def add_pause(self, pause_s: float, cpu_s: float) -> None:
        """Leaves out time in which nothing was trained, and the processors' time in it: an evaluation."""
        self._since += pause_s
        self._cpu_since += cpu_s

    def add_step(self) -> None:
        """Counts a step that the devices have finished."""
        self._steps += 1

    def pop(self, step: int, tokens_per_step: float | None) -> tuple[dict[str, float | None], float]:
        """The speeds since the last call, at `step`, and the seconds since then that went into steps."""
        now = time.perf_counter()
        wall_s = max(now - self._since, 1e-9)
        steps_per_s = self._steps / wall_s
        speeds = {
            "steps_per_s": steps_per_s,
            "tokens_per_s": None if tokens_per_step is None else tokens_per_step * steps_per_s,
            "video_s_per_s": self._video_s * steps_per_s,
            "mfu": mfu(self._flops, steps_per_s, self._peak, self._num_devices),
            "data_wait": self._wait_s / wall_s,
            # Of this process: what a step costs, whatever else the machine does.
            "cpu_s_per_step": (time.process_time() - self._cpu_since) / self._steps if self._steps else None,
            "eta_s": (self._end_step - step) / steps_per_s if self._steps else None,
        }
        steps_s = max(wall_s - self._wait_s - self._save_s, 0.0)
        self._since, self._steps, self._wait_s, self._save_s = now, 0, 0.0, 0.0
        self._cpu_since = time.process_time()
        return speeds, steps_s


def progress_line(step: int, end_step: int, means: Mapping[str, float], speeds: Mapping[str, float | None]) -> str:
    """One line for people."""
    tokens, share, eta_s = speeds["tokens_per_s"], speeds["mfu"], speeds["eta_s"]
    parts = [
        f"step {step:>{len(str(end_step))}}/{end_step}",
        f"loss {means['loss']:.4f}",
        f"grad {means['grad_norm']:.2f}",
        f"lr {means['learning_rate']:.2e}",
        f"{speeds['steps_per_s']:.2f} steps/s",
        "tokens/s n/a" if tokens is None else f"{tokens:,.0f} tokens/s",
        f"{speeds['video_s_per_s']:.1f} s video/s",
        "mfu n/a" if share is None else f"mfu {share:.1%}",
        f"data wait {speeds['data_wait']:.1%}",
        f"goodput {speeds['goodput']:.1%}",
        "eta n/a" if eta_s is None else f"eta {_duration(eta_s)}",
    ]
    return " | ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def note_start(workdir: Path, clock: Callable[[], float] = time.time) -> None:
    """Writes down when a run is first started; where that is written, nothing happens.

    Args:
      workdir: of the run, which exists.
      clock: seconds since 1970.
    """
    path = workdir / STARTED_FILE
    if not path.exists():
        new = path.with_suffix(".json.new")
        new.write_text(json.dumps({"unix_s": clock()}) + "\n", encoding="utf-8")
        os.replace(new, path)


class Goodput:
    """Counts a run's seconds in steps over all its starts.

    A run that goes on begins with what its last kept line says; steps between that line and the checkpoint are not
    counted. Runs begun before there was such a count are counted from when they first go on.

    Args:
      workdir: of the run, whose start was noted.
      clock: seconds since 1970.
    """

    def __init__(self, workdir: Path, clock: Callable[[], float] = time.time):
        self._clock = clock
        self.steps_s = _last_steps_s(workdir / "metrics.jsonl")
        self._started_s = json.loads((workdir / STARTED_FILE).read_text(encoding="utf-8"))["unix_s"]

    def add(self, steps_s: float) -> dict[str, float]:
        """Takes the seconds in steps since the last call; what a line says of it."""
        self.steps_s += steps_s
        return {STEPS_S: self.steps_s, "goodput": self.steps_s / max(self._clock() - self._started_s, 1e-9)}


def _last_steps_s(metrics: Path) -> float:
    """Seconds in steps by the last line that says so; 0 where none does."""
    if not metrics.exists():
        return 0.0
    for line in reversed(metrics.read_text(encoding="utf-8").splitlines()):
        found = json.loads(line).get(STEPS_S)
        if found is not None:
            return found
    return 0.0
