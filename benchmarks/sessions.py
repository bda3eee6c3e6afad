"""The largest number of streams that a machine holds in real time, everything included: decoding, tokenizer, text.

Every stream is an H.264 file of the world, played in real time at its own offset and decoded as any file is; decoders
share a thread a core. A number is held when, for some time, nothing is dropped, no rung of the deadline policy is
climbed, and 99 of 100 ticks are answered within a tick's time after the picture was due.
"""

import heapq
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
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.slot import StreamHandle, StreamOutput

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
    """Plays streams in one thread, each when it is due."""
    waiting = [(player.due_s, number) for number, player in enumerate(players)]
    heapq.heapify(waiting)
    while waiting and waiting[0][0] < until_s:
        due_s, number = waiting[0]
        time.sleep(max(0.0, due_s - time.monotonic()))
        players[number].play()
        heapq.heapreplace(waiting, (players[number].due_s, number))


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
    pool = StreamPool(
        model.live, model.params, model.tokenizer, clock, model.frame_px,
        slots=sessions, policy=DeadlinePolicy(), tokens_per_s_max=model.tokens_per_s_max,
    )  # fmt: skip
    began_s = time.monotonic() + 0.5
    counts_from_s, until_s = began_s + warm_s, began_s + warm_s + length_s
    lags_s = array("d")

    def join(number: int) -> _Player:
        player_began_s = began_s + clock.tick_s * number / sessions

        def heard(output: StreamOutput) -> None:
            now_s = time.monotonic()
            if output.step % clock.video_stride == 0 and counts_from_s <= now_s < until_s:
                lags_s.append(now_s - player_began_s - output.t_video_s)

        handle = pool.join(delay_steps=model.delays.usual, on_output=heard)
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
        world = WorldConfig(look="rich")
        files = [write_clip_files(folder, world, 0, index).video for index in range(_FILES)]

        def is_held(sessions: int) -> bool:
            trials.append(held(model, sessions, length_s, files))
            print(trials[-1], flush=True)
            return bool(trials[-1]["held"])

        return {"largest": largest_held(is_held, most), "tried_at_most": most, "trials": trials}
