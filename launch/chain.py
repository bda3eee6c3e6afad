r"""All stages in a row, each beginning with what the ones before have learned, each evaluated.

    python -m launch.chain --config=configs/chain_quickstart.py --workdir=runs/chain

The config says which stages there are, in which order, what each begins with and on which data; a stage's own config is
the same file with its name after a colon (`configs/chain_quickstart.py:duplex`). Every step is one of the commands of
this repository, printed as you would type it:

    python -m launch.prepare ...                                          the data
    python -m launch.train --config=...:clip --workdir=runs/chain/clip    then the same for each stage,
        --config.init_from.vision=runs/chain/...                          beginning with those before
    python -m launch.evaluate --checkpoint=runs/chain/clip --json=runs/chain/clip/scores.json

Stopped, or killed? The same command goes on: what is finished is not done again, a training goes on from its newest
checkpoint. --steps=20 gives every stage so many steps, to see that all of it works.

Exit codes: 0 done; that of the step that failed otherwise; 2 flags that do not fit; 130 Ctrl-C.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmduplex_jax.stages.chain import SCORES, StepFailed, load_chain, run_command, steps_of
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, write_json

_STOPPED = "stopped; the same command goes on from here"


def chain(args: argparse.Namespace) -> None:
    """Runs what is not done yet, and shows the seconds of each step; scores and seconds are the report."""
    described = load_chain(args.config_file)
    if args.steps is not None and args.steps < 1 or args.clips < 1:
        raise ValueError(f"--steps and --clips must be at least 1, got {args.steps} and {args.clips}")
    if args.only_check_args:
        return
    seconds: dict[str, float | None] = {}
    steps = steps_of(described, args.config_file, args.workdir, data=args.data, steps=args.steps, clips=args.clips)
    done = {title for title, _, shown_by in steps if shown_by.exists()}
    for number, (title, command, _) in enumerate(steps, 1):
        print(f"\n--- {number} of {len(steps)}: {title}{', done before' if title in done else ''}", flush=True)
        seconds[title] = None if title in done else run_command(command)
    scores = {
        stage: json.loads((Path(args.workdir) / stage / SCORES).read_text(encoding="utf-8"))
        for stage in described.order
    }
    print()
    for title, took_s in seconds.items():
        print(f"  {title:<22}{'done before' if took_s is None else f'{took_s:6.0f} s'}")
    write_json(args.json, {"seconds": seconds, "scores": scores})
    if args.json not in (None, "-"):
        print(f"all numbers: {args.json}")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.chain", __doc__)
    add = flags.add_argument
    add("--config", required=True, metavar="FILE.py", help="a chain, such as configs/chain_quickstart.py")
    add("--workdir", required=True, metavar="DIR", help="gets data/ and a folder for every stage")
    add("--data", metavar="DIRS", help="train on these shards instead of preparing the chain's own")
    add("--steps", type=int, metavar="N", help="steps of every stage (default: each config's)")
    add("--clips", type=int, default=160, help="unseen clips that every stage is scored on (default: %(default)s)")
    add_json_flag(flags, "write the scores and times of all stages here")
    add("--only_check_args", action="store_true", help="read the flags and the config and stop")
    return run_main(flags, argv, chain, {StepFailed: None, OSError: 2, ValueError: 2}, stopped=_STOPPED)


if __name__ == "__main__":
    sys.exit(main())
