"""Streams of a pool that ask to be heard: a piece a step, and silence, counted, where the machine is too slow."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.models.audio_stream import Spoken
from mmduplex_jax.models.depth import ZERO
from mmduplex_jax.streaming.batch import DispatchedStep
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.pool import Session, StreamPool
from tests.streaming.scripted_pool import SAID, TICK_S, FakeClock, frame, join, make_pool, play, run, taken, words_of
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script
from tests.streaming.tiny_voice import decoded, voice

STEPS, LATE = 60, 2
CODES = np.random.default_rng(0).integers(0, 8, (STEPS, 3)).astype(np.int32)
CODES[:LATE] = ZERO  # the first sound comes some steps after the text


class SpeakingScript(ScriptedLive):
    """Says a script, and at each step the codes of `CODES`."""

    def live_step(self, params, state, *args, speaking=None, **kwargs):
        after, output = super().live_step(params, state, *args, **kwargs)
        if speaking is not None:
            codes = jnp.where(speaking[:, None], jnp.asarray(CODES)[jnp.minimum(state.step, STEPS - 1)], ZERO)
            output = output._replace(spoken=Spoken(codes, codes, jnp.zeros((*codes.shape, 8))))
        return after, output


LIVE = SpeakingScript(script(SAID, 400))


def make_speaking_pool(*, anew_at_cuts: bool = False, **policy) -> StreamPool:
    policy = DeadlinePolicy(gather_s=0.0, **policy)
    return StreamPool(
        LIVE, {}, TOKENIZER, CLOCK, FRAME_PX, slots=2, policy=policy, tokens_per_s_max=8, anew_at_cuts=anew_at_cuts,
        now=FakeClock(), voice=voice(),
    )  # fmt: skip


def pieces_of(outputs):
    return [piece for output in outputs for piece in output.sound]


def test_who_speaks_has_a_piece_a_step_and_who_does_not_has_words_alone():
    pool = make_speaking_pool()
    heard, read = join(pool, delay_steps=0, speaking=True), join(pool, delay_steps=0)
    play(pool, pool._now, [heard, read], range(6))
    outputs, silent = taken(heard), taken(read)
    pieces = pieces_of(outputs)
    assert [piece.step for piece in pieces] == list(range(12))
    assert [piece.t_s for piece in pieces] == pytest.approx([output.t_video_s + CLOCK.step_s for output in outputs])
    samples = np.stack([piece.samples for piece in pieces])
    np.testing.assert_allclose(samples[LATE:], decoded(CODES[LATE:12]), atol=1e-5)
    assert not samples[:LATE].any()
    assert pieces_of(silent) == []
    assert words_of(silent) == words_of(outputs) == ["red", "circle", "left"]
    statistics = pool.statistics()
    assert (statistics.speaking, statistics.unheard) == (1, 0)
    assert (statistics.counts.sound_steps, statistics.counts.sound_steps_left_out) == (12, 0)

    # It is muted, and heard again: pieces are those of the steps in which it speaks.
    heard.configure(speaking=False)
    play(pool, pool._now, [heard], range(6, 8))
    heard.configure(speaking=True)
    play(pool, pool._now, [heard], range(8, 10))
    assert [piece.step for piece in pieces_of(taken(heard))] == [16, 17, 18, 19]
    assert pool.statistics().counts.sound_steps == 16

    # Another stream in the same slot begins with the first codes.
    heard.reset()
    play(pool, pool._now, [heard], range(6))
    again = np.stack([piece.samples for piece in pieces_of(taken(heard))])
    np.testing.assert_array_equal(again, samples)
    assert pool.statistics().recompilations == 0
    pool.stop()


def test_at_a_cut_the_sound_before_fades_into_that_of_the_stream_that_begins():
    pool = make_speaking_pool(anew_at_cuts=True)
    heard = join(pool, delay_steps=0, speaking=True)
    other = np.random.default_rng(0).integers(0, 256, frame().shape, np.uint8)
    for tick in range(8):
        heard.offer(tick * TICK_S, frame() if tick < 4 else other)
        run(pool)
        pool._now.s += TICK_S
    pieces = pieces_of(taken(heard))
    assert [piece.step for piece in pieces] == [*range(8), *range(8)]
    before, after = pieces[7].samples, pieces[8].samples
    # It begins with silence, into which what was heard fades.
    assert 0 < abs(after[0]) < abs(before[-1])
    assert not after[-1]
    goes_on = np.stack([piece.samples for piece in pieces[8 + LATE + 1 :]])
    np.testing.assert_allclose(goes_on, decoded(CODES[LATE:8])[1:], atol=1e-5)
    pool.stop()


def test_a_machine_that_is_too_slow_leaves_sound_out_and_not_a_word(monkeypatch):
    pool = make_speaking_pool(ladder=(Level(), Level(sound=False)), climb_after_s=0.0, descend_after_s=0.0)
    pool._batch.sound_ratio = 2.0  # (measured by a clock that this one does not know)
    slow_s = 0.0
    read = DispatchedStep.read

    def slow(step):
        pool._now.s += slow_s
        return read(step)

    monkeypatch.setattr(DispatchedStep, "read", slow)
    seat = join(pool, delay_steps=0, speaking=True, live=False)
    outputs = []
    for slow_s, ticks in ((0.0, range(2)), (0.5, range(2, 8)), (0.0, range(8, 28))):
        play(pool, pool._now, [seat], ticks)
        outputs += taken(seat)
        rung = pool.statistics().rung
        assert rung == (slow_s > 0)
        assert pool.statistics().unheard == rung
    pieces = pieces_of(outputs)
    assert [piece.step for piece in pieces] == list(range(56))  # silence is sound, too
    silent = [not piece.samples[1:].any() for piece in pieces]  # (its first sample is a fade's)
    counts = pool.statistics().counts
    assert sum(silent) == LATE + counts.sound_steps_left_out
    assert counts.sound_steps_left_out >= 8
    assert counts.sound_steps == 56 - counts.sound_steps_left_out
    assert not any(silent[-8:])
    assert words_of(outputs) == ["red", "circle", "left"]
    pool.stop()


def test_a_session_is_heard_where_it_has_a_voice():
    session = Session(LIVE, {}, TOKENIZER, CLOCK, FRAME_PX, delay_steps=0, voice=voice())
    for _ in range(2):
        pieces = [piece for tick in range(4) for piece in session.tick(CLOCK.tick_time_s(tick), frame()).sound]
        assert [piece.step for piece in pieces] == list(range(8))
        np.testing.assert_allclose(
            np.stack([piece.samples for piece in pieces[LATE:]]), decoded(CODES[LATE:8]), atol=1e-5
        )
        session.finish()


def test_nobody_is_heard_in_a_pool_without_a_voice():
    pool = make_pool()
    with pytest.raises(ValueError, match="this pool has no voice"):
        join(pool, delay_steps=0, speaking=True)
    seat = join(pool, delay_steps=0)
    with pytest.raises(ValueError, match="this pool has no voice"):
        seat.configure(speaking=True)
    seat.offer(0.0, frame())
    run(pool)
    assert pieces_of(taken(seat)) == []
