"""How fast the built-in world makes clips: seconds of video for a second of CPU.

python -m benchmarks.world [--look=plain|rich] [--clips=100] [--frame_px=64] [--json=FILE]
"""

import argparse
import json
import time
from pathlib import Path

from data_pipelines.world import WorldConfig, make_clip, make_events


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


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look", choices=("plain", "rich"), help="one look; by default both")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--frame_px", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    arguments = parser.parse_args()
    if arguments.clips < 1:
        parser.error(f"--clips must be positive, got {arguments.clips}")
    looks = [arguments.look] if arguments.look else ["plain", "rich"]
    rows = [measure(WorldConfig(look=look, frame_px=arguments.frame_px), arguments.clips) for look in looks]
    for row in rows:
        print(
            f"{row['look']:6} {row['frame_px']} px: {row['video_s_per_cpu_s']:7.0f} s of video a CPU-second, "
            f"{row['clip_cpu_ms']:.1f} ms a clip, {row['of_this_planning_ms']:.1f} ms of it to plan"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
