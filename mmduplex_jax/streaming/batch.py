"""Streams on the device, a row of a batch each: their state, the compiled step, and what of it is on its way.

A *round* is one tick of every stream that has a frame. Nothing here waits but `DispatchedStep.read`: frames are sent
and steps dispatched while the device still works on those before; later their results are collected and delivered.
"""

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.profiler import TraceAnnotation, annotate_function

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.streaming.moving import Rows, StreamState
from mmduplex_jax.streaming.programs import Compile, compiled
from mmduplex_jax.streaming.slot import NO_TOKENS, Saving, Segment, Slot, SpentTokens, WaitingFrame
from mmduplex_jax.streaming.sound import SoundPiece, SpeakingModel, SpeakingParams, Voice
from mmduplex_jax.streaming.statistics import PoolCounts, compilations
from mmduplex_jax.typing import PyTree
from mmduplex_jax.word_decoder import OpenWord, TimedWord

_log = logging.getLogger(__name__)
# What the loop's thread does, by name in a profiler's trace; without one an annotation costs nothing to speak of.
DISPATCH, WAIT, DELIVER = "dispatch a round", "wait for a step", "deliver a step"
# Steps that are timed with and without sound, of a batch with a voice.
_TIMED_STEPS = 8
# No smaller cap than the model's own.
UNCAPPED = 1 << 30


class Live(Protocol):
    """What is needed of a model: `mmduplex_jax.models.live.LiveModel` has it, and so has `SpeakingModel`."""

    def init_state(self, params: PyTree, batch: int) -> PyTree:
        """The state before the first step."""

    def live_step(
        self, params: PyTree, state: PyTree, frame: Any, active: Any, delay: Any, pad_bias: Any, *, cap: Any
    ) -> tuple[PyTree, Any]:
        """One text step: the new state and a `StepOutput`."""

    def reset_row(self, params: PyTree, state: PyTree, row: Any) -> PyTree:
        """The state with a row (int32) as `init_state` makes it."""


class StepResult(NamedTuple):
    """A step's results on the host.

    Attributes:
      text: int32 `[B]`, what each row said: the id of a text token or of a mark.
      report: a `TokenReport` of NumPy arrays; None where it was not asked for.
      sound: float32 `[B, L]`; None where nobody was heard.
    """

    text: np.ndarray
    report: Any
    sound: np.ndarray | None

    def spent_tokens(self, row: int) -> SpentTokens:
        """What a row's tick spent."""
        report = self.report
        if report is None or not report.n_tokens[row]:
            return NO_TOKENS
        valid = report.valid[row]
        return SpentTokens(
            int(report.n_tokens[row]),
            bool(report.is_anchor[row]),
            *(field[row][valid] for field in (report.centre_px, report.size_px, report.kind)),
        )


class DispatchedStep:
    """A step that was dispatched; its results are on their way to the host.

    Attributes:
      output: the model's `StepOutput`, on the device.
    """

    def __init__(self, output: Any, with_report: bool):
        self.output = output
        self._wanted = (output.token, output.report if with_report else None, output.sound)
        for array in jax.tree.leaves(self._wanted):
            array.copy_to_host_async()

    @property
    def ready(self) -> bool:
        """Whether reading it would not wait."""
        return all(array.is_ready() for array in jax.tree.leaves(self._wanted))

    def read(self) -> StepResult:
        """The results; waits for the device where it has to."""
        return StepResult(*jax.tree.map(np.asarray, self._wanted))


class StreamBatch:
    """`B` rows over one compiled step; over two where there is a voice: with sound, and without.

    Attributes:
      count: B.
      frame_px: height and width of the frames.
      voice: what makes rows heard; None where nobody is.
      sound_ratio: how many times as long a step takes with sound as without.
      compile_s: what compiling and a first run took.
    """

    def __init__(
        self,
        live: Live,
        params: PyTree,
        frame_px: FrameSize,
        *,
        count: int,
        voice: Voice | None = None,
        always_heard: bool = False,
        compile: Compile = compiled,
    ):
        """Compiles everything that will ever run, and runs it once on a state that is thrown away.

        Args:
          live: the model.
          params: its parameters.
          frame_px: height and width of its frames.
          count: B.
          voice: what makes rows heard.
          always_heard: do not compile the step without sound; where nobody speaks, the one with sound runs.
          compile: makes the programs.
        """
        self.count, self.frame_px, self.voice = count, frame_size(frame_px), voice
        speaker = None if voice is None else SpeakingModel(live, voice.codec)
        if voice is not None and speaker is not None:
            live, params = speaker, SpeakingParams(params, voice.params)
        started_s = time.perf_counter()
        self._params = jax.device_put(params)
        mask = np.zeros(count, bool)
        self._masks: dict[bytes, jax.Array] = {}
        # The settings are on the device once, not sent with every step.
        self.configure(np.zeros(count, np.int32), np.zeros(count, np.float32), np.full(count, UNCAPPED, np.int32))
        frames = jax.device_put(np.zeros((count, *self.frame_px, 3), np.uint8))
        make = partial(compile, facts=(live, count))
        self._live, self._compile = live, compile
        self._rows: Rows | None = None
        self._state: PyTree = None

        def init(params: PyTree) -> PyTree:
            return live.init_state(params, count)

        def step(params: PyTree, state: PyTree, frame: Any, active: Any, delay: Any, pad_bias: Any, cap: Any) -> Any:
            return live.live_step(params, state, frame, active, delay, pad_bias, cap=cap)

        def heard_step(params: PyTree, state: PyTree, speaking: Any, frame: Any, *rest: Any) -> Any:
            assert speaker is not None
            active, delay, pad_bias, cap = rest
            return speaker.live_step(params, state, frame, active, delay, pad_bias, cap=cap, speaking=speaking)

        def reset_row(params: PyTree, state: PyTree, row: Any) -> PyTree:
            return live.reset_row(params, state, row)

        self._init = make(init, self._params)
        given = (self._params, self._init(self._params))
        inputs = (frames, self._on_device(mask), *self._settings)
        # While one is compiled the next one is traced.
        workers = ThreadPoolExecutor(thread_name_prefix="compile")
        begin = partial(workers.submit, make, donate=(1,))
        step_made = heard_made = reset_made = None
        if voice is None or not always_heard:
            step_made = begin(step, *given, *inputs)
        if speaker is not None:
            heard_made = begin(heard_step, *given, self._on_device(mask), *inputs)
        # A row alone begins anew with the whole state.
        if count > 1:
            reset_made = begin(reset_row, *given, np.int32(0))
        workers.shutdown(wait=False)
        self._step, self._heard_step, self._reset = (
            None if made is None else made.result() for made in (step_made, heard_made, reset_made)
        )
        self.restart()
        self.step(frames, mask).read()
        self.sound_ratio = 1.0
        if voice is not None:
            self.step(frames, mask, mask).read()
            if self._step is not None:
                self.sound_ratio = max(1.0, self._steps_s(frames, ~mask) / self._steps_s(frames, None))
        self.reset(~mask)
        self.restart()
        jax.block_until_ready(self.state)
        self.compile_s = time.perf_counter() - started_s

    def make_movable(self) -> None:
        """Compiles what takes rows from here and puts rows of elsewhere in (see `rows`); before the first stream."""
        started_s = time.perf_counter()
        self._rows = Rows(self._live, self._params, self._state, self._compile, (self._live, self.count))
        # Run once, as all programs here.
        arrays = self._rows.take(self._state, 0)
        self._state = self._rows.put(self._state, [np.asarray(array) for array in arrays], 0)
        jax.block_until_ready(self._state)
        self.compile_s += time.perf_counter() - started_s

    @property
    def rows(self) -> Rows:
        """The programs that move rows; ValueError before `make_movable`."""
        if self._rows is None:
            raise ValueError("streams of this pool do not move: make it with movable=True")
        return self._rows

    def take_row(self, row: int) -> list[jax.Array]:
        """A copy of a row's arrays after the steps dispatched so far, on their way to the host."""
        return self.rows.take(self._state, row)

    def put_row(self, row: int, arrays: Sequence[np.ndarray]) -> None:
        """Lets a row go on, from the next step on, where `take_row` took these arrays; the others keep every bit."""
        self._state = self.rows.put(self._state, arrays, row)

    @property
    def state(self) -> PyTree:
        """The rows' state, on the device; the next step or reset takes its memory."""
        return self._state

    def restart(self) -> None:
        """Begins every row anew."""
        self._state = self._init(self._params)

    def configure(self, delay_steps: np.ndarray, pad_bias: np.ndarray, cap: np.ndarray) -> None:
        """Sets, from the next step on, every row's delay (int32), bias (float32) and tokens a second (int32), `[B]`."""
        # Copied, since a CPU device reads NumPy's own memory.
        self._settings = tuple(
            jax.device_put(np.array(values, dtype))
            for values, dtype in ((delay_steps, np.int32), (pad_bias, np.float32), (cap, np.int32))
        )

    def send(self, frames: np.ndarray) -> jax.Array:
        """Starts frames, uint8 `[B, H, W, 3]`, on their way to the device; they must not be written to afterwards."""
        return jax.device_put(frames)

    def step(
        self, frames: jax.Array, active: np.ndarray, speaking: np.ndarray | None = None, *, with_report: bool = True
    ) -> DispatchedStep:
        """Dispatches one step of the rows that are active, bool `[B]`.

        Args:
          frames: from `send`; rows whose step begins no tick, and those that are not active, ignore theirs.
          active: which rows take part; the others' state does not change by a bit.
          speaking: which rows are heard, bool `[B]`, where there is a voice; None: nobody, and sound costs nothing.
          with_report: whether what the tick spent will be read.
        """
        inputs = (frames, self._on_device(active), *self._settings)
        if speaking is None and self._step is not None:
            self._state, output = self._step(self._params, self._state, *inputs)
        else:
            assert self._heard_step is not None, "nobody speaks without a voice"
            heard = self._on_device(np.zeros(self.count, bool) if speaking is None else speaking)
            self._state, output = self._heard_step(self._params, self._state, heard, *inputs)
        return DispatchedStep(output, with_report)

    def reset(self, mask: np.ndarray) -> None:
        """Begins the rows of `mask`, bool `[B]`, anew, after the steps dispatched so far."""
        for row in np.flatnonzero(mask):
            if self._reset is None:
                self.restart()
            else:
                self._state = self._reset(self._params, self._state, np.int32(row))

    def _steps_s(self, frames: jax.Array, speaking: np.ndarray | None) -> float:
        """How long some steps of all rows take, at best."""
        everybody, took_s = np.ones(self.count, bool), []
        for _ in range(_TIMED_STEPS):
            began_s = time.perf_counter()
            self.step(frames, everybody, speaking).read()
            took_s.append(time.perf_counter() - began_s)
        # Half of them may begin a tick, and others be disturbed.
        return float(np.median(took_s))

    def _on_device(self, mask: np.ndarray) -> jax.Array:
        """A mask of rows on the device; the last few are kept, since most steps have the one of the step before."""
        key = np.asarray(mask, bool).tobytes()
        found = self._masks.get(key)
        if found is None:
            if len(self._masks) >= 8:
                self._masks.pop(next(iter(self._masks)))
            found = self._masks[key] = jax.device_put(np.array(mask, bool))
        return found


class Participant(NamedTuple):
    """A stream's part in a round.

    Attributes:
      slot: where it is.
      segment: what is being said there, which a reset after this round does not change.
      frame: what it shows.
      first_step: the model's step that the round begins with.
      delay_steps, pad_bias: the model's settings.
      speaking: whether it is to be heard.
    """

    slot: Slot
    segment: Segment
    frame: WaitingFrame
    first_step: int
    delay_steps: int
    pad_bias: float
    speaking: bool


@dataclasses.dataclass
class _Round:
    """A round on the device.

    Attributes:
      participants: who takes part.
      steps: those that were not read yet.
      began_s: when it began.
      sound: whether those who speak are heard.
      read: how many steps were read.
    """

    participants: Sequence[Participant]
    steps: deque[DispatchedStep]
    began_s: float
    sound: bool
    read: int = 0


class _Ending(NamedTuple):
    """The end of a stream, after the rounds before it; `last` where its slot is given back with it."""

    slot: Slot
    segment: Segment
    last: bool


class _Save(NamedTuple):
    """What a stream is after the rounds before it: its row, and all else."""

    saving: Saving
    arrays: Sequence[jax.Array]


class InFlight:
    """Rounds in the order in which they were dispatched, with the ends of streams and what they were between them.

    Attributes:
      rounds: how many are on their way.
      lag_s: how far behind the last results were for the stream that was furthest behind.
    """

    def __init__(
        self,
        batch: StreamBatch,
        clock: Clock,
        counts: PoolCounts,
        lock: threading.Condition,
        now: Callable[[], float],
        deadline_s: float,
    ):
        """Nothing is on its way; `lock` is held wherever `counts` changes."""
        self._batch, self._clock, self._counts, self._lock = batch, clock, counts, lock
        self._now, self._deadline_s = now, deadline_s
        self._items: deque[_Round | _Ending | _Save] = deque()
        self._delays, self._biases = np.zeros(batch.count, np.int32), np.zeros(batch.count, np.float32)
        self._sent: tuple[bytes, bytes, int] | None = None
        self._done_s = self._round_done_s = now()
        self.rounds = 0
        self.lag_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._items)

    @partial(annotate_function, name=DISPATCH)
    def dispatch(self, participants: Sequence[Participant], cap: int, now_s: float, *, sound: bool = True) -> None:
        """Sends a round to the device; waits for nothing.

        Args:
          participants: who takes part, each in a row of its own.
          cap: video tokens a second at most, a stream.
          now_s: when it was chosen.
          sound: whether those who speak are heard; else it is left out, and they are silent.
        """
        compiled = compilations()
        count = self._batch.count
        # An array of its own for every round: a CPU device reads it in place.
        frames = np.zeros((count, *self._batch.frame_px, 3), np.uint8)
        active, speaking = np.zeros(count, bool), np.zeros(count, bool)
        for participant in participants:
            row = participant.slot.row
            frames[row], active[row], speaking[row] = participant.frame.frame, True, participant.speaking and sound
            self._delays[row], self._biases[row] = participant.delay_steps, participant.pad_bias
        settings = (self._delays.tobytes(), self._biases.tobytes(), cap)
        if settings != self._sent:
            self._sent = settings
            self._batch.configure(self._delays, self._biases, np.full(count, cap, np.int32))
        on_device = self._batch.send(frames)
        heard = speaking if speaking.any() else None
        steps = [
            self._batch.step(on_device, active, heard, with_report=i == 0) for i in range(self._clock.video_stride)
        ]
        self._items.append(_Round(participants, deque(steps), now_s, sound))
        self.rounds += 1
        with self._lock:
            self._counts.recompilations += compilations() - compiled

    def save(self, savings: Sequence[Saving]) -> None:
        """Has what these streams are after the rounds dispatched so far given to those who ask for it."""
        for saving in savings:
            self._items.append(_Save(saving, self._batch.take_row(saving.slot.row)))

    def end(self, endings: Sequence[tuple[Slot, Segment, bool]]) -> None:
        """Lets streams end after the rounds dispatched so far, and clears their rows for others.

        Args:
          endings: the slot, its segment, and whether the slot is given back.
        """
        cleared = np.zeros(self._batch.count, bool)
        for slot, segment, last in endings:
            cleared[slot.row] = True
            self._items.append(_Ending(slot, segment, last))
        self._batch.reset(cleared)

    def collect(self) -> float | None:
        """Reads the oldest step, or ends a stream, and gives it to the listeners; waits for the device where it has to.

        Returns:
          Where a round is through: how long the device and the host were busy with it, rounds before it not counted.
        """
        item = self._items[0]
        if isinstance(item, _Save):
            self._items.popleft()
            self._give_state(item)
            return None
        if isinstance(item, _Ending):
            self._items.popleft()
            word = item.segment.decoder.flush()
            if word is not None:
                # (The word before it may have come later than its step.)
                word = word._replace(t_emit_s=max(word.t_emit_s, item.segment.said_s))
                said = (item.slot, item.segment, [word], word.t_emit_s)
                self._deliver(*said, NO_TOKENS, item.segment.steps, 0.0, (), is_end=True)
                with self._lock:
                    self._counts.words += 1
            self._begin_anew(item)
            if item.last:
                self._close(item.slot)
            return None
        step = item.steps.popleft()
        waited, behind = not step.ready, bool(item.steps) or self.rounds > 1
        with TraceAnnotation(WAIT):
            result = step.read()
        with TraceAnnotation(DELIVER):
            return self._deliver_step(item, result, waited, behind)

    def _begin_anew(self, item: _Ending) -> None:
        """What comes of a slot from now on is of another segment: its sound, and whoever ordered that, are told."""
        slot, on_reset = item.slot, item.segment.on_reset
        if slot.seams is not None:
            (slot.seams.cut if on_reset is None else slot.seams.begin_anew)()
        if on_reset is None or slot.error is not None:
            return
        try:
            on_reset()
        except Exception as error:  # noqa: BLE001  as of outputs
            self._fail(slot, error)

    def _deliver_step(self, item: _Round, result: StepResult, waited: bool, behind: bool) -> float | None:
        """Gives the results of the round's next step to the listeners; what `collect` returns."""
        now_s = self._now()
        offset_s = self._clock.step_time_s(item.read)
        words = spent = 0
        lags_s = [now_s - participant.frame.arrived_s for participant in item.participants]
        for participant, lag_s in zip(item.participants, lags_s):
            slot, decoder, t_s = participant.slot, participant.segment.decoder, participant.frame.t_s + offset_s
            decoder.delay_s = self._clock.step_time_s(participant.delay_steps)
            word = decoder.push(int(result.text[slot.row]), t_s)
            if word is not None and slot.live:
                # In real time a word is said when it comes, if that is later than its step.
                word = word._replace(t_emit_s=max(word.t_emit_s, participant.frame.t_s + lag_s))
            if word is not None:
                participant.segment.said_s = word.t_emit_s
            tokens = result.spent_tokens(slot.row)
            words, spent = words + (word is not None), spent + tokens.number
            said = [] if word is None else [word]
            step = participant.first_step + item.read
            sound = self._sound(participant, result, step, t_s)
            self._deliver(slot, participant.segment, said, t_s, tokens, step, lag_s, sound)
        with self._lock:
            self._count(item, now_s, lags_s, words, spent)
            if waited:
                self._counts.overlapped_waits += behind
                self._counts.idle_waits += not behind
        item.read += 1
        self._done_s = now_s
        if item.steps:
            return None
        self._items.popleft()
        self.rounds -= 1
        busy_s = now_s - max(item.began_s, self._round_done_s)
        self._round_done_s = now_s
        return busy_s

    def _give_state(self, item: _Save) -> None:
        saving = item.saving
        slot, decoder = saving.slot, saving.segment.decoder
        arrays = [np.asarray(array) for array in item.arrays]
        known = (saving.last_t_s, saving.dropped, saving.cells, saving.segment.scene_s)
        state = StreamState(arrays, saving.steps, decoder.saved(), *known)
        if saving.leaves:
            # It goes on elsewhere with the word that is being said.
            decoder.go_on(OpenWord((), 0.0, 0.0, is_open=False))
        if slot.error is not None:
            return
        try:
            saving.on_state(state)
        except Exception as error:  # noqa: BLE001  as of outputs
            self._fail(slot, error)

    def abandon(self, slots: Sequence[Slot]) -> None:
        """Gives up what is on its way, where the device failed: `slots`, and those that were to end, end now."""
        leaving = [item.slot for item in self._items if isinstance(item, _Ending) and item.last]
        self._items.clear()
        for slot in (*slots, *leaving):
            self._close(slot)

    def _sound(self, participant: Participant, result: StepResult, step: int, t_s: float) -> tuple[SoundPiece, ...]:
        """What is heard of a stream's step: nothing of one that does not speak, silence where sound was left out."""
        seams = participant.slot.seams
        if seams is None:
            return ()
        if not participant.speaking:
            seams.stop()
            return ()
        samples = seams.joined(None if result.sound is None else result.sound[participant.slot.row])
        return (SoundPiece(t_s + self._clock.step_s, step, samples, left_out=result.sound is None),)

    def _count(self, item: _Round, now_s: float, lags_s: Sequence[float], words: int, spent: int) -> None:
        counts = self._counts
        counts.steps += 1
        counts.words += words
        speaking = sum(participant.speaking for participant in item.participants)
        if item.sound:
            counts.sound_steps += speaking
        else:
            counts.sound_steps_left_out += speaking
        counts.step_s.add(now_s - max(item.began_s, self._done_s))
        self.lag_s = max(lags_s)
        if item.read == 0:
            counts.rounds += 1
            counts.ticks += len(item.participants)
            counts.tokens += spent
            counts.token_rate.add(now_s, spent)
        if len(item.steps) == 0:
            counts.missed_deadlines += sum(lag_s > self._deadline_s for lag_s in lags_s)
            for lag_s in lags_s:
                counts.lag_s.add(lag_s)

    def _deliver(
        self,
        slot: Slot,
        segment: Segment,
        words: list[TimedWord],
        t_s: float,
        tokens: SpentTokens,
        step: int,
        lag_s: float,
        sound: tuple[SoundPiece, ...],
        *,
        is_end: bool = False,
    ) -> None:
        """Gives an output to the listener; one that fails ends its own stream and no other."""
        if slot.error is not None:
            return
        try:
            slot.give(words, t_s, tokens, step, lag_s, sound, is_end, segment.scene_s)
        except Exception as error:  # noqa: BLE001  kept in `StreamHandle.error`, counted and logged
            self._fail(slot, error)

    def _close(self, slot: Slot) -> None:
        try:
            slot.end()
        except Exception as error:  # noqa: BLE001  as above
            self._fail(slot, error)

    def _fail(self, slot: Slot, error: Exception) -> None:
        _log.error("a listener failed; its stream ends", exc_info=error)
        with self._lock:
            slot.error, slot.leaving = error, True
            slot.waiting.clear()
            self._counts.failed += 1
