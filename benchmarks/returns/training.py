"""Trains and scores one arm with one seed: commands of the project, each of which goes on where it was stopped.

What is done is told by files in the arm's folder, OUT/SIZE/ARM-seedN:

    stable.json     the constant rate is over: at which step, and whether the curve was flat
    decayed.json    the training is over
    flops.json      what `launch.estimate` counts
    scores-*.json   of `launch.evaluate`, by look
    spent.jsonl     seconds of every command, also of those that were stopped
"""

import contextlib
import datetime
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.returns.arms import ARMS, DATA, SIZES, Arm, Shards, Size
from benchmarks.returns.rows import Point, Row
from benchmarks.turns import machine
from data_pipelines.manifest import MANIFEST_NAME

# A command of the project and its flags; raises KeyboardInterrupt where it was stopped.
Run = Callable[..., None]
_ROOT = Path(__file__).resolve().parents[2]
# Of the set by which a training's end is found. Training sets have seed 0, `launch.evaluate` takes another.
_HELD_SEED = 1
_HELD = "held"
# Exit codes of `launch.train` that was told to stop.
_STOPPED = (75, 130, -signal.SIGINT, -signal.SIGTERM)


def run_command(*arguments: str) -> None:
    """Runs `python -m ...` from the checkout's root; where this is stopped the command saves and ends, too.

    Raises:
      KeyboardInterrupt: it was stopped, or this process was.
      CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", *arguments]
    # In a session of its own, or Ctrl-C would reach it beside what is sent to it here.
    child = subprocess.Popen(command, cwd=_ROOT, start_new_session=True)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    if code in _STOPPED:
        raise KeyboardInterrupt
    if code:
        raise subprocess.CalledProcessError(code, command)


def earlier(arm: Arm) -> list[Arm]:
    """All arms that an arm begins with, and those that they begin with, each behind its own."""
    by_name = {each.name: each for each in ARMS}
    found: dict[str, Arm] = {}
    for name in arm.begins_with.values():
        found |= {each.name: each for each in earlier(by_name[name])} | {name: by_name[name]}
    return list(found.values())


def prepare(run: Run, out: Path, size: Size, name: str, *, held: bool = False) -> Path:
    """The folder of a set of clips, made where it is not there: one to learn from, or the held-out one of its look."""
    shards: Shards = DATA[name]
    folder = out / "data" / (f"{_HELD}-{shards.look}" if held else name)
    if (folder / MANIFEST_NAME).is_file():
        return folder
    clips = size.held_clips if held else round(size.clips * shards.share)
    run(
        "launch.prepare",
        "--config=configs/data/world.py",
        f"--out={folder}",
        f"--config.look={shards.look}",
        f"--config.clips={clips}",
        f"--config.seed={_HELD_SEED if held else 0}",
        *(f"--config.{field}" for field in size.data),
    )
    return folder


class Training:
    """One arm with one seed.

    Args:
      arm: what is trained.
      seed: of parameters and of the data's order.
      size: one of `SIZES`.
      out: folder of the study.
      run: runs a command (`run_command`, or another in tests).
    """

    def __init__(self, arm: Arm, seed: int, size: str, out: Path, run: Run):
        self.arm, self.seed, self.size_name, self.size = arm, seed, size, SIZES[size]
        self._out, self._run = out / size, run
        self.folder = self._folder_of(arm.name)

    def _folder_of(self, arm: str) -> Path:
        return self._out / f"{arm}-seed{self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """All that is added to the config, but for folders, seeds and how long it takes."""
        size = self.size
        return (*(size.stages if self.arm.steps else size.overrides), *self.arm.overrides)

    def finish(self) -> Row:
        """Trains, counts and scores what was not yet, and gives the row.

        Raises:
          KeyboardInterrupt: a command was stopped.
          CalledProcessError: one failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        data = prepare(self._run, self._out, self.size, self.arm.data)
        held = prepare(self._run, self._out, self.size, self.arm.data, held=True)
        if self.arm.steps:
            self._train(data, "decayed.json", f"--config.train.steps={self._staged_steps}")
        else:
            self._train_until_flat(data, held)
        if not (self.folder / "flops.json").exists():
            with self._written("flops.json") as file:
                self._spend("launch.estimate", *self._flags(data), f"--json={file}")
        looks = ("plain", "rich") if DATA[self.arm.data].look == "rich" else ("plain",)
        for look in looks:
            if not (self.folder / f"scores-{look}.json").exists():
                with self._written(f"scores-{look}.json") as file:
                    clips = f"--clips={self.size.test_clips}"
                    self._spend(
                        "launch.evaluate", f"--checkpoint={self.folder}", clips, f"--look={look}", f"--json={file}"
                    )
        return self._row(looks)

    @property
    def _staged_steps(self) -> int:
        return min(self.arm.steps, self.size.stable_steps_max)

    def _train_until_flat(self, data: Path, held: Path) -> None:
        """At a constant rate until the held-out word NLL is flat, then down to nothing."""
        size, every = self.size, self.size.evaluate_every
        evaluations = (
            f"--config.evals.every={every}",
            f"--config.evals.dirs={held}",
            f"--config.evals.clips={size.held_clips}",
            "--config.evals.best=-word_nll",
        )
        most = size.stable_steps_max
        # `decay_steps` makes the rate constant; they would begin at `most`, where this part of the training ends.
        self._train(
            data,
            "stable.json",
            f"--config.train.steps={most + every}",
            f"--config.train.decay_steps={every}",
            f"--config.train.stop_at_step={most}",
            *evaluations,
            f"--config.evals.patience={size.patience}",
            f"--config.evals.min_gain={size.min_gain}",
        )
        stable_steps = self._told("stable.json")["steps"]
        decay_steps = every * max(1, round(size.decay_share * stable_steps / every))
        self._train(
            data,
            "decayed.json",
            f"--config.train.steps={stable_steps + decay_steps}",
            f"--config.train.decay_steps={decay_steps}",
            *evaluations,
        )

    def _train(self, data: Path, done: str, *flags: str) -> None:
        """Runs `launch.train` to its end, and notes its last step in the file `done`; nothing where that is there."""
        if (self.folder / done).exists():
            return
        save = self.size.evaluate_every
        every = (f"--config.train.checkpoint_every={save}", "--config.train.keep=1")
        self._spend("launch.train", *self._flags(data), f"--workdir={self.folder}", *every, *flags)
        steps = max(int(path.name) for path in (self.folder / "checkpoints").iterdir() if path.name.isdecimal())
        with self._written(done) as file:
            file.write_text(json.dumps({"steps": steps}))

    def _flags(self, data: Path) -> list[str]:
        begun = [
            f"--config.init_from.{part}={self._folder_of(arm)}" for part, arm in sorted(self.arm.begins_with.items())
        ]
        return [
            f"--config={self.arm.config}",
            *(f"--config.{override}" for override in self.overrides),
            *begun,
            f"--config.data.dirs={data}",
            f"--config.data.seed={self.seed}",
            f"--config.train.seed={self.seed}",
        ]

    @contextlib.contextmanager
    def _written(self, name: str) -> Iterator[Path]:
        """A file to be written, which has its name when it is whole."""
        new = self.folder / f"{name}.new"
        yield new
        os.replace(new, self.folder / name)

    def _told(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def _spend(self, *arguments: str) -> None:
        """Runs a command and notes what it took, whether it ends or is stopped."""
        began_s, cpu_s = time.monotonic(), _cpu_s()
        try:
            self._run(*arguments)
        finally:
            spent = {"command": arguments[0], "wall_s": time.monotonic() - began_s, "cpu_s": _cpu_s() - cpu_s}
            with (self.folder / "spent.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(spent) + "\n")

    def _row(self, looks: Sequence[str]) -> Row:
        log = _lines(self.folder / "metrics.jsonl")
        stable_steps = 0 if self.arm.steps else self._told("stable.json")["steps"]
        begun = [_lines(self._folder_of(arm.name) / "spent.jsonl") for arm in earlier(self.arm)]
        spent, counted = _lines(self.folder / "spent.jsonl"), self._told("flops.json")
        stream = counted["stream"]
        return Row(
            arm=self.arm.name,
            part=self.arm.part,
            size=self.size_name,
            seed=self.seed,
            command=(
                f"python -m benchmarks.returns --out=OUT --size={self.size_name} --arms=^{self.arm.name}$ "
                f"--seeds={self.seed}"
            ),
            config=self.arm.config,
            overrides=self.overrides,
            commit=_commit(),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            machine=machine(),
            steps=self._told("decayed.json")["steps"],
            stable_steps=stable_steps,
            flat=0 < stable_steps < self.size.stable_steps_max,
            wall_s=sum(command["wall_s"] for command in spent),
            cpu_s=sum(command["cpu_s"] for command in spent),
            # The first line has the step in it that compiles what is not compiled yet.
            step_cpu_s=statistics.median([line["cpu_s_per_step"] for line in log if line.get("cpu_s_per_step")][1:]),
            begun_cpu_s=sum(command["cpu_s"] for commands in begun for command in commands),
            parameters=counted["parameters"],
            flops_per_step=counted["flops_per_step"],
            flops_per_video_s=None if stream is None else stream["flops_per_s"],
            clips=round(self.size.clips * DATA[self.arm.data].share),
            curve=tuple(_points(log, stable_steps)),
            scores={look: _scores(self._told(f"scores-{look}.json")) for look in looks},
        )


def _points(log: Sequence[Mapping[str, Any]], stable_steps: int) -> Iterator[Point]:
    """The evaluations in a training's log."""
    for line in log:
        found = {name.rpartition("/")[2]: name for name in line if name.count("/") == 2 and name.startswith("eval/")}
        if {"word_nll", "f1"} <= found.keys():
            step = line["step"]
            yield Point(step, line[found["word_nll"]], line[found["f1"]], step > stable_steps)


def _scores(report: Mapping[str, Any]) -> dict[str, float | None]:
    """What is kept of a report of `launch.evaluate`; of a stage that is not `duplex`, its numbers at the top."""
    if report["stage"] != "duplex":
        return {name: value for name, value in report.items() if isinstance(value, float)}
    names = ("f1", "word_nll", "latency_p50_s", "tokens_per_s")
    spread = report["spread"]
    return {
        **{name: report[name] for name in names},
        "f1_low": spread["low"],
        "f1_high": spread["high"],
        "word_f1": report["words"]["word"]["f1"],
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cpu_s() -> float:
    """Processor seconds of this process and of all its commands that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _commit() -> str:
    """The checkout's commit; with `+` where files of the code differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(_ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")  # rows are in docs
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
