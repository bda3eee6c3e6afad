"""What a client does wrong, too fast or too late is its own loss, and counted."""

import numpy as np
import pytest

from mmduplex_jax.streaming.slot import StreamEnded
from tests.streaming.scripted_pool import TICK_S, FakeClock, frame, join, make_pool, play, run, taken, words_of
from tests.streaming.scripted_stream import CLOCK


def test_frames_and_times_that_cannot_be_are_refused():
    pool = make_pool()
    seat = join(pool, delay_steps=0)
    with pytest.raises(ValueError, match=r"uint8 \[32, 32, 3\], got float64"):
        seat.offer(0.0, np.zeros((32, 32, 3)))
    seat.offer(1.0, frame())
    for t_s in (1.0, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rise"):
            seat.offer(t_s, frame())


def test_of_too_many_frames_the_oldest_go_and_are_counted():
    clock = FakeClock()
    pool = make_pool(now=clock, lag_max_s=1.0)
    seat = join(pool, delay_steps=0)
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
    seat = join(pool, delay_steps=0)
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
    greedy, fair = join(pool, delay_steps=0), join(pool, delay_steps=0)
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


def test_a_round_waits_for_frames_that_are_due_and_for_no_others():
    clock = FakeClock()
    pool = make_pool(3, now=clock, gather_s=0.02)
    first, second, silent = seats = [join(pool, delay_steps=0) for _ in range(3)]
    lags = []

    def tick(k: int, *offers) -> None:
        """Each of `offers` after so many seconds, then a wait until the next tick; `lags` is what the rounds took."""
        due_s = clock.s + TICK_S
        for wait_s, seat in offers:
            clock.s += wait_s
            if seat is not None:
                seat.offer(k * TICK_S, frame())
            run(pool)
        clock.s = due_s
        lags.append([round(output.lag_s, 3) for seat in seats for output in taken(seat)[::2]])

    tick(0, (0, first), (0, second), (0, silent), (0.02, None))  # nobody is expected yet, as nobody has sent
    tick(1, (0, first), (0.01, second), (0.005, None), (0.005, None))  # the third is due, too, and does not come
    tick(2, (0, first), (0.01, second))  # overdue by a tick: only the second is waited for
    tick(3, (0, first), (0.02, None))
    tick(4, (0, first))
    assert lags == [[0.0, 0.0, 0.0], [0.02, 0.01], [0.01, 0.0], [0.02], [0.0]]
    # Half a tick apart nobody waits for the other.
    clock.s -= 0.08
    tick(5, (0, second), (0.08, first))
    tick(6, (0, second), (0.08, first))
    assert lags[-1] == [0.0, 0.0]


def test_a_client_that_stalled_catches_up_at_once():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=0)
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
    seat = join(pool, delay_steps=0, live=False)
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
    with pytest.raises(StreamEnded) as ended:
        bad.offer(9.0, frame())
    assert ended.value.__cause__ is bad.error
    s = pool.statistics()
    assert (s.sessions, s.counts.failed, s.counts.left) == (1, 1, 1)
