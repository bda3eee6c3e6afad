"""Streams that watch the world as fast as they can, in a pool whose loop is turned by hand."""

import time
from collections.abc import Callable

import numpy as np

from benchmarks.step_times import world_frames
from mmduplex_jax.commentator import Commentator
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.slot import StreamOutput

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
          model: who watches.
          streams: seats, all taken.
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
        self._seats = [self.pool.join(delay_steps=delay_steps, live=False, on_output=on_output) for _ in range(streams)]
        clips = world_frames(model, clips=_CLIPS)
        self._frames, self._clip_ticks = np.concatenate(clips), clips.shape[1]
        self.cycle, self.ticks = len(self._frames), 0

    def run(self, ticks: int) -> float:
        """Runs so many more ticks of every stream and waits for the last; seconds that they took."""
        started_s = time.perf_counter()
        for tick in range(self.ticks, self.ticks + ticks):
            for number, seat in enumerate(self._seats):
                frame = self._frames[(tick + number * self._clip_ticks) % len(self._frames)]
                seat.offer(self._clock.tick_time_s(tick), frame)
            while not min(seat.room for seat in self._seats):
                self.pool.run_once()
        while self.pool.run_once():
            pass
        self.ticks += ticks
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Ends the streams and the pool."""
        for seat in self._seats:
            seat.leave()
        self.pool.stop()
