"""Seats come and go, wait and begin anew; what a client does wrong is its own loss."""

import threading
import time

import numpy as np
import pytest

from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import PoolFull, StreamPool
from mmduplex_jax.streaming.rows import Step
from mmduplex_jax.streaming.seat import SeatEnded
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script

TICK_S = CLOCK.tick_s
SAID = {2: "red", 4: "circle", 9: "left"}


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def frame(number: int = 1) -> np.ndarray:
    return np.full((FRAME_PX, FRAME_PX, 3), number, np.uint8)


def make_pool(slots: int = 2, said=SAID, now=None, live=None, **policy) -> StreamPool:
    """A pool that waits for nobody and whose clock stands still."""
    policy = dict(gather_s=0.0) | policy
    return StreamPool(
        live or ScriptedLive(script(said, 400)),
        {},
        TOKENIZER,
        CLOCK,
        FRAME_PX,
        slots=slots,
        policy=DeadlinePolicy(**policy),
        tokens_per_s_max=8,
        now=now or FakeClock(),
    )


def run(pool: StreamPool) -> None:
    """Turns the loop until nothing is to be done."""
    while pool.run_once():
        pass


def play(pool: StreamPool, clock: FakeClock, seats, ticks, number: int = 1) -> None:
    """Offers a frame a tick to every seat, in real time."""
    for k in ticks:
        for seat in seats:
            seat.offer(k * TICK_S, frame(number))
        run(pool)
        clock.s += TICK_S


def taken(seat) -> list:
    """The outputs that wait."""
    return [seat.outputs.get() for _ in range(len(seat.outputs))]


def words_of(outputs) -> list[str]:
    return [word.text for output in outputs for word in output.words]


def test_an_output_a_step_with_its_times_and_tokens():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=2)
    play(pool, clock, [seat], range(6), number=3)
    outputs = taken(seat)
    assert [o.seq for o in outputs] == [o.step for o in outputs] == list(range(12))
    assert [o.t_video_s for o in outputs] == pytest.approx([0.08 * step for step in range(12)])
    assert [o.tokens.number for o in outputs] == [3, 0] * 6
    assert words_of(outputs) == ["red", "circle", "left"]
    # Known to be whole at the slot after the last one, and said then.
    assert outputs[4].words[0] == ("red", pytest.approx(0.0), pytest.approx(0.32))
    assert outputs[6].words[0] == ("circle", pytest.approx(0.16), pytest.approx(0.48))
    assert {o.lag_s for o in outputs} == {0.0}
    seat.leave()
    run(pool)
    assert (seat.ended, seat.outputs.get()) == (True, None)


def test_full_and_free_again():
    pool = make_pool(slots=2)
    seats = [pool.join(delay_steps=0) for _ in range(2)]
    with pytest.raises(PoolFull, match="all 2 seats") as refused:
        pool.join(delay_steps=0)
    assert refused.value.reason == "full"
    seats[0].leave()
    seats[0].leave()
    run(pool)
    again = pool.join(delay_steps=0)
    assert pool.statistics().sessions == 2
    with pytest.raises(SeatEnded):
        seats[0].offer(0.0, frame())
    again.offer(0.0, frame())
    assert pool.statistics().counts.refused == {"full": 1}
    assert (pool.statistics().counts.joined, pool.statistics().counts.left) == (3, 1)


def test_a_place_that_is_taken_again_begins_at_nothing():
    clock = FakeClock()
    pool = make_pool(slots=1, now=clock)
    first = pool.join(delay_steps=0)
    play(pool, clock, [first], range(2))
    first.leave()
    run(pool)
    second = pool.join(delay_steps=0)
    play(pool, clock, [second], range(4))
    assert words_of(taken(first)) == ["red"]  # it was being said
    outputs = taken(second)
    assert (outputs[0].step, outputs[0].seq, words_of(outputs)) == (0, 0, ["red", "circle"])


def test_a_reset_says_what_was_open_and_begins_anew():
    clock = FakeClock()
    pool = make_pool(now=clock)
    one, other = pool.join(delay_steps=0), pool.join(delay_steps=0)
    play(pool, clock, [one, other], range(2))
    one.offer(2 * TICK_S, frame())
    other.offer(2 * TICK_S, frame())
    pool.run_once()  # on its way, not read yet
    one.reset()
    one.offer(0.0, frame())  # times may begin anew too
    run(pool)
    outputs = taken(one)
    assert [(o.step, [w.text for w in o.words]) for o in outputs[4:]] == [
        (4, ["red"]),
        (5, []),
        (6, ["circle"]),  # it was being said when the stream ended
        (0, []),
        (1, []),
    ]
    clock.s += TICK_S
    play(pool, clock, [other], range(3, 6))
    assert words_of(taken(other)) == ["red", "circle", "left"]


def test_a_reset_lets_frames_go_that_wait():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=0)
    seat.offer(0.0, frame(5))
    seat.offer(0.16, frame(5))
    seat.reset()
    seat.offer(0.0, frame(1))
    run(pool)
    outputs = taken(seat)
    assert [o.tokens.number for o in outputs if o.step == 0] == [1]
    assert len(outputs) == 2


def test_a_pause_stands_still_and_goes_on():
    clock = FakeClock()
    pool = make_pool(now=clock)
    one, other = pool.join(delay_steps=0), pool.join(delay_steps=0)
    play(pool, clock, [one, other], range(2))
    one.pause()
    play(pool, clock, [one, other], range(2, 10))
    assert [o.step for o in taken(one)] == [0, 1, 2, 3]
    one.resume()
    play(pool, clock, [one], range(10, 12))
    outputs = taken(one)
    assert [o.step for o in outputs] == [4, 5, 6, 7]
    assert words_of(outputs) == ["red", "circle"]
    assert outputs[0].words[0] == ("red", pytest.approx(0.16), pytest.approx(10 * TICK_S))  # it was said at last
    assert words_of(taken(other)) == ["red", "circle", "left"]
    assert one.dropped_frames == 0


def test_settings_change_while_it_runs():
    clock = FakeClock()
    pool = make_pool(now=clock, said={2: "red", 8: "left"})
    seat = pool.join(delay_steps=0)
    play(pool, clock, [seat], range(3))
    seat.configure(delay_steps=4, pad_bias=-1.0)
    play(pool, clock, [seat], range(3, 6))
    words = [word for output in taken(seat) for word in output.words]
    assert [w.t_video_s for w in words] == pytest.approx([0.16, 0.32])
    for wrong in (dict(delay_steps=-1), dict(pad_bias=float("nan"))):
        with pytest.raises(ValueError):
            seat.configure(**wrong)


def test_frames_and_times_that_cannot_be_are_refused():
    pool = make_pool()
    seat = pool.join(delay_steps=0)
    with pytest.raises(ValueError, match=r"uint8 \[32, 32, 3\], got float64"):
        seat.offer(0.0, np.zeros((32, 32, 3)))
    seat.offer(1.0, frame())
    for t_s in (1.0, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rise"):
            seat.offer(t_s, frame())


def test_of_too_many_frames_the_oldest_go_and_are_counted():
    clock = FakeClock()
    pool = make_pool(now=clock, lag_max_s=1.0)
    seat = pool.join(delay_steps=0)
    room = seat.room
    assert room == 1 + CLOCK.ticks_in(1.0)
    for k in range(20):
        seat.offer(k * TICK_S, frame())
    assert seat.room == 0
    run(pool)
    outputs = taken(seat)
    assert outputs[0].t_video_s == pytest.approx((20 - room) * TICK_S)
    assert outputs[-1].dropped_frames == 20 - room == pool.statistics().dropped_frames


def test_a_frame_that_waited_too_long_goes_when_a_newer_one_waits():
    clock = FakeClock()
    pool = make_pool(now=clock, lag_max_s=1.0)
    seat = pool.join(delay_steps=0)
    seat.offer(0.0, frame())
    clock.s += 1.5
    seat.offer(1.44, frame())
    run(pool)
    assert [o.t_video_s for o in taken(seat)] == pytest.approx([1.44, 1.52])
    seat.offer(1.6, frame())
    clock.s += 5.0
    run(pool)
    assert [o.lag_s for o in taken(seat)] == pytest.approx([5.0, 5.0])  # there is no newer one
    assert seat.dropped_frames == 1


def test_a_greedy_client_gets_its_rate_and_others_theirs():
    clock = FakeClock()
    pool = make_pool(now=clock)
    greedy, fair = pool.join(delay_steps=0), pool.join(delay_steps=0)
    for i in range(1000):
        greedy.offer(i * 0.02, frame())
        if i % 8 == 0:
            fair.offer(i * 0.02, frame())
        run(pool)
        clock.s += 0.02
    assert fair.dropped_frames == 0
    # A tenth over its rate of 125 in 20 s, a second saved up at the start, and what still waits.
    assert 125 < 1000 - greedy.dropped_frames < 125 / 0.9 + 1.2 / TICK_S + CLOCK.ticks_in(1.0) + 1
    assert {output.lag_s for output in taken(fair)} == {0.0}


def test_a_client_that_stalled_catches_up_at_once():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=0)
    play(pool, clock, [seat], range(3))
    taken(seat)
    clock.s += 0.8
    for k in range(3, 8):  # five ticks come at once
        seat.offer(k * TICK_S, frame())
    run(pool)
    assert [o.step for o in taken(seat)] == list(range(6, 16))


def test_a_seat_that_is_not_live_runs_as_fast_as_it_can_and_loses_nothing():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=0, live=False)
    offered = 0
    for _ in range(5):
        while seat.room:
            seat.offer(offered * TICK_S, frame())
            offered += 1
        with pytest.raises(BufferError, match="room"):
            seat.offer(offered * TICK_S, frame())
        clock.s += 3.0  # longer than any lag
        run(pool)
    outputs = taken(seat)
    assert [o.step for o in outputs] == list(range(2 * offered))
    assert (seat.dropped_frames, words_of(outputs)) == (0, ["red", "circle", "left"])
    assert outputs[4].words[0].t_emit_s == pytest.approx(0.24)  # by the stream's clock, not the wall's


def test_in_real_time_a_word_is_said_when_it_comes():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=0)
    for k in range(3):
        seat.offer(k * TICK_S, frame())
        clock.s += 0.5
        run(pool)
    (word,) = [word for output in taken(seat) for word in output.words]
    assert (word.t_video_s, word.t_emit_s) == (pytest.approx(0.16), pytest.approx(0.32 + 0.5))


def test_words_of_a_stream_that_nobody_reads_are_kept_and_the_rest_is_bounded():
    clock = FakeClock()
    said = {step: ("red", "left")[step % 4 // 2] for step in range(0, 780, 2)}
    pool = make_pool(now=clock, live=ScriptedLive(script(said, 800)))
    seat = pool.join(delay_steps=0)
    play(pool, clock, [seat], range(395))
    assert len(seat.outputs) == 256
    seat.leave()
    run(pool)
    outputs = list(seat.outputs)
    assert words_of(outputs) == list(said.values())
    assert [o.seq for o in outputs] == sorted({o.seq for o in outputs})


def test_a_listener_that_fails_ends_its_own_seat_only():
    clock = FakeClock()
    pool, heard, ends = make_pool(now=clock), [], []

    def broken(output):
        if output.step == 3:
            raise OSError("connection lost")

    bad = pool.join(delay_steps=0, on_output=broken, on_end=lambda: ends.append("bad"))
    good = pool.join(delay_steps=0, on_output=heard.append)
    for k in range(6):
        good.offer(k * TICK_S, frame())
        if not bad.ended:
            bad.offer(k * TICK_S, frame())
        run(pool)
        clock.s += TICK_S
    assert words_of(heard) == ["red", "circle", "left"]
    assert (str(bad.error), bad.ended, ends) == ("connection lost", True, ["bad"])
    with pytest.raises(SeatEnded) as ended:
        bad.offer(9.0, frame())
    assert ended.value.__cause__ is bad.error
    s = pool.statistics()
    assert (s.sessions, s.counts.failed, s.counts.left) == (1, 1, 1)


def test_leaving_may_drain_first():
    pool = make_pool()
    seats = [pool.join(delay_steps=0) for _ in range(2)]
    for seat in seats:
        for k in range(4):
            seat.offer(k * TICK_S, frame())
    seats[0].leave(drain=True)
    seats[1].leave()
    run(pool)
    assert [words_of(seat.outputs) for seat in seats] == [["red", "circle"], []]
    assert all(seat.ended for seat in seats)


def test_the_loop_in_its_thread_from_start_to_a_drained_stop():
    pool = StreamPool(
        ScriptedLive(script(SAID, 400)), {}, TOKENIZER, CLOCK, FRAME_PX, slots=3, policy=DeadlinePolicy(),
        tokens_per_s_max=8,
    )  # fmt: skip
    assert not pool.running
    pool.start()
    assert pool.running
    with pytest.raises(RuntimeError, match="once"):
        pool.start()
    ended = threading.Event()
    seats = [pool.join(delay_steps=0, live=False, on_end=ended.set) for _ in range(3)]
    for k in range(6):
        for seat in seats:
            seat.offer(k * TICK_S, frame())
    pool.stop(drain_s=60.0)
    assert [words_of(seat.outputs) for seat in seats] == [["red", "circle", "left"]] * 3
    assert ended.is_set()
    assert all(seat.wait_ended(0) for seat in seats)
    assert not pool.running
    with pytest.raises(PoolFull) as refused:
        pool.join(delay_steps=0)
    assert refused.value.reason == "stopping"
    assert pool.statistics().recompilations == 0


def test_a_stop_without_time_drops_what_waits_and_says_what_was_said():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=0)
    play(pool, clock, [seat], range(2))
    seat.offer(2 * TICK_S, frame())
    pool.run_once()
    seat.offer(3 * TICK_S, frame())
    pool.stop()
    assert words_of(seat.outputs) == ["red", "circle"]
    assert seat.dropped_frames == 1


def test_a_device_that_fails_ends_every_seat_and_says_so(monkeypatch):
    read, reads = Step.read, []

    def broken(step):
        reads.append(step)
        if len(reads) == 4:
            raise ArithmeticError("the device broke")
        return read(step)

    pool = make_pool(now=time.monotonic)
    monkeypatch.setattr(Step, "read", broken)
    pool.start()
    seats = [pool.join(delay_steps=0, live=False) for _ in range(2)]
    for k in range(4):
        seats[0].offer(k * TICK_S, frame())
    assert all(seat.wait_ended(60.0) for seat in seats)
    assert not pool.running
    with pytest.raises(SeatEnded):
        seats[1].offer(0.0, frame())
    with pytest.raises(PoolFull):
        pool.join(delay_steps=0)
    with pytest.raises(RuntimeError, match="loop had failed") as failed:
        pool.stop()
    assert str(failed.value.__cause__) == "the device broke"
    assert words_of(seats[0].outputs) == []


def test_the_counter_of_steps_may_end(monkeypatch):
    monkeypatch.setattr("mmduplex_jax.layers.rotary.MAX_STEPS", 7)
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = pool.join(delay_steps=0)
    play(pool, clock, [seat], range(6))
    outputs = taken(seat)
    assert [(o.step, o.t_video_s) for o in outputs if not o.words] == [
        (step % 6, pytest.approx(0.08 * step)) for step in range(12) if step not in (4, 10)
    ]
    assert words_of(outputs) == ["red", "circle"] * 2


@pytest.mark.parametrize("wrong", [dict(slots=0), dict(slots=1, ahead=-1)])
def test_a_pool_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        StreamPool(
            ScriptedLive(script({}, 4)), {}, TOKENIZER, CLOCK, FRAME_PX, policy=DeadlinePolicy(), tokens_per_s_max=8,
            **wrong,
        )  # fmt: skip
