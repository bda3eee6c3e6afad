r"""Makes docs/topologies.md: `duplex_300m` on three TPU slices and on a host of H100s, compiled ahead.

    python -m launch.topology_sheet                 # compiles what docs/topologies.json lacks, then writes the page
    python -m launch.topology_sheet --render        # writes the page from docs/topologies.json alone

Every topology is compiled in a process of its own and kept at once, so that a run that was ended goes on. To compile
one anew, take it out of the JSON file. The same file is what tests compare a new compilation with.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmduplex_jax.planning.sheets import topology_page
from mmduplex_jax.stages.config_file import command_parser, parse_args

DOCS = Path(__file__).resolve().parent.parent / "docs"
CONFIG = "configs/duplex_300m.py"


class Case(NamedTuple):
    """A row of the page: a topology, and what the command is given beside it."""

    topology: str
    changes: tuple[str, ...]

    @property
    def command(self) -> tuple[str, ...]:
        return ("launch.compile_ahead", f"--config={CONFIG}", f"--topology={self.topology}", *self.changes)


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
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def page(reports: dict[str, dict[str, Any]]) -> str:
    """The page, in Markdown; cases that were not compiled yet are left out."""
    cases = [case for case in CASES if case.topology in reports]
    commands = [f"python -m {' '.join(case.command)}" for case in cases]
    return topology_page([reports[case.topology] for case in cases], commands)


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles what is missing and writes the page."""
    flags = command_parser("launch.topology_sheet", __doc__)
    flags.add_argument("--render", action="store_true", help="compile nothing")
    flags.add_argument(
        "--out", type=Path, default=DOCS, metavar="DIR", help="folder of topologies.md and topologies.json"
    )
    args = parse_args(flags, argv)
    file = args.out / "topologies.json"
    reports = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for case in CASES:
        if case.topology not in reports and not args.render:
            print(f"compiling for {case.topology}", flush=True)
            reports[case.topology] = compiled(case)
            file.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    (args.out / "topologies.md").write_text(page(reports), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
