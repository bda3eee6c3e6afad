"""Rotary phases: exact at any step, and relative."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers import rotary


@pytest.mark.parametrize("step", [0, 1, 4095, 4096, 86_400 * 12, 1_080_000, 10_000_019, 2**24 + 5, 2**31 - 1])
@pytest.mark.parametrize("base", [10_000.0, 100_000.0])
def test_phases_equal_float64_at_any_step(step, base):
    width = 32
    angle = step * base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    cos, sin = rotary.phases(jnp.array([step]), width, base)
    # 4e-7: three float32 table entries multiplied, whatever the step; a float32 product is off by 0.1 at a million.
    np.testing.assert_allclose(cos[0], np.cos(angle), atol=4e-7)
    np.testing.assert_allclose(sin[0], np.sin(angle), atol=4e-7)


def test_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 16)).astype(np.float32)

    def score(at):
        phase = lambda s: rotary.phases(jnp.array([[s]]), 16, 10_000.0)
        return float((rotary.rotate(query, phase(at + 7)) * rotary.rotate(key, phase(at))).sum())

    # At 2^24 - 3 and 2^31 - 8 the distance bridges where one part wraps, or the counter is about to end.
    for at in (100, 5000, 1_080_000, 2**24 - 3, 2**31 - 8):
        assert score(at) == pytest.approx(score(0), abs=1e-5)
