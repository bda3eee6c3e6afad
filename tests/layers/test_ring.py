"""The ring cache: the last items are there, sinks stay, nothing else is touched."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.layers import ring


@given(
    size=st.integers(3, 9),
    sinks=st.integers(0, 2),
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=25),
)
def test_the_ring_holds_the_sinks_and_the_last_items(size, sinks, counts):
    size += sinks
    index = ring.empty_index(1, size)
    buffer = jnp.zeros((1, size))
    written = []
    step = 0
    for count in counts:
        steps = jnp.array([[step + i for i in range(3)]])
        valid = jnp.arange(3)[None] < count
        index, entry = ring.place(index, steps, valid, sinks, sinks=True)
        buffer = ring.write(buffer, entry, steps.astype(jnp.float32))
        written += list(range(step, step + count))
        step += 3
    kept = [s for s in written if s < sinks] + [s for s in written if s >= sinks][-(size - sinks) :]
    held = np.asarray(index.step[0])
    assert sorted(held[held >= 0].tolist()) == sorted(kept)
    np.testing.assert_array_equal(np.asarray(buffer[0])[held >= 0], held[held >= 0])


def test_rows_without_valid_items_are_not_touched():
    index = ring.empty_index(2, 4)
    steps = jnp.array([[0], [0]])
    index, entry = ring.place(index, steps, jnp.array([[True], [False]]))
    assert index.step[0].tolist() == [0] + [ring.EMPTY] * 3
    assert index.step[1].tolist() == [ring.EMPTY] * 4
    assert index.cursor.tolist() == [1, 0]
    assert entry[1, 0] == 4
