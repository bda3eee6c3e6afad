"""B-Flow against the fixed grid: the same model, data, steps and seeds; only what the tokens look at differs.

    python -m benchmarks.tokenizers --data=data/plain --out=runs/tokenizers
    python -m benchmarks.tokenizers --data=data/plain --out=runs/tokenizers --seeds=0,1,2 --steps=800
    --json=tokenizers.json

Every arm is trained by `launch.train` with `configs/quickstart.py` and scored by `launch.evaluate` on clips that no
arm has seen. All arms obey the same cap of 32 tokens in any second. Arms:

    bflow            crops on motion peaks, anchors, motion features
    uniform          a grid of 4×4 crops every 4th tick, with motion features
    uniform_blind    the same without motion features
    uniform_time     `uniform`, given as many more steps as it is faster, so that both train equally long

Finished runs are kept in `--out` and not redone; the table is printed and, with `--markdown`, written.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ARMS = {
    "bflow": [],
    "uniform": ["--config.tokenizer.kind=uniform"],
    "uniform_blind": ["--config.tokenizer.kind=uniform", "--config.tokenizer.flow.motion_features=False"],
    "uniform_time": ["--config.tokenizer.kind=uniform"],
}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.tokenizers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = flags.add_argument
    add("--data", required=True, metavar="DIR", help="shards to train on, made by launch.prepare")
    add("--out", required=True, metavar="DIR", help="folder for the runs and their scores")
    add("--arms", default="bflow,uniform,uniform_time", help=f"some of {','.join(ARMS)} (default: %(default)s)")
    add("--seeds", default="0,1,2", help="one run an arm and seed (default: %(default)s)")
    add("--steps", type=int, default=800, help="training steps (default: %(default)s)")
    add("--clips", type=int, default=160, help="clips to score on (default: %(default)s)")
    add("--json", metavar="FILE", help="write every number here")
    add("--markdown", metavar="FILE", help="write the table here")
    return flags


def run(*arguments: str) -> None:
    """Runs one of the project's commands; raises CalledProcessError when it fails."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def steady_step_s(workdir: Path) -> float:
    """Seconds a step, the median of the run's log lines after the first."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rates = [line["steps_per_s"] for line in lines if line.get("steps_per_s")]
    return 1.0 / statistics.median(rates[1:] or rates)


def score(arm: str, seed: int, steps: int, args: argparse.Namespace) -> dict[str, float]:
    """Trains and scores one run, unless that was done before."""
    workdir = Path(args.out) / f"{arm}-seed{seed}-steps{steps}"
    scores = workdir / "scores.json"
    if not scores.exists():
        started_s = time.monotonic()
        run(
            "launch.train",
            "--config=configs/quickstart.py",
            f"--workdir={workdir}",
            f"--config.data.dirs={args.data}",
            f"--config.data.seed={seed}",
            f"--config.train.seed={seed}",
            f"--config.train.steps={steps}",
            *ARMS[arm],
        )
        train_s = time.monotonic() - started_s
        run("launch.evaluate", f"--checkpoint={workdir}", f"--clips={args.clips}", f"--json={scores}")
        found = json.loads(scores.read_text())
        scores.write_text(json.dumps(found | {"train_s": train_s, "step_s": steady_step_s(workdir)}))
    return json.loads(scores.read_text()) | {"arm": arm, "train_seed": seed, "steps": steps}


def table(rows: list[dict], steps: int) -> str:
    """A Markdown table: mean and range over seeds."""
    lines = [
        "| arm | steps | F1 | word NLL | tokens/s | s a step |",
        "|---|---|---|---|---|---|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]

        def spread(key: str, mine: list[dict] = mine) -> str:
            values = [row[key] for row in mine]
            return f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"

        lines.append(
            f"| {arm} | {mine[0]['steps']} | {spread('f1')} | {spread('word_nll')} | "
            f"{statistics.mean(row['tokens_per_s'] for row in mine):.1f} | {spread('step_s')} |"
        )
    return "\n".join(lines) + f"\n\n{len({row['train_seed'] for row in rows})} seeds, {steps} steps of 8 clips.\n"


def main() -> int:
    """Runs all arms, prints the table, and returns the exit code."""
    args = parser().parse_args()
    arms, seeds = args.arms.split(","), [int(seed) for seed in args.seeds.split(",")]
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        print(f"error: no such arm: {', '.join(unknown)}; there are {', '.join(ARMS)}", file=sys.stderr)
        return 2
    rows: list[dict] = []
    for seed in seeds:
        for arm in arms:
            steps = args.steps
            if arm == "uniform_time":
                timed = {row["arm"]: row["step_s"] for row in rows if row["train_seed"] == seeds[0]}
                if not {"bflow", "uniform"} <= set(timed):
                    print("error: uniform_time needs bflow and uniform among the arms before it", file=sys.stderr)
                    return 2
                steps = round(args.steps * timed["bflow"] / timed["uniform"])
            rows.append(score(arm, seed, steps, args))
    found = table(rows, args.steps)
    print(found)
    if args.json:
        Path(args.json).write_text(json.dumps({"runs": rows}, indent=1) + "\n")
    if args.markdown:
        Path(args.markdown).write_text(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
