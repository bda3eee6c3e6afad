"""Goodput: the share of a run's whole time, since it was first started, that went into steps which counted.

What does not count: starting and compiling, restoring, waiting for data, writing checkpoints, steps that were lost
because a run died after its last checkpoint, and the time until it was started again (as ML Goodput, Google, 2024).
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

STARTED_FILE = "started.json"
# In every line of `metrics.jsonl`: seconds in steps since the run's first, which a run that goes on reads again.
STEPS_S = "steps_s"


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
