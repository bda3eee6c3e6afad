"""Many streams on one compiled step: who joins, waits, starts anew or leaves touches no other and compiles nothing.

A round is one tick of every stream that has a frame. A thread of its own chooses it, sends it and reads the results:

    frames that wait → sent → steps dispatched ─────────────┐ the device works
    words to the listeners ← read ← steps of the round before ┘

The next round is dispatched before the last one's results are read, so the device never waits for the host while there
is work. Ticks of all streams in a round fall on the same step, so a batch pays for video once a round.
"""

import copy
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.layers import rotary
from mmduplex_jax.streaming.batch import UNCAPPED, InFlight, Live, Participant, StreamBatch
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level, LoadState, Measured, decide, load_of
from mmduplex_jax.streaming.moving import ArrayLayout, StreamState
from mmduplex_jax.streaming.programs import Compile, compiled
from mmduplex_jax.streaming.slot import (
    Saving,
    Segment,
    Slot,
    StreamHandle,
    StreamOutput,
    TickResult,
    check_settings,
    check_voice,
)
from mmduplex_jax.streaming.sound import Seams, Voice
from mmduplex_jax.streaming.statistics import PoolCounts, PoolStatistics
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree
from mmduplex_jax.word_decoder import TimedWord

_log = logging.getLogger(__name__)
# A loop with nothing to do looks up this often, to come down from a rung that nobody needs any more.
_IDLE_S = 0.5
# After a stop, rounds that are on the device have this long to end.
_LAST_ROUNDS_S = 30.0


class PoolFull(RuntimeError):
    """No slot is given.

    Attributes:
      reason: "full" (every slot is taken), "overloaded" (the policy admits nobody now) or "stopping".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class StreamPool:
    """Slots for streams over one model.

    Attributes:
      error: what ended the loop, if it failed.
    """

    def __init__(
        self,
        live: Live,
        params: PyTree,
        tokenizer: TextTokenizer,
        clock: Clock,
        frame_px: FrameSize,
        *,
        slots: int,
        policy: DeadlinePolicy,
        tokens_per_s_max: int,
        tokens_per_s_min: int = 1,
        ahead: int = 1,
        voice: Voice | None = None,
        always_heard: bool = False,
        movable: bool = False,
        anew_at_cuts: bool = False,
        compile: Compile = compiled,
        now: Callable[[], float] = time.monotonic,
    ):
        """Compiles everything that will ever run.

        Args:
          live: the model.
          params: its parameters.
          tokenizer: its words.
          clock: its clock.
          frame_px: height and width of its frames.
          slots: how many streams there may be at once; every step computes all of them.
          policy: what gives way under overload.
          tokens_per_s_max: the model's cap on video tokens a second, of which the policy takes a share.
          tokens_per_s_min: the least that a rung of the policy may leave (`DeadlinePolicy.caps`).
          ahead: rounds that are dispatched before the oldest one's results are read; 0 waits for each.
          voice: what makes streams heard that ask for it; without one nobody is, and rungs of the policy that only take
            sound are left out.
          always_heard: every stream speaks (see `StreamBatch`).
          movable: what streams are can be taken (`StreamHandle.save`), and `join` takes streams of elsewhere.
          anew_at_cuts: where a picture is of another scene than the one before (`streaming/cuts.py`) a stream begins
            anew: the word that is being said is said, nothing else stays, and its time goes on.
          compile: makes its programs.
          now: the clock on the wall, in seconds; never goes back.
        """
        if slots < 1:
            raise ValueError(f"a pool needs at least 1 slot, got {slots}")
        if ahead < 0:
            raise ValueError(f"ahead must not be negative, got {ahead}")
        policy = policy if voice else policy.without_sound()
        self._tokenizer, self._clock, self._policy, self._now = tokenizer, clock, policy, now
        self._caps, self._ahead = policy.caps(tokens_per_s_max, tokens_per_s_min), ahead
        self._voice, self._anew_at_cuts = voice, anew_at_cuts
        self._batch = StreamBatch(
            live, params, frame_px, count=slots, voice=voice, always_heard=always_heard, compile=compile
        )
        if movable:
            self._batch.make_movable()
        self._changed = threading.Condition()
        self._counts = PoolCounts()
        self._in_flight = InFlight(self._batch, clock, self._counts, self._changed, now, policy.deadline_s)
        self._slots: dict[int, Slot] = {}
        self._free = deque(range(slots))
        self._load = LoadState()
        self._decided_s = now()
        self._thread: threading.Thread | None = None
        self._stopping = False
        # When the loop's present turn began; None between turns.
        self._turn_began_s: float | None = None
        self.error: BaseException | None = None

    # What its owners call.

    def join(
        self,
        *,
        delay_steps: int,
        pad_bias: float = 0.0,
        on_output: Callable[[StreamOutput], None],
        live: bool = True,
        speaking: bool = False,
        on_end: Callable[[], None] = lambda: None,
        begun: StreamState | None = None,
    ) -> StreamHandle:
        """Gives a slot to a stream that begins, or goes on here.

        Args:
          delay_steps: how far the words run behind the picture.
          pad_bias: added to silence's logit; more is quieter.
          on_output: takes every output, in order, in the pool's thread: it must hand it over and return. What it raises
            ends this stream and no other.
          live: its frames come in real time (see `StreamHandle.offer`); a stream that is not live runs as fast as the
            pool can and loses no frame.
          speaking: it is heard: its outputs have `sound`, in a pool with a voice.
          on_end: called there, once, after the last output.
          begun: what the stream was in another pool of the same model, in a pool that is `movable`.

        Raises:
          PoolFull: there is no slot now; its `reason` says why.
          ValueError: a setting that cannot be, or a stream of another model.
        """
        check_settings(delay_steps, pad_bias)
        seams = None if self._voice is None else Seams(self._voice)
        check_voice(speaking, seams)
        if begun is not None:
            self._batch.rows.check(begun.arrays)
            Segment(self._tokenizer, begun)  # (refuses words that the vocabulary does not have)
            if seams is not None:
                seams.go_on()
        with self._changed:
            self._admit()
            slot = Slot(
                self._free.popleft(),
                self._clock,
                self._tokenizer,
                self._policy,
                self._counts,
                live=live,
                speaking=speaking,
                seams=seams,
                delay_steps=delay_steps,
                pad_bias=pad_bias,
                deliver=on_output,
                on_end=on_end,
                begun=begun,
                anew_at_cuts=self._anew_at_cuts,
            )
            self._slots[slot.row] = slot
            self._counts.joined += 1
        return StreamHandle(slot, self._batch.frame_px, self._changed, self._now)

    def start(self) -> None:
        """Starts the loop; RuntimeError where it was started or stopped before."""
        with self._changed:
            if self._thread is not None or self._stopping:
                raise RuntimeError("a pool is started once")
            self._thread = threading.Thread(target=self._loop, name="steps", daemon=True)
        self._thread.start()

    def stop(self, drain_s: float = 0.0) -> None:
        """Ends every stream and the loop: no session and no frame is taken any more, and what waits is looked at.

        Args:
          drain_s: how long that may take; frames that wait after it are dropped. Words that were said are given.

        Raises:
          RuntimeError: the loop had failed.
          TimeoutError: the device does not answer.
        """
        with self._changed:
            self._stopping = True
            for slot in self._slots.values():
                slot.leaving = True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            until_s = self._now() + drain_s
            while self._busy() and self._now() < until_s:
                self.run_once()
            self._drop_waiting()
            while self._busy():
                self.run_once()
        else:
            thread.join(drain_s)
            self._drop_waiting()
            thread.join(_LAST_ROUNDS_S)
            if thread.is_alive():
                raise TimeoutError(f"a step has not ended in {_LAST_ROUNDS_S} s: the device does not answer")
        if self.error is not None:
            raise RuntimeError("the pool's loop had failed") from self.error

    @property
    def running(self) -> bool:
        """The loop runs, has not failed and is not stopping."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping and self.error is None

    @property
    def row_layout(self) -> tuple[ArrayLayout, ...]:
        """Of what a stream is on the device; ValueError in a pool that is not movable."""
        return self._batch.rows.layout

    def statistics(self) -> PoolStatistics:
        """The pool's numbers now."""
        began_s = self._turn_began_s
        turn_s = 0.0 if began_s is None else max(0.0, self._now() - began_s)
        with self._changed:
            speaking = sum(slot.speaking for slot in self._slots.values())
            return PoolStatistics(
                sessions=len(self._slots),
                slots=self._batch.count,
                running=self.running,
                rung=self._load.rung,
                load=load_of(self._policy, self._load, self._clock.tick_s),
                lag_s=self._in_flight.lag_s if self._slots else 0.0,
                tokens_per_s=self._counts.token_rate.per_s(self._now()),
                compile_s=self._batch.compile_s,
                counts=copy.deepcopy(self._counts),
                speaking=speaking,
                unheard=0 if self._policy.ladder[self._load.rung].sound else speaking,
                turn_s=turn_s,
                admits=self._policy.ladder[self._load.rung].admits,
            )

    # The loop.

    def run_once(self) -> bool:
        """One turn of the loop, which `start` runs in a thread; for tests, and programs with a loop of their own.

        Returns:
          Whether there was anything to do.
        """
        self._turn_began_s = self._now()
        try:
            return self._turn()
        finally:
            self._turn_began_s = None

    def _turn(self) -> bool:
        participants: list[Participant] = []
        if self._in_flight.rounds <= self._ahead:
            with self._changed:
                now_s = self._now()
                begun, saved = self._moving()
                due = now_s >= self._round_s()
                if due:
                    self._drop_late(now_s)
                endings = self._settle()
                if due:
                    participants = self._choose(now_s)
            for row, arrays in begun:
                self._batch.put_row(row, arrays)
            self._in_flight.save(saved)
            if endings:
                self._in_flight.end(endings)
            if participants:
                rung = self._load.rung
                self._in_flight.dispatch(participants, self._caps[rung], now_s, sound=self._policy.ladder[rung].sound)
        # With one more round on the device than may be ahead, or with nothing to send, results are what to wait for.
        if self._in_flight and (self._in_flight.rounds > self._ahead or not participants):
            busy_s = self._in_flight.collect()
            if busy_s is not None:
                self._decide(busy_s)
            return True
        if not participants:
            tick_every = self._policy.ladder[self._load.rung].tick_every
            if self._now() - self._decided_s > 2 * tick_every * self._clock.tick_s:
                self._decide(0.0)
        return bool(participants)

    def _loop(self) -> None:
        try:
            while not self._stopping or self._busy():
                if not self.run_once():
                    self._wait()
        except BaseException as error:  # noqa: BLE001  `stop` raises it, and everybody who waits is told
            _log.exception("the pool's loop failed")
            self._fail(error)

    def _wait(self) -> None:
        """Until something is ready; the lock is held from the look to the wait, so that nothing is missed."""
        with self._changed:
            if any(slot.wants_turn for slot in self._slots.values()) or (self._stopping and not self._slots):
                return
            due_s = self._round_s() - self._now()
            if due_s > 0:
                self._changed.wait(min(due_s, _IDLE_S))

    def _round_s(self) -> float:
        """When the next round may begin: with the frames of all that are expected, or some time after the first."""
        ready_s = [slot.ready_s() for slot in self._slots.values() if slot.waiting]
        if not ready_s:
            return math.inf
        first_s, gather_s = min(ready_s), 0.0 if self._stopping else self._policy.gather_s
        if any(slot.expected(first_s, gather_s) for slot in self._slots.values()):
            return first_s + gather_s
        return max(each_s for each_s in ready_s if each_s <= first_s + gather_s)

    def _moving(self) -> tuple[list[tuple[int, Sequence[np.ndarray]]], list[Saving]]:
        """Rows of streams that come from elsewhere, and streams whose state somebody asks for, each only once."""
        begun, saved = [], []
        for slot in self._slots.values():
            if slot.begun is not None:
                begun.append((slot.row, slot.begun.arrays))
                slot.begun = None
            saving = slot.saving()
            if saving is not None:
                saved.append(saving)
        return begun, saved

    def _drop_late(self, now_s: float) -> None:
        """Drops what is too late for a round that begins now; with it a cut may come to the front (`_settle`)."""
        for slot in self._slots.values():
            if slot.ready_s() <= now_s:
                slot.drop_late(now_s, self._policy.ladder[self._load.rung].tick_every)

    def _settle(self) -> list[tuple[Slot, Segment, bool]]:
        """The streams that end now: the slot is left, or another one begins in it."""
        endings = []
        for slot in list(self._slots.values()):
            # The counter of steps ends after years; what was said until then is forgotten.
            worn_out = slot.segment.steps + self._clock.video_stride > rotary.MAX_STEPS
            if not (slot.wants_end or worn_out):
                continue
            # (One that begins anew and then leaves with its state leaves in the next turn.)
            last = slot.leaving and not slot.waiting and slot.on_state is None
            self._counts.cuts += slot.at_cut
            endings.append((slot, slot.begin_anew(), last))
            if last:
                del self._slots[slot.row]
                self._free.append(slot.row)
                self._counts.left += 1
        return endings

    def _choose(self, now_s: float) -> list[Participant]:
        """Takes the frames of a round that begins now."""
        participants = []
        self._counts.rungs[self._load.rung] += 1
        for slot in self._slots.values():
            if slot.ready_s() <= now_s:
                frame = slot.take(now_s, self._policy.ladder[self._load.rung].tick_every)
                segment = slot.segment
                settings = (slot.delay_steps, slot.pad_bias, slot.speaking)
                participants.append(Participant(slot, segment, frame, segment.steps, *settings))
                segment.steps += self._clock.video_stride
        return participants

    def _decide(self, busy_s: float) -> None:
        """Lets the policy see a round, or that there was none."""
        before, self._decided_s = self._load.rung, self._now()
        measured = Measured(self._decided_s, busy_s, self._clock.tick_s, self._batch.sound_ratio)
        with self._changed:
            self._load, level = decide(self._policy, self._load, measured)
        if self._load.rung != before:
            _log.warning(
                "load is %s: rung %d, %s", "high" if self._load.rung > before else "low", self._load.rung, level
            )

    def _admit(self) -> None:
        """Raises PoolFull where nobody may join."""
        reason = None
        if self._stopping or self.error is not None:
            reason, said = "stopping", "the pool is stopping"
        elif not self._policy.ladder[self._load.rung].admits:
            reason, said = "overloaded", "the machine is too slow for more streams now: try again later"
        elif not self._free:
            reason, said = "full", f"all {self._batch.count} slots are taken: try again later"
        if reason is not None:
            self._counts.refused[reason] += 1
            raise PoolFull(reason, said)

    def _busy(self) -> bool:
        return bool(self._slots) or bool(self._in_flight)

    def _drop_waiting(self) -> None:
        """Lets the frames go that still wait after a drain."""
        with self._changed:
            for slot in self._slots.values():
                slot.drop_all()
            self._changed.notify()

    def _fail(self, error: BaseException) -> None:
        """Ends every stream of a loop that failed; what they were is lost with the device's state."""
        with self._changed:
            self.error = error
            slots, self._slots = list(self._slots.values()), {}
            for slot in slots:
                slot.leaving = True
        self._in_flight.abandon(slots)


class Session:
    """One stream at a time in a pool of its own, in the caller's thread: a tick's frame goes in, its words come out.

    Attributes:
      speaking: whether its ticks give sound.
      error: None: its model is here, and cannot be lost at the end (see `runtime.Watching`).
    """

    error: ConnectionError | None = None

    def __init__(
        self,
        live: Live,
        params: PyTree,
        tokenizer: TextTokenizer,
        clock: Clock,
        frame_px: FrameSize,
        *,
        delay_steps: int,
        pad_bias: float = 0.0,
        voice: Voice | None = None,
        anew_at_cuts: bool = False,
        compile: Compile = compiled,
    ):
        """Compiles the step.

        Args:
          live: the model.
          params: its parameters.
          tokenizer: its words.
          clock: its clock.
          frame_px: height and width of its frames.
          delay_steps: how far the words run behind the picture.
          pad_bias: added to silence's logit; more is quieter.
          voice: what makes it heard: with one, ticks give sound too.
          anew_at_cuts: as of `StreamPool`.
          compile: makes its programs.
        """
        self.clock, self.frame_px, self.speaking = clock, frame_size(frame_px), voice is not None
        policy = DeadlinePolicy(ladder=(Level(),), gather_s=0.0)
        self._pool = StreamPool(
            live, params, tokenizer, clock, frame_px, slots=1, policy=policy, tokens_per_s_max=UNCAPPED, voice=voice,
            always_heard=True, anew_at_cuts=anew_at_cuts, compile=compile,
        )  # fmt: skip
        self._outputs: list[tuple[float, StreamOutput]] = []
        collect = lambda output: self._outputs.append((time.perf_counter(), output))
        self._handle = self._pool.join(
            delay_steps=delay_steps, pad_bias=pad_bias, on_output=collect, live=False, speaking=self.speaking
        )

    @property
    def compile_s(self) -> float:
        return self._pool.statistics().compile_s

    def configure(self, *, delay_steps: int | None = None, pad_bias: float | None = None) -> None:
        """Sets the delay or the bias from the next tick on; ValueError for what cannot be."""
        self._handle.configure(delay_steps=delay_steps, pad_bias=pad_bias)

    def tick(self, t_s: float, frame: np.ndarray) -> TickResult:
        """Runs the steps of one tick.

        Args:
          t_s: the tick's time in the stream; later than the last one's.
          frame: uint8 `[H, W, 3]`, `frame_px` large; it must not be written to afterwards.

        Raises:
          ValueError: for another shape, or a time that is not later.
        """
        began_s = time.perf_counter()
        self._handle.offer(t_s, frame)
        run = self._run()
        done_s, steps = zip(*((done, output) for done, output in run if not output.is_end))
        # All steps are dispatched before the first is read; a step's time is from the one before it.
        step_ms = [(done - before) * 1e3 for before, done in zip((began_s, *done_s), done_s)]
        words = [word for _, output in run for word in output.words]
        sound = tuple(piece for output in steps for piece in output.sound)
        return TickResult(words, steps[0].tokens, step_ms, sound, steps[0].scene_s)

    def finish(self) -> list[TimedWord]:
        """The word that was being said when the stream ended, if any; the next tick begins another stream."""
        self._handle.reset()
        return [word for _, output in self._run() for word in output.words]

    def _run(self) -> list[tuple[float, StreamOutput]]:
        while self._pool.run_once():
            pass
        outputs, self._outputs[:] = list(self._outputs), []
        return outputs
