"""A stream's place in a pool, as the pool sees it: frames that wait, when the next tick may begin, what is being said.

Nothing here is locked or waits: the pool's lock is held around it.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool_statistics import PoolCounts
from mmduplex_jax.streaming.rows import SpentTokens
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.word_decoder import TimedWord, WordDecoder

# A stream may run this much faster than its clock, so that a camera whose clock is a little fast never falls behind.
_PACE = 0.9


class StreamOutput(NamedTuple):
    """What one step of a stream gave.

    Attributes:
      seq: its number, from 0; where outputs were merged the last one's.
      t_video_s: the step's time in the stream.
      words: that the step showed to be whole.
      tokens: what the tick spent; none at steps between ticks.
      step: the model's step, from 0 at the last reset.
      lag_s: from the arrival of the tick's frame to this output.
      dropped_frames: of this seat, so far.
    """

    seq: int
    t_video_s: float
    words: list[TimedWord]
    tokens: SpentTokens
    step: int
    lag_s: float
    dropped_frames: int


class WaitingFrame(NamedTuple):
    """A frame, the time in the stream that it is of, and the pool's time when it came."""

    t_s: float
    frame: np.ndarray
    arrived_s: float


class Stream:
    """What is being said on a place, from one reset to the next.

    Attributes:
      words: makes words of slots; its delay is set with every step.
      steps: that were dispatched.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self.words, self.steps = WordDecoder(tokenizer, 0.0), 0


class Place:
    """A row of the batch and what its owner asked for.

    Attributes:
      row: in the batch.
      live: whether the clock paces it and late frames are dropped.
      delay_steps, pad_bias: the model's settings from the next tick on.
      paused: frames are ignored.
      leaving: no frame is taken any more; it ends when none waits.
      reset_wanted: another stream begins before the next tick.
      waiting: frames, oldest first.
      waiting_max: how many may wait.
      dropped: frames that were dropped.
      last_t_s: time of the last frame that was offered.
      stream: what is being said.
      error: what the listener raised, if that ended it.
      ended: set after the last output.
    """

    def __init__(
        self,
        row: int,
        clock: Clock,
        tokenizer: TextTokenizer,
        policy: DeadlinePolicy,
        counts: PoolCounts,
        *,
        live: bool,
        delay_steps: int,
        pad_bias: float,
        deliver: Callable[[StreamOutput], None],
        on_end: Callable[[], None],
    ):
        self.row, self.live, self.delay_steps, self.pad_bias = row, live, delay_steps, pad_bias
        self._clock, self._tokenizer, self._policy, self._counts = clock, tokenizer, policy, counts
        self._deliver, self._on_end = deliver, on_end
        self.paused = self.leaving = self.reset_wanted = False
        self.waiting: deque[WaitingFrame] = deque()
        self.waiting_max = 1 + clock.ticks_in(policy.lag_max_s)
        self.dropped = 0
        self.last_t_s = self._due_s = -math.inf
        self.stream = Stream(tokenizer)
        self.error: Exception | None = None
        self.ended = threading.Event()
        self._seq = 0

    def add(self, frame: WaitingFrame) -> None:
        """Lets a frame wait; where too many do, the oldest is dropped."""
        self.last_t_s = frame.t_s
        self.waiting.append(frame)
        if len(self.waiting) > self.waiting_max:
            self._drop_oldest()

    def ready_s(self) -> float:
        """When its next tick may begin, by the pool's clock; infinite without a frame."""
        if not self.waiting:
            return math.inf
        arrived_s = self.waiting[0].arrived_s
        return arrived_s if self.leaving else max(self._due_s, arrived_s)

    @property
    def wants_end(self) -> bool:
        """Whether its stream is to end before the next tick: another one begins, or the place is given back."""
        return self.reset_wanted or (self.leaving and not self.waiting)

    def take(self, now_s: float, tick_every: int) -> WaitingFrame:
        """The frame of the tick that begins now; drops what is too old or, with fewer ticks, all but the newest."""
        lag_max_s = self._policy.lag_max_s
        old = lambda: tick_every > 1 or now_s - self.waiting[0].arrived_s > lag_max_s
        while self.live and len(self.waiting) > 1 and old():
            self._drop_oldest()
        if self.live or tick_every > 1:
            # Who stalled has saved up time to catch up in, but not while ticks are scarce.
            saved_s, pace = (lag_max_s, _PACE) if tick_every == 1 else (0.0, 1.0)
            self._due_s = max(self._due_s, now_s - saved_s) + pace * tick_every * self._clock.tick_s
        return self.waiting.popleft()

    def begin_anew(self) -> Stream:
        """Begins another stream; returns the one before."""
        before, self.stream, self.reset_wanted = self.stream, Stream(self._tokenizer), False
        return before

    def give(self, words: list[TimedWord], t_video_s: float, tokens: SpentTokens, step: int, lag_s: float) -> None:
        """Hands an output to the listener; raises what that raises."""
        output = StreamOutput(self._seq, t_video_s, words, tokens, step, lag_s, self.dropped)
        self._seq += 1
        self._deliver(output)

    def end(self) -> None:
        """After the last output: tells who waits for it; raises what the listener raises."""
        if not self.ended.is_set():
            self.ended.set()
            self._on_end()

    def drop_all(self) -> None:
        """Drops every frame that waits."""
        while self.waiting:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self.waiting.popleft()
        self.dropped += 1
        self._counts.dropped_frames += 1
