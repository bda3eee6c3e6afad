"""The scene's slots: bounded however many anchors a stream has, and untouched where they are small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.tokenizer.config import StateConfig
from mmduplex_jax.tokenizer.encoders import SceneState
from tests import tiny

ANCHORS = 200


def after_anchors(rms_max, anchors):
    """Root mean square of every slot of two streams after each anchor, `[anchors, 2, slots]`, and the slots."""
    config = tiny.tokenizer(state=StateConfig(slots=2, heads=2, rms_max=rms_max))
    scene = SceneState(config)
    shown = jax.random.normal(jax.random.key(1), (anchors, 2, config.anchor_tokens, config.width))
    first = jnp.zeros((2, config.state.slots, config.width))
    params = tiny.random_params(lambda key: scene.init(key, first, shown[0], method="update")["params"])
    start = 0.01 * jax.random.normal(jax.random.key(2), first.shape)

    def update(slots, anchor):
        slots = scene.apply({"params": params}, slots, anchor, method="update")
        return slots, slots

    _, slots = tiny.jit(lambda: jax.lax.scan(update, start, shown))()
    return np.sqrt(np.square(slots).mean(axis=-1)), np.asarray(slots)


def test_slots_stay_bounded_however_many_anchors_there_are():
    bound = after_anchors(1.0, 2)[0][0].max() * 2
    free, _ = after_anchors(1e9, ANCHORS)
    assert (free[-1] > 5 * bound).all()  # without a bound they grow and grow
    bounded, _ = after_anchors(float(bound), ANCHORS)
    assert bounded.max() <= bound * (1 + 1e-6)  # float32's rounding
    assert bounded[-1].min() > 0.5 * bound


def test_slots_below_the_bound_keep_every_bit():
    rms, free = after_anchors(1e9, 3)
    _, bounded = after_anchors(float(rms.max() * 1.01), 3)
    np.testing.assert_array_equal(bounded, free)


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_bound_that_leaves_nothing_is_refused(bound):
    with pytest.raises(ValueError, match="rms_max must be above 0"):
        StateConfig(rms_max=bound)
