r"""Trainings that differ in one thing, over the same seeds, each scored on clips that no training has seen.

    python -m benchmarks.arms tokenizers --data=data/plain --out=runs/tokenizers
    python -m launch.chain --config=configs/chain_quickstart.py --workdir=runs/chain
    python -m benchmarks.arms initialisations --chain=runs/chain --out=runs/initialisations --markdown=table.md

`tokenizers`: B-Flow against a fixed grid, in `configs/quickstart.py`. All obey the same cap of 32 tokens in any second.

    bflow            crops on motion peaks, anchors, motion features
    uniform          a grid of 4×4 crops every 4th tick, with motion features
    uniform_blind    the same without motion features
    uniform_time     `uniform`, given as many more steps as it is faster, so that both train equally long

`initialisations`: what the earlier stages of a chain bring to `configs/chain_quickstart.py:duplex`, trained on the
chain's data. The earlier stages are trained once; the seeds are of the duplex.

    scratch          random numbers
    clip             the anchors' vision tower from stage `clip`
    bflow            the tokenizer from stage `bflow`
    vlm              the language model from stage `vlm`
    chain            tokenizer and language model, as the chain does it
    scratch_time     random numbers, and as many more steps as the earlier stages took time

Every run is two commands of the project, `launch.train` and `launch.evaluate`. A run that has its scores is not done
again, so an experiment that was stopped goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, run_main, show

EARLIER = ("clip", "bflow", "vlm")
Row = dict[str, Any]


class Experiment(NamedTuple):
    """What is compared.

    Attributes:
      config, data: as `launch.train` takes them.
      steps: of training, where no others are asked for.
      arms: what each adds to the flags of `launch.train`; gains are over the first.
      left_out: arms that run only where they are named.
      longer: of arms that train for another time: the steps, from the steps of the others and the seconds of a step by
        arm.
    """

    config: str
    data: str
    steps: int
    arms: Mapping[str, Sequence[str]]
    left_out: Sequence[str]
    longer: Mapping[str, Callable[[int, Mapping[str, float]], float]]


def tokenizers(args: argparse.Namespace) -> Experiment:
    """B-Flow against a fixed grid."""
    if not args.data:
        raise ValueError("tokenizers needs --data: shards made by launch.prepare")
    uniform = ["--config.tokenizer.kind=uniform"]
    blind = [*uniform, "--config.tokenizer.flow.motion_features=False"]
    arms = {"bflow": [], "uniform": uniform, "uniform_blind": blind, "uniform_time": uniform}
    longer = {"uniform_time": lambda steps, step_s: steps * step_s["bflow"] / step_s["uniform"]}
    return Experiment("configs/quickstart.py", args.data, 800, arms, ["uniform_blind"], longer)


def initialisations(args: argparse.Namespace) -> Experiment:
    """What the stages of a chain bring to its last."""
    chain = args.chain
    missing = [stage for stage in EARLIER if chain is None or not (chain / stage / "checkpoints").is_dir()]
    if missing:
        raise ValueError(f"--chain={chain} lacks {', '.join(missing)}: finish `python -m launch.chain` first")
    begun = {
        "scratch": {},
        "clip": {"vision": "clip"},
        "bflow": {"tokenizer": "bflow"},
        "vlm": {"text": "vlm"},
        "chain": {"tokenizer": "bflow", "text": "vlm"},
        "scratch_time": {},
    }
    arms = {
        arm: [f"--config.init_from.{part}={chain / stage}" for part, stage in parts.items()]
        for arm, parts in begun.items()
    }
    took_s = lambda: sum(log_of(chain / stage)[-1]["step"] * steady_step_s(chain / stage) for stage in EARLIER)
    longer = {"scratch_time": lambda steps, step_s: steps + took_s() / step_s["scratch"]}
    data = args.data or str(chain / "data")
    return Experiment("configs/chain_quickstart.py:duplex", data, 600, arms, ["scratch_time"], longer)


EXPERIMENTS = {"tokenizers": tokenizers, "initialisations": initialisations}


def run(*arguments: str) -> None:
    """Runs one of the project's commands; raises CalledProcessError when it fails."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def train_and_score(out: Path, arm: str, seed: int, experiment: Experiment, steps: int, clips: int) -> Row:
    """Trains and scores one run in `out`, unless that was done before.

    Returns:
      The report of `launch.evaluate`, with `arm`, `train_seed`, `train_steps`, `train_s` and `step_s`.
    """
    workdir = out / f"{arm}-seed{seed}-steps{steps}"
    scores, raw = workdir / "scores.json", workdir / "evaluation.json"
    if not scores.exists():
        started_s = time.monotonic()
        run(
            "launch.train",
            f"--config={experiment.config}",
            f"--workdir={workdir}",
            f"--config.data.dirs={experiment.data}",
            f"--config.data.seed={seed}",
            f"--config.train.seed={seed}",
            f"--config.train.steps={steps}",
            *experiment.arms[arm],
        )
        run_facts = {"arm": arm, "train_seed": seed, "train_steps": steps, "train_s": time.monotonic() - started_s}
        run("launch.evaluate", f"--checkpoint={workdir}", f"--clips={clips}", f"--json={raw}")
        scores.write_text(json.dumps(json.loads(raw.read_text()) | run_facts | {"step_s": steady_step_s(workdir)}))
    return json.loads(scores.read_text())


def log_of(workdir: Path) -> list[Row]:
    """The lines that a training has logged."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def steady_step_s(workdir: Path) -> float:
    """Seconds a step, the median of the run's log lines after the first."""
    rates = [line["steps_per_s"] for line in log_of(workdir) if line.get("steps_per_s")]
    return 1.0 / statistics.median(rates[1:] or rates)


def run_arms(
    experiment: Experiment, chosen: Sequence[str], seeds: Sequence[int], steps: int, out: Path, clips: int
) -> list[Row]:
    """A row of every arm and seed.

    Raises:
      ValueError: an arm is none of the experiment's, or needs one that did not run before it.
    """
    unknown = sorted(set(chosen) - set(experiment.arms))
    if unknown:
        raise ValueError(f"no such arm: {', '.join(unknown)}; there are {', '.join(experiment.arms)}")
    rows: list[Row] = []
    step_s: dict[str, float] = {}
    for seed in seeds:
        for arm in chosen:
            of_arm = steps
            if arm in experiment.longer:
                try:
                    of_arm = round(experiment.longer[arm](steps, step_s))
                except KeyError as error:
                    raise ValueError(f"{arm} needs {error} among the arms before it") from error
            rows.append(train_and_score(out, arm, seed, experiment, of_arm, clips))
            step_s.setdefault(arm, rows[-1]["step_s"])
    return rows


def spread(rows: Sequence[Row], key: str) -> str:
    """Mean over seeds, in brackets the least and the most."""
    values = [row[key] for row in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def mean_of(rows: Sequence[Row], key: str, form: str) -> str:
    """The mean of those that have it."""
    values = [row[key] for row in rows if row[key] is not None]
    return format(statistics.mean(values), form) if values else "–"


def table(rows: Sequence[Row], first: str) -> str:
    """A Markdown table: mean and range over seeds, and the gain over the first arm's same seeds."""
    base = {row["train_seed"]: row["f1"] for row in rows if row["arm"] == first}
    head = ["arm", "steps", "F1", f"gain over {first}", "word NLL", "latency p50, s", "tokens/s", "s a step"]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        gains = [row["f1"] - base[row["train_seed"]] for row in mine if row["train_seed"] in base and arm != first]
        gain = f"{statistics.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})" if gains else "–"
        cells = [arm, str(mine[0]["train_steps"]), spread(mine, "f1"), gain, spread(mine, "word_nll")]
        cells += [mean_of(mine, "latency_p50_s", ".2f"), mean_of(mine, "tokens_per_s", ".1f"), spread(mine, "step_s")]
        lines.append(cells)
    return f"{markdown_table(head, lines)}\n\n{len({row['train_seed'] for row in rows})} seeds."


def work(args: argparse.Namespace) -> None:
    """Runs an experiment, prints and writes its table."""
    experiment = EXPERIMENTS[args.experiment](args)
    default = [arm for arm in experiment.arms if arm not in experiment.left_out]
    steps = args.steps or experiment.steps
    rows = run_arms(experiment, args.arms or default, args.seeds, steps, args.out, args.clips)
    show(args, {"runs": rows}, table(rows, next(iter(experiment.arms))))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.arms", __doc__)
    add = flags.add_argument
    add("experiment", choices=EXPERIMENTS, help="what is compared")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the runs and their scores")
    add("--data", metavar="DIRS", help="shards to train on, made by launch.prepare (initialisations: the chain's own)")
    add("--chain", type=Path, metavar="DIR", help="of initialisations: workdir of launch.chain, finished")
    text = "some of the experiment's (default: all that take as many steps, and uniform_time)"
    add("--arms", type=listed(none=True), help=text)
    add("--seeds", type=listed(int), default="0,1,2", help="one run an arm and seed (default: %(default)s)")
    add("--steps", type=int, help="training steps (default: 800 of tokenizers, 600 of initialisations)")
    add("--clips", type=int, default=160, help="clips to score on (default: %(default)s)")
    add_json_flag(flags)
    add("--markdown", type=Path, metavar="FILE", help="write the table here")
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
