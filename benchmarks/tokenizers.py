r"""B-Flow against the fixed grid: the same model, data, steps and seeds; only what the tokens look at differs.

    python -m benchmarks.tokenizers --data=data/plain --out=runs/tokenizers
    python -m benchmarks.tokenizers \
        --data=data/plain --out=runs/tokenizers --seeds=0,1,2 --steps=800 --json=tokenizers.json

Every arm is trained by `launch.train` with `configs/quickstart.py` and scored by `launch.evaluate` on clips that no
arm has seen. All arms obey the same cap of 32 tokens in any second. Arms:

    bflow            crops on motion peaks, anchors, motion features
    uniform          a grid of 4×4 crops every 4th tick, with motion features
    uniform_blind    the same without motion features
    uniform_time     `uniform`, given as many more steps as it is faster, so that both train equally long

Finished runs are kept in `--out` and not redone; the table is printed and, with `--markdown`, written.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

from benchmarks.arms import Row, add_flags, by_arm, run_arms, spread, train_and_score, write_report
from mmduplex_jax.stages.config_file import parse_args

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
    flags.add_argument("--data", required=True, metavar="DIR", help="shards to train on, made by launch.prepare")
    add_flags(flags, ARMS, default="bflow,uniform,uniform_time", steps=800)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all arms, prints the table, and returns the exit code."""
    args = parse_args(parser(), argv)

    def train(arm: str, seed: int, before: list[Row]) -> Row:
        steps = args.steps
        if arm == "uniform_time":
            timed = {row["arm"]: row["step_s"] for row in before if row["train_seed"] == before[0]["train_seed"]}
            if not {"bflow", "uniform"} <= set(timed):
                raise ValueError("uniform_time needs bflow and uniform among the arms before it")
            steps = round(args.steps * timed["bflow"] / timed["uniform"])
        return train_and_score(args.out, arm, seed, "configs/quickstart.py", args.data, steps, args.clips, ARMS[arm])

    try:
        rows = run_arms(args, ARMS, train)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_report(args, rows, table(rows, args.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
