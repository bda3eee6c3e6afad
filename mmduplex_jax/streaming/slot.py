"""A slot of a pool: the stream in it, as the pool sees it, and the handle that its owner holds.

A stream's frames are offered through its `StreamHandle` and wait in its `Slot` until the pool takes them; what was said
goes to the listener that was given to `StreamPool.join`. Nothing of a `Slot` is locked or waits: the pool's lock is
held around it.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.streaming.cuts import CutDetector, cells_of
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.moving import StreamState
from mmduplex_jax.streaming.sound import Seams, SoundPiece
from mmduplex_jax.streaming.statistics import PoolCounts
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.word_decoder import TimedWord, WordDecoder

# A stream may run this much faster than its clock, so that a camera whose clock is a little fast never falls behind.
_PACE = 0.9


class StreamEnded(RuntimeError):
    """The stream was ended, its listener failed, or its pool has stopped."""


class SpentTokens(NamedTuple):
    """What a tick's tokens were, on the host; the arrays hold the valid tokens only.

    Attributes:
      number: how many.
      is_anchor: the frame was tokenized whole.
      centre_px: int32 `[number, 2]`, (row, column) in the model's frame.
      size_px: int32 `[number]`.
      kind: int32 `[number]`.
    """

    number: int
    is_anchor: bool
    centre_px: np.ndarray
    size_px: np.ndarray
    kind: np.ndarray


NO_TOKENS = SpentTokens(0, False, np.zeros((0, 2), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))


class StreamOutput(NamedTuple):
    """What one step of a stream gave.

    Attributes:
      seq: its number, from 0.
      t_video_s: the step's time in the stream; of an end the time of being said.
      words: that the step showed to be whole.
      tokens: what the tick spent; none at steps between ticks.
      step: the model's step, from 0 at the last reset, or cut (`streaming/cuts.py`).
      lag_s: from the arrival of the tick's frame to this output.
      dropped_frames: of this stream, so far.
      sound: of the step, where the stream speaks: one piece, of silence where nothing is heard or it was left out.
      is_end: it is no step: the stream has ended, or begins anew, and this is the word that was being said.
      scene_s: when the scene began that the step is of, with the cut at which the stream began anew; None before the
        first. With the first output of another scene whatever was being said of the one before is over.
    """

    seq: int
    t_video_s: float
    words: list[TimedWord]
    tokens: SpentTokens
    step: int
    lag_s: float
    dropped_frames: int
    sound: tuple[SoundPiece, ...] = ()
    is_end: bool = False
    scene_s: float | None = None


class TickResult(NamedTuple):
    """What a tick gave.

    Attributes:
      words: completed in its steps.
      tokens: that it spent.
      step_ms: of each step.
      sound: of them.
      scene_s: when the tick's scene began (`StreamOutput.scene_s`).
    """

    words: list[TimedWord]
    tokens: SpentTokens
    step_ms: list[float]
    sound: tuple[SoundPiece, ...] = ()
    scene_s: float | None = None


class WaitingFrame(NamedTuple):
    """A frame that waits.

    Attributes:
      t_s: the time in the stream that it is of.
      frame: uint8 `[H, W, 3]`.
      arrived_s: the pool's time when it came.
      cut_s: the time of the cut, where it is of another scene than those before: its own, or that of a frame that was
        dropped before it.
    """

    t_s: float
    frame: np.ndarray
    arrived_s: float
    cut_s: float | None = None


class Segment:
    """What is said in a slot from one reset to the next.

    Attributes:
      decoder: makes words of text tokens; its delay is set with every step.
      steps: that were dispatched.
      said_s: when the last word was said.
      on_reset: where a reset ends it, called after its last output; None where something else does.
    """

    def __init__(self, tokenizer: TextTokenizer, begun: StreamState | None = None, *, scene_s: float | None = None):
        scene_s = scene_s if begun is None else begun.scene_s
        self.decoder, self.steps, self.said_s = WordDecoder(tokenizer, 0.0, scene_s), 0, -math.inf
        self.on_reset: Callable[[], None] | None = None
        if begun is not None:
            self.decoder.go_on(begun.word)
            self.steps = begun.steps

    @property
    def scene_s(self) -> float | None:
        """When it began, of one that begins with a cut."""
        return self.decoder.scene_s


class Saving(NamedTuple):
    """A stream whose state somebody asks for, as it is between two ticks.

    Attributes:
      slot, segment: where it is, and what is being said there.
      steps: of the model since the last reset.
      last_t_s, dropped, cells: as of `StreamState`.
      on_state: takes the state.
      leaves: the stream ends here with it.
    """

    slot: "Slot"
    segment: Segment
    steps: int
    last_t_s: float
    dropped: int
    cells: np.ndarray | None
    on_state: Callable[[StreamState], None]
    leaves: bool


class Slot:
    """A row of the batch, the stream in it and what its owner asked for.

    Attributes:
      row: in the batch.
      live: whether the clock paces it and late frames are dropped.
      delay_steps, pad_bias: the model's settings from the next tick on.
      speaking: whether it is heard, from the next tick on.
      seams: joins the pieces of its sound; None in a pool without a voice.
      paused: frames are ignored.
      leaving: no frame is taken any more; it ends when none waits.
      reset_wanted: another stream begins before the next tick.
      cuts: finds the cuts before which the stream begins anew; None where it goes on through them.
      waiting: frames, oldest first.
      waiting_max: how many may wait.
      dropped: frames that were dropped.
      last_t_s: time of the last frame that was offered.
      segment: what is being said.
      error: what the listener raised, if that ended it.
      ended: the last output was given.
      begun: what its stream was elsewhere, until the row has it.
      on_state: takes what the stream is, once no frame waits; None where nobody asks.
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
        speaking: bool,
        seams: Seams | None,
        delay_steps: int,
        pad_bias: float,
        deliver: Callable[[StreamOutput], None],
        on_end: Callable[[], None],
        begun: StreamState | None = None,
        anew_at_cuts: bool = False,
    ):
        self.row, self.live, self.speaking, self.seams = row, live, speaking, seams
        self.delay_steps, self.pad_bias = delay_steps, pad_bias
        self._clock, self._tokenizer, self._policy, self._counts = clock, tokenizer, policy, counts
        self._deliver, self._on_end = deliver, on_end
        self.paused = self.leaving = self.reset_wanted = False
        self.cuts = CutDetector(*(() if begun is None else (begun.cells, begun.scene_s))) if anew_at_cuts else None
        self.waiting: deque[WaitingFrame] = deque()
        self.waiting_max = 1 + clock.ticks_in(policy.lag_max_s)
        self.dropped = 0
        # (Also of a stream that goes on here: rounds wait for none of its frames before the first has come.)
        self.last_t_s = self._due_s = self._arrived_s = -math.inf
        self.segment = Segment(tokenizer, begun)
        self.begun = begun
        self.on_state: Callable[[StreamState], None] | None = None
        if begun is not None:
            self.dropped, self.last_t_s = begun.dropped, begun.last_t_s
        self.error: Exception | None = None
        self.ended = False
        self._seq = 0

    def add(self, frame: WaitingFrame) -> None:
        """Lets a frame wait; where too many do, the oldest is dropped."""
        self.last_t_s, self._arrived_s = frame.t_s, frame.arrived_s
        self.waiting.append(frame)
        if len(self.waiting) > self.waiting_max:
            self._drop_oldest()

    def ready_s(self) -> float:
        """When its next tick may begin, by the pool's clock; infinite without a frame."""
        if not self.waiting:
            return math.inf
        arrived_s = self.waiting[0].arrived_s
        return arrived_s if self.leaving else max(self._due_s, arrived_s)

    def expected(self, ready_s: float, gather_s: float) -> bool:
        """Whether a round that might begin at `ready_s` should wait `gather_s` for a frame of this stream.

        Waiting costs the others, so it must be worth while: of a live stream the next frame is due by then, give or
        take `gather_s`; of another one it may come at any time, unless none has come for a tick.
        """
        if self.waiting or self.paused or self.leaving:
            return False
        silent_s = ready_s - self._arrived_s
        if not self.live:
            return silent_s <= self._clock.tick_s
        return abs(silent_s - self._clock.tick_s) <= gather_s

    @property
    def wants_end(self) -> bool:
        """Whether its stream is to end before the next tick: another one begins, or the slot is given back."""
        return self.reset_wanted or self.at_cut or (self.leaving and not self.waiting)

    @property
    def at_cut(self) -> bool:
        """Whether the next frame is of another scene, with which another stream begins."""
        return bool(self.waiting) and self.waiting[0].cut_s is not None

    @property
    def wants_turn(self) -> bool:
        """Whether the pool has something to do for it, beside frames."""
        return self.wants_end or self.gives_state or self.begun is not None

    @property
    def gives_state(self) -> bool:
        """Whether what it is can be taken before the next tick."""
        return self.on_state is not None and not self.waiting and not self.reset_wanted

    def drop_late(self, now_s: float, tick_every: int) -> None:
        """Drops what is too old for a tick that begins now or, with fewer ticks, all but the newest."""
        lag_max_s = self._policy.lag_max_s
        old = lambda: tick_every > 1 or now_s - self.waiting[0].arrived_s > lag_max_s
        while self.live and len(self.waiting) > 1 and old():
            self._drop_oldest()

    def saving(self) -> Saving | None:
        """What is to be handed over now, once; None where nobody asks, or a frame waits."""
        if not self.gives_state:
            return None
        assert self.on_state is not None
        on_state, self.on_state = self.on_state, None
        cells = None if self.cuts is None else self.cuts.before
        segment = self.segment
        return Saving(self, segment, segment.steps, self.last_t_s, self.dropped, cells, on_state, self.leaving)

    def take(self, now_s: float, tick_every: int) -> WaitingFrame:
        """The frame of the tick that begins now, after `drop_late`."""
        if self.live or tick_every > 1:
            # Who stalled has saved up time to catch up in, but not while ticks are scarce.
            saved_s, pace = (self._policy.lag_max_s, _PACE) if tick_every == 1 else (0.0, 1.0)
            self._due_s = max(self._due_s, now_s - saved_s) + pace * tick_every * self._clock.tick_s
        return self.waiting.popleft()

    def begin_anew(self) -> Segment:
        """Begins another stream; returns the one before."""
        scene_s = None
        if self.at_cut:
            scene_s = self.waiting[0].cut_s
            self.waiting[0] = self.waiting[0]._replace(cut_s=None)
        before, self.segment = self.segment, Segment(self._tokenizer, scene_s=scene_s)
        self.reset_wanted = False
        return before

    def give(
        self,
        words: list[TimedWord],
        t_video_s: float,
        tokens: SpentTokens,
        step: int,
        lag_s: float,
        sound: tuple[SoundPiece, ...],
        is_end: bool,
        scene_s: float | None,
    ) -> None:
        """Hands an output to the listener; raises what that raises."""
        output = StreamOutput(self._seq, t_video_s, words, tokens, step, lag_s, self.dropped, sound, is_end, scene_s)
        self._seq += 1
        self._deliver(output)

    def end(self) -> None:
        """After the last output: tells who waits for it; raises what the listener raises."""
        if not self.ended:
            self.ended = True
            self._on_end()

    def drop_all(self) -> None:
        """Drops every frame that waits."""
        while self.waiting:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        dropped = self.waiting.popleft()
        if self.waiting and self.waiting[0].cut_s is None:
            self.waiting[0] = self.waiting[0]._replace(cut_s=dropped.cut_s)
        self.dropped += 1
        self._counts.dropped_frames += 1


class StreamHandle:
    """One stream in a pool. Everything may be called from any thread, and nothing waits for the model."""

    def __init__(self, slot: Slot, frame_px: FrameSize, changed: threading.Condition, now: Callable[[], float]):
        self._slot, self._frame_px, self._changed, self._now = slot, frame_px, changed, now

    def offer(self, t_s: float, frame: np.ndarray) -> None:
        """A tick's frame. Never blocks; the frame is not copied and must not be written to afterwards.

        A paused stream ignores it. On a live one the oldest waiting frame is dropped where more wait than the policy's
        lag allows.

        Args:
          t_s: the tick's time in the stream; later than the last one's.
          frame: uint8 `[H, W, 3]`, `frame_px` large.

        Raises:
          ValueError: for another shape, or a time that is not later than the last one's.
          StreamEnded: it was left, or the pool has stopped.
          BufferError: as many frames wait as may, and the stream is not live (see `room`).
        """
        check_frame(frame, self._frame_px)
        cells = None if self._slot.cuts is None else cells_of(frame)
        with self._changed:
            slot = self._running()
            if slot.paused:
                return
            if not (math.isfinite(t_s) and t_s > slot.last_t_s):
                raise ValueError(f"times must be finite and rise: {t_s} s came after {slot.last_t_s} s")
            if not slot.live and len(slot.waiting) >= slot.waiting_max:
                raise BufferError(f"{len(slot.waiting)} frames wait: offer more when there is `room`")
            is_cut = slot.cuts is not None and cells is not None and slot.cuts.is_cut(t_s, cells)
            slot.add(WaitingFrame(t_s, frame, self._now(), t_s if is_cut else None))
            self._changed.notify()

    @property
    def room(self) -> int:
        """How many frames may be offered before one is dropped or, on a stream that is not live, refused."""
        with self._changed:
            return self._slot.waiting_max - len(self._slot.waiting)

    def pause(self) -> None:
        """From now on frames are ignored and the stream stands still; those that wait are still looked at."""
        with self._changed:
            self._running().paused = True
            self._changed.notify()

    def resume(self) -> None:
        """Ends a pause; the stream goes on where it stood."""
        with self._changed:
            self._running().paused = False
            self._changed.notify()

    def reset(self, on_begun: Callable[[], None] = lambda: None) -> None:
        """Begins another stream: frames that wait are let go, the open word is said, nothing else stays.

        Args:
          on_begun: called in the pool's thread, after the last output of what was before (of several resets in a row
            that of the last one alone); what it raises ends this stream.
        """
        with self._changed:
            slot = self._running()
            slot.waiting.clear()
            if slot.cuts is not None:
                slot.cuts.forget()
            slot.last_t_s, slot.reset_wanted, slot.segment.on_reset = -math.inf, True, on_begun
            self._changed.notify()

    def configure(
        self, *, delay_steps: int | None = None, pad_bias: float | None = None, speaking: bool | None = None
    ) -> None:
        """Sets the delay, the bias, or whether it is heard, from the next tick on; ValueError for what cannot be."""
        check_settings(delay_steps, pad_bias)
        with self._changed:
            slot = self._running()
            if speaking is not None:
                check_voice(speaking, slot.seams)
                slot.speaking = speaking
            slot.delay_steps = slot.delay_steps if delay_steps is None else delay_steps
            slot.pad_bias = slot.pad_bias if pad_bias is None else pad_bias

    def leave(self, *, drain: bool = False) -> None:
        """Gives the slot back; the open word is said as the last output. A second call does nothing.

        Args:
          drain: look first at the frames that wait.
        """
        with self._changed:
            self._slot.leaving = True
            if not drain:
                self._slot.waiting.clear()
            self._changed.notify()

    def save(self, on_state: Callable[[StreamState], None], *, leave: bool = False) -> None:
        """Has what the stream is handed over once the frames that wait were looked at.

        Args:
          on_state: takes it in the pool's thread, after the outputs before; what it raises ends this stream.
          leave: the stream ends here with it, and the word that is being said goes with it.

        Raises:
          StreamEnded: it was left, or the pool has stopped.
        """
        with self._changed:
            slot = self._running()
            slot.on_state, slot.leaving = on_state, leave
            self._changed.notify()

    @property
    def ended(self) -> bool:
        """Whether the last output was given."""
        return self._slot.ended

    @property
    def dropped_frames(self) -> int:
        return self._slot.dropped

    @property
    def error(self) -> Exception | None:
        """What the listener raised, if that ended the stream."""
        return self._slot.error

    def _running(self) -> Slot:
        if self._slot.leaving or self.ended:
            raise StreamEnded("this stream has left, or its pool has stopped: join again") from self._slot.error
        return self._slot


def check_settings(delay_steps: int | None, pad_bias: float | None) -> None:
    """Raises ValueError for a delay or a bias that cannot be."""
    if delay_steps is not None and delay_steps < 0:
        raise ValueError(f"delay_steps must not be negative, got {delay_steps}")
    if pad_bias is not None and not math.isfinite(pad_bias):
        raise ValueError(f"pad_bias must be finite, got {pad_bias}")


def check_voice(speaking: bool, seams: Seams | None) -> None:
    """Raises ValueError for a stream that is to be heard in a pool without a voice."""
    if speaking and seams is None:
        raise ValueError("this pool has no voice: its model does not speak, or has no codec")


def check_frame(frame: np.ndarray, frame_px: FrameSize) -> None:
    """Raises ValueError for a frame that is not uint8 `[H, W, 3]`, `frame_px` large."""
    if frame.shape != (*frame_px, 3) or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be uint8 {[*frame_px, 3]}, got {frame.dtype} {list(frame.shape)}")
