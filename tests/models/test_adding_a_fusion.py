"""Adding a fusion takes what CONTRIBUTING.md says: one file and one line of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from mmduplex_jax.models.dual_stream import shifted
from mmduplex_jax.models.fusion import FUSIONS
from mmduplex_jax.stages.duplex.task import DuplexTask, model_config
from mmduplex_jax.streaming.unrolled import unrolled
from tests import tiny
from tests.models.latest_fusion import Latest

BATCH, TICKS = 2, 20


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(FUSIONS, "latest", Latest)
    # The tokenizer that compiles fastest: a fusion does not know which one it is given.
    return tiny.dual_stream("latest", "per_frame")


def test_it_trains_and_a_stream_equals_the_clip_with_rows_that_pause_and_begin_anew(config):
    params = tiny.init(config)
    frames, rng = tiny.clips(BATCH, TICKS, busy=True), np.random.default_rng(0)
    slots, delay = rng.integers(0, tiny.START, (BATCH, 2 * TICKS)).astype(np.int32), np.array([0, 3], np.int32)
    task = DuplexTask(config, TICKS, 0, 3, pad_weight=0.3, nested_dropout=0.0)
    batch = {"frames": frames, "slots": slots, "slot_valid": np.ones_like(slots, bool)}
    gradient = tiny.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(0))[0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["video_in"]["kernel"]).max() > 0

    expected = np.asarray(tiny.offline(config)(params, frames, np.asarray(shifted(slots, tiny.START)), delay))
    step, state = tiny.live_step(config), tiny.init_state(config)(params, BATCH)
    at, call = np.zeros(BATCH, int), 0
    while at.min() < 2 * TICKS:
        if call == 15:
            state, at[1] = tiny.reset_row(config)(params, state, 1), 0
        active = (rng.random(BATCH) < 0.8) & (at < 2 * TICKS)
        rows, now = np.arange(BATCH), np.minimum(at, 2 * TICKS - 1)
        state, out = step(
            params, state, frames[rows, now // 2], active, delay, jnp.zeros(BATCH), forced=slots[rows, now]
        )
        for row in np.flatnonzero(active):
            # Sums in another order, in float32.
            np.testing.assert_allclose(out.logits[row], expected[row, at[row]], atol=1e-5)
        at, call = at + active, call + 1


def test_the_rest_takes_it_from_the_table(config):
    experiment = quickstart.get_config()
    experiment.fusion = "latest"
    assert model_config(experiment, tiny.ids(60, 57, 58, 59)).text.cross_every == 0
    flat, params = unrolled(config, tiny.init(config))
    assert flat.fusion == "latest"
    assert "video" not in params
    experiment.fusion = "earliest"
    with pytest.raises(ValueError, match="fusion is one of cross, sum, interleave, latest, not 'earliest'"):
        model_config(experiment, tiny.ids(60, 57, 58, 59))
