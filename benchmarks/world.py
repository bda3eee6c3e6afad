"""How fast the built-in world makes clips: seconds of video for a second of CPU.

python -m benchmarks.world --look=rich --clips=100 --frame_px=64 --json=world.json
python -m benchmarks.world --pack=DIR --clips=40 --frame_px=144,256
"""

import sys
import time
from collections.abc import Sequence

from data_pipelines.world import RealWorldConfig, World, WorldConfig, make_clip, make_events
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, parse_args, write_json


def measure(config: World, clips: int, seed: int = 0) -> dict[str, object]:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a line a look, and returns the exit code."""
    flags = command_parser("benchmarks.world", __doc__)
    add = flags.add_argument
    add("--look", choices=("plain", "rich"), help="one look (default: both)")
    add("--clips", type=int, default=100, help="clips to make (default: %(default)s)")
    add("--pack", metavar="DIR", help="the look `real` of this pack instead")
    add("--frame_px", default="64", help="side of the frames; HEIGHT,WIDTH with --pack (default: %(default)s)")
    add_json_flag(flags)
    args = parse_args(flags, argv)
    if args.clips < 1:
        flags.error(f"--clips must be positive, got {args.clips}")
    try:
        sides = [int(side) for side in args.frame_px.split(",")]
    except ValueError:
        flags.error(f"--frame_px is SIDE or HEIGHT,WIDTH, got {args.frame_px}")
    if len(sides) > (2 if args.pack else 1):
        flags.error(f"--frame_px={args.frame_px}: drawn looks have square frames, --pack has HEIGHT,WIDTH")
    worlds: list[World] = [
        WorldConfig(look=look, frame_px=sides[0]) for look in ([args.look] if args.look else ["plain", "rich"])
    ]
    if args.pack:
        worlds = [RealWorldConfig(args.pack, frame_px=(sides[0], sides[-1]))]
    rows = [measure(world, args.clips) for world in worlds]
    for row in rows if args.json != "-" else ():
        print(
            f"{row['look']:6} {row['frame_px']} px: {row['video_s_per_cpu_s']:7.0f} s of video a CPU-second, "
            f"{row['clip_cpu_ms']:.1f} ms a clip, {row['of_this_planning_ms']:.1f} ms of it to plan"
        )
    write_json(args.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
