"""What a stream costs, and whether it stays so: step times at several batches, and hours at full speed.

    python -m benchmarks.streaming --json=streaming.json
    python -m benchmarks.streaming --config=configs/quickstart.py --batches=1,8,64
    python -m benchmarks.streaming --checkpoint=checkpoints/shipped --batches= --simulated_hours=24 --json=day.json

`text` is the text stream's step alone, `whole` the model's live step (half of them with a frame, at the usual stride);
both are waited for one by one, as on a machine that has nothing to overlap. Random parameters cost what trained ones
do: what the tokenizer spends is not learned. The long run feeds one stream through a pool of one seat.

Times are of this machine, which the report names; keep it quiet meanwhile.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.simulated_hours import simulated_hours
from benchmarks.step_times import text_steps, whole_steps
from launch.speaker import Speaker, random_speaker, trained_speaker

PARTS = {"text": text_steps, "whole": whole_steps}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = flags.add_argument
    add(
        "--config",
        default="configs/duplex_300m.py",
        metavar="CONFIG.py",
        help="random parameters (default: %(default)s)",
    )
    add("--checkpoint", metavar="DIR", help="instead: a training's workdir or a portable checkpoint")
    add("--batches", default="1,8", help="streams at once; empty for none (default: %(default)s)")
    add("--parts", default="text,whole", help=f"some of {','.join(PARTS)} (default: %(default)s)")
    add("--steps", type=int, default=300, help="steps to time, after some to warm up (default: %(default)s)")
    add("--simulated_hours", type=float, default=0.0, help="hours of one stream, at full speed (default: none)")
    add("--part_s", type=float, default=3600.0, help="stream seconds of a row of the long run (default: %(default)s)")
    add("--json", metavar="FILE", help="write every number here")
    return flags


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def step_times(speaker: Speaker, batches: Sequence[int], parts: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """A row for every part and batch."""
    rows = []
    for part in parts:
        for batch in batches:
            found = PARTS[part](speaker, batch, steps)
            rows.append({"part": part, "batch": batch, "steps": steps, **found})
            for name in ("all", "tick", "between"):
                if found.get(name):
                    t = found[name]
                    print(
                        f"{part:5} {name:7} batch {batch:3}: p50 {t['p50_ms']:8.2f} ms, p99 {t['p99_ms']:8.2f} ms, "
                        f"{t['per_stream_p50_ms']:7.2f} ms a stream",
                        flush=True,
                    )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is asked for, and returns the exit code."""
    args = parser().parse_args(argv)
    batches = [int(batch) for batch in args.batches.split(",") if batch]
    parts = [part for part in args.parts.split(",") if part]
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or min([*batches, args.steps]) < 1 or args.part_s <= 0:
        print(
            f"streaming: --parts are some of {','.join(PARTS)}; --batches, --steps and --part_s are positive",
            file=sys.stderr,
        )
        return 2
    try:
        speaker = trained_speaker(args.checkpoint) if args.checkpoint else random_speaker(args.config, seed=0)
    except (ValueError, OSError) as error:
        print(f"streaming: {error}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"machine": machine(), "model": speaker.name}
    report["steps"] = step_times(speaker, batches, parts, args.steps)
    if args.simulated_hours:
        report["long"] = found = simulated_hours(speaker, args.simulated_hours, args.part_s)
        print(
            f"{found['hours']} h at {found['real_time_factor']} x real time: memory {found['memory_drift']:+.2%}, "
            f"p99 of the last part {found['p99_ratio']:.3f} x the first's, {found['recompilations']} recompilations"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
