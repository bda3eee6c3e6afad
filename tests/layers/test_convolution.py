"""Convolutions as shifted sums and products, against XLA's own; padding as TensorFlow and as PyTorch have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmduplex_jax.layers.convolution import DEPTHWISE, Convolution, max_pool, padding_of
from mmduplex_jax.planning.traced import count_flops

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def reference(x, kernel, bias, stride: int, padding: str, depthwise: bool):
    """XLA's own convolution; "same" is its own padding, "centred" is said in numbers."""
    half = kernel.shape[0] // 2
    return bias + jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME" if padding == "same" else [(half, half)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] if depthwise else 1,
        precision="highest",
    )


@pytest.mark.parametrize("size", [(7, 8), (2, 1)])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("kernel_px", "stride", "padding"),
    [(1, 1, "same"), (3, 1, "same"), (3, 2, "same"), (5, 2, "same"), (3, 2, "centred"), (5, 1, "centred")],
)
def test_a_convolution_is_xlas(size, depthwise, kernel_px, stride, padding):
    channels = 4
    x = random(2, *size, channels)
    features = channels if depthwise else 6
    kernel, bias = random(kernel_px, kernel_px, 1 if depthwise else channels, features), random(features)
    layer = Convolution(features, kernel_px, stride, depthwise, padding)
    ours = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
    theirs = reference(x, kernel, bias, stride, padding, depthwise)
    # Sums of at most 100 numbers of unit size in another order.
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_padding_as_the_libraries_say_it():
    # TensorFlow puts the odd zero at the end; PyTorch with padding 1 has one on both sides.
    assert padding_of(8, 3, 2, "same") == (0, 1)
    assert padding_of(7, 3, 2, "same") == (1, 1)
    assert padding_of(8, 3, 2, "centred") == (1, 1)
    with pytest.raises(ValueError, match="one of same, centred, not 'valid'"):
        padding_of(8, 3, 2, "valid")


def test_a_depthwise_convolution_is_the_same_in_any_batch():
    x = random(5, 6, 6, 8)
    layer = Convolution(8, 3, 1, depthwise=True)
    params = nn.unbox(layer.init(jax.random.key(0), x))
    see = jax.jit(layer.apply)
    one_by_one = np.concatenate([see(params, x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_array_equal(one_by_one, see(params, x))


def test_depthwise_needs_as_many_features():
    with pytest.raises(ValueError, match="of 4 channels has as many features, got 6"):
        Convolution(6, 3, depthwise=True).init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))


@pytest.mark.parametrize("size_px", [3, 5])
def test_max_pool_is_the_largest_around(size_px):
    x = random(1, 6, 7, 3) - 5.0  # all below zero: what lies beyond must not win
    theirs = jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, size_px, size_px, 1), (1, 1, 1, 1), "SAME")
    np.testing.assert_array_equal(max_pool(x, size_px), theirs)


def test_pools_behind_one_another_are_larger_ones():
    """Spatial pyramid pooling takes its windows of 9 and 13 px from that of 5."""
    x = jnp.asarray(random(1, 15, 15, 2))
    np.testing.assert_array_equal(max_pool(max_pool(x, 5), 5), max_pool(x, 9))
    np.testing.assert_array_equal(max_pool(max_pool(max_pool(x, 5), 5), 5), max_pool(x, 13))


def test_operations_of_convolutions_are_counted():
    x = jnp.zeros((2, 8, 8, 6))
    for depthwise, features, macs in ((True, 6, 2 * 64 * 6 * 9), (False, 4, 2 * 64 * 6 * 9 * 4)):
        layer = Convolution(features, 3, depthwise=depthwise, name="layer")
        params = layer.init(jax.random.key(0), x)
        flops = count_flops(jax.make_jaxpr(layer.apply)(params, x))
        assert flops.model == 2 * macs, DEPTHWISE
