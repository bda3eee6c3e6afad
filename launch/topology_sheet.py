"""Makes docs/topologies.md: `duplex_300m` on three TPU slices and on a host of H100s, compiled ahead.

    python -m launch.topology_sheet            compiles what docs/topologies.json lacks, then writes the page
    python -m launch.topology_sheet --render   writes the page from docs/topologies.json alone

Every topology is compiled in a process of its own and kept at once, so that a run that was ended goes on. To compile
one anew, take it out of the JSON file. The same file is what tests compare a new compilation with.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmduplex_jax.planning.compiled_report import gib

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

TRAIN_COLUMNS = (
    *("topology", "devices", "mesh", "batch", "fits", "parameters", "optimiser", "activations kept", "temporaries"),
    *("peak", "limit", "compiled in"),
)


def compiled(case: Case) -> dict[str, Any]:
    """The report of a case, from a process of its own.

    Raises:
      RuntimeError: the command failed otherwise than by finding that something does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, "-m", *case.command, f"--json={file}"]
        done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True)
        if done.returncode not in (0, 1) or not file.is_file():
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(file.read_text(encoding="utf-8"))


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, in Markdown; cases that were not compiled yet are left out."""
    cases = [case for case in CASES if case.topology in reports]
    found = [reports[case.topology] for case in cases]
    text = [
        "# Ahead of time: duplex_300m on machines that are not here",
        "",
        "Made by `python -m launch.topology_sheet`; the figures are the compilers', nothing was run. The training step "
        "is the real one (`make_program`), on a mesh of all devices; streaming is one device's step of 16 streams.",
        "",
        "## Training step",
        "",
        *_table(
            TRAIN_COLUMNS,
            [_train_row(report) for report in found if "fits" in report],
        ),
        "",
        "Sizes are of one device. *Activations kept* is what the forward pass keeps for the backward pass before the "
        "compiler fuses; *temporaries* is what the compiler made of them and of everything else that lives within a "
        "step. *Limit* is what TPU compilers let a program have; on a card the share of its memory that JAX takes.",
        "",
        "## Collectives of a training step",
        "",
        *_table(("topology", "kind", "calls", "payload of a device"), _collective_rows(found)),
        "",
        "The body of a loop counts as often as the loop runs.",
        "",
        "## Streaming step, 16 streams on one device",
        "",
        *_table(
            ("device", "fits", "parameters", "streams", "temporaries", "peak", "limit", "compiled in"),
            [_stream_row(report) for report in found if "streaming" in report],
        ),
        "",
        "## Commands",
        "",
        "```",
        *(f"python -m {' '.join(case.command)}" for case in cases),
        "```",
        "",
        *sorted({f"Compiled by jax {report['jax']}, {report['compiler']}." for report in found}),
    ]
    return "\n".join(text) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def _train_row(report: Mapping[str, Any]) -> list[str]:
    hbm, kinds = report["hbm_bytes"], report["hbm_bytes_by_kind"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1)
    sizes = [kinds["parameters"], kinds["optimiser"], kinds["activations"], hbm["temporaries"], hbm["peak"]]
    return [
        report["topology"],
        f"{report['devices']} x {report['device_kind']}",
        mesh,
        str(report["batch_size"]),
        "yes" if report["fits"] else "**no**: " + "; ".join(report["advice"]),
        *map(gib, (*sizes, hbm["limit"])),
        f"{report['compile_s']:.0f} s",
    ]


def _stream_row(report: Mapping[str, Any]) -> list[str]:
    streaming = report["streaming"]
    hbm, kinds = streaming["hbm_bytes"], streaming["hbm_bytes_by_kind"]
    sizes = (kinds["parameters"], kinds["streams"], hbm["temporaries"], hbm["peak"], hbm["limit"])
    fits = "yes" if streaming["fits"] else "**no**: " + "; ".join(streaming["advice"])
    return [report["device_kind"], fits, *map(gib, sizes), f"{streaming['compile_s']:.0f} s"]


def _collective_rows(reports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [report["topology"], kind, f"{moved['count']:,}", gib(moved["bytes"])]
        for report in reports
        for kind, moved in (report.get("collectives") or {}).items()
    ]


def main() -> None:
    """Compiles what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="compile nothing")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of topologies.md and topologies.json")
    given = parser.parse_args()
    file = given.out / "topologies.json"
    reports = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for case in CASES:
        if case.topology not in reports and not given.render:
            print(f"compiling for {case.topology}", flush=True)
            reports[case.topology] = compiled(case)
            file.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    (given.out / "topologies.md").write_text(page(reports), encoding="utf-8")


if __name__ == "__main__":
    main()
