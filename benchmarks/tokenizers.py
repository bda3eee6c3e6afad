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
import sys
from pathlib import Path

from benchmarks.arms import Row, by_arm, spread, train_and_score

ARMS: dict[str, list[str]] = {
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


def table(rows: list[Row], steps: int) -> str:
    """A Markdown table: mean and range over seeds."""
    lines = [
        "| arm | steps | F1 | word NLL | tokens/s | s a step |",
        "|---|---|---|---|---|---|",
    ]
    for arm, mine in by_arm(rows).items():
        tokens_per_s = statistics.mean(row["tokens_per_s"] for row in mine)
        lines.append(
            f"| {arm} | {mine[0]['train_steps']} | {spread(mine, 'f1')} | {spread(mine, 'word_nll')} | "
            f"{tokens_per_s:.1f} | {spread(mine, 'step_s')} |"
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
    rows: list[Row] = []
    for seed in seeds:
        for arm in arms:
            steps = args.steps
            if arm == "uniform_time":
                timed = {row["arm"]: row["step_s"] for row in rows if row["train_seed"] == seeds[0]}
                if not {"bflow", "uniform"} <= set(timed):
                    print("error: uniform_time needs bflow and uniform among the arms before it", file=sys.stderr)
                    return 2
                steps = round(args.steps * timed["bflow"] / timed["uniform"])
            row = train_and_score(
                Path(args.out), arm, seed, "configs/quickstart.py", args.data, steps, args.clips, ARMS[arm]
            )
            rows.append(row)
    found = table(rows, args.steps)
    print(found)
    if args.json:
        Path(args.json).write_text(json.dumps({"runs": rows}, indent=1) + "\n")
    if args.markdown:
        Path(args.markdown).write_text(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
