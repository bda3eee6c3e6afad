"""Hours of one stream at full speed: whether steps get slower, memory grows, or anything is compiled again."""

import gc
import os
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.step_times import world_frames
from launch.speaker import Speaker
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.pool import StreamPool


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def simulated_hours(speaker: Speaker, hours: float, part_s: float = 3600.0) -> dict[str, Any]:
    """Watches the world for `hours` of a stream's time, as fast as it can, in a pool of one seat.

    Args:
      speaker: who watches.
      hours: of the stream's time.
      part_s: the time of a row.

    Returns:
      `parts`, a row for every `part_s` (step p50 and p99, memory at its end, words, tokens a second), and what the
      first and the last of them make: `memory_drift`, `p99_ratio`; `recompilations`; `real_time_factor`.
    """
    clock = speaker.clock
    # Nothing gives way: this measures what steps take, not what overload does.
    policy = DeadlinePolicy(ladder=(Level(),), gather_s=0.0)
    pool = StreamPool(
        speaker.live, speaker.params, speaker.tokenizer, clock, speaker.config.frame_px,
        slots=1, policy=policy, tokens_per_s_max=speaker.tokens_per_s_max,
    )  # fmt: skip
    times_s, words, tokens = array("d"), 0, 0
    last_s = 0.0

    def heard(output: Any) -> None:
        nonlocal last_s, words, tokens
        now_s = time.perf_counter()
        times_s.append(now_s - last_s)
        last_s, words, tokens = now_s, words + len(output.words), tokens + output.tokens.number

    seat = pool.join(delay_steps=speaker.config.delay.eval, live=False, on_output=heard)
    frames = np.concatenate(world_frames(speaker, clips=4))
    parts: list[dict[str, float]] = []
    ticks, per_part = clock.ticks_in(hours * 3600.0), clock.ticks_in(part_s)
    began_s = last_s = time.perf_counter()
    for tick in range(ticks):
        seat.offer(clock.tick_time_s(tick), frames[tick % len(frames)])
        while not seat.room:
            pool.run_once()
        if (tick + 1) % per_part == 0 or tick + 1 == ticks:
            while pool.run_once():
                pass
            length_s = clock.tick_time_s((tick % per_part) + 1)
            parts.append(
                {
                    "until_s": round(clock.tick_time_s(tick + 1), 1),
                    "p50_ms": round(float(np.percentile(times_s, 50)) * 1e3, 4),
                    "p99_ms": round(float(np.percentile(times_s, 99)) * 1e3, 4),
                    "resident_mb": round(resident_bytes() / 1e6, 2),
                    "words": words,
                    "tokens_per_s": round(tokens / length_s, 2),
                }
            )
            print(parts[-1], flush=True)
            times_s, words, tokens, last_s = array("d"), 0, 0, time.perf_counter()
    wall_s = time.perf_counter() - began_s
    seat.leave()
    pool.stop()
    return {
        "hours": hours,
        "parts": parts,
        "memory_drift": round(parts[-1]["resident_mb"] / parts[0]["resident_mb"] - 1, 5),
        "p99_ratio": round(parts[-1]["p99_ms"] / parts[0]["p99_ms"], 4),
        "recompilations": pool.statistics().recompilations,
        "real_time_factor": round(hours * 3600.0 / wall_s, 1),
    }
