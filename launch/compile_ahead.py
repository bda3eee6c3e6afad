r"""Compiles a config's real steps for machines that are not here, and says whether they fit.

    python -m launch.compile_ahead \
        --config=configs/duplex_300m.py --topology=v5e:4x4 --mesh.fsdp=16 --json=report.json

Topologies: TPU slices (`v5e:4x4`, `v5e:16x16`, `v5p:4x4x4`, `v6e:8x8`) and hosts of H100s (`h100:8`, `h100:8x4`). The
compilers come with `pip install 'mmduplex-jax[ahead]'`; neither a TPU nor CUDA is needed. Compiled are the training
step, on a mesh of all devices, and for a `duplex` config the streaming step of `--streams` rows, on one device.
`--mesh.data=`, `--mesh.fsdp=` and `--mesh.tensor=` are short for `--config.mesh.…=`.

    python -m launch.compile_ahead --sheet=docs               # makes docs/topologies.md
    python -m launch.compile_ahead --sheet=docs --render      # the page alone, from docs/topologies.json

The sheet is of `duplex_300m` on three TPU slices and on a host of H100s. Every topology that docs/topologies.json lacks
is compiled in a process of its own and kept at once, so that a run that was ended goes on. To compile one anew, take it
out of the file, with which tests compare a new compilation.

Exit codes:
  0  it fits
  1  it does not fit; the output says what to change
  2  config, mesh and topology do not fit each other, or a compiler is not installed
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Before JAX looks for devices: those of this machine are not asked, its CPU only traces.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from mmduplex_jax.planning.ahead import STEPS, compile_ahead, get_topology
from mmduplex_jax.planning.sheets import compiled_lines, topology_page
from mmduplex_jax.sharding import ShardingError
from mmduplex_jax.stages.config_file import add_config_flag, add_json_flag, command_parser, run_main, show
from mmduplex_jax.train.optimizer import GroupsError

ROOT = Path(__file__).resolve().parent.parent
EXIT_TOO_LARGE = 1
EXIT_MISFIT = 2


class Case(NamedTuple):
    """A row of the sheet: a topology, and what the command is given beside it."""

    topology: str
    changes: tuple[str, ...]

    @property
    def command(self) -> tuple[str, ...]:
        return ("launch.compile_ahead", "--config=configs/duplex_300m.py", f"--topology={self.topology}", *self.changes)


# Two rows of a batch a device on TPUs, four on a card; parameters split within 16 devices, where links are short.
CASES = (
    Case("v5e:4x4", ("--mesh.fsdp=16", "--config.data.batch_size=32")),
    Case("v6e:8x8", ("--mesh.fsdp=16", "--config.data.batch_size=128")),
    Case("v5e:16x16", ("--mesh.fsdp=16", "--config.data.batch_size=512")),
    Case("h100:8", ("--mesh.fsdp=8", "--config.data.batch_size=32")),
)


def compiled(case: Case) -> dict[str, Any]:
    """The report of a case, from a process of its own.

    Raises:
      RuntimeError: the command failed otherwise than by finding that something does not fit.
    """
    command = [sys.executable, "-m", *case.command, "--json=-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The sheet, in Markdown; cases that were not compiled yet are left out."""
    cases = [case for case in CASES if case.topology in reports]
    commands = [f"python -m {' '.join(case.command)}" for case in cases]
    return topology_page([reports[case.topology] for case in cases], commands)


def write_sheet(folder: Path, render: bool) -> None:
    """Compiles what the folder's topologies.json lacks, unless that is only to be rendered, and writes the page."""
    file = folder / "topologies.json"
    reports = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for case in CASES:
        if case.topology not in reports and not render:
            print(f"compiling for {case.topology}", flush=True)
            reports[case.topology] = compiled(case)
            file.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    (folder / "topologies.md").write_text(page(reports), encoding="utf-8")


def work(args: argparse.Namespace) -> int:
    """Compiles and prints; returns the exit code."""
    if args.sheet is not None:
        write_sheet(args.sheet, args.render)
        return 0
    if args.config is None or args.topology is None:
        raise ValueError("pass --config=FILE and --topology=NAME, or --sheet=DIR")
    if args.streams < 1:
        raise ValueError(f"--streams={args.streams}: at least 1")
    topology = get_topology(args.topology)
    report = compile_ahead(args.config, topology, streams=args.streams, steps=tuple(args.steps or STEPS))
    show(args, report, "\n".join(compiled_lines(report)))
    steps = [report] if "fits" in report else []
    steps += [report["streaming"]] if "streaming" in report else []
    return 0 if all(step["fits"] for step in steps) else EXIT_TOO_LARGE


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.compile_ahead", __doc__, compiles=False)
    add_config_flag(flags, required=False)
    add = flags.add_argument
    add("--topology", metavar="NAME", help="v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8, h100:8x4, ...")
    add("--streams", type=int, default=16, metavar="N", help="rows of the streaming step (default: %(default)s)")
    add("--steps", action="append", choices=STEPS, help="compile this step only; both where it is not given")
    add("--sheet", type=Path, metavar="DIR", help="instead: make topologies.md and topologies.json there")
    add("--render", action="store_true", help="with --sheet: compile nothing")
    add_json_flag(flags, "write the report here as JSON")
    misfits = dict.fromkeys((ShardingError, GroupsError, FileNotFoundError, ValueError), EXIT_MISFIT)
    return run_main(flags, argv, work, misfits, short={"mesh": "mesh"})


if __name__ == "__main__":
    sys.exit(main())
