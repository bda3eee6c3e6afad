"""Rows: what is known of an arm that is finished with a seed, a line of JSON each, kept in the repository."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROWS = Path(__file__).resolve().parents[2] / "docs" / "returns" / "rows.jsonl"


class Point(NamedTuple):
    """An evaluation on the way, on the held-out set.

    Attributes:
      step: of the training.
      word_nll: nats a token, teacher-forced.
      f1: free-running.
      decaying: whether the rate is going down, so that the point is no longer one of a constant rate.
    """

    step: int
    word_nll: float
    f1: float
    decaying: bool


class Row(NamedTuple):
    """A finished training of an arm with a seed.

    Attributes:
      arm, part, size: of `arms.py`.
      seed: of the training and its data's order.
      command: that makes the row.
      overrides: all that were added to the config, seed and data left out.
      config: that they were added to.
      commit: of the code; with `+` behind it where it was changed.
      date: when it was finished, in UTC.
      machine: as `benchmarks.turns.machine` says.
      steps, stable_steps: all, and those at a constant rate; these are 0 of a stage that others begin with.
      flat: whether the constant rate ended because nothing more was gained, not because `stable_steps_max` was reached.
      wall_s, cpu_s: of all commands: training, its evaluations, compiling, scoring.
      step_cpu_s: processor seconds of a training step.
      begun_cpu_s: processor seconds of the arms that it begins with.
      parameters: all of them, frozen ones too.
      flops_per_step, flops_per_video_s: of a training step; live, of a second of video; as `launch.estimate` counts.
      clips: that are learned from.
      curve: on the held-out set.
      scores: of new clips by look: `f1`, `f1_low`, `f1_high` (95 % of resamplings), `word_nll`, `word_f1`,
        `latency_p50_s`, `tokens_per_s`. Of a stage that others begin with, its own scores.
    """

    arm: str
    part: str
    size: str
    seed: int
    command: str
    config: str
    overrides: tuple[str, ...]
    commit: str
    date: str
    machine: dict[str, Any]
    steps: int
    stable_steps: int
    flat: bool
    wall_s: float
    cpu_s: float
    step_cpu_s: float
    begun_cpu_s: float
    parameters: int
    flops_per_step: float
    flops_per_video_s: float | None
    clips: int
    curve: tuple[Point, ...]
    scores: dict[str, dict[str, float | None]]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in its order; none where there is no file.

    Raises:
      ValueError: a line is no row, or an arm has two rows of one size and seed; says which line and what to do.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    seen: dict[tuple[str, str, int], int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            points = tuple(Point(*point) for point in values["curve"])
            row = Row(**values | {"curve": points, "overrides": tuple(values["overrides"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: no row of benchmarks.returns: {error}: remove the line") from error
        key = (row.arm, row.size, row.seed)
        if key in seen:
            raise ValueError(f"{path}:{number}: {row.arm} with seed {row.seed} is in line {seen[key]}, too: remove one")
        seen[key] = number
        rows.append(row)
    return rows


def append_row(path: Path, row: Row) -> None:
    """Adds a line; it is on disk, whole, when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row._asdict(), allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def of_arm(rows: Sequence[Row], arm: str) -> list[Row]:
    """The rows of an arm, by seed."""
    return sorted((row for row in rows if row.arm == arm), key=lambda row: row.seed)
