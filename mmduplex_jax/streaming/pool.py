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
from collections.abc import Callable

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers import rotary
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, LoadState, Measured, decide, load_of
from mmduplex_jax.streaming.flight import Flight, Part
from mmduplex_jax.streaming.place import Place, Stream, StreamOutput
from mmduplex_jax.streaming.pool_statistics import PoolCounts, PoolStatistics
from mmduplex_jax.streaming.rows import Live, Rows
from mmduplex_jax.streaming.seat import Outputs, Seat, check_settings
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree

_log = logging.getLogger(__name__)
# A loop with nothing to do looks up this often, to come down from a rung that nobody needs any more.
_IDLE_S = 0.5
# After a stop, rounds that are on the device have this long to end.
_LAST_ROUNDS_S = 30.0


class PoolFull(RuntimeError):
    """No seat is given.

    Attributes:
      reason: "full" (every slot is taken), "overloaded" (the policy admits nobody now) or "stopping".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class StreamPool:
    """Seats for streams over one model.

    Attributes:
      error: what ended the loop, if it failed.
    """

    def __init__(
        self,
        live: Live,
        params: PyTree,
        tokenizer: TextTokenizer,
        clock: Clock,
        frame_px: int,
        *,
        slots: int,
        policy: DeadlinePolicy,
        tokens_per_s_max: int,
        ahead: int = 1,
        now: Callable[[], float] = time.monotonic,
    ):
        """Compiles everything that will ever run.

        Args:
          live: the model.
          params: its parameters.
          tokenizer: its words.
          clock: its clock.
          frame_px: side of its frames.
          slots: how many streams there may be at once; every step computes all of them.
          policy: what gives way under overload.
          tokens_per_s_max: the model's cap on video tokens a second, of which the policy takes a share.
          ahead: rounds that are dispatched before the oldest one's results are read; 0 waits for each.
          now: the clock on the wall, in seconds; never goes back.
        """
        if slots < 1:
            raise ValueError(f"a pool needs at least 1 slot, got {slots}")
        if ahead < 0:
            raise ValueError(f"ahead must not be negative, got {ahead}")
        self._tokenizer, self._clock, self._policy, self._now = tokenizer, clock, policy, now
        self._tokens_per_s_max, self._ahead = tokens_per_s_max, ahead
        self._rows = Rows(live, params, frame_px, count=slots)
        self._changed = threading.Condition()
        self._counts = PoolCounts()
        self._flight = Flight(self._rows, clock, self._counts, self._changed, now, policy.deadline_s)
        self._places: dict[int, Place] = {}
        self._free = deque(range(slots))
        self._load = LoadState()
        self._decided_s = now()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.error: BaseException | None = None

    # What its owners call.

    def join(
        self,
        *,
        delay_steps: int,
        pad_bias: float = 0.0,
        live: bool = True,
        on_output: Callable[[StreamOutput], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Seat:
        """A seat for a stream that begins.

        Args:
          delay_steps: how far the words run behind the picture.
          pad_bias: added to silence's logit; more is quieter.
          live: its frames come in real time (see `Seat.offer`); a seat that is not live runs as fast as the pool can
            and loses no frame.
          on_output: takes every output, in order, in the pool's thread: it must hand it over and return. What it raises
            ends this seat and no other. Without it outputs wait in `Seat.outputs`.
          on_end: called there, once, after the last output.

        Raises:
          PoolFull: there is no seat now; its `reason` says why.
        """
        check_settings(delay_steps, pad_bias)
        outputs = Outputs()

        def end() -> None:
            outputs.end()
            if on_end is not None:
                on_end()

        with self._changed:
            self._admit()
            place = Place(
                self._free.popleft(),
                self._clock,
                self._tokenizer,
                self._policy,
                self._counts,
                live=live,
                delay_steps=delay_steps,
                pad_bias=pad_bias,
                deliver=outputs.put if on_output is None else on_output,
                on_end=end,
            )
            self._places[place.row] = place
            self._counts.joined += 1
        return Seat(place, outputs, self._rows.frame_px, self._changed, self._now)

    def start(self) -> None:
        """Starts the loop; RuntimeError where it was started or stopped before."""
        with self._changed:
            if self._thread is not None or self._stopping:
                raise RuntimeError("a pool is started once")
            self._thread = threading.Thread(target=self._loop, name="steps", daemon=True)
        self._thread.start()

    def stop(self, drain_s: float = 0.0) -> None:
        """Ends every seat and the loop: no session and no frame is taken any more, and what waits is looked at.

        Args:
          drain_s: how long that may take; frames that wait after it are dropped. Words that were said are given.

        Raises:
          RuntimeError: the loop had failed.
          TimeoutError: the device does not answer.
        """
        with self._changed:
            self._stopping = True
            for place in self._places.values():
                place.leaving = True
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

    def statistics(self) -> PoolStatistics:
        """The pool's numbers now."""
        with self._changed:
            return PoolStatistics(
                sessions=len(self._places),
                slots=self._rows.count,
                running=self.running,
                rung=self._load.rung,
                load=load_of(self._policy, self._load, self._clock.tick_s),
                lag_s=self._flight.lag_s if self._places else 0.0,
                tokens_per_s=self._counts.token_rate.per_s(self._now()),
                compile_s=self._rows.compile_s,
                counts=copy.deepcopy(self._counts),
            )

    # The loop.

    def run_once(self) -> bool:
        """One turn of the loop, which `start` runs in a thread; for tests, and programs with a loop of their own.

        Returns:
          Whether there was anything to do.
        """
        parts: list[Part] = []
        if self._flight.rounds <= self._ahead:
            with self._changed:
                now_s = self._now()
                endings = self._settle()
                if now_s >= self._round_s():
                    parts = self._choose(now_s)
            if endings:
                self._flight.end(endings)
            if parts:
                share = self._policy.ladder[self._load.rung].cap_share
                self._flight.dispatch(parts, max(1, round(share * self._tokens_per_s_max)), now_s)
        # With one more round on the device than may be ahead, or with nothing to send, results are what to wait for.
        if self._flight and (self._flight.rounds > self._ahead or not parts):
            busy_s = self._flight.land()
            if busy_s is not None:
                self._decide(busy_s)
            return True
        if not parts:
            tick_every = self._policy.ladder[self._load.rung].tick_every
            if self._now() - self._decided_s > 2 * tick_every * self._clock.tick_s:
                self._decide(0.0)
        return bool(parts)

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
            if any(place.wants_end for place in self._places.values()) or (self._stopping and not self._places):
                return
            due_s = self._round_s() - self._now()
            if due_s > 0:
                self._changed.wait(min(due_s, _IDLE_S))

    def _round_s(self) -> float:
        """When the next round may begin: with everybody's frames, or some time after the first."""
        ready_s = [place.ready_s() for place in self._places.values() if place.waiting or not place.paused]
        if not ready_s:
            return math.inf
        gather_s = 0.0 if self._stopping else self._policy.gather_s
        return min(max(ready_s), min(ready_s) + gather_s)

    def _settle(self) -> list[tuple[Place, Stream, bool]]:
        """The streams that end now: the seat is left, or another one begins on it."""
        endings = []
        for place in list(self._places.values()):
            # The counter of steps ends after years; what was said until then is forgotten.
            worn_out = place.stream.steps + self._clock.video_stride > rotary.MAX_STEPS
            if not (place.wants_end or worn_out):
                continue
            last = place.leaving and not place.waiting
            endings.append((place, place.begin_anew(), last))
            if last:
                del self._places[place.row]
                self._free.append(place.row)
                self._counts.left += 1
        return endings

    def _choose(self, now_s: float) -> list[Part]:
        """Takes the frames of a round that begins now."""
        parts = []
        self._counts.rungs[self._load.rung] += 1
        for place in self._places.values():
            if place.ready_s() <= now_s:
                frame = place.take(now_s, self._policy.ladder[self._load.rung].tick_every)
                stream = place.stream
                parts.append(Part(place, stream, frame, stream.steps, place.delay_steps, place.pad_bias))
                stream.steps += self._clock.video_stride
        return parts

    def _decide(self, busy_s: float) -> None:
        """Lets the policy see a round, or that there was none."""
        before, self._decided_s = self._load.rung, self._now()
        measured = Measured(self._decided_s, busy_s, self._clock.tick_s)
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
            reason, said = "full", f"all {self._rows.count} seats are taken: try again later"
        if reason is not None:
            self._counts.refused[reason] += 1
            raise PoolFull(reason, said)

    def _busy(self) -> bool:
        return bool(self._places) or bool(self._flight)

    def _drop_waiting(self) -> None:
        """Lets the frames go that still wait after a drain."""
        with self._changed:
            for place in self._places.values():
                place.drop_all()
            self._changed.notify()

    def _fail(self, error: BaseException) -> None:
        """Ends every seat of a loop that failed; what they were is lost with the device's state."""
        with self._changed:
            self.error = error
            places, self._places = list(self._places.values()), {}
            for place in places:
                place.leaving = True
        self._flight.abandon(places)
