"""Hours of one stream at full speed: whether steps get slower, memory grows, or anything is compiled again.

Over hours a machine drifts by more than what is looked for. So at the end the old stream runs in turns with two fresh
ones that see the same frames: old against fresh is what age costs, and fresh against fresh is what chance makes of it.
"""

import gc
import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.step_times import world_frames
from mmduplex_jax.commentator import Commentator
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.slot import StreamOutput

# How long a fresh stream watches before it is timed, at least; windows are shorter.
_WARM_S = 60.0
# Of stream time, in turns.
_TURN_S = 10.0
# Different clips of the world; a stream goes through all of them, over and over, each from another one on.
_CLIPS = 4


class Saturated:
    """A full pool that always has frames waiting.

    Attributes:
      pool: the pool; nothing gives way in it, so that the work stays the same.
      cycle: ticks after which a stream sees the same frames again.
      ticks: that every stream has seen.
    """

    def __init__(
        self,
        model: Commentator,
        *,
        streams: int = 1,
        ahead: int = 1,
        on_output: Callable[[StreamOutput], None] = lambda output: None,
    ):
        """Compiles.

        Args:
          streams: slots, all taken.
          ahead: see `StreamPool`.
          on_output: takes every stream's outputs.
        """
        self._clock = model.clock
        self.pool = StreamPool(
            model.live, model.params, model.tokenizer, model.clock, model.config.frame_px, slots=streams,
            policy=DeadlinePolicy(ladder=(Level(),), gather_s=0.0), tokens_per_s_max=model.tokens_per_s_max,
            ahead=ahead,
        )  # fmt: skip
        delay_steps = model.config.delay.eval
        self._handles = [
            self.pool.join(delay_steps=delay_steps, live=False, on_output=on_output) for _ in range(streams)
        ]
        clips = world_frames(model, clips=_CLIPS)
        self._frames, self._clip_ticks = np.concatenate(clips), clips.shape[1]
        self.cycle, self.ticks = len(self._frames), 0

    def run(self, ticks: int) -> float:
        """Runs so many more ticks of every stream and waits for the last; seconds that they took."""
        started_s = time.perf_counter()
        for tick in range(self.ticks, self.ticks + ticks):
            for number, handle in enumerate(self._handles):
                frame = self._frames[(tick + number * self._clip_ticks) % len(self._frames)]
                handle.offer(self._clock.tick_time_s(tick), frame)
            while not min(handle.room for handle in self._handles):
                self.pool.run_once()
        while self.pool.run_once():
            pass
        self.ticks += ticks
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Ends the streams and the pool."""
        for handle in self._handles:
            handle.leave()
        self.pool.stop()


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watcher:
    """A stream that watches as fast as it can, and its steps' times.

    Attributes:
      times_s: of the steps since they were last cleared: from one output to the next.
      words, tokens: said and spent since they were last cleared.
    """

    def __init__(self, model: Commentator):
        self._last_s = 0.0
        self.clear()
        self.loop = Saturated(model, on_output=self._hear)

    def clear(self) -> None:
        """Forgets the counts."""
        self.times_s, self.words, self.tokens = array("d"), 0, 0

    def watch(self, ticks: int) -> None:
        """Runs so many ticks."""
        self._last_s = time.perf_counter()
        self.loop.run(ticks)

    def percentile_ms(self, percent: float) -> float:
        """Of the steps' times."""
        return float(np.percentile(self.times_s, percent)) * 1e3

    def _hear(self, output: StreamOutput) -> None:
        now_s = time.perf_counter()
        self.times_s.append(now_s - self._last_s)
        self._last_s = now_s
        self.words += len(output.words)
        self.tokens += output.tokens.number


def simulated_hours(
    model: Commentator, hours: float, part_s: float = 3600.0, compared_s: float = 1800.0
) -> dict[str, Any]:
    """Watches the world for `hours` of a stream's time, as fast as it can, in a pool of one slot.

    Args:
      hours: of the stream's time.
      part_s: the time of a row.
      compared_s: then so much more in turns with fresh streams; it is timed for each of the three.

    Returns:
      `parts`, a row for every `part_s` (step p50 and p99, memory at its end, words, tokens a second), and what the
      first and the last of them make: `memory_drift`, `p99_ratio`; `compared`, see `in_turns`; `recompilations`;
      `real_time_factor`.
    """
    clock = model.clock
    old = Watcher(model)
    parts: list[dict[str, float]] = []
    ticks, per_part = clock.ticks_in(hours * 3600.0), clock.ticks_in(part_s)
    began_s = time.perf_counter()
    while old.loop.ticks < ticks:
        number = min(per_part, ticks - old.loop.ticks)
        old.clear()
        old.watch(number)
        parts.append(
            {
                "until_s": round(clock.tick_time_s(old.loop.ticks), 1),
                "p50_ms": round(old.percentile_ms(50), 4),
                "p99_ms": round(old.percentile_ms(99), 4),
                "resident_mb": round(resident_bytes() / 1e6, 2),
                "words": old.words,
                "tokens_per_s": round(old.tokens / clock.tick_time_s(number), 2),
            }
        )
        print(parts[-1], flush=True)
    wall_s = time.perf_counter() - began_s
    compared = in_turns(model, old, compared_s) if compared_s else None
    statistics = old.loop.pool.statistics()
    old.loop.close()
    return {
        "hours": hours,
        "parts": parts,
        "memory_drift": round(parts[-1]["resident_mb"] / parts[0]["resident_mb"] - 1, 5),
        "p99_ratio": round(parts[-1]["p99_ms"] / parts[0]["p99_ms"], 4),
        "compared": compared,
        "recompilations": statistics.recompilations,
        "real_time_factor": round(hours * 3600.0 / wall_s, 1),
    }


def in_turns(model: Commentator, old: Watcher, compared_s: float) -> dict[str, float]:
    """Times an old stream, a fresh one and another fresh one in turns of some seconds, in changing order.

    Returns:
      `p50_ms` and `p99_ms` of `old`, `fresh` and `again`; `old_to_fresh_p50`, `old_to_fresh_p99`, and the same of
      `again` to `fresh`, whose distance from 1 is chance; `turns` of each.
    """
    clock = model.clock
    watchers = {"old": old, "fresh": Watcher(model), "again": Watcher(model)}
    for watcher in watchers.values():
        # All stand at the same frame afterwards, the fresh ones at their own ages.
        watcher.watch(-watcher.loop.ticks % watcher.loop.cycle)
        watcher.watch(-(-clock.ticks_in(_WARM_S) // watcher.loop.cycle) * watcher.loop.cycle)
        watcher.clear()
    turns, per_turn = max(1, round(compared_s / _TURN_S)), clock.ticks_in(min(_TURN_S, compared_s))
    names = list(watchers)
    for turn in range(turns):
        for k in range(len(names)):
            watchers[names[(turn + k) % len(names)]].watch(per_turn)
    found: dict[str, float] = {"turns": turns}
    for percent in (50, 99):
        ms = {name: watcher.percentile_ms(percent) for name, watcher in watchers.items()}
        found |= {f"{name}_p{percent}_ms": round(value, 4) for name, value in ms.items()}
        found |= {f"{name}_to_fresh_p{percent}": round(ms[name] / ms["fresh"], 4) for name in ("old", "again")}
    for name in ("fresh", "again"):
        watchers[name].loop.close()
    print(
        f"{turns} turns of {_TURN_S:g} s: p99 of the old stream {found['old_to_fresh_p99']:.3f} x a fresh one's; "
        f"of two fresh ones {found['again_to_fresh_p99']:.3f}",
        flush=True,
    )
    return found
