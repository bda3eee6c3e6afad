"""The parity table: how far imported architectures are from the models of the libraries that they come from.

    python -m benchmarks.parity --json=parity.json --markdown=docs/parity.md

Every row is a random model that the other library saved, read by us, and the same inputs through both, in float32 on
the CPU: the cases of `tests/weights/huggingface/parity_cases.py`, which the tests go through too. 35 seconds on two
cores. Needs PyTorch, transformers (the extra `parity`) and timm.

Exit codes: 0 all rows within the limit; 1 a reference cannot be imported, nothing is written; 2 a row is above it.
"""

import argparse
import datetime
import importlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmduplex_jax.evals.report import cell, markdown_table
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from tests.weights.huggingface.parity_cases import LIMIT, QUANTITIES, all_cases

LIBRARIES = ("torch", "transformers", "timm")
EXIT_DIFFERS = 2
_ABOUT = """\
Random weights, saved by the other library and read by us; the same random inputs through both, float32 on the CPU.
Entries are max |Δ| of values of sizes up to 10; the limit is {limit:g}. *Hidden* states are those after the last norm,
of both towers where there are two; *pooled* stands for pooled vectors, projections and embeddings; *cached* is decoding
a token at a time, with our rings beside the other library's cache. On each row the tests also go the way back: what
goes out is what came in, bit for bit."""


def versions() -> dict[str, str]:
    """Of Python, jax and the references.

    Raises:
      ImportError: one of them is not installed, or does not import; says how to get it.
    """
    found = {"python": platform.python_version()}
    for name in ("jax", *LIBRARIES):
        try:
            found[name] = importlib.import_module(name).__version__
        except (ImportError, RuntimeError) as error:  # a torchvision of another build than torch raises RuntimeError
            raise ImportError(
                f"{name} does not import ({error}): the references are {', '.join(LIBRARIES)}; "
                "pip install 'mmduplex-jax[parity]' timm"
            ) from error
    return found


def compare(only: str = "") -> list[dict[str, Any]]:
    """Runs the cases whose name has `only` in it: `architecture`, `shape` and `max_abs_diff` by quantity of each."""
    rows: list[dict[str, Any]] = []
    for case in tqdm([case for case in all_cases() if only in str(case)], unit="case", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            differences = case.run(Path(folder) / "model").differences
        rows.append({"architecture": case.architecture, "shape": case.shape, "max_abs_diff": differences})
    return rows


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [
        [row["architecture"], row["shape"]]
        + [cell(row["max_abs_diff"].get(name), ".1e", missing="") for name in QUANTITIES]
        for row in report["rows"]
    ]
    said = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    where = f" on {report['machine']}" if report["machine"] else ""
    parts = [
        "# Parity with the libraries that weights come from",
        _ABOUT.format(**report),
        markdown_table(["architecture", "shape", *QUANTITIES], rows),
        f"{len(rows)} rows, the largest entry {report['largest']:.1e}.",
        f"Made by `python -m benchmarks.parity --markdown=docs/parity.md`{where}, {said}, on {report['date']}.",
    ]
    return "\n\n".join(parts)


def work(args: argparse.Namespace) -> int:
    """Compares, prints and writes the table; returns the exit code."""
    found, rows = versions(), compare(args.only)
    if not rows:
        raise ValueError(f"no row has {args.only!r} in its name")
    largest = max(value for row in rows for value in row["max_abs_diff"].values())
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": found,
        "machine": args.machine,
        "limit": LIMIT,
        "largest": largest,
        "rows": rows,
    }
    show(args, report, markdown(report))
    return 0 if largest <= LIMIT else EXIT_DIFFERS


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.parity", __doc__)
    add = flags.add_argument
    add("--only", default="", metavar="TEXT", help="rows whose name has this in it (default: all)")
    add("--machine", default="", help="what it ran on, for the document")
    add_json_flag(flags)
    add("--markdown", metavar="FILE", help="write the table here")
    return run_main(flags, argv, work, {ImportError: 1, ValueError: 1})


if __name__ == "__main__":
    sys.exit(main())
