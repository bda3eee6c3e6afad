"""How fast the built-in world makes clips: seconds of video for a second of CPU.

python -m benchmarks.world --look=rich --clips=100 --frame_px=64 --json=world.json
"""

import argparse
import sys
import time
from collections.abc import Sequence

from data_pipelines.world import WorldConfig, make_clip, make_events
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, write_json


def measure(config: WorldConfig, clips: int, seed: int = 0) -> dict[str, float | int | str]:
    """Makes `clips` clips, after one to warm up, and counts this process's CPU time."""
    make_clip(config, seed, clips)
    began_s = time.process_time()
    for index in range(clips):
        make_clip(config, seed, index)
    clip_cpu_s = (time.process_time() - began_s) / clips
    began_s = time.process_time()
    for index in range(clips):
        make_events(config, seed, index)
    return {
        "look": config.look,
        "frame_px": config.frame_px,
        "clips": clips,
        "clip_cpu_ms": 1000 * clip_cpu_s,
        "of_this_planning_ms": 1000 * (time.process_time() - began_s) / clips,
        "video_s_per_cpu_s": config.clip_s / clip_cpu_s,
    }


def work(args: argparse.Namespace) -> None:
    """Measures, prints a line a look, and writes them."""
    if args.clips < 1:
        raise ValueError(f"--clips must be positive, got {args.clips}")
    looks = [args.look] if args.look else ["plain", "rich"]
    rows = [measure(WorldConfig(look=look, frame_px=args.frame_px), args.clips) for look in looks]
    for row in rows if args.json != "-" else ():
        print(
            f"{row['look']:6} {row['frame_px']} px: {row['video_s_per_cpu_s']:7.0f} s of video a CPU-second, "
            f"{row['clip_cpu_ms']:.1f} ms a clip, {row['of_this_planning_ms']:.1f} ms of it to plan"
        )
    write_json(args.json, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.world", __doc__)
    add = flags.add_argument
    add("--look", choices=("plain", "rich"), help="one look (default: both)")
    add("--clips", type=int, default=100, help="clips to make (default: %(default)s)")
    add("--frame_px", type=int, default=64, help="side of the frames (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
