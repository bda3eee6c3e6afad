"""The stage `codec` small enough for tests: the tiny codec at 1 kHz with a discriminator of one scale."""

import numpy as np

from configs import codec_quickstart


def config(**train):
    """The quick start's config with a codec of 8 samples a step, and every part of the loss."""
    c = codec_quickstart.get_config()
    c.codec.update(sample_rate_hz=100, ratios=(4,), filters=4, kernel=3, width=16, layers=1, heads=2, hidden=32)
    c.codec.update(context_frames=6, codebooks=3, codebook_size=8, codebook_width=6)
    c.loss.update(mel_windows=(16,), mel_bands=(4,), stft_windows=(16,), adversarial_weight=0.1, feature_weight=0.1)
    c.loss.update(quantizer_dropout=0.5, exact_rate=0.25)
    c.discriminator.update(windows=(16,), filters=2, dilations=(1,))
    c.data.update(clip_s=0.64, batch_size=8)
    c.train.update(steps=4, warmup_steps=1, log_every=1, checkpoint_every=2)
    c.train.update(train)
    return c


def batch(seed: int) -> dict[str, np.ndarray]:
    """Noise in seven rows, and one that does not count."""
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, (8, 64)).astype(np.int16)
    return {"samples": samples, "valid": np.arange(8) != 5}
