"""Seats come and go, wait and begin anew; nobody notices anybody else."""

import threading
import time

import pytest

from mmduplex_jax.streaming.batch import DispatchedStep
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import PoolFull, StreamPool
from mmduplex_jax.streaming.slot import StreamEnded
from mmduplex_jax.word_decoder import TimedWord
from tests.streaming.scripted_pool import SAID, TICK_S, FakeClock, frame, join, make_pool, play, run, taken, words_of
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script


def test_an_output_a_step_with_its_times_and_tokens():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=2)
    play(pool, clock, [seat], range(6), number=3)
    outputs = taken(seat)
    assert [o.seq for o in outputs] == [o.step for o in outputs] == list(range(12))
    assert [o.t_video_s for o in outputs] == pytest.approx([0.08 * step for step in range(12)])
    assert [o.tokens.number for o in outputs] == [3, 0] * 6
    assert words_of(outputs) == ["red", "circle", "left"]
    # Known to be whole at the slot after the last one, and said then.
    assert outputs[4].words[0] == TimedWord("red", pytest.approx(0.0), pytest.approx(0.32))
    assert outputs[6].words[0] == TimedWord("circle", pytest.approx(0.16), pytest.approx(0.48))
    assert {o.lag_s for o in outputs} == {0.0}
    seat.leave()
    run(pool)
    assert (seat.ended, seat.outputs) == (True, [])


def test_full_and_free_again():
    pool = make_pool(slots=2)
    seats = [join(pool, delay_steps=0) for _ in range(2)]
    with pytest.raises(PoolFull, match="all 2 slots") as refused:
        join(pool, delay_steps=0)
    assert refused.value.reason == "full"
    seats[0].leave()
    seats[0].leave()
    run(pool)
    again = join(pool, delay_steps=0)
    assert pool.statistics().sessions == 2
    with pytest.raises(StreamEnded):
        seats[0].offer(0.0, frame())
    again.offer(0.0, frame())
    assert pool.statistics().counts.refused == {"full": 1}
    assert (pool.statistics().counts.joined, pool.statistics().counts.left) == (3, 1)


def test_a_place_that_is_taken_again_begins_at_nothing():
    clock = FakeClock()
    pool = make_pool(slots=1, now=clock)
    first = join(pool, delay_steps=0)
    play(pool, clock, [first], range(2))
    first.leave()
    run(pool)
    second = join(pool, delay_steps=0)
    play(pool, clock, [second], range(4))
    assert words_of(taken(first)) == ["red"]  # it was being said
    outputs = taken(second)
    assert (outputs[0].step, outputs[0].seq, words_of(outputs)) == (0, 0, ["red", "circle"])


def test_what_is_on_its_way_when_a_place_is_taken_again_goes_to_whoever_left():
    clock = FakeClock()
    pool = make_pool(slots=1, now=clock)
    first = join(pool, delay_steps=0)
    play(pool, clock, [first], range(2))
    first.offer(2 * TICK_S, frame(5))
    pool.run_once()  # on its way, not read yet
    first.leave()
    while pool.statistics().sessions:
        pool.run_once()
    before = len(first.outputs)
    second = join(pool, delay_steps=0)
    second.offer(0.0, frame(1))
    run(pool)
    assert len(first.outputs) > before, "nothing was on its way any more when the place was taken again"
    assert words_of(first.outputs) == ["red", "circle"]
    assert [(o.step, o.tokens.number, words_of([o])) for o in second.outputs] == [(0, 1, []), (1, 0, [])]


def test_a_turn_that_waits_for_a_device_that_hangs_is_told(monkeypatch):
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=0)
    waits, answers = threading.Event(), threading.Event()
    read = DispatchedStep.read

    def hangs(step):
        waits.set()
        answers.wait()
        return read(step)

    monkeypatch.setattr(DispatchedStep, "read", hangs)
    seat.offer(0.0, frame())
    turning = threading.Thread(target=run, args=[pool])
    turning.start()
    waits.wait()
    assert pool.statistics().turn_s == 0.0
    clock.s += 40.0
    # Whoever asks does not wait for the device, nor does whoever comes.
    assert pool.statistics().turn_s == 40.0
    join(pool, delay_steps=0)
    answers.set()
    turning.join()
    assert (pool.statistics().turn_s, len(seat.outputs)) == (0.0, 2)


def test_a_reset_says_what_was_open_and_begins_anew():
    clock = FakeClock()
    pool = make_pool(now=clock)
    one, other = join(pool, delay_steps=0), join(pool, delay_steps=0)
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


def test_whoever_resets_a_stream_is_told_where_it_has_begun_anew():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat, other = join(pool, delay_steps=0), join(pool, delay_steps=0)
    play(pool, clock, [seat], range(2))
    seat.offer(2 * TICK_S, frame())
    pool.run_once()  # on its way, not read yet
    for name in ("forgotten", "begun"):  # two in a row are one
        seat.reset(lambda name=name: seat.outputs.append(name))
    seat.offer(0.0, frame())
    run(pool)
    told = [output if isinstance(output, str) else output.step for output in taken(seat)]
    assert told == [0, 1, 2, 3, 4, 5, 6, "begun", 0, 1]

    def fails() -> None:
        raise KeyError("a fault of a listener")

    seat.reset(fails)
    run(pool)
    assert (seat.ended, type(seat.error), other.ended) == (True, KeyError, False)


def test_a_reset_lets_frames_go_that_wait():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=0)
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
    one, other = join(pool, delay_steps=0), join(pool, delay_steps=0)
    play(pool, clock, [one, other], range(2))
    one.pause()
    play(pool, clock, [one, other], range(2, 10))
    assert [o.step for o in taken(one)] == [0, 1, 2, 3]
    one.resume()
    play(pool, clock, [one], range(10, 12))
    outputs = taken(one)
    assert [o.step for o in outputs] == [4, 5, 6, 7]
    assert words_of(outputs) == ["red", "circle"]
    assert outputs[0].words[0] == TimedWord("red", pytest.approx(0.16), pytest.approx(10 * TICK_S))  # said at last
    assert words_of(taken(other)) == ["red", "circle", "left"]
    assert one.dropped_frames == 0


def test_settings_change_while_it_runs():
    clock = FakeClock()
    pool = make_pool(now=clock, said={2: "red", 8: "left"})
    seat = join(pool, delay_steps=0)
    play(pool, clock, [seat], range(3))
    seat.configure(delay_steps=4, pad_bias=-1.0)
    play(pool, clock, [seat], range(3, 6))
    words = [word for output in taken(seat) for word in output.words]
    assert [w.t_video_s for w in words] == pytest.approx([0.16, 0.32])
    for wrong in (dict(delay_steps=-1), dict(pad_bias=float("nan"))):
        with pytest.raises(ValueError):
            seat.configure(**wrong)


def test_in_real_time_a_word_is_said_when_it_comes():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=0)
    for k in range(3):
        seat.offer(k * TICK_S, frame())
        clock.s += 0.5
        run(pool)
    (word,) = [word for output in taken(seat) for word in output.words]
    assert (word.t_video_s, word.t_emit_s) == (pytest.approx(0.16), pytest.approx(0.32 + 0.5))


def test_leaving_may_drain_first():
    pool = make_pool()
    seats = [join(pool, delay_steps=0) for _ in range(2)]
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
    seats = [join(pool, delay_steps=0, live=False, on_end=ended.set) for _ in range(3)]
    for k in range(6):
        for seat in seats:
            seat.offer(k * TICK_S, frame())
    pool.stop(drain_s=60.0)
    assert [words_of(seat.outputs) for seat in seats] == [["red", "circle", "left"]] * 3
    assert ended.is_set()
    assert all(seat.ended for seat in seats)
    assert not pool.running
    with pytest.raises(PoolFull) as refused:
        join(pool, delay_steps=0)
    assert refused.value.reason == "stopping"
    assert pool.statistics().recompilations == 0


def test_a_stop_without_time_drops_what_waits_and_says_what_was_said():
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=0)
    play(pool, clock, [seat], range(2))
    seat.offer(2 * TICK_S, frame())
    pool.run_once()
    seat.offer(3 * TICK_S, frame())
    pool.stop()
    assert words_of(seat.outputs) == ["red", "circle"]
    assert seat.dropped_frames == 1


def test_a_device_that_fails_ends_every_seat_and_says_so(monkeypatch):
    read, reads = DispatchedStep.read, []

    def broken(step):
        reads.append(step)
        if len(reads) == 4:
            raise ArithmeticError("the device broke")
        return read(step)

    pool = make_pool(now=time.monotonic)
    monkeypatch.setattr(DispatchedStep, "read", broken)
    ends = [threading.Event() for _ in range(2)]
    seats = [join(pool, delay_steps=0, live=False, on_end=end.set) for end in ends]
    for k in range(4):
        seats[0].offer(k * TICK_S, frame())
    pool.start()
    assert all(end.wait(60.0) for end in ends)
    assert not pool.running
    with pytest.raises(StreamEnded):
        seats[1].offer(0.0, frame())
    with pytest.raises(PoolFull):
        join(pool, delay_steps=0)
    with pytest.raises(RuntimeError, match="loop had failed") as failed:
        pool.stop()
    assert str(failed.value.__cause__) == "the device broke"
    assert words_of(seats[0].outputs) == []


def test_the_counter_of_steps_may_end(monkeypatch):
    monkeypatch.setattr("mmduplex_jax.layers.rotary.MAX_STEPS", 7)
    clock = FakeClock()
    pool = make_pool(now=clock)
    seat = join(pool, delay_steps=0)
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
