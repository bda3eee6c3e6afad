"""After a day, after weeks, a stream computes what it would have at its beginning with the same window.

And it does so in as much memory.
"""

import gc
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.transformer import phases
from mmduplex_jax.models.fusion.protocol import VideoStreamState
from mmduplex_jax.streaming.statistics import PoolCounts
from tests import tiny
from tests.streaming.scripted_pool import join, taken
from tests.streaming.test_pool_equals_alone import CLOCK, shared_pool, videos

BEFORE, AFTER = 36, 60
HOUR = round(3600 * CLOCK.step_hz)
FORTNIGHT = 1 << 24  # 15 days: where a counter of 24 bits would wrap


def later(config, state, steps):
    """The state of a stream that has run `steps` longer and has the same in its windows.

    What it remembers is later by so much, and keys are turned to their new positions; sinks stay where they were.
    """

    def turned(stack, keys, sinks):
        """Keys `[B, G, R, E]`."""
        keys = keys.transpose(0, 2, 1, 3)
        at = jnp.where(jnp.arange(keys.shape[1]) >= sinks, steps, 0)
        return rotary.rotate(keys, phases(stack, jnp.broadcast_to(at, keys.shape[:2]))).transpose(0, 2, 1, 3)

    def moved(cache, stack, sinks=0):
        old, is_pair = np.asarray(cache.step), lambda node: isinstance(node, tuple) and hasattr(node[0], "shape")
        in_ring = (old >= 0) & (np.arange(old.shape[1]) >= sinks)
        layers = jax.tree.map(lambda pair: (turned(stack, pair[0], sinks), pair[1]), cache.layers, is_leaf=is_pair)
        return cache.replace(step=jnp.asarray(np.where(in_ring, old + steps, old)), layers=layers)

    t, sinks = state.tokenizer, config.text.num_sinks
    if config.fusion == "interleave":
        fusion = moved(state.fusion, config.text, sinks)
    else:
        fusion = VideoStreamState(
            video=moved(state.fusion.video, config.video),
            projected=moved(state.fusion.projected, config.text),
            text=moved(state.fusion.text, config.text, sinks),
        )
    return state._replace(
        tokenizer=t._replace(cache=moved(t.cache, config.tokenizer.event)), fusion=fusion, step=state.step + steps
    )


def watch(config, params, state, first, number):
    """Runs a stream on, with words put into its mouth; what it would say, spent and thought."""
    step, one = tiny.live_step(config), np.ones(1, bool)
    frames, said = videos()[:1], []
    words = np.random.default_rng(0).integers(0, tiny.START, (first + number, 1)).astype(np.int32)
    for i in range(first, first + number):
        picture = frames[:, i // 2 % frames.shape[1]]
        settings = np.full(1, 2, np.int32), np.zeros(1, np.float32)
        state, out = step(params, state, picture, one, *settings, forced=words[i])
        said.append((int(out.logits.argmax()), int(out.report.n_tokens[0]), np.asarray(out.logits[0])))
    return state, said


@pytest.mark.parametrize(
    "fusion", ["cross", pytest.param("sum", marks=pytest.mark.slow), pytest.param("interleave", marks=pytest.mark.slow)]
)
def test_a_stream_of_days_equals_a_fresh_one_with_the_same_window(fusion):
    config = tiny.dual_stream(fusion, tied=False)
    params = tiny.init(config)
    begun, _ = watch(config, params, tiny.init_state(config)(params, 1), 0, BEFORE)
    _, fresh = watch(config, params, begun, BEFORE, AFTER)
    assert len({token for token, *_ in fresh}) >= 3
    assert sum(spent for _, spent, _ in fresh) > AFTER / 2
    windows = max(config.text.window_steps, config.video.window_steps, config.tokenizer.event.window_steps)
    assert 2 * windows < BEFORE  # every ring has wrapped
    assert 4 * windows < AFTER
    # An hour over a day; across 15 days; to the last step that there is.
    for steps in (0, 100_000, 24 * HOUR, FORTNIGHT - BEFORE - 20, rotary.MAX_STEPS - BEFORE - AFTER):
        assert steps % CLOCK.video_stride == 0
        state, said = watch(config, params, later(config, begun, steps), BEFORE, AFTER)
        assert [s[:2] for s in said] == [s[:2] for s in fresh], steps
        # 1e-5: turned keys and phases each round at 1e-7, and logits are of size 1.
        np.testing.assert_allclose([s[2] for s in said], [s[2] for s in fresh], atol=1e-5, err_msg=str(steps))
    assert 24 * HOUR == 1_080_000


def test_a_position_that_is_off_would_be_seen():
    """The comparison above is worth something: one step off in what the stream remembers changes its logits."""
    config = tiny.dual_stream(tied=False)
    params = tiny.init(config)
    begun, _ = watch(config, params, tiny.init_state(config)(params, 1), 0, BEFORE)
    moved = later(config, begun, 100_000)
    # Keys as they were turned at the beginning.
    unturned = moved.fusion.projected.replace(layers=begun.fusion.projected.layers)
    off = moved._replace(fusion=moved.fusion._replace(projected=unturned))
    logits = [
        np.stack([s[2] for s in watch(config, params, state, BEFORE, 4)[1]]) for state in (moved, off)
    ]  # fmt: skip
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow():
    """Streams come, talk, begin anew and go, for 20,000 ticks."""
    pool, resident = shared_pool(), []
    seats, times = {}, {}
    for k in range(20_000):
        who = k % 3
        if k % 50 == who and len(seats) < 3:
            seats[k] = join(pool, delay_steps=2, live=False)
            times[k] = 0
        for name, seat in list(seats.items()):
            seat.offer(CLOCK.tick_time_s(times[name]), videos()[name % 4][times[name] % 24])
            times[name] += 1
            if times[name] % 90 == 0:
                seat.reset()
            if times[name] > 400:
                seat.leave()
                del seats[name]
        while pool.run_once():
            pass
        for seat in seats.values():
            taken(seat)
        if k in (5_000, 19_999):
            resident.append(resident_bytes())
    for seat in seats.values():
        seat.leave()
    while pool.run_once():
        pass
    counts: PoolCounts = pool.statistics().counts
    assert counts.ticks > 40_000
    assert counts.recompilations == 0
    assert resident[1] <= 1.01 * resident[0], resident
