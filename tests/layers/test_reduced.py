"""Products with tables in fewer bits are those with what the tables hold, however many rows they take at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from mmduplex_jax.layers import reduced as module
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.reduced import Reduced, multiplied, scored


def table(kind, shape, axis, *, blocked=True, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "int8":
        scale_shape = [1 if i == axis else n for i, n in enumerate(shape)]
        scale = rng.uniform(0.01, 0.1, scale_shape).astype(np.float32)
        return Reduced(rng.integers(-127, 128, shape, dtype=np.int8), scale, blocked)
    bits = rng.normal(size=shape).astype(jnp.bfloat16).view(np.uint16)
    return Reduced(bits, None, blocked)


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
@pytest.mark.parametrize("rows", [5, 7, 20])  # with rows left over, without, all at once
def test_products_are_those_with_the_floats(monkeypatch, kind, rows):
    x = np.random.default_rng(1).normal(size=(2, 3, 14)).astype(np.float32)
    kernel, words = table(kind, (14, 9), 0), table(kind, (14, 14), 1)
    monkeypatch.setattr(module, "_KERNEL_ROWS", rows)
    monkeypatch.setattr(module, "_TABLE_ROWS", rows)
    np.testing.assert_allclose(multiplied(x, kernel), x @ np.asarray(kernel.expanded()), rtol=1e-5, atol=1e-5)
    wanted = x @ np.asarray(words.expanded()).T
    np.testing.assert_allclose(scored(x, words), wanted, rtol=1e-5, atol=1e-5)
    whole = Reduced(words.values, words.scale, blocked=False)
    np.testing.assert_allclose(scored(x, whole), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_rows_of_a_table_are_looked_up(kind):
    words, ids = table(kind, (11, 4), 1), np.array([[3, 0], [10, 3]])
    np.testing.assert_array_equal(words[ids], np.asarray(words.expanded())[ids])


def test_bfloat16_is_jaxs():
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(jnp.bfloat16)
    found = Reduced(values.view(np.uint16), None).expanded()
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_a_dense_layer_takes_it_for_its_kernel(kind):
    layer = dense(9, ("embed", "mlp"), name="layer", use_bias=True)
    x = np.random.default_rng(1).normal(size=(2, 14)).astype(np.float32)
    params = nn.unbox(layer.init(jax.random.key(0), x))["params"]
    kernel = table(kind, (14, 9), 0)
    found = layer.apply({"params": params | {"kernel": kernel}}, x)
    wanted = layer.apply({"params": params | {"kernel": kernel.expanded()}}, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ScopeParamShapeError, match="shape"):
        layer.apply({"params": params | {"kernel": table(kind, (13, 9), 0)}}, x)


def test_a_dense_layer_in_float32_is_the_product_to_the_bit():
    layer = dense(9, ("embed", "mlp"), name="layer")
    x = np.random.default_rng(1).normal(size=(2, 14)).astype(np.float32)
    params = nn.unbox(layer.init(jax.random.key(0), x))["params"]
    plain = nn.Dense(9, use_bias=False)
    lowered = lambda layer: jax.jit(lambda p, x: layer.apply({"params": p}, x)).lower(params, x).as_text()
    assert lowered(layer) == lowered(plain)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products take some rows at a time on CPUs")
@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
@pytest.mark.parametrize("multiply", [multiplied, scored])
def test_no_float32_copy_of_the_table_is_made(kind, multiply):
    numbers = table(kind, (960, 320), 0 if multiply is multiplied else 1)
    x = jnp.ones((1, 1, numbers.values.shape[0 if multiply is multiplied else 1]))
    # Several, since what a compiler makes of one alone is not what it makes of a model's.
    several = lambda x, tables: [multiply(x, one) for one in tables]
    program = jax.jit(several).lower(x, [numbers] * 3).compile()
    assert program.memory_analysis().temp_size_in_bytes < numbers.values.size * 4 / 2
