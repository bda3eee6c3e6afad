"""Arms of an experiment: trainings that differ in one thing, over the same seeds, each scored on unseen clips.

Every run is two commands of the project, `launch.train` and `launch.evaluate`. A run that has its scores is not done
again, so an experiment that was stopped goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmduplex_jax.stages.config_file import add_json_flag, write_json

SCORES = "scores.json"
Row = dict[str, Any]


def run(*arguments: str) -> None:
    """Runs one of the project's commands; raises CalledProcessError when it fails."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def train_and_score(
    out: Path, arm: str, seed: int, config: str, data: str, steps: int, clips: int, changes: Sequence[str]
) -> Row:
    """Trains and scores one run in `out`, unless that was done before.

    Args:
      out: folder of all runs.
      arm: its name.
      seed: of the parameters and of the order of the data.
      config: as `launch.train` takes it.
      data: directories of shards.
      steps: of training.
      clips: that it is scored on.
      changes: further flags of `launch.train`.

    Returns:
      The report of `launch.evaluate`, with `arm`, `train_seed`, `train_steps`, `train_s` and `step_s`.
    """
    workdir = out / f"{arm}-seed{seed}-steps{steps}"
    scores = workdir / SCORES
    if not scores.exists():
        started_s = time.monotonic()
        run(
            "launch.train",
            f"--config={config}",
            f"--workdir={workdir}",
            f"--config.data.dirs={data}",
            f"--config.data.seed={seed}",
            f"--config.train.seed={seed}",
            f"--config.train.steps={steps}",
            *changes,
        )
        train_s = time.monotonic() - started_s
        raw = workdir / "evaluation.json"
        run("launch.evaluate", f"--checkpoint={workdir}", f"--clips={clips}", f"--json={raw}")
        found = json.loads(raw.read_text()) | {
            "arm": arm,
            "train_seed": seed,
            "train_steps": steps,
            "train_s": train_s,
            "step_s": steady_step_s(workdir),
        }
        scores.write_text(json.dumps(found))
    return json.loads(scores.read_text())


def steady_step_s(workdir: Path) -> float:
    """Seconds a step, the median of the run's log lines after the first."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rates = [line["steps_per_s"] for line in lines if line.get("steps_per_s")]
    return 1.0 / statistics.median(rates[1:] or rates)


def by_arm(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each arm, in the order of the arms' first rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)
    return found


def spread(rows: Sequence[Row], key: str) -> str:
    """Mean over seeds, in brackets the least and the most."""
    values = [row[key] for row in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def add_flags(parser: argparse.ArgumentParser, arms: Iterable[str], default: str, steps: int) -> None:
    """The flags of every such experiment; `default` are the arms that run where none are named."""
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the runs and their scores")
    add("--arms", default=default, help=f"some of {','.join(arms)} (default: %(default)s)")
    add("--seeds", default="0,1,2", help="one run an arm and seed (default: %(default)s)")
    add("--steps", type=int, default=steps, help="training steps (default: %(default)s)")
    add("--clips", type=int, default=160, help="clips to score on (default: %(default)s)")
    add_json_flag(parser)
    add("--markdown", type=Path, metavar="FILE", help="write the table here")


def run_arms(args: argparse.Namespace, arms: Iterable[str], train: Callable[[str, int, list[Row]], Row]) -> list[Row]:
    """All arms of `--arms` for all seeds: `train(arm, seed, rows of the runs before)` makes a row.

    Raises:
      ValueError: an arm is not one of `arms`, or needs one that did not run before it.
    """
    chosen = args.arms.split(",")
    unknown = sorted(set(chosen) - set(arms))
    if unknown:
        raise ValueError(f"no such arm: {', '.join(unknown)}; there are {', '.join(arms)}")
    rows: list[Row] = []
    for seed in map(int, args.seeds.split(",")):
        for arm in chosen:
            rows.append(train(arm, seed, rows))
    return rows


def write_report(args: argparse.Namespace, rows: Sequence[Row], table: str) -> None:
    """Prints the table and writes what `--json` and `--markdown` ask for."""
    if args.json != "-":
        print(table)
    write_json(args.json, {"runs": rows})
    if args.markdown:
        args.markdown.write_text(table, encoding="utf-8")
