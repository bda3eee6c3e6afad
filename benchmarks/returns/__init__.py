r"""Where are the best returns, in the tokenizer or out of it? Arms that differ in one thing, each trained until flat.

    python -m benchmarks.returns --list
    python -m benchmarks.returns --out=runs/returns --part=tokenizer --seeds=0
    python -m benchmarks.returns --out=runs/returns --arms='bflow_32|dense_320' --seeds=1,2
    python -m benchmarks.returns --report

Each arm (`benchmarks/returns/arms.py`) is a config with some fields changed, trained at a constant rate until its
held-out word NLL is flat, then at a falling one (docs/returns.md says by which rule), and scored on clips that nobody
has trained on. What an arm begins with is trained before it. All of one seed run before the next seed begins, so
that stopping early leaves the most comparisons.

Stop it whenever you like (Ctrl-C, SIGTERM): the same command goes on at the step where it was. An arm that is finished
with a seed is a line of docs/returns/rows.jsonl; it is not done again. --report makes the tables and the figure of
docs/returns.md from these lines.

--size=short compares arms after 2,500 steps, far from flat, in less than half of the time. --size=miniature runs all
of it in minutes, to see that it works; its numbers mean nothing, so give it --rows=FILE.

Exit codes: 0 done; 1 a command failed (its own words stand above); 2 flags, rows or arms do not fit; 130 stopped.
"""

import argparse
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.returns.arms import ARMS, PARTS, REPORTED, SIZES, Arm
from benchmarks.returns.report import PAGE, write_report
from benchmarks.returns.rows import ROWS, Row, append_row, of_arm, read_rows
from benchmarks.returns.training import Run, Training, earlier, run_command
from mmduplex_jax.evals.report import aligned
from mmduplex_jax.stages.config_file import command_parser, listed, run_main


def chosen(part: str | None, pattern: str) -> list[Arm]:
    """Arms of a part whose whole name a regular expression matches, in the table's order, what they begin with before.

    Raises:
      ValueError: the expression is none, or nothing matches.
    """
    try:
        named = [arm for arm in ARMS if part in (None, arm.part) and re.fullmatch(pattern, arm.name)]
    except re.error as error:
        raise ValueError(f"--arms={pattern} is no regular expression: {error}") from error
    if not named:
        names = ", ".join(arm.name for arm in ARMS)
        raise ValueError(f"--arms={pattern}: no such arm in {part or 'any part'}; there are {names}")
    return list({each.name: each for arm in named for each in (*earlier(arm), arm)}.values())


def minutes(arm: Arm, rows: Sequence[Row]) -> float:
    """Processor minutes of a seed of an arm: the mean of its rows, or the table's guess."""
    took_s = [row.cpu_s for row in of_arm(rows, arm.name)]
    return sum(took_s) / len(took_s) / 60 if took_s else arm.cpu_min


def listing(arms: Sequence[Arm], seeds: Sequence[int], rows: Sequence[Row]) -> str:
    """What is done and what is left, with the minutes that it takes."""
    table, left_min = [["arm", "part", "seeds done", "left", "CPU-min a seed", "left, CPU-min"]], 0.0
    for arm in arms:
        done = [row.seed for row in of_arm(rows, arm.name)]
        left = [seed for seed in seeds if seed not in done]
        each = minutes(arm, rows)
        left_min += each * len(left)
        seeds_of = lambda some: ",".join(map(str, some)) or "-"
        measured = f"{each:.0f}" if done else f"~{each:.0f}"
        table.append([arm.name, arm.part, seeds_of(done), seeds_of(left), measured, f"{each * len(left):.0f}"])
    return f"{aligned(table)}\n\n{left_min:.0f} CPU-minutes are left ({left_min / 60:.1f} hours); ~ is a guess"


def run_arms(
    arms: Sequence[Arm], seeds: Sequence[int], *, size: str, out: Path, rows: Path, run: Run = run_command
) -> list[Row]:
    """Finishes arms with all seeds, one at a time; returns the new rows.

    Raises:
      KeyboardInterrupt, CalledProcessError: see `training.Training.finish`.
      ValueError: the rows cannot be read.
    """
    new = []
    for seed in seeds:
        for arm in arms:
            if any(row.arm == arm.name and row.seed == seed and row.size == size for row in read_rows(rows)):
                continue
            print(f"{arm.name}, seed {seed}: {arm.what}", flush=True)
            row = Training(arm, seed, size, out, run).finish()
            append_row(rows, row)
            new.append(row)
    return new


def work(args: argparse.Namespace) -> None:
    """Does what the flags say."""
    if args.report:
        for path in write_report(read_rows(args.rows), args.page):
            print(f"wrote {path}")
        return
    arms = chosen(args.part, args.arms)
    rows = [row for row in read_rows(args.rows) if row.size == args.size]
    if args.list:
        print(listing(arms, args.seeds, rows))
        return
    if args.out is None:
        raise ValueError("pass --out=DIR, or --list, or --report")
    if args.size not in REPORTED and args.rows == ROWS:
        raise ValueError(f"--size={args.size} needs --rows=FILE: its numbers do not belong into {ROWS.name}")
    # A terminal that is closed, or `kill`, ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_arms(arms, args.seeds, size=args.size, out=args.out.resolve(), rows=args.rows)
    done = [row for row in read_rows(args.rows) if row.size == args.size]
    print(listing(arms, args.seeds, done))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("benchmarks.returns", __doc__)
    add = flags.add_argument
    add("--out", type=Path, metavar="DIR", help="folder for data and trainings: 1 GB, and 40 MB an arm and seed")
    add("--part", choices=PARTS, help="of the study (default: all)")
    add("--arms", default=".*", metavar="REGEX", help="arms whose whole name it matches (default: all)")
    add("--seeds", type=listed(int), default="0,1,2", help="one training an arm and seed (default: %(default)s)")
    add("--size", choices=SIZES, default="quick", help="of models, data and trainings (default: %(default)s)")
    add("--list", action="store_true", help="print what is done, what is left and how long it takes, and stop")
    add("--report", action="store_true", help="make tables and figure from the rows, and stop")
    add("--rows", type=Path, default=ROWS, metavar="FILE", help="of finished arms (default: docs/returns/rows.jsonl)")
    add("--page", type=Path, default=PAGE, metavar="FILE", help="that --report writes into (default: docs/returns.md)")
    codes: Mapping[type[Exception], int | None] = {subprocess.CalledProcessError: 1, ValueError: 2, OSError: 1}
    return run_main(flags, argv, work, codes, stopped="stopped; the same command goes on where it was")
