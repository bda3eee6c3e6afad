"""The model as a stream equals the model over a clip: over many wraps of its rings, with rows that come, wait and
start anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.transformer import unstack_layers
from mmduplex_jax.models.dual_stream import shifted
from mmduplex_jax.models.fusion import FUSIONS
from tests import tiny

# Clips are of one shape wherever they can be: what takes long here is to compile another one.
BATCH, TICKS, WRAPS = 4, 125, 10

# It must hold for what users run: an optimiser may round a stream and a clip differently.
pytestmark = pytest.mark.optimized


def offline(config, params, frames, slots, delay):
    return np.asarray(tiny.offline(config)(params, frames, slots, delay))


def words(rng, steps):
    return rng.integers(0, tiny.VOCAB - 1, (BATCH, steps)).astype(np.int32)


def cursors(state):
    """int `[rings, B]`: where each ring of a stream's state is written next."""
    is_ring = lambda node: isinstance(node, KVCache)
    nodes = jax.tree.leaves(state, is_leaf=is_ring)
    return np.array([node.cursor for node in nodes if is_ring(node)])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_are_equal_with_rows_that_join_pause_and_reset(fusion):
    config = tiny.dual_stream(fusion)
    params = tiny.init(config)
    step = tiny.live_step(config)
    rng = np.random.default_rng(1)
    frames, slots = tiny.clips(BATCH, TICKS, busy=True), words(rng, 2 * TICKS)
    delay = np.array([0, 2, 4, 6], np.int32)
    expected = offline(config, params, frames, np.asarray(shifted(slots, tiny.START)), delay)

    state = tiny.init_state(config)(params, BATCH)
    at = np.zeros(BATCH, int)
    joined = np.array([0, 7, 20, 3])
    resets = {40: 2, 61: 0}  # at this call, this row starts anew
    wraps = np.zeros((len(cursors(state)), BATCH), int)
    worst, compared, call = 0.0, 0, 0
    while at.min() < 2 * TICKS:
        if call in resets:
            row = resets[call]
            state = tiny.reset_row(config)(params, state, row)
            at[row] = 0
            wraps[:, row] = 0
        active = (call >= joined) & (rng.random(BATCH) < 0.8) & (at < 2 * TICKS)
        now = np.minimum(at, 2 * TICKS - 1)
        # Rows that wait are shown another's picture: it must not matter.
        picture = np.where(active[:, None, None, None], frames[np.arange(BATCH), now // 2], frames[::-1, 0])
        before = cursors(state)
        state, out = step(params, state, picture, active, delay, jnp.zeros(BATCH), forced=slots[np.arange(BATCH), now])
        wraps += cursors(state) < before
        for row in np.flatnonzero(active):
            assert int(out.step[row]) == at[row]
            worst = max(worst, float(np.abs(np.asarray(out.logits[row]) - expected[row, at[row]]).max()))
            compared += 1
        at += active
        call += 1
    assert compared > BATCH * 2 * TICKS
    assert worst <= 1e-5
    used = wraps[wraps.any(axis=1)]
    # The tokenizer's and the text's; fusions with a stream of video have its own and what is projected of it.
    assert len(used) == (2 if fusion == "interleave" else 4)
    assert used.min() >= WRAPS, wraps


# That each baseline's tokens are the same is tested with the tokenizer; what the model makes of them, with one.
@pytest.mark.parametrize(
    "kind",
    ["per_frame", pytest.param("uniform", marks=pytest.mark.slow), pytest.param("dense", marks=pytest.mark.slow)],
)
def test_logits_are_equal_with_the_baselines(kind):
    config = tiny.dual_stream("cross", kind)
    params = tiny.init(config)
    rng = np.random.default_rng(2)
    frames, slots, delay = tiny.clips(BATCH, 40), words(rng, 80), np.full(BATCH, 3, np.int32)
    expected = offline(config, params, frames, np.asarray(shifted(slots, tiny.START)), delay)
    state, step = tiny.init_state(config)(params, BATCH), tiny.live_step(config)
    active = np.ones(BATCH, bool)
    for s in range(80):
        state, out = step(params, state, frames[:, s // 2], active, delay, jnp.zeros(BATCH), forced=slots[:, s])
        np.testing.assert_allclose(out.logits, expected[:, s], atol=1e-5)


def test_a_models_own_bias_is_added_to_a_sessions():
    config = dataclasses.replace(tiny.dual_stream("cross", "per_frame"), pad_bias=1000.0)
    params, frame, delay = tiny.init(config), tiny.clips(BATCH, 1)[:, 0], np.full(BATCH, 3, np.int32)
    state, step = tiny.init_state(config)(params, BATCH), tiny.live_step(config)
    quiet, talkative = (
        np.asarray(step(params, state, frame, np.ones(BATCH, bool), delay, jnp.full(BATCH, asked))[1].token)
        for asked in (0.0, -2000.0)
    )
    assert (quiet == tiny.PAD).all()
    assert (talkative != tiny.PAD).all()


def test_every_delay_is_told_apart():
    config = tiny.dual_stream()
    params = tiny.init(config)
    frames = np.repeat(tiny.clips(1, TICKS), BATCH, axis=0)
    given = np.asarray(shifted(np.full((BATCH, 2 * TICKS), tiny.PAD, np.int32), tiny.START))
    delays = np.minimum(np.arange(2 * BATCH, dtype=np.int32), config.delay_max)
    assert set(delays.tolist()) == set(range(config.delay_max + 1))
    logits = np.concatenate([offline(config, params, frames, given, some) for some in delays.reshape(2, BATCH)])
    for one, two in zip(logits[: config.delay_max], logits[1:], strict=False):
        assert np.abs(one - two).max() > 1e-3


def test_the_first_step_sees_the_first_frame_and_the_start_mark():
    config = tiny.dual_stream()
    params = tiny.init(config)
    frames, slots = tiny.clips(BATCH, TICKS), np.zeros((BATCH, 2 * TICKS), np.int32)
    given, delay = np.asarray(shifted(slots, tiny.START)), np.zeros(BATCH, np.int32)
    logits = offline(config, params, frames, given, delay)
    fresh = tiny.init_state(config)(params, BATCH)
    settings = np.ones(BATCH, bool), delay, jnp.zeros(BATCH)
    first = tiny.live_step(config)(params, fresh, frames[:, 0], *settings, forced=slots[:, 0])[1]
    assert first.step.tolist() == [0] * BATCH
    assert first.report.n_tokens.min() > 0
    np.testing.assert_allclose(first.logits, logits[:, 0], atol=1e-5)

    def change(tick, step):
        """How much each row's logits of a step change with a tick's picture `[B]`, and those of the steps before."""
        other = frames.copy()
        other[:, tick] = 255 - other[:, tick]
        changed = offline(config, params, other, given, delay)
        return np.abs(changed[:, step] - logits[:, step]).max(axis=-1), changed[:, :step]

    seen, _ = change(0, 0)
    assert seen.min() > 1e-3  # step 0 sees tick 0 …
    seen, before = change(1, 2)
    np.testing.assert_array_equal(before, logits[:, :2])  # … and tick 1 is seen from step 2 on
    assert seen.min() > 1e-3


@pytest.mark.parametrize("fusion", FUSIONS)
def test_later_words_and_frames_change_nothing_earlier(fusion):
    config = tiny.dual_stream(fusion)
    params = tiny.init(config)
    rng = np.random.default_rng(3)
    frames, slots, delay = tiny.clips(BATCH, TICKS), words(rng, 2 * TICKS), np.full(BATCH, 2, np.int32)
    base = offline(config, params, frames, slots, delay)
    later = slots.copy()
    later[:, 21:] = (later[:, 21:] + 1) % tiny.VOCAB
    np.testing.assert_allclose(offline(config, params, frames, later, delay)[:, :21], base[:, :21], atol=1e-6)
    pictures = frames.copy()
    pictures[:, 11:] = 255 - pictures[:, 11:]
    changed = offline(config, params, pictures, slots, delay)
    np.testing.assert_allclose(changed[:, :22], base[:, :22], atol=1e-6)
    assert np.abs(changed[:, 22:] - base[:, 22:]).max() > 1e-3


def test_a_scanned_stack_equals_an_unrolled_one():
    unrolled = tiny.dual_stream()
    scan = lambda stack: dataclasses.replace(stack, scan=True, remat=True)
    scanned = dataclasses.replace(unrolled, text=scan(unrolled.text), video=scan(unrolled.video))
    params = tiny.init(scanned)
    flat = params | {name: unstack_layers(params[name], getattr(unrolled, name)) for name in ("text", "video")}
    rng = np.random.default_rng(4)
    frames, slots, delay = tiny.clips(BATCH, TICKS), words(rng, 2 * TICKS), np.full(BATCH, 2, np.int32)
    np.testing.assert_allclose(
        offline(scanned, params, frames, slots, delay), offline(unrolled, flat, frames, slots, delay), atol=1e-5
    )
    state = tiny.init_state(scanned)(params, BATCH)
    expected = offline(scanned, params, frames, np.asarray(shifted(slots, tiny.START)), delay)
    step = tiny.live_step(scanned)
    for s in range(16):
        state, out = step(
            params, state, frames[:, s // 2], np.ones(BATCH, bool), delay, jnp.zeros(BATCH), forced=slots[:, s]
        )
        np.testing.assert_allclose(out.logits, expected[:, s], atol=1e-5)
    again = state
    for row in range(BATCH):
        again = tiny.reset_row(scanned)(params, again, row)
    fresh = tiny.init_state(scanned)(params, BATCH)
    jax.tree.map(np.testing.assert_array_equal, again, fresh)
