"""Event tokens: where they stand, what they see, and that a stream has the same as a clip."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.bflow.event_model import EventConfig, EventReader, ReaderConfig
from mmduplex_jax.tokenizer.bflow import BFlow, Tokens
from tests import tiny

READER = ReaderConfig(width=32, queries=3, heads=2, head_width=8, hidden=16, window_steps=9)
EVENTS = EventConfig(4, READER)
TOKENIZER = tiny.tokenizer()


@functools.cache
def params():
    tokens = tokens_of(2, 6)
    return tiny.random_params(lambda key: EventReader(EVENTS).init(key, tokens, EVENTS.steps(6, Clock()))["params"])


def tokens_of(batch: int, number: int, seed: int = 0) -> Tokens:
    """Random tokens, one a step or so, some of them missing."""
    rng = np.random.default_rng(seed)
    step = np.sort(rng.integers(0, 2 * number, (batch, number)), axis=1).astype(np.int32)
    values = rng.normal(size=(batch, number, 32)).astype(np.float32)
    valid = rng.random((batch, number)) < 0.8
    zeros = jnp.zeros((batch, number), jnp.int32)
    return Tokens(
        jnp.asarray(values), jnp.asarray(valid), jnp.asarray(step), zeros, jnp.zeros((batch, number, 2)), zeros
    )


@jax.jit
def read(tokens: Tokens):
    return EventReader(EVENTS).apply({"params": params()}, tokens, np.array([7, 15, 23]))


def test_they_end_whole_intervals():
    assert EVENTS.ticks(12).tolist() == [3, 7, 11]
    assert EVENTS.ticks(11).tolist() == [3, 7]
    assert EVENTS.steps(11, Clock()).tolist() == [6, 14]
    assert EVENTS.ticks(3).tolist() == []


def test_each_sees_the_tokens_of_its_window_and_no_others():
    tokens = tokens_of(3, 24)
    seen = read(tokens)
    for place, step in enumerate((7, 15, 23)):
        inside = (tokens.step <= step) & (step - tokens.step < READER.window_steps) & tokens.valid
        assert inside.any(axis=1).sum() >= 2
        ruined = read(tokens._replace(values=jnp.where(inside[..., None], tokens.values, 9.0)))
        np.testing.assert_array_equal(seen[:, place], ruined[:, place])
        ruined = read(tokens._replace(values=jnp.where(inside[..., None], -tokens.values, tokens.values)))
        np.testing.assert_array_equal(jnp.abs(seen - ruined)[:, place].max(axis=-1) > 1e-3, inside.any(axis=1))


def test_when_something_was_seen_matters():
    tokens = tokens_of(2, 24)
    moved = tokens._replace(step=jnp.where(tokens.step == 14, 15, tokens.step))
    assert float(jnp.abs(read(tokens) - read(moved))[:, 1].max()) > 1e-4


def test_where_nothing_is_seen_nothing_is_read():
    tokens = tokens_of(2, 24)
    empty = read(tokens._replace(valid=jnp.zeros_like(tokens.valid)))
    np.testing.assert_array_equal(empty, jnp.broadcast_to(empty[:1, :1], empty.shape))
    none = jnp.zeros_like(tokens.valid)
    loss = lambda values: jnp.linalg.norm(read(tokens._replace(values=values, valid=none)), axis=-1).sum()
    assert np.isfinite(jax.jit(jax.grad(loss))(tokens.values)).all()


def test_a_stream_has_those_of_the_clip():
    """Over several wraps of the ring, with a stream that pauses; float32 rounding of the tokens and of the read-out."""
    ticks, clock = 36, TOKENIZER.clock
    frames = tiny.clips(2, ticks, busy=True)
    bflow, reader = BFlow(TOKENIZER), EventReader(EVENTS)
    weights = tiny.random_params(lambda key: bflow.init(key, frames[:, :4])["params"])
    tokens = tiny.jit(lambda f: bflow.apply({"params": weights}, f))(frames)
    offline = tiny.jit(lambda t: reader.apply({"params": params()}, t, EVENTS.steps(ticks, clock)))(tokens)

    @tiny.jit
    def step(bflow_state, reader_state, frame, now, active):
        kept, tick = bflow.apply({"params": weights}, bflow_state, frame, now, active, method="step")
        return kept, *reader.apply({"params": params()}, reader_state, tick, now, active, clock, method="step")

    states = tiny.jit(lambda: bflow.apply({"params": weights}, 2, method="initial_state"))()
    reads = tiny.jit(lambda: reader.apply({"params": params()}, 2, TOKENIZER, method="initial_state"))()
    assert int(tokens.valid.sum(axis=1).min()) > 2 * reads.step.shape[1]
    at = np.zeros(2, np.int32)
    live: list[list[np.ndarray]] = [[], []]
    for turn in range(2 * ticks):
        active = (at < ticks) & (np.array([0, 1]) != turn % 5)  # now and then one of them waits
        frame = frames[np.arange(2), np.minimum(at, ticks - 1)]
        states, reads, value, is_event = step(states, reads, frame, at * clock.video_stride, active)
        for row in np.flatnonzero(is_event):
            live[row].append(np.asarray(value[row]))
        at += active
    assert (at == ticks).all()
    np.testing.assert_allclose(np.array(live), offline, atol=2e-5)


@pytest.mark.parametrize(("change", "said"), [({"queries": 0}, "at least 1"), ({"head_width": 7}, "must be even")])
def test_what_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        ReaderConfig(**(vars(READER) | change))
    with pytest.raises(ValueError, match="interval_s must be at least a tick"):
        EventConfig(0, READER)
