"""The cache of keys and values: the last items are there, sinks stay, rows are reset and gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.layers.kv_cache import EMPTY, KVCache, empty_layers, empty_pair


def empty(batch, size, layers=None, stacked=False):
    pair = lambda: empty_pair(batch, size, 1, 1, jnp.float32)
    return KVCache.empty(batch, size, pair() if layers is None else empty_layers(pair, layers, stacked), stacked)


def values(steps):
    """Keys and values that say at which step they were written, `[B, M, 1, 1]`."""
    return steps.astype(jnp.float32)[..., None, None]


@given(
    size=st.integers(3, 9),
    sinks=st.integers(0, 2),
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=25),
)
def test_the_ring_holds_the_sinks_and_the_last_items(size, sinks, counts):
    size += sinks
    cache, written, step = empty(1, size), [], 0
    for count in counts:
        steps = jnp.array([[step + i for i in range(3)]])
        valid = jnp.arange(3)[None] < count
        cache = cache.place(steps, valid, sinks, sinks=True).write(values(steps), values(steps))
        written += list(range(step, step + count))
        step += 3
    kept = [s for s in written if s < sinks] + [s for s in written if s >= sinks][-(size - sinks) :]
    held = np.asarray(cache.step[0])
    assert sorted(held[held >= 0].tolist()) == sorted(kept)
    for buffer in cache.layers:
        np.testing.assert_array_equal(np.asarray(buffer[0, 0, :, 0])[held >= 0], held[held >= 0])


def test_rows_without_valid_items_are_not_touched():
    steps = jnp.array([[0], [0]])
    cache, entry = empty(2, 4).place(steps, jnp.array([[True], [False]]))
    assert cache.step[0].tolist() == [0] + [EMPTY] * 3
    assert cache.step[1].tolist() == [EMPTY] * 4
    assert cache.cursor.tolist() == [1, 0]
    assert entry[1, 0] == 4


def test_more_items_than_entries_are_refused():
    with pytest.raises(ValueError, match="5 items at once do not fit a ring of 4 entries"):
        empty(1, 4).place(jnp.arange(5)[None], jnp.ones((1, 5), bool))


@pytest.mark.parametrize("stacked", [False, True])
def test_rows_are_reset_and_gathered_however_layers_are_laid_out(stacked):
    cache = empty(3, 4, layers=2, stacked=stacked)
    steps = jnp.array([[0, 1], [2, 3], [4, 5]])
    new = jnp.stack([values(steps), 10 + values(steps)])
    cache = cache.place(steps, jnp.ones_like(steps, bool)).write(new, new)
    layer = lambda cache, i: np.asarray(cache.layers[0][i] if stacked else cache.layers[i][0])[:, 0, :, 0]
    assert layer(cache, 1).tolist() == [[10, 11, 0, 0], [12, 13, 0, 0], [14, 15, 0, 0]]
    without = jax.jit(KVCache.reset)(cache, 1)
    assert layer(without, 1).tolist() == [[10, 11, 0, 0], [0] * 4, [14, 15, 0, 0]]
    assert without.step.tolist() == [[0, 1, EMPTY, EMPTY], [EMPTY] * 4, [4, 5, EMPTY, EMPTY]]
    assert without.cursor.tolist() == [2, 0, 2]
    picked = cache.gather(jnp.array([2, 2]))
    assert layer(picked, 0).tolist() == [[4, 5, 0, 0]] * 2
    assert picked.step.tolist() == [[4, 5, EMPTY, EMPTY]] * 2
