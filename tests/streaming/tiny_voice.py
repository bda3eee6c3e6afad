"""A model that speaks and its codec, both small enough for tests, whose random words and codes never repeat."""

import functools

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.models.audio_stream import AudioConfig
from mmduplex_jax.models.depth import DepthConfig
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.sound import Voice, voice_of
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests import tiny
from tests.codec import tiny_codec

DEPTH = DepthConfig(codebooks=3, card=8, text_rows=24, width=8, layers=1, heads=2, hidden=12, low_rank=4)
AUDIO = AudioConfig(DEPTH, audio_delay=1, acoustic_delays=(0, 1, 1))
# The tokenizer that compiles fastest: sound does not know which one there is.
CONFIG = tiny.dual_stream("cross", "per_frame", audio=AUDIO, tied=False)
TOKENIZER = TextTokenizer.word_level([f"w{i}" for i in range(tiny.PAD)])


class Restless(LiveModel):
    """Untrained models repeat themselves; this one goes on from its choice, so that every step says something new."""

    def say(self, params, state, active, *args, **kwargs):
        state, token, logits, spoken = super().say(params, state, active, *args, **kwargs)
        token = (token + 5 * state.step) % tiny.START
        return state._replace(token=jnp.where(active, token, state.token)), token, logits, spoken


MODEL = Restless(CONFIG)


@functools.cache
def params():
    return tiny.init(CONFIG)


@functools.cache
def voice() -> Voice:
    return voice_of(CONFIG, tiny_codec.CONFIG, tiny_codec.random_params(), "the codec")


def decoded(frames: np.ndarray) -> np.ndarray:
    """The sound of frames of codes, int `[S, K]`, at once: float32 `[S, L]`."""
    sound = tiny_codec.whole("decode")(tiny_codec.random_params(), frames[None])
    return np.clip(np.asarray(sound), -1, 1).reshape(len(frames), -1)
