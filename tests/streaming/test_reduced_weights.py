"""A stream with weights in fewer bits says what the model with those weights says of the whole clip."""

import jax
import numpy as np
import pytest

from mmduplex_jax.layers import reduced as products
from mmduplex_jax.layers.reduced import Reduced
from mmduplex_jax.weights import reduced as module
from mmduplex_jax.weights.reduced import reduced, rounded
from tests import tiny


@pytest.mark.slow  # compiling; `tests/layers/test_reduced.py` has the products
@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_a_stream_equals_the_clip_at_once(monkeypatch, kind):
    monkeypatch.setattr(module, "NUMBERS_MIN", 64)
    monkeypatch.setattr(products, "_KERNEL_ROWS", 5)  # so that these small tables, too, are taken in parts
    monkeypatch.setattr(products, "_TABLE_ROWS", 5)
    config = tiny.dual_stream()
    params = tiny.init(config)
    held = reduced(params, kind, blocked=True)
    leaves = jax.tree.leaves(held, is_leaf=lambda leaf: isinstance(leaf, Reduced))
    assert sum(isinstance(leaf, Reduced) for leaf in leaves) > 20
    frames = tiny.clips(1, 6)[0]
    step, state = tiny.live_step(config), tiny.init_state(config)(held, 1)
    delay, bias, one, said = np.full(1, 2, np.int32), np.zeros(1, np.float32), np.ones(1, bool), []
    tokens = np.random.default_rng(0).integers(0, tiny.PAD, (1, 6 * config.clock.video_stride)).astype(np.int32)
    for s in range(tokens.shape[1]):
        frame = frames[s // config.clock.video_stride][None]
        state, output = step(held, state, frame, one, delay, bias, forced=tokens[:, s])
        said.append(np.asarray(output.logits[0]))
    inputs = np.concatenate([[[tiny.START]], tokens[:, :-1]], axis=1).astype(np.int32)
    wanted = tiny.offline(config)(rounded(params, kind), frames[None], inputs, delay)[0]
    np.testing.assert_allclose(np.stack(said)[:, : wanted.shape[-1]], wanted, atol=1e-5)
    plain = tiny.offline(config)(params, frames[None], inputs, delay)[0]
    assert np.abs(plain - wanted).max() > 1e-4  # fewer bits are told apart
