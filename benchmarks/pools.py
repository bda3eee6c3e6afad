"""Pools of streams: hours of one at full speed, and the largest number of streams that a machine holds in real time.

Hours at full speed: whether steps get slower, memory grows, or anything is compiled again. Over hours a machine drifts
by more than what is looked for. So at the end the old stream runs in turns with two fresh ones that see the same
frames: old against fresh is what age costs, and fresh against fresh is what chance makes of it.

In real time everything is included: decoding, tokenizer, text. Every stream is an H.264 file of the world, played at
its own offset and decoded as any file is; decoders share a thread a core. A number is held when, for some time, nothing
is dropped, no rung of the deadline policy is climbed, and 99 of 100 ticks are answered within a tick's time after the
picture was due.
"""

import gc
import itertools
import os
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.decode import Tick, VideoReader
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator, pool_of
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.slot import StreamHandle, StreamOutput

# How long a fresh stream watches before it is timed, at least; windows are shorter.
_FRESH_S = 60.0
# Of stream time, in turns.
_TURN_S = 10.0
# Different clips of the world; a stream goes through all of them, over and over, each from another one on.
_CLIPS = 4


def world_frames(model: Commentator, clips: int) -> np.ndarray:
    """uint8 `[clips, T, H, W, 3]`: the world's rich look, of the model's size."""
    config = WorldConfig(look="rich", frame_px=model.frame_px)
    return np.stack([make_clip(config, 0, index).frames for index in range(clips)])


def there_and_back(model: Commentator, video: str) -> np.ndarray:
    """uint8 `[1, T, H, W, 3]`: a video forwards, then backwards, so that it goes on after its end without a cut.

    Raises:
      VideoError: it is no video.
    """
    with VideoReader(video, model.clock, model.frame_px, model.fit, trusted=True) as reader:
        frames = np.stack([tick.frame for tick in reader.ticks()])
    return np.concatenate([frames, frames[-2:0:-1]])[None]


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
        speaking: bool = False,
        clips: np.ndarray | None = None,
        on_output: Callable[[StreamOutput], None] = lambda output: None,
    ):
        """Compiles.

        Args:
          clips: uint8 `[clips, T, H, W, 3]`, what is watched over and over; some of the world where not given.
          streams: slots, all taken.
          ahead: see `StreamPool`.
          speaking: all of them are heard; the model has a voice.
          on_output: takes every stream's outputs.
        """
        self._clock = model.clock
        # Its clips in a row are one stream, however long.
        policy = DeadlinePolicy(ladder=(Level(),), gather_s=0.0)
        self.pool = pool_of(model, streams, policy, ahead=ahead, anew_at_cuts=False)
        delay_steps = model.config.delay.eval
        self._handles = [
            self.pool.join(delay_steps=delay_steps, live=False, speaking=speaking, on_output=on_output)
            for _ in range(streams)
        ]
        clips = world_frames(model, clips=_CLIPS) if clips is None else clips
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
      heard: pieces of sound since then that are not silence.
    """

    def __init__(self, model: Commentator, speaking: bool = False, clips: np.ndarray | None = None):
        self._last_s = 0.0
        self.clear()
        self.loop = Saturated(model, speaking=speaking, clips=clips, on_output=self._record)

    def clear(self) -> None:
        """Forgets the counts."""
        self.times_s, self.words, self.tokens, self.heard = array("d"), 0, 0, 0

    def watch(self, ticks: int) -> None:
        """Runs so many ticks."""
        self._last_s = time.perf_counter()
        self.loop.run(ticks)

    def percentile_ms(self, percent: float) -> float:
        """Of the steps' times."""
        return float(np.percentile(self.times_s, percent)) * 1e3

    def _record(self, output: StreamOutput) -> None:
        now_s = time.perf_counter()
        self.times_s.append(now_s - self._last_s)
        self._last_s = now_s
        self.words += len(output.words)
        self.tokens += output.tokens.number
        self.heard += sum(bool(piece.samples.any()) for piece in output.sound)


def simulated_hours(
    model: Commentator,
    hours: float,
    part_s: float = 3600.0,
    compared_s: float = 1800.0,
    speaking: bool = False,
    clips: np.ndarray | None = None,
) -> dict[str, Any]:
    """Watches clips, over and over, for `hours` of a stream's time, as fast as it can, in a pool of one slot.

    Args:
      hours: of the stream's time.
      part_s: the time of a row.
      compared_s: then so much more in turns with fresh streams; it is timed for each of the three.
      speaking: they are heard; the model has a voice.
      clips: see `Saturated`.

    Returns:
      `parts`, a row for every `part_s` (step p50 and p99, memory at its end, words, tokens a second, and of a stream
      that is heard `heard`, the share of its steps that are not silent), and what the first and the last of them make:
      `memory_drift`, `p99_ratio`; `compared`, see `in_turns`; `recompilations`; `real_time_factor`.
    """
    clock = model.clock
    old = Watcher(model, speaking, clips)
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
            | ({"heard": round(old.heard / len(old.times_s), 3)} if speaking else {})
        )
        print(parts[-1], flush=True)
    wall_s = time.perf_counter() - began_s
    compared = in_turns(model, old, compared_s, speaking, clips) if compared_s else None
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


def in_turns(
    model: Commentator, old: Watcher, compared_s: float, speaking: bool = False, clips: np.ndarray | None = None
) -> dict[str, float]:
    """Times an old stream, a fresh one and another fresh one in turns of some seconds, in changing order.

    Returns:
      `p50_ms` and `p99_ms` of `old`, `fresh` and `again`; `old_to_fresh_p50`, `old_to_fresh_p99`, and the same of
      `again` to `fresh`, whose distance from 1 is chance; `turns` of each.
    """
    clock = model.clock
    watchers = {"old": old, "fresh": Watcher(model, speaking, clips), "again": Watcher(model, speaking, clips)}
    for watcher in watchers.values():
        # All stand at the same frame afterwards, the fresh ones at their own ages.
        watcher.watch(-watcher.loop.ticks % watcher.loop.cycle)
        watcher.watch(-(-clock.ticks_in(_FRESH_S) // watcher.loop.cycle) * watcher.loop.cycle)
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


# Different files; streams share them out.
_FILES = 8
# Pools and decoders get going before anything counts.
_WARM_S = 3.0
# The first number that is tried, and how finely the largest one is looked for.
_FIRST, _RESOLUTION = 8, 0.1


class _Player:
    """One stream: a file, over and over, in real time."""

    def __init__(self, handle: StreamHandle, file: Path, clock: Clock, frame_px: int, began_s: float):
        self._handle, self.began_s = handle, began_s
        self._file, self._clock, self._frame_px = file, clock, frame_px
        self._ticks = self._open()
        self._number = 0

    @property
    def due_s(self) -> float:
        """When its next picture is to be seen, by `time.monotonic`."""
        return self.began_s + self._clock.tick_time_s(self._number)

    def play(self) -> None:
        """Decodes the next tick's picture and offers it."""
        tick = next(self._ticks, None)
        if tick is None:
            self._ticks = self._open()
            tick = next(self._ticks)
        self._handle.offer(self._clock.tick_time_s(self._number), tick.frame)
        self._number += 1

    def _open(self) -> Iterator[Tick]:
        return VideoReader(self._file, self._clock, self._frame_px).ticks()


def _play(players: Sequence[_Player], until_s: float) -> None:
    """Plays streams in one thread, each when it is due: in turns, since all begin within one tick, in their order."""
    for player in itertools.cycle(players):
        if player.due_s >= until_s:
            break
        time.sleep(max(0.0, player.due_s - time.monotonic()))
        player.play()


def held(
    model: Commentator, sessions: int, length_s: float, files: Sequence[Path], warm_s: float = _WARM_S
) -> dict[str, Any]:
    """Plays so many streams for `length_s`, after `warm_s`, and says how late they were answered.

    Returns:
      `sessions`; `held`; `lag_p50_ms` and `lag_p99_ms`, from the moment that a picture was due to its tick's first
      step; `dropped_frames`; `rungs`, rounds on rungs over the first; `round_share`, of the time that passed, in which
      the device and the host were busy with rounds.
    """
    clock = model.clock
    pool = pool_of(model, sessions, DeadlinePolicy())
    began_s = time.monotonic() + 0.5
    counts_from_s, until_s = began_s + warm_s, began_s + warm_s + length_s
    lags_s = array("d")

    def join(number: int) -> _Player:
        player_began_s = began_s + clock.tick_s * number / sessions

        def record(output: StreamOutput) -> None:
            now_s = time.monotonic()
            if not output.is_end and output.step % clock.video_stride == 0 and counts_from_s <= now_s < until_s:
                lags_s.append(now_s - player_began_s - output.t_video_s)

        handle = pool.join(delay_steps=model.delays.usual, on_output=record)
        return _Player(handle, files[number % len(files)], clock, model.frame_px, player_began_s)

    players = [join(number) for number in range(sessions)]
    pool.start()
    number = min(len(os.sched_getaffinity(0)), sessions)
    threads = [threading.Thread(target=_play, args=(players[i::number], until_s)) for i in range(number)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, counts_from_s - time.monotonic()))
    before = pool.statistics().counts
    for thread in threads:
        thread.join()
    after = pool.statistics().counts
    pool.stop()
    p50_s, p99_s = (float(np.percentile(lags_s, p)) for p in (50, 99))
    dropped = after.dropped_frames - before.dropped_frames
    climbed = sum(after.rungs[rung] - before.rungs[rung] for rung in after.rungs if rung)
    return {
        "sessions": sessions,
        "held": p99_s <= clock.tick_s and not dropped and not climbed,
        "lag_p50_ms": round(p50_s * 1e3, 2),
        "lag_p99_ms": round(p99_s * 1e3, 2),
        "dropped_frames": dropped,
        "rungs": climbed,
        "round_share": round((after.step_s.sum - before.step_s.sum) / length_s, 3),
    }


def largest_held(is_held: Callable[[int], bool], most: int) -> int:
    """The largest number that is held, to a tenth; 0 where not even the first is.

    Args:
      is_held: tries a number; asked of rising numbers, each twice the last, then between the last two.
      most: no larger number is tried.
    """
    low, high = 0, min(_FIRST, most)
    while is_held(high):
        low = high
        if high == most:
            return most
        high = min(2 * high, most)
    while low and high - low > max(1, _RESOLUTION * low):
        middle = (low + high) // 2
        low, high = (middle, high) if is_held(middle) else (low, middle)
    return low


def write_world_videos(folder: Path) -> list[Path]:
    """The videos of the rich world that streams share out among them."""
    world = WorldConfig(look="rich")
    return [write_clip_files(folder, world, 0, index).video for index in range(_FILES)]


def real_time_sessions(model: Commentator, length_s: float, most: int) -> dict[str, Any]:
    """Looks for the largest number of streams that is held.

    Args:
      length_s: how long each number is played.
      most: no larger number is tried.

    Returns:
      `largest`; `tried_at_most`, which is `most`; `trials`, what `held` gave.
    """
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_world_videos(Path(folder))

        def is_held(sessions: int) -> bool:
            trials.append(held(model, sessions, length_s, files))
            print(trials[-1], flush=True)
            return bool(trials[-1]["held"])

        return {"largest": largest_held(is_held, most), "tried_at_most": most, "trials": trials}
