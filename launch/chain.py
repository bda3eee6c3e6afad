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
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmduplex_jax.stages.config_file import load_config

SCORES = "scores.json"


class StepFailed(RuntimeError):
    """A step ended with another exit code than 0.

    Attributes:
      code: the exit code.
    """

    def __init__(self, typed: str, code: int):
        super().__init__(f"`{typed}` ended with code {code}; its message is above. The same command goes on from there")
        self.code = code


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.chain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--config", required=True, metavar="FILE.py", help="a chain, such as configs/chain_quickstart.py")
    add("--workdir", required=True, metavar="DIR", help="gets data/ and a folder for every stage")
    add("--data", metavar="DIRS", help="train on these shards instead of preparing the chain's own")
    add("--steps", type=int, metavar="N", help="steps of every stage (default: each config's)")
    add("--clips", type=int, default=160, help="unseen clips that every stage is scored on (default: %(default)s)")
    add("--json", metavar="FILE", help="write the scores and times of all stages here")
    add("--only_check_args", action="store_true", help="read the flags and the config and stop")
    return flags


def load_chain(file: str) -> Any:
    """The chain that a config file describes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it describes no chain, or one that begins a stage with a later one.
    """
    chain = load_config(file)
    if not hasattr(chain, "order") or not hasattr(chain, "begins_with"):
        raise ValueError(
            f"--config={file} is no chain: it has no `order` and `begins_with` (a stage is launch.train's)"
        )
    before: list[str] = []
    for stage in chain.order:
        for part, source in chain.begins_with.get(stage, {}).items():
            if source not in before:
                raise ValueError(
                    f"--config={file}: {stage} begins with the {part} of {source!r}, which is not before it"
                )
        before.append(stage)
    return chain


def steps_of(args: argparse.Namespace, chain: Any) -> list[tuple[str, list[str], Path]]:
    """What is to be done, in order: a title, a command and the file that shows that it is done."""
    root = Path(args.workdir)
    data = args.data or str(root / "data")
    steps = []
    if not args.data:
        values = [f"--config.{name}={value}" for name, value in chain.data.items() if name != "config"]
        command = ["launch.prepare", f"--config={chain.data.config}", f"--out={data}", *values]
        steps.append(("the data", command, root / "data" / "manifest.json"))
    for stage in chain.order:
        workdir = root / stage
        train = [
            "launch.train",
            f"--config={args.config}:{stage}",
            f"--workdir={workdir}",
            f"--config.data.dirs={data}",
            *(
                f"--config.init_from.{part}={root / source}"
                for part, source in chain.begins_with.get(stage, {}).items()
            ),
        ]
        if args.steps is not None:
            train.append(f"--config.train.steps={args.steps}")
        evaluate = ["launch.evaluate", f"--checkpoint={workdir}", f"--clips={args.clips}", f"--json={workdir / SCORES}"]
        # A training that is done does nothing when it is started again; its scores show that it was done.
        steps.append((f"{stage}: training", train, workdir / SCORES))
        steps.append((f"{stage}: evaluation", evaluate, workdir / SCORES))
    return steps


def run(command: Sequence[str]) -> float:
    """Runs one of the project's commands; returns its seconds.

    Raises:
      StepFailed: it ended with another exit code than 0.
    """
    typed = shlex.join(["python", "-m", *command])
    print(f"$ {typed}\n", flush=True)
    started_s = time.monotonic()
    code = subprocess.run([sys.executable, "-m", *command]).returncode
    if code:
        raise StepFailed(typed, code)
    return time.monotonic() - started_s


def chain(args: argparse.Namespace) -> dict[str, Any]:
    """Runs what is not done yet; returns seconds by step and scores by stage."""
    described = load_chain(args.config)
    seconds: dict[str, float | None] = {}
    steps = steps_of(args, described)
    done = {title for title, _, shown_by in steps if shown_by.exists()}
    for number, (title, command, _) in enumerate(steps, 1):
        print(f"\n--- {number} of {len(steps)}: {title}{', done before' if title in done else ''}", flush=True)
        seconds[title] = None if title in done else run(command)
    scores = {
        stage: json.loads((Path(args.workdir) / stage / SCORES).read_text(encoding="utf-8"))
        for stage in described.order
    }
    return {"seconds": seconds, "scores": scores}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    args = parser().parse_args(argv)
    try:
        load_chain(args.config)
        if args.steps is not None and args.steps < 1 or args.clips < 1:
            raise ValueError(f"--steps and --clips must be at least 1, got {args.steps} and {args.clips}")
        if args.json and not Path(args.json).absolute().parent.is_dir():
            raise ValueError(f"--json={args.json}: there is no folder {Path(args.json).absolute().parent}")
        if args.only_check_args:
            return 0
        report = chain(args)
    except StepFailed as failure:
        print(f"launch.chain: {failure}", file=sys.stderr)
        return failure.code
    except (OSError, ValueError) as error:
        print(f"launch.chain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlaunch.chain: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print()
    for title, took_s in report["seconds"].items():
        print(f"  {title:<22}{'done before' if took_s is None else f'{took_s:6.0f} s'}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"all numbers: {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
