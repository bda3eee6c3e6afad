"""A machine that is too slow: the policy takes tokens, then ticks, then admits nobody, and gives all of it back."""

import numpy as np
import pytest

from mmduplex_jax.streaming.batch import DispatchedStep
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import PoolFull
from tests.streaming.scripted_pool import FakeClock, frame, join, make_pool, run, taken, words_of
from tests.streaming.scripted_stream import CLOCK, ScriptedLive, script

TICK_S = CLOCK.tick_s
POLICY = DeadlinePolicy().without_sound()


class Machine:
    """Every step takes as long as told, by a clock that only this moves."""

    def __init__(self, monkeypatch, slots=4):
        self.clock, self.step_s = FakeClock(), 0.0
        said = dict.fromkeys(range(0, 4000, 8), "red")
        self.pool = make_pool(slots, now=self.clock, live=ScriptedLive(script(said, 4002)), gather_s=POLICY.gather_s)
        read = DispatchedStep.read

        def slow(step):
            self.clock.s += self.step_s
            return read(step)

        monkeypatch.setattr(DispatchedStep, "read", slow)
        self.began_s, self._next = self.clock.s, 0

    def live(self, seats, seconds):
        """Cameras that show a picture every tick, whatever the machine does; returns each seat's outputs."""
        outputs = [[] for _ in seats]
        until_s = self.clock.s + seconds
        while self.clock.s < until_s:
            while self.began_s + self._next * TICK_S <= self.clock.s:
                for seat in seats:
                    seat.offer(self._next * TICK_S, frame(8))
                self._next += 1
            if not self.pool.run_once():
                self.clock.s += 0.01
            for seat, mine in zip(seats, outputs):
                mine += taken(seat)
        return outputs

    @property
    def rung(self):
        return self.pool.statistics().rung


def test_first_tokens_then_ticks_then_new_sessions_and_all_comes_back(monkeypatch):
    machine = Machine(monkeypatch)
    seats = [join(machine.pool, delay_steps=0) for _ in range(3)]
    machine.step_s = 0.03
    calm = machine.live(seats, 4.0)
    assert machine.rung == 0
    assert all(output.tokens.number in (8, 0) for output in calm[0])
    assert max(output.lag_s for output in calm[0]) <= 2 * 0.03 + POLICY.gather_s + 0.02

    machine.step_s = 0.20  # a round of 0.4 s where 0.16 s are to be had
    hard = machine.live(seats, 20.0)
    numbers = [output.tokens.number for output in hard[0] if output.tokens.number]
    assert [n for n, before in zip(numbers, [None, *numbers]) if n != before] == [8, 6, 4]  # caps of 1, 3/4, 1/2
    rungs = machine.pool.statistics().counts.rungs
    assert set(rungs) == set(range(len(POLICY.ladder)))
    with pytest.raises(PoolFull, match="too slow") as refused:
        join(machine.pool, delay_steps=0)
    assert refused.value.reason == "overloaded"
    # Lag is bounded by the policy and what two rounds take, also after 20 s.
    assert max(output.lag_s for outputs in hard for output in outputs) < POLICY.lag_max_s + 2 * 0.4 + 0.1
    settled = [output.lag_s for output in hard[0][-20:]]
    assert max(settled) < 2 * 0.4 + 0.1
    assert machine.pool.statistics().counts.missed_deadlines > 0

    machine.step_s = 0.02
    back = machine.live(seats, 60.0)
    assert machine.rung == 0
    join(machine.pool, delay_steps=0).leave()
    assert back[0][-2].tokens.number + back[0][-1].tokens.number == 8
    dropped = machine.pool.statistics().dropped_frames
    machine.live(seats, 5.0)
    assert machine.pool.statistics().dropped_frames == dropped
    # Frames were dropped, no word was: every step that was done said its part of the script.
    everything = [output for part in (calm, hard, back) for output in part[0]]
    steps = [output.step for output in everything]
    assert steps == list(range(len(steps)))
    assert len(words_of(everything)) == len(range(2, len(steps), 8))
    assert dropped == sum(seat.dropped_frames for seat in seats) > 50


def test_a_machine_that_is_left_alone_admits_again(monkeypatch):
    """Nobody is there to show that the load is gone."""
    machine = Machine(monkeypatch)
    seat = join(machine.pool, delay_steps=0)
    machine.step_s = 0.5
    machine.live([seat], 30.0)
    assert not POLICY.ladder[machine.rung].admits
    seat.leave()
    run(machine.pool)
    for _ in range(700):
        machine.clock.s += 0.1
        machine.pool.run_once()
    assert machine.rung == 0
    join(machine.pool, delay_steps=0)


def test_fewer_ticks_take_the_newest_frame(monkeypatch):
    machine = Machine(monkeypatch, slots=1)
    seat = join(machine.pool, delay_steps=0)
    machine.step_s = 0.10  # a load of 1.25: 0.63 at every second tick
    machine.live([seat], 6.0)
    assert POLICY.ladder[machine.rung].tick_every == 2
    (outputs,) = machine.live([seat], 10.0)
    shown = np.array([output.t_video_s for output in outputs if output.tokens.number])
    apart = np.round(np.diff(shown) / TICK_S)
    assert apart.min() == 2  # never sooner; once in a while a tick later, since the loop looks up every 10 ms
    assert apart.mean() < 2.25
    assert max(output.lag_s for output in outputs) < 0.2 + TICK_S
    assert POLICY.ladder[machine.rung].tick_every == 2  # it does not swing


def test_a_client_cannot_make_the_pool_look_slow(monkeypatch):
    """Lag of its own making is not load: what a round takes is."""
    machine = Machine(monkeypatch)
    machine.step_s = 0.01
    flood, fair = join(machine.pool, delay_steps=0), join(machine.pool, delay_steps=0)
    for i in range(2000):
        flood.offer(i * 0.001, frame(8))
        if i % 16 == 0:
            fair.offer(i * 0.01, frame(8))
        if not machine.pool.run_once():
            machine.clock.s += 0.01
    assert machine.rung == 0
    assert fair.dropped_frames == 0
    assert set(machine.pool.statistics().counts.rungs) == {0}
