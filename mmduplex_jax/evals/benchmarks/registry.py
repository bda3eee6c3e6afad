"""The one table of benchmarks: what `launch.benchmark NAME` names. Each is a module with the names of `Benchmark`."""

import importlib
from typing import cast

from mmduplex_jax.evals.benchmarks.protocol import Benchmark

# Names of modules and not the modules, so that who runs one benchmark does not import the others.
BENCHMARKS: dict[str, str] = {
    name: f"mmduplex_jax.evals.benchmarks.{name}"
    for name in (
        "longvideobench",
        "videoreasonbench",
        "ovobench",
        "streamingbench",
        "livesports3kcc",
        "soccernet",
        "worldqa",
        "timing",
    )
}

# Those whose modules have `make(folder, seed=...)`: videos and questions made here. Others are downloaded.
MADE_HERE = ("worldqa", "videoreasonbench")


def find_benchmark(name: str) -> Benchmark:
    """A benchmark of the table; ValueError for another name."""
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r} is unknown, choose one of {', '.join(BENCHMARKS)}")
    return cast(Benchmark, importlib.import_module(BENCHMARKS[name]))


def describe_benchmarks() -> str:
    """Two lines on each benchmark: what it measures, and its rules and controls."""
    lines = []
    for name in BENCHMARKS:
        found = find_benchmark(name)
        controls = f"; controls: {', '.join(found.CONTROLS)}" if found.CONTROLS else ""
        lines += [f"{name:<18} {found.TITLE}", f"{'':<18} rules: {', '.join(found.RULES)}{controls}"]
    return "\n".join(lines)
