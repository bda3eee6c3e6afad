"""A language model by itself: a token at a time with rings is the same as the whole text, and as the duplex's text."""

import dataclasses

import jax
import numpy as np
import pytest

from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.dense import ACTIVATIONS
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig, LanguageModel
from tests import tiny

TEXT = StackConfig(width=24, layers=2, heads=3, kv_heads=1, head_width=8, hidden=32)
TOKENS = np.random.default_rng(0).integers(0, 31, (3, 30)).astype(np.int32)


def model_and_params(config):
    model = LanguageModel(config)
    return model, tiny.random_params(lambda key: model.init(key, TOKENS)["params"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_steps": 7, "num_sinks": 2},
        {"scan": True, "qk_norm": True},
        {"rope_scaling": (8.0, 1.0, 4.0, 16.0), "activation": "gelu_tanh"},
    ],
)
def test_a_token_at_a_time_equals_the_whole(changes):
    text = dataclasses.replace(TEXT, **changes)
    model, params = model_and_params(LanguageConfig(text, 31))
    whole = jax.jit(lambda p, t: model.apply({"params": p}, t))(params, TOKENS)
    step = jax.jit(lambda p, m, t: model.apply({"params": p}, m, t, method="step"))
    size = text.num_sinks + min(text.window_steps, TOKENS.shape[1])  # a window of 7: the ring wraps three times
    memory = model.initial_state(len(TOKENS), size)
    for position in range(TOKENS.shape[1]):
        memory, state = step(params, memory, TOKENS[:, position])
        np.testing.assert_allclose(state, whole[:, position], atol=1e-5)  # sums in another order


def test_padding_is_not_seen():
    model, params = model_and_params(LanguageConfig(TEXT, 31))
    run = jax.jit(lambda p, t, v: model.apply({"params": p}, t, v))
    valid = np.arange(30)[None] < np.array([30, 12, 20])[:, None]
    other = np.where(valid, TOKENS, (TOKENS + 5) % 31)
    np.testing.assert_array_equal(
        np.where(valid[..., None], run(params, TOKENS, valid), 0),
        np.where(valid[..., None], run(params, other, valid), 0),
    )


def test_heads():
    hidden = np.ones((1, 1, 24), np.float32)
    for head in ("tied", "own"):
        model, params = model_and_params(LanguageConfig(TEXT, 31, head))
        assert ("head" in params) == (head == "own")
        logits = model.apply({"params": params}, hidden, method="logits")
        table = params["head" if head == "own" else "embedding"]
        np.testing.assert_allclose(logits[0, 0], table.sum(axis=1), atol=1e-5)
    model, params = model_and_params(LanguageConfig(TEXT, 31, "none"))
    with pytest.raises(ValueError, match="has no head"):
        model.apply({"params": params}, hidden, method="logits")
    with pytest.raises(ValueError, match="head is one of"):
        LanguageConfig(TEXT, 31, "two")
    with pytest.raises(ValueError, match="vocab_rows"):
        LanguageConfig(TEXT, 31, vocab_rows=30)


def test_activations_differ_and_unknown_ones_are_told():
    at = np.linspace(-8.0, 8.0, 65, dtype=np.float32)  # over 6, from where ReLU6 is another than ReLU
    values = [np.asarray(activation(at)) for activation in ACTIVATIONS.values()]
    assert all(np.abs(one - two).max() > 1e-4 for i, one in enumerate(values) for two in values[:i])
    logits = []
    for activation in ("gelu", "relu", "silu"):
        model, params = model_and_params(LanguageConfig(dataclasses.replace(TEXT, activation=activation), 31))
        logits.append(np.asarray(model.apply({"params": params}, TOKENS[:1, :4])))
    assert all(np.abs(one - two).max() > 1e-2 for i, one in enumerate(logits) for two in logits[:i])
    with pytest.raises(ValueError, match="activation is one of gelu"):
        dataclasses.replace(TEXT, activation="sine")


def test_an_untied_head_of_the_dual_stream_is_its_own():
    config = dataclasses.replace(tiny.dual_stream(), tied=False)
    params = tiny.init(config)
    frames, slots, delay = tiny.clips(1, 4), np.zeros((1, 8), np.int32), np.zeros(1, np.int32)
    logits = np.asarray(tiny.offline(config)(params, frames, slots, delay))
    doubled = np.asarray(tiny.offline(config)({**params, "head": 2 * params["head"]}, frames, slots, delay))
    np.testing.assert_allclose(doubled, 2 * logits, atol=1e-6)


def test_llama_3_keeps_fast_frequencies_and_divides_slow_ones():
    frequency = 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    scaled = rotary.stretched(frequency, (8.0, 1.0, 4.0, 1024.0))
    turns = 1024 * frequency / (2 * np.pi)
    np.testing.assert_array_equal(scaled[turns > 4], frequency[turns > 4])
    np.testing.assert_allclose(scaled[turns < 1], frequency[turns < 1] / 8, rtol=1e-12)
    between = scaled[(turns >= 1) & (turns <= 4)] / frequency[(turns >= 1) & (turns <= 4)]
    assert ((between >= 1 / 8) & (between <= 1)).all()
    assert (np.diff(between) < 0).all()
    assert rotary.stretched(frequency, ()) is frequency
    for wrong in ((8.0,), (8.0, 4.0, 1.0, 1024.0)):
        with pytest.raises(ValueError, match="low_freq_factor"):
            rotary.stretched(frequency, wrong)
