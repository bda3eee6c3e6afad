"""What a stream costs, how many a machine holds, and whether it stays so: step times, sessions, hours at full speed.

    python -m benchmarks.streaming --json=streaming.json
    python -m benchmarks.streaming --config=configs/quickstart.py --batches=1,8,64
    python -m benchmarks.streaming --checkpoint=shipped --batches= --simulated_hours=24 --json=day.json
    python -m benchmarks.streaming --checkpoint=shipped --batches= --sessions=1024 --json=sessions.json
    python -m benchmarks.streaming --peers --peers_python=.venv-peers/bin/python --json=peers.json

`text` is the text stream's step alone, `whole` the model's live step (half of them with a frame, at the usual stride);
both are waited for one by one, as on a machine that has nothing to overlap. Random parameters cost what trained ones
do: what the tokenizer spends is not learned. The long run feeds one stream through a pool of one seat.

With `--sessions` more and more streams are played in real time, decoding included (`benchmarks.sessions`).

With `--peers` our steps take turns with those of others (`benchmarks.streaming_peers`), in another Python where these
are installed: PyTorch, transformers, and `moshi` by `pip install --no-deps moshi sentencepiece` (its own pins are of
older packages).

Times are of this machine, which the report names; keep it quiet meanwhile.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.sessions import real_time_sessions
from benchmarks.simulated_hours import simulated_hours
from benchmarks.step_times import text_steps, whole_steps, with_every_row
from benchmarks.streaming_peers import PEERS, compare
from mmduplex_jax.commentator import Commentator, load, random_commentator
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, parse_args, write_json

PARTS = {"text": text_steps, "whole": whole_steps}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = command_parser("benchmarks.streaming", __doc__)
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
    add("--sessions", type=int, default=0, help="look for the most in real time, up to so many (default: do not)")
    add("--session_s", type=float, default=20.0, help="how long each number is played (default: %(default)s)")
    add("--peers", nargs="?", const=",".join(PEERS), default="", help="also others' steps (default: %(const)s)")
    add("--peers_python", default=sys.executable, metavar="PYTHON", help="where they are installed (default: here)")
    add("--peer_dtypes", default="float32,bfloat16", help="of their weights (default: %(default)s)")
    add("--watched_s", default="0,60,300", help="seconds of video seen before (default: %(default)s)")
    add(
        "--rounds",
        type=int,
        default=5,
        help="with --peers: `--steps` are shared out among these (default: %(default)s)",
    )
    add("--limit_s", type=float, default=15.0, help="with --peers: of an arm in a round (default: %(default)s)")
    add_json_flag(flags)
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


def step_times(model: Commentator, batches: Sequence[int], parts: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """A row for every part and batch."""
    rows = []
    for part in parts:
        for batch in batches:
            found = PARTS[part](model, batch, steps)
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


def wrong(args: argparse.Namespace, batches: Sequence[int], parts: Sequence[str], peers: Sequence[str]) -> str:
    """What is wrong with the flags; empty where nothing is."""
    if set(parts) - set(PARTS) or set(peers) - set(PEERS):
        return f"--parts are some of {','.join(PARTS)}, --peers some of {','.join(PEERS)}"
    if min([*batches, args.steps, args.rounds]) < 1 or min(args.part_s, args.limit_s, args.session_s) <= 0:
        return "--batches, --steps, --rounds, --part_s, --session_s and --limit_s are positive"
    if peers and args.checkpoint:
        return "--peers compares a config's shape, with random parameters: leave --checkpoint out"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is asked for, and returns the exit code."""
    args = parse_args(parser(), argv)
    listed = lambda text: [part for part in text.split(",") if part]
    batches, parts, peers = [int(batch) for batch in listed(args.batches)], listed(args.parts), listed(args.peers)
    if problem := wrong(args, batches, parts, peers):
        print(f"streaming: {problem}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"machine": machine()}
    try:
        if peers:
            report["peers"] = compare(
                args.config, peers, parts, batches, dtypes=listed(args.peer_dtypes),
                watched_s=[float(s) for s in listed(args.watched_s)], rounds=args.rounds, steps=args.steps,
                limit_s=args.limit_s, peers_python=args.peers_python,
            )  # fmt: skip
        if not peers or args.simulated_hours or args.sessions:
            if args.checkpoint:
                model = load(args.checkpoint)
            else:
                model = with_every_row(random_commentator(args.config, seed=0))
            report["model"] = model.name
            report["steps"] = [] if peers else step_times(model, batches, parts, args.steps)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"streaming: {error}", file=sys.stderr)
        return 2
    if args.sessions:
        report["sessions"] = real_time_sessions(model, args.session_s, args.sessions)
        print(f"{report['sessions']['largest']} sessions in real time, of at most {args.sessions} tried")
    if args.simulated_hours:
        report["long"] = found = simulated_hours(model, args.simulated_hours, args.part_s)
        print(
            f"{found['hours']} h at {found['real_time_factor']} x real time: memory {found['memory_drift']:+.2%}, "
            f"p99 of the last part {found['p99_ratio']:.3f} x the first's, {found['recompilations']} recompilations"
        )
    write_json(args.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
