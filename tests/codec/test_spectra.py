"""Spectra and distances on sounds whose answer is known."""

import jax
import numpy as np
import pytest

from mmduplex_jax.codec.spectra import (
    log_spectral_distance,
    magnitudes,
    mel_distance,
    mel_weights,
    perplexity,
    si_sdr,
    stft_distance,
)
from tests.tiny import jit

RATE_HZ, WINDOW = 16_000, 256


def sine(hz: float, amplitude: float = 1.0, samples: int = 2048) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(samples) / RATE_HZ))[None].astype(np.float32)


def noise(seed: int, samples: int = 2048) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, samples)).astype(np.float32)


def test_a_sine_is_one_line_as_high_as_it_is_loud():
    found = np.asarray(jit(lambda x: magnitudes(x, WINDOW))(sine(1000, 0.5)))[0]
    middle = found[len(found) // 2]
    assert middle.argmax() == 1000 * WINDOW / RATE_HZ
    assert middle.max() == pytest.approx(0.5, rel=1e-3)
    assert middle[32:].max() < 1e-3
    assert found.shape == (2048 // 64 + 3, WINDOW // 2 + 1)


@pytest.mark.parametrize(("window", "bands"), [(32, 5), (2048, 320), (256, 40)])
def test_every_band_hears_something(window, bands):
    weights = mel_weights(24_000, window, bands)
    assert weights.shape == (window // 2 + 1, bands)
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
    assert (weights >= 0).all()
    assert (np.diff((weights * np.arange(len(weights))[:, None]).sum(axis=0)) > 0).all()  # from low to high


@jit
def distances(one, other):
    return (
        mel_distance(one, other, RATE_HZ, (64, 256), (8, 20))[0],
        log_spectral_distance(one, other, 256)[0],
        stft_distance(one, other, (64, 256))[0],
    )


def test_distances_tell_louder_and_other_sound_from_the_same():
    one = noise(0)
    np.testing.assert_allclose(distances(one, one), 0, atol=1e-6)
    assert min(distances(one, np.float32(0.9) * one)) > 0.01
    # Ten times as loud is one power of ten in every band of each of the two windows, and 20 dB.
    mel, decibels, _ = distances(one, 10 * one)
    assert float(mel) == pytest.approx(2, rel=1e-3)
    assert float(decibels) == pytest.approx(20, rel=1e-3)
    assert np.isfinite(distances(np.zeros_like(one), one)).all()


def test_below_silence_all_is_alike():
    """Digital silence and what nobody hears: the logarithms' distance, and its slope, are all but gone."""
    nothing, hiss = np.zeros((1, 512), np.float32), 1e-4 * noise(1, 512)
    between = jit(
        jax.value_and_grad(lambda made, silence: mel_distance(nothing, made, RATE_HZ, (64,), (8,), silence)[0])
    )
    far, steep = between(hiss, 1e-5)
    near, flat = between(hiss, 1e-3)
    assert float(near) < 0.1 * float(far)
    assert np.abs(flat).max() < 0.1 * np.abs(steep).max()


def test_what_is_left_between_words_counts_less_than_the_words():
    """Noise in a pause has no slope up to `hush`; faint parts of a word have, and so has noise that is louder."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 1024)).astype(np.float32)
    word = np.concatenate([np.zeros((1, 2048), np.float32), 0.1 * noise], axis=1)
    slope = lambda made, hush: np.abs(
        jax.grad(lambda made: mel_distance(word, made, RATE_HZ, (64,), (8,), 5e-5, hush)[0])(made)
    )
    made = word + np.concatenate([2e-4 * noise, 2e-4 * noise, 0 * noise], axis=1)
    assert slope(made, 0.0)[0, :1900].max() > 0
    assert slope(made, 1e-3)[0, :1900].max() == 0
    louder = word + np.concatenate([2e-2 * noise, 2e-2 * noise, 0 * noise], axis=1)
    assert slope(louder, 1e-3)[0, :1900].max() > 0
    np.testing.assert_allclose(slope(0.5 * word, 1e-3)[0, 2200:], slope(0.5 * word, 0.0)[0, 2200:], rtol=1e-5)
    faint = 1e-3 * word  # all of it below `hush`, but not that of the true sound
    assert slope(faint, 1e-3)[0, 2200:].max() > 0


def test_si_sdr_is_of_the_shape_alone():
    true, rest = sine(500), sine(900, 0.1)  # orthogonal, and a tenth as loud: 20 dB
    ratio = jit(si_sdr)
    assert float(ratio(true, true + rest)[0]) == pytest.approx(20, abs=0.1)
    assert float(ratio(true, 3 * (true + rest))[0]) == pytest.approx(20, abs=0.1)
    assert float(ratio(true, 0.2 * true)[0]) > 90
    assert float(ratio(true, rest)[0]) < -20


def test_perplexity_counts_entries():
    np.testing.assert_allclose(perplexity(np.array([[5, 5, 5, 5], [9, 0, 0, 0], [2, 2, 0, 0]])), [4, 1, 2])
