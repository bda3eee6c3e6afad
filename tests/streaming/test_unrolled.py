"""The model that streams on a CPU is the model that was trained."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.streaming.unrolled import unrolled
from tests import tiny

SLOTS = np.zeros((1, 4), np.int32)
SCANNED = {"scan": True, "remat": True, "layers": 2}  # a scan of one layer would hide their order


def said(config, params, frames):
    """The logits of a stream, float32 `[S, V]`."""
    step = tiny.live_step(config)
    state, logits = tiny.init_state(config)(params, 1), []
    one = np.ones(1, bool)
    for frame in frames:
        for _ in range(config.clock.video_stride):
            state, output = step(params, state, frame[None], one, np.zeros(1, np.int32), np.zeros(1, np.float32))
            logits.append(np.asarray(output.logits[0]))
    return np.stack(logits)


# One fusion by default: compiling each takes a while and they differ in nothing that is unstacked but the video stream.
@pytest.mark.parametrize(
    "fusion", ["cross", pytest.param("sum", marks=pytest.mark.slow), pytest.param("interleave", marks=pytest.mark.slow)]
)
def test_a_scanned_model_says_the_same_unrolled(fusion):
    config = tiny.dual_stream(fusion)
    event = dataclasses.replace(config.tokenizer.event, **SCANNED)
    config = dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, event=event),
        text=dataclasses.replace(config.text, **SCANNED),
        video=dataclasses.replace(config.video, **SCANNED),
    )
    params = tiny.init(config)
    frames = tiny.clips(1, 6)[0]
    flat, flat_params = unrolled(config, params)
    assert not any(stack.scan for stack in (flat.text, flat.video, flat.tokenizer.event))
    np.testing.assert_allclose(said(flat, flat_params, frames), said(config, params, frames), atol=1e-5)


def test_it_computes_in_float32_and_shares_what_it_can():
    half = lambda stack: dataclasses.replace(stack, dtype="bfloat16")
    config = tiny.dual_stream()
    params = jax.eval_shape(DualStream(config).init, jax.random.key(0), tiny.clips(1, 2), SLOTS, SLOTS[:, 0])
    params = nn.unbox(params)["params"]
    tokenizer = config.tokenizer
    anchor = dataclasses.replace(tokenizer.anchor, tower=half(tokenizer.anchor.tower))
    tokenizer = dataclasses.replace(tokenizer, event=half(tokenizer.event), anchor=anchor, dtype="bfloat16")
    coarse = dataclasses.replace(config, tokenizer=tokenizer, text=half(config.text), video=half(config.video))
    flat, flat_params = unrolled(coarse, params)
    assert flat == config
    assert all(a is b for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(flat_params)))
