"""The quantiser against the plain search of all entries."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.codec.codec import Codec
from tests.codec.tiny_codec import CONFIG, random_params, whole
from tests.tiny import jit


def quantize(params, latents, codebooks=None):
    run = lambda p, x: Codec(CONFIG).apply({"params": p}, x, method=lambda c, x: c.quantizer.encode(x, codebooks))
    return jit(run)(params, latents)


@jit
def dequantize(params, codes):
    return Codec(CONFIG).apply({"params": params}, codes, method=lambda c, x: c.quantizer.decode(x))


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(3).standard_normal((2, 5, CONFIG.width)).astype(np.float32)


def entries(part):
    return np.asarray(part["sums"], np.float64) / np.asarray(part["usage"], np.float64)[..., None]


def test_every_code_is_the_nearest_to_what_is_left(params, latents):
    codes = np.asarray(quantize(params, latents))
    assert codes.shape == (2, 5, CONFIG.codebooks)
    total, column = 0.0, 0
    for part in (params["quantizer"]["semantic"], params["quantizer"]["acoustic"]):
        left = latents @ np.asarray(part["project_in"]["kernel"], np.float64)
        before = left
        for book in entries(part):
            distance = np.square(left[..., None, :] - book).sum(axis=-1)
            np.testing.assert_array_equal(codes[..., column], distance.argmin(axis=-1))
            left, column = left - book[codes[..., column]], column + 1
        total = total + (before - left) @ np.asarray(part["project_out"]["kernel"], np.float64)
    np.testing.assert_allclose(dequantize(params, codes), total, atol=1e-5)  # float32 beside float64


def test_fewer_codes_are_the_first_ones(params, latents):
    codes = quantize(params, latents)
    for count in (1, 3):
        np.testing.assert_array_equal(quantize(params, latents, count), codes[..., :count])
    assert dequantize(params, codes[..., :1]).shape == latents.shape
    for count in (0, CONFIG.codebooks + 1):
        with pytest.raises(ValueError, match="gives 1 to 4 codes"):
            quantize(params, latents, count)


def test_of_entries_as_near_the_first_is_taken(params, latents):
    same = jnp.zeros_like(params["quantizer"]["semantic"]["sums"])
    changed = params | {
        "quantizer": params["quantizer"] | {"semantic": params["quantizer"]["semantic"] | {"sums": same}}
    }
    assert not np.asarray(quantize(changed, latents))[..., 0].any()


@pytest.mark.parametrize("code", [-1, CONFIG.codebook_size])
def test_a_code_that_does_not_exist_is_no_sound(params, code):
    codes = jnp.zeros((2, 2, CONFIG.codebooks), jnp.int32).at[1, 0, 2].set(code)
    wave = np.asarray(whole("decode")(params, codes))
    assert np.isfinite(wave[0]).all()
    assert np.isnan(wave[1]).all()
