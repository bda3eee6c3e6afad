"""The loop's timeline before and after rounds overlap, from the profiler's own events.

    python -m benchmarks.timeline --checkpoint=world --out=traces

The same frames run through two pools as fast as they can: one waits for every round before it dispatches the next
(`ahead=0`), one dispatches a round while the last is on the device (`ahead=1`, as everything here runs). Rounds of
recording alternate. Printed is, for each, the share of the time in which the device had nothing to do, the share of the
host's own work (dispatching rounds, delivering words) that was done while the device worked, and a strip of a few
milliseconds. The traces stay in `--out`, for Perfetto or XProf. Recording slows both down alike.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.pools import Saturated
from mmduplex_jax.commentator import Commentator, load, random_commentator
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, run_main, shown_on, write_json
from mmduplex_jax.streaming.batch import DELIVER, DISPATCH, WAIT
from mmduplex_jax.weights.trained import CHECKPOINT_HELP

AHEAD = (0, 1)
# Before a recording: rings fill, allocators settle.
_WARM_TICKS = 25
_NAMES = {DISPATCH: "dispatch", WAIT: "wait", DELIVER: "deliver"}
# A program that XLA's CPU runtime runs: from its first operation to its last, on whichever threads.
_CPU_PROGRAM = "ThunkExecutor::Execute"

Spans = list[tuple[float, float]]


class Timeline(NamedTuple):
    """A recording: disjoint spans in order, in ms.

    Attributes:
      device: something ran there.
      dispatch, wait, deliver: what the loop did.
    """

    device: Spans
    dispatch: Spans
    wait: Spans
    deliver: Spans


def union(spans: Iterable[tuple[float, float]]) -> Spans:
    """The same time as disjoint spans in order."""
    found: Spans = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def length(spans: Spans) -> float:
    """The time that disjoint spans take together."""
    return sum(end - start for start, end in spans)


def common(some: Spans, others: Spans) -> Spans:
    """The time that is in both, each disjoint and in order."""
    found: Spans = []
    i = j = 0
    while i < len(some) and j < len(others):
        start, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if start < end:
            found.append((start, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return found


def read_timeline(folder: Path) -> Timeline:
    """Reads the one trace in `folder`.

    Device time is that of every event on an accelerator's planes; on a CPU that of XLA's programs on its threads.
    """
    (file,) = folder.glob("**/*.xplane.pb")
    named: dict[str, Spans] = {name: [] for name in _NAMES}
    accelerator: Spans = []
    programs: Spans = []
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            for event in line.events:
                span = (event.start_ns / 1e6, event.end_ns / 1e6)
                if on_device:
                    accelerator.append(span)
                elif event.name in named:
                    named[event.name].append(span)
                elif event.name.startswith(_CPU_PROGRAM):
                    programs.append(span)
    host = {_NAMES[name]: union(spans) for name, spans in named.items()}
    return Timeline(union(accelerator or programs), **host)


def shares(timeline: Timeline) -> dict[str, float]:
    """What a timeline shows.

    Returns:
      `device_idle_share` of the time from the first dispatch to the device's last work; `host_overlap_share`, of
      dispatching and delivering, that was done while the device worked; `host_work_share` and `host_wait_share` of that
      time; `length_ms`.
    """
    start, end = timeline.dispatch[0][0], timeline.device[-1][1]
    device = common(timeline.device, [(start, end)])
    host = union([*timeline.dispatch, *timeline.deliver])
    whole = end - start
    return {
        "device_idle_share": round(1 - length(device) / whole, 4),
        "host_overlap_share": round(length(common(host, device)) / length(host), 4),
        "host_work_share": round(length(host) / whole, 4),
        "host_wait_share": round(length(timeline.wait) / whole, 4),
        "length_ms": round(whole, 3),
    }


def strip(timeline: Timeline, start: float, end: float, columns: int = 100) -> str:
    """Two lines of text: what host and device did from `start` to `end`, ms."""
    edges = np.linspace(start, end, columns + 1)
    cells = list(zip(edges[:-1], edges[1:]))

    def painted(marks: Sequence[tuple[str, Spans]]) -> str:
        """What most of each cell is, or nothing."""
        line = ""
        for cell in cells:
            most, mark = max((length(common(spans, [cell])), mark) for mark, spans in marks)
            line += mark if most > (cell[1] - cell[0]) / 2 else " "
        return line

    host = painted([("D", timeline.dispatch), (".", timeline.wait), ("t", timeline.deliver)])
    return f"host   |{host}|\ndevice |{painted([('#', timeline.device)])}|"


def record(loop: Saturated, ticks: int, folder: Path) -> Timeline:
    """Runs so many ticks under the profiler, which writes to `folder`."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would take longer than what it looks at
    with jax.profiler.trace(str(folder), profiler_options=options):
        loop.run(ticks)
    return read_timeline(folder)


def compare(model: Commentator, streams: int, ticks: int, rounds: int, out: Path) -> list[dict[str, Any]]:
    """A row for each of `AHEAD`: medians over the rounds of what `shares` gives, and `round_ms`, not recorded."""
    loops = {ahead: Saturated(model, streams=streams, ahead=ahead) for ahead in AHEAD}
    for loop in loops.values():
        loop.run(_WARM_TICKS)
    found: dict[int, list[dict[str, float]]] = {ahead: [] for ahead in AHEAD}
    shown: dict[int, str] = {}
    for number in range(rounds):
        for ahead, loop in loops.items():
            plain_ms = loop.run(ticks) * 1e3 / ticks
            timeline = record(loop, ticks, out / f"streams_{streams}_ahead_{ahead}_round_{number}")
            found[ahead].append({"round_ms": plain_ms, **shares(timeline)})
            # Three rounds from the middle on.
            starts = [start for start, _ in timeline.dispatch][ticks // 2 :]
            shown[ahead] = strip(timeline, starts[0], starts[min(3, len(starts) - 1)])
    rows = []
    for ahead, loop in loops.items():
        loop.close()
        medians = {name: round(float(np.median([f[name] for f in found[ahead]])), 4) for name in found[ahead][0]}
        rows.append({"streams": streams, "ahead": ahead, **medians, "strip": shown[ahead]})
        print(
            f"{streams:3} streams, ahead={ahead}: a round {medians['round_ms']:.2f} ms; device idle "
            f"{medians['device_idle_share']:.1%}; host works {medians['host_work_share']:.1%} of the time, "
            f"{medians['host_overlap_share']:.1%} of that while the device does\n{shown[ahead]}",
            flush=True,
        )
    return rows


def work(args: argparse.Namespace) -> None:
    """Records, prints and writes what the recordings show."""
    out = Path(args.out)
    if bool(args.random_init) == bool(args.checkpoint):
        raise ValueError("give either --random_init or --checkpoint")
    if min([*args.streams, args.rounds]) < 1 or args.ticks < 8:
        raise ValueError("--streams and --rounds are positive, --ticks at least 8")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty")
    model = random_commentator(args.random_init, seed=0) if args.random_init else load(args.checkpoint)
    with contextlib.redirect_stdout(shown_on(args.json)):
        rows = [row for number in args.streams for row in compare(model, number, args.ticks, args.rounds, out)]
    device = jax.devices()[0].device_kind
    write_json(args.json, {"model": model.name, "device": device, "ticks": args.ticks, "rows": rows})


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.timeline", __doc__)
    add = flags.add_argument
    add("--random_init", metavar="CONFIG.py", help="a model with random parameters")
    add("--checkpoint", metavar="NAME|DIR", help=f"instead: {CHECKPOINT_HELP}")
    add("--streams", type=listed(int), default="1,8", help="streams at once (default: %(default)s)")
    add("--ticks", type=int, default=100, help="of a recording (default: %(default)s)")
    add("--rounds", type=int, default=3, help="recordings of each (default: %(default)s)")
    add("--out", required=True, metavar="DIR", help="where the traces go")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
