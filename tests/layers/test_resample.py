"""Resizing by matrices against `jax.image.resize`, which is right for antialiasing, and against what must hold."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers.resample import METHODS, linear_weights, resize_grid, resize_matrix

SIZES = st.integers(1, 30)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5, 9), (12, 4), (3, 17)])
def test_antialiased_is_jaxs(method, shape):
    grid = np.random.default_rng(0).normal(size=(8, 11, 2)).astype(np.float32)
    wanted = jax.image.resize(grid, (*shape, 2), {"bicubic": "cubic"}.get(method, method), antialias=True)
    # Its cubic is Keys' with -0.5, in float32.
    np.testing.assert_allclose(resize_grid(grid, *shape, method, True), wanted, atol=1e-5)


@hypothesis.given(SIZES, SIZES, st.sampled_from(METHODS), st.booleans())
def test_what_is_constant_stays_constant(size, new_size, method, antialias):
    matrix = resize_matrix(size, new_size, method, antialias)
    assert matrix.shape == (new_size, size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    if size == new_size:
        np.testing.assert_array_equal(matrix, np.eye(size))


@pytest.mark.parametrize("size", [1, 7, 16])
def test_sizes_known_at_run_time_only(size):
    new_sizes = np.repeat(np.arange(1, 31), np.arange(1, 31))
    places = np.concatenate([np.arange(new_size) for new_size in range(1, 31)])
    got = linear_weights(jnp.asarray(places), jnp.asarray(new_sizes), size)
    wanted = np.concatenate([resize_matrix(size, new_size, "bilinear", True) for new_size in range(1, 31)])
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_without_antialiasing_the_border_is_repeated():
    # A place outside the first sample's middle is the first sample, as in PyTorch.
    assert resize_matrix(2, 4, "bilinear", False)[0].tolist() == [1, 0]
    assert resize_matrix(4, 2, "bilinear", False).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]


def test_bad_input():
    with pytest.raises(ValueError, match="not 'nearest'"):
        resize_matrix(3, 4, "nearest", True)
    with pytest.raises(ValueError, match="at least 1"):
        resize_matrix(0, 4, "bilinear", True)
