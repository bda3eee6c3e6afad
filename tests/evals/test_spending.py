import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.evals import report as spending

CLOCK = Clock()


def test_motion_is_the_change_of_luma():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1:, :2] = 100
    assert spending.motion_by_tick(frames).tolist() == [0.0, 50.0, 0.0]


def test_tokens_a_second():
    assert spending.tokens_per_s([np.full(75, 4), np.full(75, 0)], CLOCK) == pytest.approx(2 * 6.25)
    assert spending.tokens_per_s([], CLOCK) == 0


def test_quartiles_follow_motion():
    second = np.array([int(CLOCK.tick_time_s(tick)) for tick in range(60)])
    motion = (second % 4).astype(np.float32)
    quartiles = spending.tokens_per_s_by_motion_quartile([2 * (second % 4)], [motion], CLOCK)
    assert quartiles == sorted(quartiles)
    assert quartiles[0] < 2 * 6.25 < quartiles[3]


def test_a_spend_that_is_even_is_even_in_every_quartile():
    rng = np.random.default_rng(0)
    quartiles = spending.tokens_per_s_by_motion_quartile(
        [np.full(75, 4)] * 3, [rng.random(75) for _ in range(3)], CLOCK
    )
    assert quartiles == pytest.approx([25.0] * 4)
