"""Spectra of sound, and how far two sounds are apart in them: what a codec learns from, and is scored by."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.typing import Array, Float

# Below this a magnitude is silence: 1e-5 as in DAC (Kumar et al., 2023), of a full scale of 1.
SILENCE = 1e-5
# Under square roots, whose slope is infinite at zero.
_TINY = 1e-12
HOPS = 4  # a window moves by this part of itself


def spectra(samples: Float[Array, "B L"], window: int) -> Array:
    """Short-time Fourier transforms, complex64 `[B, T, window / 2 + 1]`.

    Windows are Hann's, and move by a quarter of themselves; the sound is filled up with silence on both sides, so that
    every sample is as often in one. They are scaled so that a sine of amplitude 1 has a magnitude of about 1.
    """
    hop = window // HOPS
    length = samples.shape[1]
    after = -length % hop + window - hop
    blocks = jnp.pad(samples, ((0, 0), (window - hop, after))).reshape(len(samples), -1, hop)
    count = blocks.shape[1] - HOPS + 1
    frames = jnp.concatenate([blocks[:, shift : shift + count] for shift in range(HOPS)], axis=-1)
    hann = np.hanning(window + 1)[:-1]
    return jnp.fft.rfft(frames * jnp.asarray(2 * hann / hann.sum(), jnp.float32), axis=-1)


def magnitudes(samples: Float[Array, "B L"], window: int) -> Float[Array, "B T F"]:
    """Magnitudes of `spectra`."""
    found = spectra(samples, window)
    return jnp.sqrt(jnp.square(found.real) + jnp.square(found.imag) + _TINY)


@functools.lru_cache(maxsize=32)
def mel_weights(rate_hz: int, window: int, bands: int) -> np.ndarray:
    """Triangular filters that are as wide on the mel scale, float32 `[window / 2 + 1, bands]`.

    The scale is O'Shaughnessy's (1987), `2595 log10(1 + f / 700)`, as in HTK. Filters sum to 1; the lowest of many
    bands may lie between two bins, and then takes from both.
    """
    edges_hz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate_hz / 1400), bands + 2) / 2595) - 1)
    width_hz = rate_hz / window
    # A filter is at least as wide as a bin, so that none is empty.
    low = np.minimum(edges_hz[:-2], edges_hz[1:-1] - width_hz)
    high = np.maximum(edges_hz[2:], edges_hz[1:-1] + width_hz)
    bins_hz = np.arange(window // 2 + 1)[:, None] * width_hz
    rising = (bins_hz - low) / (edges_hz[1:-1] - low)
    falling = (high - bins_hz) / (high - edges_hz[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    weights = (weights / weights.sum(axis=0)).astype(np.float32)
    weights.setflags(write=False)
    return weights


def _log(magnitude: Array, silence: float | Array = SILENCE) -> Array:
    return jnp.log10(jnp.maximum(magnitude, silence))


def _floor(true: Float[Array, "B T F"], silence: float, hush: float) -> Float[Array, "B T 1"]:
    """Below what magnitudes of a moment are all alike: `silence`, or `hush` where the true ones are all below it."""
    return jnp.where(true.max(axis=-1, keepdims=True) < hush, hush, silence)


def mel_distance(
    true: Float[Array, "B L"],
    made: Float[Array, "B L"],
    rate_hz: int,
    windows: Sequence[int],
    bands: Sequence[int],
    silence: float = SILENCE,
    hush: float = 0.0,
) -> Float[Array, "B"]:
    """Mean distance of log mel spectra, in powers of ten, summed over windows (DAC, Kumar et al., 2023).

    Args:
      windows, bands: samples of a window, and mel bands in it, one after the other.
      silence: magnitudes below it are all alike.
      hush: of moments in which the true sound has none above it, those below it are all alike.
    """
    total = jnp.zeros(len(true))
    for window, count in zip(windows, bands, strict=True):
        weights = jnp.asarray(mel_weights(rate_hz, window, count))
        wanted, found = (magnitudes(sound, window) @ weights for sound in (true, made))
        floor = _floor(wanted, silence, hush)
        total = total + jnp.abs(_log(wanted, floor) - _log(found, floor)).mean(axis=(1, 2))
    return total


def stft_distance(
    true: Float[Array, "B L"],
    made: Float[Array, "B L"],
    windows: Sequence[int],
    silence: float = SILENCE,
    hush: float = 0.0,
) -> Float[Array, "B"]:
    """Spectral convergence plus distance of log magnitudes, mean over windows (Yamamoto et al., 2020).

    Convergence is the energy of the magnitudes' difference over that of the true ones, so loud parts decide it; of a
    sound that is nearly silent it is measured against one at a thousandth of full scale. `silence`, `hush`: as of
    `mel_distance`.
    """
    total = jnp.zeros(len(true))
    norm = lambda a: jnp.sqrt(jnp.square(a).sum(axis=(1, 2)) + _TINY)
    for window in windows:
        wanted, found = magnitudes(true, window), magnitudes(made, window)
        floor = 1e-3 * wanted.shape[1] ** 0.5
        total = total + norm(wanted - found) / jnp.maximum(norm(wanted), floor)
        below = _floor(wanted, silence, hush)
        total = total + jnp.abs(_log(wanted, below) - _log(found, below)).mean(axis=(1, 2))
    return total / len(windows)


def log_spectral_distance(
    one: Float[Array, "B L"], other: Float[Array, "B L"], window: int = 2048
) -> Float[Array, "B"]:
    """Root mean squared difference of the log spectra of a moment, mean over moments, in decibels."""
    difference = 20 * (_log(magnitudes(one, window)) - _log(magnitudes(other, window)))
    return jnp.sqrt(jnp.square(difference).mean(axis=2)).mean(axis=1)


def si_sdr(true: Float[Array, "B L"], made: Float[Array, "B L"]) -> Float[Array, "B"]:
    """Scale-invariant signal-to-distortion ratio in decibels (Le Roux et al., 2019); of means of zero.

    What is the same but for its loudness has the most that float32 can tell, about 100; silence against silence has 0.
    """
    true, made = (sound - sound.mean(axis=1, keepdims=True) for sound in (true, made))
    energy = jnp.square(true).sum(axis=1)
    part = (true * made).sum(axis=1, keepdims=True) / jnp.maximum(energy, _TINY)[:, None] * true
    target, rest = jnp.square(part).sum(axis=1), jnp.square(made - part).sum(axis=1)
    return 10 * jnp.log10((target + _TINY) / (rest + _TINY))


def perplexity(counts: Float[np.ndarray, "J V"]) -> np.ndarray:
    """How many entries of each codebook are used as if all were used alike: exp of the entropy, float64 `[J]`."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    logs = np.log(np.where(shares > 0, shares, 1))
    return np.exp(-(shares * logs).sum(axis=1))
