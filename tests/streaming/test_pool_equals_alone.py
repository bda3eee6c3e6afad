"""A stream says in a busy pool what it says alone, to the token, and leaves nothing behind."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming import pool as pool_module
from mmduplex_jax.streaming.batch import UNCAPPED, StreamBatch
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import Session, StreamPool
from mmduplex_jax.streaming.programs import compiled
from mmduplex_jax.streaming.statistics import compilations
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests import tiny
from tests.streaming.scripted_pool import FakeClock, join, taken

# It must hold for what users run.
pytestmark = pytest.mark.optimized


class Restless(LiveModel):
    """Untrained models repeat themselves; this one goes on from its choice, so that every step says something new."""

    def live_step(self, params, state, frame, active, *args, **kwargs):
        state, output = super().live_step(params, state, frame, active, *args, **kwargs)
        token = (output.token + 5 * output.step) % tiny.START
        return state._replace(token=jnp.where(active, token, state.token)), output._replace(token=token)


SLOTS, VIDEOS, TICKS = 3, 4, 24
CONFIG = tiny.dual_stream(tied=False)
MODEL = Restless(CONFIG)
CLOCK = CONFIG.clock
TOKENIZER = TextTokenizer.word_level([f"w{i}" for i in range(tiny.PAD)])
SETTINGS = [(0, -1.0), (2, 0.0), (4, -2.0), (6, -0.5)]  # delay and bias of each video


@functools.cache
def params():
    return tiny.init(CONFIG)


@functools.cache
def videos():
    return tiny.clips(VIDEOS, TICKS, busy=True)


@functools.cache
def rows(count):
    return StreamBatch(MODEL, params(), CONFIG.tokenizer.frame_px, count=count)


def rows_that_begin(live, given_params, frame_px, *, count, voice, always_heard, compile):
    """As `StreamBatch(...)`, over programs that were compiled once for all pools of so many rows."""
    assert (live, frame_size(frame_px)) == (MODEL, CONFIG.tokenizer.frame_px)
    assert given_params is params()
    assert (voice, compile) == (None, compiled)
    made = copy.copy(rows(count))
    made.configure(np.zeros(count), np.zeros(count), np.full(count, UNCAPPED))
    made.restart()
    return made


@pytest.fixture(autouse=True, scope="module")
def pools_are_compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "StreamBatch", rows_that_begin)
        yield


@functools.cache
def alone():
    """What each video's stream says in a session of its own: the outputs' words and tokens, tick by tick."""
    said = []
    for video, (delay_steps, pad_bias) in zip(videos(), SETTINGS):
        session = Session(MODEL, params(), TOKENIZER, CLOCK, video.shape[1], delay_steps=delay_steps, pad_bias=pad_bias)
        ticks = [session.tick(CLOCK.tick_time_s(k), frame) for k, frame in enumerate(video)]
        said.append(([(r.words, r.tokens.number, r.tokens.centre_px.tolist()) for r in ticks], session.finish()))
    return said


@functools.cache
def shared_pool():
    """One pool for all examples: what one of them left behind would show in the next."""
    return StreamPool(
        MODEL, params(), TOKENIZER, CLOCK, CONFIG.tokenizer.frame_px, slots=SLOTS,
        policy=DeadlinePolicy(gather_s=0.0, lag_max_s=1e6), tokens_per_s_max=CONFIG.tokenizer.cap, now=FakeClock(),
    )  # fmt: skip


class Viewer:
    """A seat, the video that it shows, and what it has said since the video began."""

    def __init__(self, pool, video):
        self.video, self.at, self.paused, self.said = video, 0, False, []
        delay_steps, pad_bias = SETTINGS[video]
        self.seat = join(pool, delay_steps=delay_steps, pad_bias=pad_bias, live=False)

    def offer(self):
        if not self.paused and self.at < TICKS:
            self.seat.offer(CLOCK.tick_time_s(self.at), videos()[self.video][self.at])
            self.at += 1
        elif self.paused:
            self.seat.offer(1e6, 255 - videos()[self.video][0])  # ignored

    def check(self, outputs):
        """Compares what came with the video alone."""
        ticks, _ = alone()[self.video]
        self.said += outputs
        steps = [output for output in self.said if output.lag_s >= 0]
        by_tick = [steps[i : i + 2] for i in range(0, len(steps) - 1, 2)]
        for number, (two, (words, tokens, places)) in enumerate(zip(by_tick, ticks)):
            assert [output.step for output in two] == [2 * number, 2 * number + 1]
            got = [word for output in two for word in output.words]
            assert [(w.text, w.t_video_s) for w in got] == [(w.text, pytest.approx(w.t_video_s)) for w in words]
            assert two[0].tokens.number == tokens
            assert two[0].tokens.centre_px.tolist() == places

    def end(self, outputs):
        """After its last output: no word was lost or doubled, up to where it came."""
        ticks, last = alone()[self.video]
        self.said += outputs
        got = [word.text for output in self.said for word in output.words]
        want = [word.text for words, *_ in ticks[: self.at] for word in words]
        if self.at == TICKS:
            want += [word.text for word in last]
            assert got == want
        else:
            assert got[: len(want)] == want
            assert len(got) - len(want) in (0, 1)  # the word that was open


actions = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, VIDEOS - 1)),
        st.tuples(st.sampled_from(["leave", "pause", "resume", "reset"]), st.integers(0, SLOTS - 1)),
        st.tuples(st.just("turn"), st.integers(0, 3)),
        st.tuples(st.just("watch"), st.integers(1, 6)),
    ),
    min_size=4,
    max_size=40,
)


@settings(max_examples=settings().max_examples // 4)  # an example is a long one
@given(actions)
def test_whoever_comes_waits_goes_or_comes_back_beside_it(script):
    pool = shared_pool()
    viewers: list[Viewer] = []

    def turn(times=None):
        while pool.run_once() and (times is None or (times := times - 1) > 0):
            pass

    def finish(viewer):
        viewers.remove(viewer)
        viewer.seat.leave(drain=True)
        turn()
        assert viewer.seat.ended
        viewer.end(taken(viewer.seat))

    for action, number in [*script, ("watch", 4)]:
        viewer = viewers[number % len(viewers)] if viewers else None
        if action == "join" and len(viewers) < SLOTS:
            viewers.append(Viewer(pool, number))
        elif action == "turn" and number:
            turn(number)  # rounds stay on their way while the next action comes
        elif action == "watch":
            for _ in range(number):
                for each in viewers:
                    each.offer()
                turn()
                for each in viewers:
                    each.check(taken(each.seat))
        elif viewer is None:
            continue
        elif action == "leave":
            finish(viewer)
        elif action == "reset":
            viewer.offer()
            pool.run_once()
            viewer.check(taken(viewer.seat))
            # A connection that comes back on the same seat, with another clip's beginning.
            viewer.seat.reset()
            turn()
            taken(viewer.seat)
            viewer.at, viewer.said = 0, []
        elif action == "pause":
            viewer.paused = True
            viewer.seat.pause()
        elif action == "resume":
            viewer.paused = False
            viewer.seat.resume()
    for viewer in list(viewers):
        finish(viewer)
    assert pool.statistics().recompilations == 0
    assert pool.statistics().sessions == 0


def test_the_streams_alone_are_worth_comparing():
    """They say something, spend tokens, and differ."""
    texts = [[word.text for words, *_ in ticks for word in words] for ticks, _ in alone()]
    assert all(len(words) >= 20 and len(set(words)) >= 10 for words in texts)
    assert len({tuple(words) for words in texts}) == VIDEOS
    assert all(sum(number for _, number, _ in ticks) > TICKS for ticks, _ in alone())


def bytes_of(state, row, of=SLOTS):
    """Every leaf of a row as bytes; the batch is the axis of that size."""
    return [np.take(np.asarray(a), row, axis=a.shape.index(of)).tobytes() for a in jax.tree.leaves(state)]


def busy_steps(batch, steps, active=None):
    """Steps of all rows over the videos, each with its settings; returns their outputs' logits `[S, B, V]`."""
    delays, biases = (np.array([SETTINGS[i % VIDEOS][j] for i in range(batch.count)]) for j in (0, 1))
    batch.configure(delays, biases, np.full(batch.count, UNCAPPED))
    logits = []
    for step in range(steps):
        frames = np.stack([videos()[i % VIDEOS][step // 2 % TICKS] for i in range(batch.count)])
        mask = np.ones(batch.count, bool) if active is None else active
        logits.append(np.asarray(batch.step(batch.send(frames), mask).output.logits))
    return np.stack(logits)


def test_a_reset_leaves_nothing_of_what_a_row_was():
    batch = rows(SLOTS)
    batch.restart()
    fresh = [bytes_of(batch.state, row) for row in range(SLOTS)]
    busy_steps(batch, 30)
    before = [bytes_of(batch.state, row) for row in range(SLOTS)]
    changed = sum(a != b for a, b in zip(before[1], fresh[1]))
    assert changed > len(fresh[1]) / 2
    batch.reset(np.array([False, True, False]))
    after = [bytes_of(batch.state, row) for row in range(SLOTS)]
    assert after[1] == fresh[1]
    assert (after[0], after[2]) == (before[0], before[2])


def test_a_row_that_waits_does_not_change_by_a_bit():
    batch = rows(SLOTS)
    batch.restart()
    busy_steps(batch, 7)
    before = [bytes_of(batch.state, row) for row in range(SLOTS)]
    busy_steps(batch, 21, active=np.array([True, False, True]))
    after = [bytes_of(batch.state, row) for row in range(SLOTS)]
    assert after[1] == before[1]
    assert after[0] != before[0]


def test_logits_in_a_batch_are_those_alone():
    batch, single = rows(SLOTS), rows(1)
    batch.restart()
    together = busy_steps(batch, 40)
    single.restart()
    # Row 0 of a single batch has video 0 and its settings.
    np.testing.assert_allclose(together[:, :1], busy_steps(single, 40), atol=1e-5)


def test_nothing_is_compiled_after_construction():
    batch = rows(SLOTS)
    before = compilations()
    batch.restart()
    busy_steps(batch, 4)
    batch.reset(np.array([True, False, True]))
    jax.block_until_ready(batch.state)
    assert compilations() == before
    jax.jit(lambda x: x * 3 + 1)(np.ones(17))
    assert compilations() > before  # the counter counts
