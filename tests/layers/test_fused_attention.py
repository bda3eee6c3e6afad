"""The fused form of attention is the plain one, with sinks, a null and masks, forwards and backwards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip_quickstart
from mmduplex_jax.layers import attention
from mmduplex_jax.layers.attention import attend, attend_fused, causal_window_mask
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny
from tests.without_a_gpu import trace_as_on_a_gpu

BATCH, LENGTH, HEADS, GROUPS, WIDTH = 2, 9, 6, 2, 12


def draw(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def inputs(count=LENGTH):
    arrays = {
        "query": draw(BATCH, LENGTH, HEADS, WIDTH, seed=0),
        "keys": draw(BATCH, GROUPS, count, WIDTH, seed=1),
        "values": draw(BATCH, GROUPS, count, WIDTH, seed=2),
    }
    step = jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
    key_step = jnp.broadcast_to(jnp.arange(count), (BATCH, count))
    valid = jnp.asarray(np.random.default_rng(3).random((BATCH, count)) < 0.8).at[:, 0].set(False)
    # The first query sees nothing, unless the first key is a sink.
    return arrays, causal_window_mask(step, key_step, valid, 4)


@pytest.mark.parametrize("case", ["plain", "sinks", "null", "sinks and null", "another stream"])
def test_it_is_the_plain_one(case):
    arrays, mask = inputs(13 if case == "another stream" else LENGTH)
    fixed = {}
    if "sinks" in case:
        arrays["sink_query"] = draw(BATCH, LENGTH, HEADS, WIDTH, seed=4)
        fixed["num_sinks"] = 3
    if "null" in case:
        arrays["null_logit"] = draw(HEADS, seed=5)
    weight = draw(BATCH, LENGTH, HEADS, WIDTH, seed=6)

    def run(fused):
        def loss(arrays):
            out = attend(**arrays, mask=mask, fused=fused, **fixed)
            return (out * weight).sum(), out

        return tiny.jit(jax.value_and_grad(loss, has_aux=True))(arrays)

    ((_, out), gradient), ((_, wanted), wanted_gradient) = run(True), run(False)
    assert not mask[:, 0].any()
    # Sums in another order, in float32, of numbers about 1.
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    for name, theirs in wanted_gradient.items():
        np.testing.assert_allclose(gradient[name], theirs, atol=2e-5, err_msg=name)
    if "null" not in case:
        assert not np.asarray(out[:, 0]).any()


def test_without_a_mask_everything_is_seen():
    arrays, mask = inputs()
    wanted = attend(**arrays, mask=jnp.ones_like(mask))
    np.testing.assert_allclose(attend(**arrays, fused=True), wanted, atol=1e-5)


def test_sinks_need_their_queries():
    arrays, mask = inputs()
    with pytest.raises(ValueError, match="num_sinks is 2, and sink_query is not given"):
        attend(**arrays, mask=mask, num_sinks=2)


def test_in_bfloat16_it_is_as_near():
    arrays, mask = inputs()
    exact = attend(**arrays, mask=mask)
    short = {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}
    far = lambda out: float(jnp.abs(out.astype(jnp.float32) - exact).max())
    fused = attend(**short, mask=mask, fused=True)
    assert fused.dtype == jnp.bfloat16
    # XLA's form rounds the weights after they are divided by their sum, ours before: about as much is lost.
    assert far(fused) < 2 * far(attend(**short, mask=mask))


@pytest.mark.parametrize("count", [8, 9, 13])
@pytest.mark.parametrize("extra", ["", "null", "sinks"])
def test_cudnn_s_kernel_takes_lengths_that_are_odd(count, extra, monkeypatch):
    """Backwards and with a mask it refuses them; the null makes odd what was even. Traced: to run it takes a GPU."""
    trace_as_on_a_gpu(monkeypatch)
    arrays, mask = inputs(count)
    arrays |= {"null_logit": draw(HEADS, seed=5)} if extra == "null" else {}
    arrays |= {"sink_query": draw(BATCH, LENGTH, HEADS, WIDTH, seed=4)} if extra == "sinks" else {}
    arrays = {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}
    num_sinks = 3 if extra == "sinks" else 0
    loss = lambda arrays: attend(**arrays, mask=mask, fused=True, num_sinks=num_sinks).astype(jnp.float32).sum()
    traced = str(jax.make_jaxpr(jax.grad(loss))(arrays))
    assert "dot_product_attention_fwd_wrapper" in traced
    assert "dot_product_attention_bwd_wrapper" in traced


@pytest.mark.parametrize("fusion", ["cross", "interleave"])
def test_a_whole_model_says_the_same_and_streams_stay_plain(fusion, monkeypatch):
    config = tiny.dual_stream(fusion)
    parts = {name: dataclasses.replace(getattr(config, name), attention="fused") for name in ("video", "text")}
    fused = dataclasses.replace(config, **parts)
    params, rows, count = tiny.init(config), 2, 12
    step = jnp.broadcast_to(jnp.arange(count) // 2 * 2, (rows, count))
    valid = jnp.asarray(np.random.default_rng(1).random((rows, count)) < 0.7)
    values = draw(rows, count, config.tokenizer.width, seed=0)
    tokens = Tokens(
        values, valid, step, jnp.zeros_like(step), jnp.zeros((rows, count, 2), jnp.int32), jnp.ones_like(step)
    )
    slots = np.random.default_rng(0).integers(0, tiny.VOCAB, (rows, 16), np.int32)
    inputs = (params, tokens, jnp.asarray(slots), jnp.full(rows, 2, jnp.int32))
    read = lambda config: lambda p, *given: DualStream(config).apply({"params": p}, *given, method="hidden")
    # As wide as other tests ask of two ways to compute the same model.
    np.testing.assert_allclose(tiny.jit(read(fused))(*inputs), tiny.jit(read(config))(*inputs), atol=1e-5)
    shapes = []
    fused_form = lambda query, *rest: shapes.append(query.shape) or attend_fused(query, *rest)
    monkeypatch.setattr(attention, "attend_fused", fused_form)
    jax.make_jaxpr(read(fused))(*inputs)
    assert len(shapes) == {"cross": 2 + 2 + 1, "interleave": 2}[fusion]  # video, text, one of cross-attention
    ones = np.ones(rows, np.int32)
    state = LiveModel(fused).init_state(params, rows)
    live = (params, state, tiny.clips(rows, 1)[:, 0], ones > 0, ones, ones.astype(np.float32))
    shapes.clear()
    jax.make_jaxpr(LiveModel(fused).live_step)(*live)
    assert not shapes


def test_a_tower_sees_the_same():
    config = clip_quickstart.get_config()
    config.vision.layers = 1
    task = build_task(config, load_tokenizer(config))
    config.vision.attention = "fused"
    fused = build_task(config, load_tokenizer(config))
    params = tiny.random_params(task.init)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 2 if leaf.dtype == bool else 40, leaf.shape).astype(leaf.dtype)
             for name, leaf in task.example_batch(2).items()}  # fmt: skip
    losses = [float(tiny.jit(one.loss)(params, batch, jax.random.key(0))[0]) for one in (task, fused)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="attention is one of einsum, fused, not 'flash'"):
        StackConfig(width=8, layers=1, heads=1, kv_heads=1, head_width=8, hidden=8, attention="flash")
