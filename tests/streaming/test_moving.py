"""A stream that moves between pools says what one that stays says, to the bit; what is no stream of here is refused."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.moving import Rows, StreamState
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.programs import compiled
from mmduplex_jax.streaming.slot import WaitingFrame
from mmduplex_jax.streaming.statistics import compilations
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests import tiny
from tests.streaming.scripted_pool import FakeClock, join, taken


class Restless(LiveModel):
    """Untrained models repeat themselves; this one goes on from its choice, so that every step says something new."""

    def live_step(self, params, state, frame, active, *args, **kwargs):
        state, output = super().live_step(params, state, frame, active, *args, **kwargs)
        token = (output.token + 5 * output.step) % tiny.START
        return state._replace(token=jnp.where(active, token, state.token)), output._replace(token=token)


TICKS, MOVES = 24, 11
CONFIG = tiny.dual_stream(tied=False)
CLOCK = CONFIG.clock
# One token may be any part of a word, so that words are open between ticks.
TOKENIZER = TextTokenizer.word_level([f"w{i}" for i in range(tiny.PAD)])
SETTINGS = {"delay_steps": 2, "pad_bias": -1.0, "live": False}


_programs: dict[str, object] = {}


def compile_once(function, *args, facts, donate=()):
    """The pools here are alike, and so are their programs."""
    if function.__name__ not in _programs:
        _programs[function.__name__] = compiled(function, *args, donate=donate)
    return _programs[function.__name__]


@functools.cache
def pool(place: str, anew_at_cuts: bool = False) -> StreamPool:
    """A pool whose streams may move; its two rows are left between tests."""
    return StreamPool(
        Restless(CONFIG), tiny.init(CONFIG), TOKENIZER, CLOCK, CONFIG.tokenizer.frame_px, slots=2,
        policy=DeadlinePolicy(gather_s=0.0), tokens_per_s_max=CONFIG.tokenizer.cap, movable=True,
        anew_at_cuts=anew_at_cuts, compile=compile_once, now=FakeClock(),
    )  # fmt: skip


def run(pool: StreamPool) -> None:
    while pool.run_once():
        pass


def play(pool: StreamPool, handle, ticks) -> list[tuple]:
    """What the stream says to these ticks: words with their times, tokens and their places, and steps."""
    for tick in ticks:
        handle.offer(CLOCK.tick_time_s(tick), video()[tick])
        run(pool)
    return [(o.words, o.tokens.number, o.tokens.centre_px.tolist(), o.step, o.t_video_s) for o in taken(handle)]


@functools.cache
def video() -> np.ndarray:
    return tiny.clips(1, TICKS, busy=True)[0]


@functools.cache
def undisturbed() -> list[tuple]:
    handle = join(pool("here"), **SETTINGS)
    said = play(pool("here"), handle, range(TICKS))
    handle.leave()
    run(pool("here"))
    assert sum(len(words) for words, *_ in said) > TICKS / 2
    return said


def saved(pool: StreamPool, handle, *, leave: bool) -> StreamState:
    states: list[StreamState] = []
    handle.save(states.append, leave=leave)
    run(pool)
    (state,) = states
    return state


def test_a_stream_that_moves_says_what_one_that_stays_says():
    expected, here, there = undisturbed(), pool("here"), pool("there")
    before = compilations()
    neighbours = [join(here, **SETTINGS), join(there, **SETTINGS)]
    handle = join(here, **SETTINGS)
    said = play(here, handle, range(MOVES))
    state = saved(here, handle, leave=True)
    assert handle.ended
    assert not taken(handle)  # the word that is being said is said elsewhere
    again = join(there, begun=state, **SETTINGS)
    assert handle._slot.row != again._slot.row
    said += play(there, again, range(MOVES, TICKS))
    assert said == expected
    assert compilations() == before
    for one in (*neighbours, again):
        one.leave()
    run(here)
    run(there)


def test_a_stream_that_moves_at_a_cut_begins_anew_there():
    here, there = pool("here", anew_at_cuts=True), pool("there", anew_at_cuts=True)
    # (The last change comes too soon after the cut to be another one, also for whoever did not see that.)
    scenes = [video()[0], *np.random.default_rng(0).integers(0, 256, (2, *video()[0].shape), np.uint8)]
    said = []
    for moves in (0, 1, 2):  # before the cut, and then within the new scene
        where, handle, outputs = here, join(here, **SETTINGS), []
        for tick, scene in enumerate(scenes):
            if moves and tick == moves:
                where, handle = there, join(there, begun=saved(here, handle, leave=True), **SETTINGS)
            handle.offer(CLOCK.tick_time_s(tick), scene)
            run(where)
            outputs += taken(handle)
        said.append([(output.step, output.words, output.scene_s) for output in outputs])
        handle.leave()
        run(where)
    assert said[0] == said[1] == said[2]
    steps, words, scenes_s = zip(*said[0])
    assert steps.count(0) == 2
    assert scenes_s.index(CLOCK.tick_time_s(1)) == len(steps) - 4
    assert {word.scene_s for some in words[-4:] for word in some} == {CLOCK.tick_time_s(1)}


def test_what_was_kept_of_a_stream_goes_on_after_the_stream_itself_is_lost():
    expected, here, there = undisturbed(), pool("here"), pool("there")
    handle = join(here, **SETTINGS)
    play(here, handle, range(MOVES))
    state = saved(here, handle, leave=False)
    # The stream that was kept goes on as if nobody had looked.
    assert play(here, handle, range(MOVES, TICKS)) == expected[MOVES * CLOCK.video_stride :]
    again = join(there, begun=state, **SETTINGS)
    assert play(there, again, range(MOVES, TICKS)) == expected[MOVES * CLOCK.video_stride :]
    for one in (handle, again):
        one.leave()
    run(here)
    run(there)


def test_a_row_that_was_moved_to_is_as_new_when_it_is_left():
    here, there = pool("here"), pool("there")
    handle = join(here, **SETTINGS)
    play(here, handle, range(3))
    state = saved(here, handle, leave=True)
    for _ in range(2):  # left at once, and after having begun anew
        again = join(there, begun=state, **SETTINGS)
        again.reset()
        again.leave()
        run(there)
    fresh = there._batch._init(there._batch._params)
    for ours, new in zip(jax.tree.leaves(there._batch.state), jax.tree.leaves(fresh)):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(new))


def test_frames_that_wait_are_looked_at_before_a_stream_moves_and_a_reset_is_carried_out():
    here = pool("here")
    handle = join(here, **SETTINGS)
    for tick in range(3):
        handle.offer(CLOCK.tick_time_s(tick), video()[tick])
    state = saved(here, handle, leave=False)
    assert (state.steps, state.last_t_s) == (3 * CLOCK.video_stride, CLOCK.tick_time_s(2))
    handle.reset()
    state = saved(here, handle, leave=True)
    assert state.steps == 0
    assert not state.word.token_ids
    assert handle.ended


def test_rounds_wait_for_a_stream_that_was_put_in_once_it_has_shown_something_and_no_sooner():
    here, there = pool("here"), pool("there")
    handle = join(here, **SETTINGS)
    play(here, handle, range(3))
    slot = join(there, begun=saved(here, handle, leave=True), **SETTINGS)._slot
    now_s, gather_s = there._now(), 0.02
    for live in (True, False):
        slot.live = live
        assert not slot.expected(now_s, gather_s)
    slot.live = True
    slot.add(WaitingFrame(CLOCK.tick_time_s(3), video()[3], now_s))
    # At once, however late it is on the other pool's clock.
    assert slot.ready_s() == now_s
    slot.take(now_s, 1)
    assert slot.expected(now_s + CLOCK.tick_s, gather_s)
    assert not slot.expected(now_s + CLOCK.tick_s / 2, gather_s)
    slot.leaving = True
    run(there)
    assert there.statistics().sessions == 0


def test_a_state_with_an_array_of_which_no_row_can_be_taken_is_said():
    init = lambda params, batch: {"seen": jnp.zeros((batch, 2)), "shared": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"the state's \['shared'\] is \[3\] for any number of rows"):
        Rows(SimpleNamespace(init_state=init), {}, init({}, 4), compile_once, facts=())


def test_a_stream_of_another_model_is_refused():
    here = pool("here")
    handle = join(here, **SETTINGS)
    state = saved(here, handle, leave=True)
    with pytest.raises(ValueError, match="another model"):
        here.join(begun=state._replace(arrays=state.arrays[1:]), on_output=print, **SETTINGS)
    larger = [np.concatenate([array, array]) for array in state.arrays]
    with pytest.raises(ValueError, match="is of another model: its .* is .* here"):
        here.join(begun=state._replace(arrays=larger), on_output=print, **SETTINGS)
    with pytest.raises(ValueError, match="outside this vocabulary"):
        here.join(begun=state._replace(word=state.word._replace(token_ids=(10**6,))), on_output=print, **SETTINGS)
    assert here.statistics().sessions == 0
