"""Arms of a comparison take turns on one machine, and the machine is named."""

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

Answer = TypeVar("Answer")


def in_turns(arms: Sequence[Callable[[], Answer]], rounds: int) -> list[list[Answer]]:
    """What every arm returns in every round, `[arm][round]`.

    The order turns around from round to round, so that a drift of the machine's speed falls on all alike.
    """
    found: list[list[Answer]] = [[] for _ in arms]
    for number in range(rounds):
        for index in range(len(arms)) if number % 2 == 0 else reversed(range(len(arms))):
            found[index].append(arms[index]())
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, in brackets the least and the most."""
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def process_stat(pid: int) -> list[str]:
    """What `/proc/PID/stat` says of a process, from the third field on, its state; OSError where it has ended."""
    # (What stands before is its name, which may have anything in it.)
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def process_stats() -> dict[int, list[str]]:
    """Of every process what `process_stat` says."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                found[int(entry.name)] = process_stat(int(entry.name))
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, in the kernel and out of it; OSError where it has ended."""
    user, system = process_stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def tree_cpu_s() -> float:
    """Seconds that processors have worked for this process and all that it started, those that ended included."""
    fields, tree = process_stats(), {os.getpid()}
    while found := {pid for pid, values in fields.items() if int(values[1]) in tree} - tree:
        tree |= found
    # User and system time of each, and of its children that ended.
    return sum(int(value) for pid in tree for value in fields[pid][11:15]) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """What numbers were measured on."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in facts if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
