"""A codec small enough for tests, 8 samples a step, whose context is 3 steps, and random numbers for all of it."""

import functools
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.codec.codec import Codec, LiveCodec, param_shapes
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.sharding import array_name
from tests.tiny import jit

CONFIG = CodecConfig(
    sample_rate_hz=100,
    ratios=(2, 2),
    filters=4,
    kernel=3,
    residual_layers=2,
    width=16,
    layers=2,
    heads=2,
    hidden=32,
    context_frames=6,
    codebooks=4,
    codebook_size=8,
    codebook_width=6,
)
LIVE = LiveCodec(CONFIG)


def random_params(config: CodecConfig = CONFIG, seed: int = 0):
    """Parameters that all matter: no bias and no codebook is zero, every layer scale is large."""

    def one(path, leaf):
        name = array_name(path)
        noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(leaf.shape).astype(np.float32)
        last = name.rpartition("/")[2]
        if last == "usage":
            return jnp.asarray(0.5 + np.abs(noise))
        if last == "kernel":
            return jnp.asarray(noise / np.sqrt(max(1, np.prod(leaf.shape[:-1]))))
        return jnp.asarray(noise if last == "sums" else 0.3 * noise + (last == "scale"))

    return jax.tree_util.tree_map_with_path(one, nn.unbox(param_shapes(config)))


def sound(batch: int, steps: int, config: CodecConfig = CONFIG, seed: int = 0) -> np.ndarray:
    """Noise, float32 `[B, L]`."""
    samples = np.random.default_rng(seed).uniform(-1, 1, (batch, steps * config.step_samples))
    return samples.astype(np.float32)


@functools.cache
def whole(method: str):
    """`(params, input) -> output` of a method of the codec, compiled."""
    return jit(lambda params, *inputs: Codec(CONFIG).apply({"params": params}, *inputs, method=method))


encode_step, decode_step = jit(LIVE.encode_step), jit(LIVE.decode_step)
