"""What the earlier stages of a chain bring to the last one: the same duplex, begun in several ways.

    python -m launch.chain --config=configs/chain_quickstart.py --workdir=runs/chain
    python -m benchmarks.initialisations --chain=runs/chain --out=runs/initialisations --markdown=table.md

Every arm trains `configs/chain_quickstart.py:duplex` for the same number of steps on the chain's data, and is scored on
clips that no stage has seen; only what it begins with differs:

    scratch          random numbers
    clip             the anchors' vision tower from stage `clip`
    bflow            the tokenizer from stage `bflow`
    vlm              the language model from stage `vlm`
    chain            tokenizer and language model, as the chain does it
    scratch_time     random numbers, and as many more steps as the earlier stages took time

The earlier stages are trained once; the seeds are of the duplex: its other parameters and the order of its data.
Finished runs are kept in `--out` and not redone; the table is printed and, with `--markdown`, written.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arms import Row, add_flags, by_arm, run_arms, spread, steady_step_s, train_and_score, write_report
from mmduplex_jax.stages.config_file import parse_args

CONFIG = "configs/chain_quickstart.py:duplex"
# What of the duplex begins with which stage of the chain.
ARMS: dict[str, dict[str, str]] = {
    "scratch": {},
    "clip": {"vision": "clip"},
    "bflow": {"tokenizer": "bflow"},
    "vlm": {"text": "vlm"},
    "chain": {"tokenizer": "bflow", "text": "vlm"},
    "scratch_time": {},
}
EARLIER = ("clip", "bflow", "vlm")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.initialisations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--chain", required=True, type=Path, metavar="DIR", help="workdir of launch.chain, finished")
    flags.add_argument("--data", metavar="DIRS", help="shards to train on (default: the chain's own)")
    add_flags(flags, ARMS, default="scratch,clip,bflow,vlm,chain", steps=600)
    return flags


def training_s(workdir: Path) -> float:
    """Seconds that a finished training took, by its median speed."""
    last = json.loads((workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return last["step"] * steady_step_s(workdir)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: mean and range over seeds, and the gain over `scratch` of the same seeds."""
    arms = by_arm(rows)
    base = {row["train_seed"]: row["f1"] for row in arms.get("scratch", [])}
    lines = [
        "| begins with | steps | F1 | gain over scratch | word NLL | latency p50, s |",
        "|---|---|---|---|---|---|",
    ]
    for arm, mine in arms.items():
        gains = [row["f1"] - base[row["train_seed"]] for row in mine if row["train_seed"] in base]
        gain = f"{statistics.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})" if gains else "–"
        heard = [row["latency_p50_s"] for row in mine if row["latency_p50_s"] is not None]
        latency = f"{statistics.mean(heard):.2f}" if heard else "–"
        lines.append(
            f"| {arm} | {mine[0]['train_steps']} | {spread(mine, 'f1')} | {'–' if arm == 'scratch' else gain} | "
            f"{spread(mine, 'word_nll')} | {latency} |"
        )
    return "\n".join(lines) + f"\n\n{len({row['train_seed'] for row in rows})} seeds.\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all arms, prints the table, and returns the exit code."""
    args = parse_args(parser(), argv)
    missing = [stage for stage in EARLIER if not (args.chain / stage / "checkpoints").is_dir()]

    def train(arm: str, seed: int, before: list[Row]) -> Row:
        steps = args.steps
        if arm == "scratch_time":
            step_s = next((row["step_s"] for row in before if row["arm"] == "scratch"), None)
            if step_s is None:
                raise ValueError("scratch_time needs scratch among the arms before it")
            steps += round(sum(training_s(args.chain / stage) for stage in EARLIER) / step_s)
        begins = [f"--config.init_from.{part}={args.chain / stage}" for part, stage in ARMS[arm].items()]
        data = args.data or str(args.chain / "data")
        return train_and_score(args.out, arm, seed, CONFIG, data, steps, args.clips, begins)

    try:
        if missing:
            raise ValueError(f"{args.chain} lacks {', '.join(missing)}: finish `python -m launch.chain` first")
        rows = run_arms(args, ARMS, train)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_report(args, rows, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
