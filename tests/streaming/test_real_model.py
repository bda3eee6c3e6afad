"""The model `real`, as it ships and at its full size: its stream equals its clip, and its budget holds."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.models.dual_stream import shifted
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.weights.trained import load_trained
from tests import tiny

TICKS, DELAY = 100, 8

# Two large programs are compiled, fused as users' are.
pytestmark = [pytest.mark.slow, pytest.mark.optimized]


def test_the_model_real_streams_what_it_sees_of_a_clip():
    trained = load_trained("real")
    config, params = trained.task.config, trained.params
    stride = config.clock.video_stride
    frames = tiny.clips(1, TICKS, config.tokenizer.frame_px, seed=3, busy=True)
    words = np.random.default_rng(1).integers(0, config.vocab_size, (1, stride * TICKS)).astype(np.int32)
    delay, given = np.full(1, DELAY, np.int32), np.asarray(shifted(words, config.start_id))
    whole = tiny.jit(lambda params, *clip: trained.task.model.apply({"params": params}, *clip))
    expected, tokens = whole(params, frames, given, delay)
    live, active = LiveModel(config), np.ones(1, bool)
    state, step = live.init_state(params, 1), tiny.live_step(config)
    worst, spent = 0.0, []
    for s in range(stride * TICKS):
        state, out = step(params, state, frames[:, s // stride], active, delay, jnp.zeros(1), forced=words[:, s])
        worst = max(worst, float(np.abs(np.asarray(out.logits[0]) - np.asarray(expected[0, s])).max()))
        spent.append(int(out.report.n_tokens[0]))
    assert worst <= 1e-4  # of logits of some tens
    # Every ring has wrapped: the longest holds 6 s, and the clip is 16 s.
    assert TICKS * config.clock.tick_s > 2 * 6
    assert sum(spent) == int(tokens.valid.sum())
    second = round(config.clock.step_hz)
    windows = np.convolve(spent, np.ones(second), "valid")
    assert 0 < windows.max() <= config.tokenizer.budget.tokens_per_s_max
