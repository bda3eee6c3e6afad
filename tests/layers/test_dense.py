"""A dense layer gives the same whether its rows are one matrix or not, and so do its gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers.dense import dense, held_gradient


@pytest.mark.parametrize("shape", [(14,), (3, 14), (2, 3, 14), (2, 1, 3, 14)])
def test_rows_that_are_one_matrix_give_the_same(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    plain, joined = (dense(9, ("embed", "mlp"), name="layer", use_bias=True, joined=joined) for joined in (False, True))
    params = nn.unbox(plain.init(jax.random.key(0), x))
    found, wanted = (
        jax.value_and_grad(lambda p, x, layer=layer: jnp.square(layer.apply(p, x)).sum(), (0, 1))(params, x)
        for layer in (joined, plain)
    )
    assert joined.apply(params, x).shape == (*shape[:-1], 9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_a_gradient_of_joined_rows_is_not_turned_around():
    """What a compiler for CPUs would write down once more."""
    x = jnp.ones((2, 3, 14))
    turned = {}
    for joined in (False, True):
        layer = dense(9, ("embed", "mlp"), name="layer", joined=joined)
        params = nn.unbox(layer.init(jax.random.key(0), x))
        gradient = jax.grad(lambda p, layer=layer: jnp.square(layer.apply(p, x)).sum())
        text = jax.jit(gradient).lower(params).as_text()
        # Contracted axes of the kernel's gradient: one of a matrix, else two.
        turned[joined] = "contracting_dims = [0, 1] x [0, 1]" in text
    assert turned == {False: True, True: False}


def test_a_held_gradient_is_the_same_and_held():
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    gradient = jax.vmap(jax.grad(lambda x: jnp.sin(held_gradient(x)).sum()))
    np.testing.assert_array_equal(gradient(x), jnp.cos(x))
    assert "optimization_barrier" in str(jax.make_jaxpr(gradient)(x))
