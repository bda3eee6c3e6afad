"""Who listens hears English words where they are; here of a voice that is made of nothing but itself."""

import numpy as np
import pytest

from mmduplex_jax.evals import recognisers
from mmduplex_jax.evals.recognisers import RATE_HZ, RECOGNISERS, RecogniserMissing


@pytest.fixture(scope="module")
def sphinx():
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed (extra `recognise`)")
    return RECOGNISERS["pocketsphinx"](["blue", "dog", "Swerves", "zorblax", "stops."])


def test_words_without_a_pronunciation_are_named(sphinx):
    assert sphinx.unknown == ("zorblax",)


def test_words_that_nobody_can_say_are_refused(sphinx):
    with pytest.raises(ValueError, match="none of the words that may come: zorblax"):
        RECOGNISERS["pocketsphinx"](["zorblax"])


def test_silence_says_nothing_at_any_rate(sphinx):
    for rate_hz in (RATE_HZ, 24_000):
        assert sphinx.hear(np.zeros(rate_hz // 2, np.float32), rate_hz) == []


def test_silence_surrounds_and_rates_are_brought_together():
    tone = np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000).astype(np.float32)
    sound = recognisers._surrounded(tone, 24_000)
    assert (sound.dtype, len(sound)) == (np.float32, RATE_HZ + 2 * RATE_HZ // 4)
    assert not sound[: RATE_HZ // 4].any()
    middle = sound[RATE_HZ // 2 : RATE_HZ]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 440


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(recognisers.importlib, "import_module", missing)
    for make in RECOGNISERS.values():
        with pytest.raises(RecogniserMissing, match=r"pip install 'mmduplex-jax\[recognise\]'"):
            make(["dog"])
