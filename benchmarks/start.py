"""How long a start takes: from the command to the first picture that is looked at, the first word, and the open server.

    python -m benchmarks.start --source=video.mp4 --json=start.json
    python -m benchmarks.start --source=video.mp4 --checkpoint=world --runs=5
    python -m benchmarks.start --serve --checkpoint=runs/speaking

A start is `launch.commentate` (with `--serve`, `launch.serve`) in a process of its own: once with an empty folder of
compiled programs (cold), then with what that one has left (warm). Its phases, in seconds of the clock on the wall and
of all processors:

  imports   from the start of Python until the command begins
  load      the model's weights, tokenizer and shapes
  prepare   its programs: tracing, lowering, compiling or reading them, and a first run of each
  picture   until the first tick is through
  word      until the first word (how long depends on the video)
  listen    of a server: from there until it listens

In all of them JAX says what it traces, lowers and compiles, and of the compiling what is read from the folder instead.
Seconds on the wall are those of a quiet machine only where the machine is quiet: its load is in the report.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.turns import machine
from mmduplex_jax.stages.config_file import add_json_flag, at_least, command_parser, run_main, show

# Of JAX's events, by what is done.
PARTS = {
    "jaxpr_trace_duration": "tracing",
    "jaxpr_to_mlir_module_duration": "lowering",
    "backend_compile_duration": "compiling",
    "cache_retrieval_time_sec": "reading",
}
PHASES = ("imports", "load", "prepare", "picture", "word", "listen")
# A process that is watched: it imports nothing else before the command.
_WATCHED = "import sys; from benchmarks.start_watch import watch; watch(*sys.argv[1:])"


def start(command: str, flags: Sequence[str], cache: Path) -> dict[str, Any]:
    """One start of a command; its phases as `benchmarks.start_watch` writes them.

    Raises:
      ChildProcessError: it ended before it was there.
    """
    # What the user has set of JAX's cache is not what is measured.
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "phases.json"
        process = [sys.executable, "-c", _WATCHED, str(report), str(time.time()), command, *flags]
        ended = subprocess.run(
            process, env=environment | {"XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True
        )
        if not report.is_file():
            raise ChildProcessError(f"{command} {' '.join(flags)}: {(ended.stderr or ended.stdout)[-2000:]}")
        return json.loads(report.read_text())


def median(starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several starts, number by number; of phases that all of them came to."""
    names = [name for name in starts[0] if all(name in one for one in starts)]
    return {
        name: {unit: statistics.median(one[name][unit] for one in starts) for unit in starts[0][name]} for name in names
    }


def table(report: Mapping[str, Any]) -> str:
    """In Markdown: a row a phase, and one to each point that a user waits for."""
    rows = ["| | cold, s | of processors, s | warm, s | of processors, s |", "|---|---|---|---|---|"]
    cold, warm = report["cold"], report["warm"]
    for name in (*PHASES, *(name for name in cold if name.startswith("until "))):
        if name in cold and name in warm:
            rows.append(_row(name, cold[name], warm[name]))
        if name == "prepare":
            rows += [_row(f"in all, {part}", cold.get(part, {}), warm.get(part, {})) for part in PARTS.values()]
    load = report["machine_load"]
    return "\n".join([*rows, "", f"`{report['command']}`; {load:.1f} other busy processes a core when it began"])


def _row(name: str, *found: Mapping[str, float]) -> str:
    cells = [f"{one[unit]:.2f}" if unit in one else "" for one in found for unit in ("wall_s", "cpu_s")]
    return f"| {name} | {' | '.join(cells)} |"


def work(args: argparse.Namespace) -> None:
    """Starts it cold and warm, in turns, and shows the table."""
    flags = [] if args.checkpoint is None else [f"--checkpoint={args.checkpoint}"]
    if args.serve:
        command = "launch.serve"
        flags += ["--port=0", "--log=text"]
    elif args.source is None:
        raise ValueError("pass --source=FILE to commentate, or --serve")
    else:
        command = "launch.commentate"
        flags.append(f"--source={args.source}")
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for number in range(args.runs):
        with tempfile.TemporaryDirectory() as cache:
            for kind, starts in found.items():
                starts.append(start(command, flags, Path(cache)))
                print(f"{number + 1} of {args.runs}, {kind}: {starts[-1]}", file=sys.stderr, flush=True)
    named = {"command": f"python -m {command} {' '.join(flags)}", "machine": machine(), "machine_load": load}
    report = named | {kind: median(starts) for kind, starts in found.items()} | {"starts": found}
    show(args, report, table(report))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.start", __doc__)
    add = flags.add_argument
    add("--source", metavar="FILE", help="the video of `launch.commentate`; with words soon after its begin")
    add("--serve", action="store_true", help="start `launch.serve` instead")
    add("--checkpoint", metavar="NAME|DIR", help="(default: the command's)")
    add("--runs", type=at_least(1), default=3, help="cold and warm starts each; the median counts (default: 3)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
