"""One prepared run on whatever single GPU or TPU is there: training, live steps, turns and data feed, in minutes.

    python -m benchmarks.accelerator --out=runs/accelerator                  # 8 minutes
    python -m benchmarks.accelerator --out=runs/accelerator --minutes=30     # goes on with what was left out
    python -m benchmarks.accelerator --out=runs/accelerator --parts=live,turns
    python -m benchmarks.accelerator --out=runs/rehearsal --rehearse          # in miniature, on a CPU

In this order, the most wanted first:

  train     a step of `duplex_300m`: MFU, samples a second, memory; einsum and fused attention; batches until one does
            not fit
  twin      its streams in turns with PyTorch (SDPA, compiled); left out where PyTorch is not installed
  live      text's step and the whole live step, p50 and p99, of 1 to 256 streams; the most streams whose p99 is within
            the clock's step (decoding not included)
  turns     CASA's protocol, a frame and 16 tokens a turn: the last tenth of 512 turns over the first, of two fusions
  sessions  the most streams of the model `world` that are held in real time, decoding included
  small     steps of `bflow_75m` and `clip_s16`
  feed      samples a second that the loader gives, over what the step takes

Every part is a process of its own with its share of the minutes that are left; one that hangs or crashes costs nothing
but itself. DIR/PART.json has its rows as soon as they are measured, an error or what did not fit as a row too;
DIR/tables.md has the tables of all. Run it again with the same DIR, and what is missing is measured.

Exit codes: 0 all is measured (but a part that says why it is skipped); 1 something failed, or no time was left for it;
2 no accelerator, or flags that do not fit; 130 Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator_parts import COUNTED, DONE, FAILED, PARTIAL, SKIPPED, write_report
from mmduplex_jax.compile_cache import keep_compiled
from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.stages.config_file import (  # fmt: skip
    add_json_flag,
    command_parser,
    listed,
    positive,
    run_main,
    show,
    shown_on,
)

ROOT = Path(__file__).resolve().parent.parent
TIMED_OUT, CRASHED, NO_TIME = "timed out", "crashed", "no time was left"
ENDED = (DONE, PARTIAL, FAILED, SKIPPED)
# To see what the machine is; before the minutes are shared out.
_DEVICE_S = 90.0
# Between the time until which a part begins rows and the one at which it is stopped: a share, and at most so much.
_GRACE, _GRACE_S = 0.1, 20.0
# Between asking a process to end and ending it; how often it is looked at.
_KILL_S, _LOOK_S = 5.0, 0.05
# Of a log, what is shown of a process that crashed.
_TAIL = 1500


class Part(NamedTuple):
    """What is known of a part from outside.

    Attributes:
      share: of the time, beside the shares of the parts that are still to come.
      title: of its table.
      columns: heads of the table, and the fields of a row, with the form of its numbers.
      environment: of its process, where the user has set nothing else.
    """

    share: float
    title: str
    columns: Mapping[str, tuple[str, str]]
    environment: Mapping[str, str] = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}


_TRAINED = {
    "config": ("config", ""),
    "attention": ("attention", ""),
    "samples a step": ("batch", "d"),
    "a step, ms": ("step_ms", ".1f"),
    "samples/s": ("samples_per_s", ".1f"),
    "GFLOP a sample": ("gflop_a_sample", ".4g"),
    "MFU": ("mfu", ".1%"),
    "planned, GiB": ("planned_gib", ".1f"),
    "peak so far, GiB": ("peak_gib", ".1f"),
}
PARTS: dict[str, Part] = {
    "train": Part(5, "A training step of the duplex", _TRAINED),
    "twin": Part(
        3,
        "The duplex's streams after the tokenizer, in turns with PyTorch",
        {
            "our attention": ("attention", ""),
            "clips a step": ("batch", "d"),
            "dtype": ("dtype", ""),
            "arm": ("arm", ""),
            "a step, s": ("step_s", ".3f"),
            "MFU": ("mfu", ".1%"),
            "times ours": ("times_ours", ".2f"),
        },
        # Two libraries share the memory.
        {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    ),
    "live": Part(
        5,
        "Live steps",
        {
            "what": ("part", ""),
            "streams": ("streams", "d"),
            "dtype": ("dtype", ""),
            "p50, ms": ("p50_ms", ".2f"),
            "p99, ms": ("p99_ms", ".2f"),
            "a stream, ms": ("per_stream_ms", ".3f"),
            "most in time": ("largest", "d"),
            "tried at most": ("tried_at_most", "d"),
        },
    ),
    "turns": Part(
        4,
        "A frame and 16 tokens a turn (CASA's protocol): the first and the last tenth of the turns",
        {
            "fusion": ("fusion", ""),
            "turns": ("turns", "d"),
            "first token, first, ms": ("ttft_first_ms", ".2f"),
            "last, ms": ("ttft_last_ms", ".2f"),
            "last over first": ("ttft_ratio", ".3f"),
            "tokens/s, first": ("tokens_per_s_first", ".1f"),
            "last": ("tokens_per_s_last", ".1f"),
            "last over first, tokens/s": ("tokens_per_s_ratio", ".3f"),
            "a stream's state, MiB": ("state_mib", ".0f"),
        },
    ),
    "sessions": Part(
        3,
        "Streams in real time, decoding included",
        {
            "model": ("model", ""),
            "what": ("part", ""),
            "streams": ("streams", "d"),
            "lag p50, ms": ("lag_p50_ms", ".1f"),
            "lag p99, ms": ("lag_p99_ms", ".1f"),
            "dropped frames": ("dropped_frames", "d"),
            "most in time": ("largest", "d"),
            "tried at most": ("tried_at_most", "d"),
        },
    ),
    "small": Part(3, "Training steps of the tokenizer's config and of the CLIP", _TRAINED),
    "feed": Part(
        1,
        "The loader over clips of the built-in world",
        {
            "loader on": ("loader", ""),
            "workers": ("workers", "d"),
            "samples/s": ("samples_per_s", ".1f"),
            "a step of `train` takes, samples/s": ("taken_per_s", ".1f"),
            "times that": ("times_taken", ".2f"),
        },
    ),
}


def part_command(options: Mapping[str, Any]) -> list[str]:
    """The process of a part."""
    return [sys.executable, "-m", "benchmarks.accelerator_parts", json.dumps(options)]


class Run(NamedTuple):
    """One run over parts.

    Attributes:
      out: where everything is written.
      rehearse: in miniature, on a CPU.
      command: the process of a part, from its options.
    """

    out: Path
    rehearse: bool
    command: Callable[[Mapping[str, Any]], list[str]] = part_command

    def report(self, part: str) -> dict[str, Any]:
        """What a part has written; empty where it has nothing (ValueError: the file is something else)."""
        file = self.out / f"{part}.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not isinstance(found, dict) or (found and "rows" not in found):
            raise ValueError(f"{file} is no report of this command: name another --out")
        return found

    def part(self, name: str, limit_s: float, environment: Mapping[str, str]) -> dict[str, Any]:
        """Runs a part for `limit_s` at most, and gives its report, which says how it ended."""
        until_s = time.time() + limit_s - min(_GRACE * limit_s, _GRACE_S)
        options = {"part": name, "out": str(self.out), "until_s": until_s, "rehearse": self.rehearse}
        settings = {**environment, **os.environ} | ({"JAX_PLATFORMS": "cpu"} if self.rehearse else {})
        log = self.out / f"{name}.log"
        with log.open("w", encoding="utf-8") as lines:
            ended = _run(self.command(options), settings, lines, limit_s)
        found = self.report(name)
        if ended is None or ended != 0 or found.get("status") not in ENDED:
            tail = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
            if ended is None:
                status, error = TIMED_OUT, f"stopped after {limit_s:.0f} s"
            else:
                status, error = CRASHED, f"its process ended with {ended}"
            found = {"part": name, "rows": [], **found, "status": status, "error": error, "log": tail}
            write_report(self.out / f"{name}.json", found)
        return found

    def parts(self, names: Sequence[str], seconds: float) -> dict[str, dict[str, Any]]:
        """Runs parts one after another, each within its share of what is left of `seconds`; those that are done stay.

        Returns:
          Their reports, in that order.
        """
        until_s = time.monotonic() + seconds
        found = {name: self.report(name) for name in names}
        waiting = [name for name in names if found[name].get("status") != DONE]
        while waiting:
            name = waiting[0]
            left_s = until_s - time.monotonic()
            limit_s = left_s * PARTS[name].share / sum(PARTS[other].share for other in waiting)
            waiting = waiting[1:]
            if left_s <= 0:
                found[name] = {"part": name, "rows": [], **found[name], "status": PARTIAL, "reason": NO_TIME}
                write_report(self.out / f"{name}.json", found[name])
            else:
                print(f"{name}: {limit_s:.0f} s at most", file=sys.stderr, flush=True)
                found[name] = self.part(name, limit_s, PARTS[name].environment)
            print(f"{name}: {found[name]['status']}, {len(found[name]['rows'])} rows", file=sys.stderr, flush=True)
        return found


def _run(command: Sequence[str], environment: Mapping[str, str], log: Any, limit_s: float) -> int | None:
    """A process's exit code; None where it was stopped, with all that it has started, after `limit_s`."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        in_time = _ends_within(process, limit_s)
        if not in_time:
            process.terminate()
            _ends_within(process, _KILL_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the group is gone where nothing of it runs
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    return code if in_time else None


def _ends_within(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Whether it ended. Its exit code stays with the system, so that the number of its group is nobody else's yet."""
    deadline_s = time.monotonic() + limit_s
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_LOOK_S)
    return True


def tables(device: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """All parts in Markdown, for the docs: figures beside the command, the machine and the date."""
    peak = device["peak_tflops"]
    lines = [
        f"`{about['command']}`, {about['date']}: {device['device']} ({device['platform']}), {device['cores']} cores of "
        f"{device['cpu']}, jax {device['jax']}, Python {device['python']}; peak "
        + (f"{peak:.4g} TFLOP/s ({device['peak_source']})" if peak is not None else "not known, so no MFU"),
        COUNTED,
    ]
    if device["rehearsal"]:
        lines.insert(0, "**A rehearsal in miniature on a CPU: no figure here means anything.**")
    for name, report in found.items():
        facts = [report["status"], *report.get("dates", [])]
        title = f"**{PARTS[name].title}** (`{name}`: {', '.join(facts)})"
        reason = report.get("reason") or report.get("error")
        rows = [row for part in report["rows"] for row in _flat(part)]
        lines.append(title + (f": {reason}" if reason else ""))
        if rows:
            columns = PARTS[name].columns
            lines.append(markdown_table([*columns, ""], [_cells(row, columns) for row in rows]))
    return "\n\n".join(lines)


def _flat(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each arm, where it has arms."""
    return [{**row, **arm} for arm in row["arms"]] if "arms" in row else [dict(row)]


def _cells(row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """A row of the table; what is remarkable stands in the last cell."""

    def cell(field: str, form: str) -> str:
        value = row.get(field)
        if isinstance(value, list):  # of the rounds
            value = statistics.median(value)
        return "" if value is None else f"{value:{form}}"

    notes = {"out_of_memory": "does not fit", "error": f"failed: {row.get('error')}", "left_out": row.get("left_out")}
    remarks = "; ".join(str(text) for name, text in notes.items() if name in row)
    return [*(cell(*column) for column in columns.values()), remarks.replace("\n", " ").replace("|", "/")]


def machine_of(run: Run) -> dict[str, Any]:
    """What the run is on.

    Raises:
      ValueError: there is no accelerator, and it is no rehearsal; what it is could not be found out; or the folder has
        results of another machine.
    """
    file, before = run.out / "device.json", run.report("device")
    file.unlink(missing_ok=True)  # a row that is there would be kept, and not found out again
    report = run.part("device", _DEVICE_S, {})
    # Until a run has begun there, the folder is no machine's.
    if before.get("rows"):
        write_report(file, before)
    else:
        file.unlink()
    if report["status"] != DONE:
        raise ValueError(f"JAX did not say what devices there are ({report['error']}): see {run.out / 'device.log'}")
    [now] = report["rows"]
    if now["platform"] == "cpu" and not run.rehearse:
        platforms = os.environ.get("JAX_PLATFORMS")
        because = f"JAX_PLATFORMS={platforms} leaves it no other" if platforms else "no other was found"
        raise ValueError(
            f"there is no accelerator: JAX computes on the CPU ({because}). Install jax[cuda12] or jax[tpu] on a "
            "machine with a GPU or TPU, or pass --rehearse to try the run in miniature"
        )
    same = ("device", "platform", "jax", "rehearsal")
    for row in before.get("rows", []):
        if any(row[name] != now[name] for name in same):
            facts = ", ".join(f"{name} {row[name]}" for name in same)
            raise ValueError(f"{run.out} has results of another machine ({facts}): name another --out")
    write_report(file, report)
    return now


def work(args: argparse.Namespace) -> int:
    """Runs the parts, and writes and prints their tables."""
    args.out.mkdir(parents=True, exist_ok=True)
    keep_compiled(for_children=True)
    run = Run(args.out.absolute(), args.rehearse)
    with contextlib.redirect_stdout(shown_on(args.json)):
        device = machine_of(run)
        names = [name for name in PARTS if name in args.parts and name not in args.skip]
        for name in names if args.again else ():
            (run.out / f"{name}.json").unlink(missing_ok=True)
        found = run.parts(names, args.minutes * 60)
    flags = f" --out={args.out} --minutes={args.minutes:g}" + " --rehearse" * args.rehearse
    if len(names) < len(PARTS):
        flags += f" --parts={','.join(names)}"
    about = {"command": f"python -m benchmarks.accelerator{flags}", "date": date.today().isoformat()}
    args.markdown = args.out / "tables.md"
    # Parts of earlier calls are in the tables too.
    found = {name: report for name in PARTS if (report := found.get(name) or run.report(name))}
    show(args, {**about, "device": device, "flops": COUNTED, "parts": found}, tables(device, found, about))
    return int(any(found[name]["status"] not in (DONE, SKIPPED) for name in names))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.accelerator", __doc__)
    add = flags.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written, and gone on with")
    add("--minutes", type=positive, default=8.0, help="for all parts together (default: %(default)g)")
    everything = ",".join(PARTS)
    add("--parts", type=listed(among=PARTS), default=everything, help="some of %(default)s (default: all)")
    add("--skip", type=listed(among=PARTS, none=True), default="", help="parts to leave out")
    add("--again", action="store_true", help="measure also what is there already")
    add("--rehearse", action="store_true", help="in miniature on a CPU: whether everything runs, not how fast")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
