"""What is to be measured on an accelerator, in one run of parts that fail by themselves.

    python -m benchmarks.accelerator --out=runs/h100 --minutes=8
    python -m benchmarks.accelerator --out=runs/h100 --parts=steps,sessions
    python -m benchmarks.accelerator --out=runs/rehearsal --rehearse

On whatever GPU or TPU JAX finds, the parts below run one after another, the most wanted first, each a benchmark of its
own in a process of its own. A part has no more time than its share says and than is left; one that fails, hangs or
runs out of memory is a row that says so, and the next begins. What a part has found lies in OUT/PART.json when it has
ended (of one that was stopped by its limit nothing is kept but what it said), what it said in OUT/PART.log, and
OUT/report.json and OUT/report.md have all of them. The same command goes on with the parts that are not there yet;
--again does all once more.

Where a part gives an `mfu`, it is the share of the device's peak that the products of matrices take, counted from the
trace (mmduplex_jax/planning/traced.py), without those that `remat` computes again. Those of a fused attention that is
one kernel of the device are not seen there, so with it `mfu` may be too low.

Parts with PyTorch twins (twin, growth, bflow_75m, clip_s16) need it installed, and say so where it is not. `growth`
has the others' models on the CPU: beside ours on an accelerator its ratios mean nothing.

--rehearse runs the same parts in miniature, on a CPU too: its numbers mean nothing.

Exit codes: 0 every part that was asked for is there; 1 one is not, for the reason in its row; 2 no accelerator, or
flags that do not fit; 130 Ctrl-C.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.stages.config_file import add_json_flag, at_least, command_parser, listed, run_main, show


class Part(NamedTuple):
    """A benchmark with its flags.

    Attributes:
      what: it finds.
      command: module and flags.
      rehearsed: the same in miniature.
      share: of the whole time that it may take at most.
    """

    what: str
    command: tuple[str, ...]
    rehearsed: tuple[str, ...]
    share: float = 0.25


_TRAINING = ("benchmarks.training", "--dtype=bfloat16", "--steps=5", "--rounds=3")
_SMALL_TRAINING = ("benchmarks.training", "--estimates", "--steps=1")
_SMALL_STEPS = ("benchmarks.streaming", "--checkpoint=world", "--batches=1", "--steps=4", "--rounds=1")
# The most wanted first.
PARTS = {
    "training": Part(
        "training steps of `duplex_300m`'s streams: plain and fused attention, remat, chunks; time, planned memory",
        (*_TRAINING, "--measures", "--rows=16"),
        _SMALL_TRAINING,
    ),
    "twin": Part(
        "the same beside its PyTorch twin (SDPA, torch.compile), in turns; time, MFU",
        (*_TRAINING, "--only=duplex", "--rows=16", "--torch_compile"),
        ("benchmarks.training", "--only=clip", "--rows=1", "--steps=1", "--rounds=1", "--torch_compile"),
    ),
    "steps": Part(
        "text step and whole live step of `duplex_300m` at 1 to 256 streams, p50 and p99",
        ("benchmarks.streaming", "--batches=1,8,64,256", "--steps=200", "--limit_s=5"),
        _SMALL_STEPS,
    ),
    "sessions": Part(
        "the most streams in real time, decoding included",
        ("benchmarks.streaming", "--checkpoint=world", "--batches=", "--sessions=1024", "--session_s=10"),
        ("benchmarks.streaming", "--checkpoint=world", "--batches=", "--sessions=1", "--session_s=2"),
    ),
    "growth": Part(
        "steps beside an interleaved model and moshi's (these on the CPU), after 0, 60 and 300 s of video",
        ("benchmarks.streaming", "--batches=", "--peers", "--watched_s=0,60,300", "--steps=100"),
        ("benchmarks.streaming", "--checkpoint=world", "--batches=", "--peers=interleaved", "--watched_s=0")
        + ("--steps=4", "--rounds=1", "--peer_dtypes=float32"),
        0.2,
    ),
    "bflow_75m": Part("`bflow_75m` beside its PyTorch twin", (*_TRAINING, "--only=bflow"), _SMALL_TRAINING, 0.15),
    "clip_s16": Part("`clip_s16` beside its PyTorch twin", (*_TRAINING, "--only=clip"), _SMALL_TRAINING, 0.15),
    "feed": Part(
        "how fast the world's clips are made, on the CPU",
        ("benchmarks.data", "--world=40", "--frame_px=64"),
        ("benchmarks.data", "--world=2", "--frame_px=32"),
        0.15,
    ),
}


def found_machine() -> dict[str, Any]:
    """What `benchmarks.turns.machine` says, in a process of its own: one that has JAX open keeps the device's memory.

    Raises:
      ValueError: JAX does not start here.
    """
    asked = "import json; from benchmarks.turns import machine; print(json.dumps(machine()))"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    if told.returncode:
        raise ValueError(f"JAX does not start here: {told.stderr.strip().splitlines()[-1]}")
    return json.loads(told.stdout)


def run_part(name: str, command: Sequence[str], out: Path, limit_s: float) -> dict[str, Any]:
    """The row of a part that was run: its `state` is "done", or why it is not, with the end of what it said."""
    file, log = out / f"{name}.json", out / f"{name}.log"
    new = out / f"{name}.json.new"
    whole = [sys.executable, "-m", *command, f"--json={new}"]
    began_s = time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(whole, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    row = {"part": name, "command": " ".join(["python", *whole[1:-1]]), "wall_s": time.monotonic() - began_s}
    if code == 0 and new.exists():
        new.replace(file)
        return row | {"state": "done"}
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = f"not within {limit_s:.0f} s" if code is None else f"exit code {code}" if code else "it wrote no numbers"
    return row | {"state": why, "said": lines[-5:]}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a part with all that it has started."""
    subprocess.run(["kill", "-9", "--", f"-{process.pid}"], stderr=subprocess.DEVNULL, check=False)
    process.wait()


def measure(
    parts: Mapping[str, Sequence[str]], shares: Mapping[str, float], out: Path, minutes: float
) -> list[dict[str, Any]]:
    """The rows of parts, by name with their commands; what is done already stays, the others have the time left."""
    ends_s = time.monotonic() + 60 * minutes
    rows = []
    for name, command in parts.items():
        if (out / f"{name}.json").exists():
            rows.append({"part": name, "state": "done before"})
            continue
        limit_s = min(60 * minutes * shares[name], ends_s - time.monotonic())
        if limit_s < 1:
            rows.append({"part": name, "state": "no time was left"})
            continue
        print(f"{name}: up to {limit_s:.0f} s", file=sys.stderr, flush=True)
        rows.append(run_part(name, command, out, limit_s))
        print(f"{name}: {rows[-1]['state']}", file=sys.stderr, flush=True)
    return rows


def report_text(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], out: Path) -> str:
    """A page of what was found: what became of each part, then what the benchmarks themselves say."""
    cells = [
        [
            row["part"],
            PARTS[row["part"]].what,
            row["state"],
            f"{row['wall_s']:.0f}" if "wall_s" in row else "",
            f"`{row['command']}`" if "command" in row else "",
        ]
        for row in rows
    ]
    machine_line = ", ".join(f"{key} {value}" for key, value in facts.items())
    table = markdown_table(["part", "what", "state", "s", "command"], cells)
    text = [f"# On an accelerator\n\n{machine_line}\n", table]
    for row in rows:
        log = out / f"{row['part']}.log"
        if row["state"].startswith("done") and log.exists():
            said = log.read_text(encoding="utf-8", errors="replace").strip()
            text.append(f"\n## {row['part']}\n\n```\n{said}\n```")
    return "\n".join(text) + "\n"


def work(args: argparse.Namespace) -> int:
    """The exit code."""
    facts = found_machine()
    if facts["device"] == "cpu" and not args.rehearse:
        raise ValueError("JAX finds no accelerator here: install its CUDA or TPU form, or give --rehearse")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = {name: PARTS[name] for name in PARTS if name in args.parts}
    if args.again:
        for name in chosen:
            (out / f"{name}.json").unlink(missing_ok=True)
    commands = {name: part.rehearsed if args.rehearse else part.command for name, part in chosen.items()}
    shares = {name: part.share for name, part in chosen.items()}
    rows = measure(commands, shares, out, args.minutes)
    report = {"machine": facts, "rehearsed": args.rehearse, "rows": rows}
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    text = report_text(facts, rows, out)
    (out / "report.md").write_text(text, encoding="utf-8")
    show(args, report, text)
    return 0 if all(row["state"].startswith("done") for row in rows) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.accelerator", __doc__)
    add = flags.add_argument
    add("--out", metavar="DIR", required=True, help="what was found, a file a part")
    add("--minutes", type=at_least(1), default=8, help="of all parts (default: %(default)s)")
    names = ",".join(PARTS)
    add("--parts", type=listed(among=PARTS), default=names, help="some of %(default)s (default: all)")
    add("--again", action="store_true", help="also those that are done")
    add("--rehearse", action="store_true", help="in miniature, on a CPU too")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
