"""Dropout: by value, in trainings alone, drawn anew by every layer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers.dropout import DROPOUT, check_dropout, dropout
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context
from tests import tiny

STACK = StackConfig(width=16, layers=2, heads=2, kv_heads=1, head_width=8, hidden=32, dropout=0.5)


class Dropped(nn.Module):
    """Nothing but dropout."""

    share: float

    @nn.compact
    def __call__(self, x):
        return dropout(self, x, self.share)


def test_a_share_is_zeroed_and_the_rest_made_larger():
    out = np.asarray(Dropped(0.3).apply({}, jnp.ones((100, 200)), rngs={DROPOUT: jax.random.key(0)}))
    np.testing.assert_allclose(np.unique(out), [0.0, 1 / 0.7], rtol=1e-6)
    # Five standard deviations of 20,000 draws.
    assert abs((out == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / out.size)


def test_without_random_numbers_nothing_is_dropped():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropped(0.9).apply({}, x), x)
    np.testing.assert_array_equal(Dropped(0.0).apply({}, x, rngs={DROPOUT: jax.random.key(0)}), x)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_named(share):
    with pytest.raises(ValueError, match=f"tokenizer.flow.dropout is a share from 0 to below 1, not {share}"):
        check_dropout(share, "tokenizer.flow.dropout")
    with pytest.raises(ValueError, match="dropout"):
        dataclasses.replace(STACK, dropout=share)


@pytest.mark.parametrize("scan", [False, True])
def test_a_stack_drops_by_its_key_in_training_alone(scan):
    config = dataclasses.replace(STACK, scan=scan)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 16)), jnp.float32)
    context = attention_context(config, jnp.arange(5)[None], jnp.tril(jnp.ones((1, 5, 5), bool)))
    run = lambda config: lambda params, **keys: Stack(config).apply({"params": params}, x, context, **keys)[0]
    params = tiny.random_params(lambda key: Stack(config).init(key, x, context)["params"])
    still, dropped = tiny.jit(run(dataclasses.replace(config, dropout=0.0))), tiny.jit(run(config))
    of_key = lambda seed: np.asarray(dropped(params, rngs={DROPOUT: jax.random.key(seed)}))
    np.testing.assert_array_equal(dropped(params), still(params))
    np.testing.assert_array_equal(of_key(0), of_key(0))
    assert np.abs(of_key(0) - of_key(1)).max() > 0.1
