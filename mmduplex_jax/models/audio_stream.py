"""The audio stream beside the text: a step has a slot of text and one frame of a codec's codes.

After Moshi (Défossez et al., 2024; kyutai-labs/moshi e6a55d2, moshi/models/lm.py).

The codes of the step before are embedded, summed, and added to what the text stream is given; the depth transformer
(`depth.py`) says a step's codes from the text stream's hidden state and the step's text token. Text leads: the sound of
a frame is said `audio_delay` steps after the slot of the same time, its codebooks with a delay of their own besides.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.models.depth import (
    UNGENERATED,
    ZERO,
    DepthConfig,
    DepthTransformer,
    StepEmbedding,
    delayed_codes,
)
from mmduplex_jax.typing import Array, Bool, Float, Int32


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """The shape of the audio stream.

    Attributes:
      depth: of the transformer that says a step's codes.
      audio_delay: steps by which sound runs behind the text.
      acoustic_delays: steps by which each codebook runs behind that, K numbers, the smallest of them 0.
    """

    depth: DepthConfig
    audio_delay: int
    acoustic_delays: tuple[int, ...]

    def __post_init__(self):
        if self.audio_delay < 0:
            raise ValueError(f"config.audio.audio_delay must be 0 steps or more, got {self.audio_delay}")
        if len(self.acoustic_delays) != self.depth.codebooks or min(self.acoustic_delays) != 0:
            raise ValueError(
                f"{self.depth.codebooks} codebooks need an acoustic delay each, the smallest of them 0 (what delays "
                f"all alike is config.audio.audio_delay); got {self.acoustic_delays}"
            )

    @property
    def delays(self) -> tuple[int, ...]:
        """Steps by which each codebook runs behind the text."""
        return tuple(self.audio_delay + delay for delay in self.acoustic_delays)


class Sound(NamedTuple):
    """The codes of whole clips, as a training has them.

    Attributes:
      given: int32 `[B, S, K]`, the codes of the step before each step.
      target: int32 `[B, S, K]`, those of the step.
      known: bool `[B, S, K]`, which of these are to be learned.
    """

    given: Int32[Array, "B S K"]
    target: Int32[Array, "B S K"]
    known: Bool[Array, "B S K"]


class AudioState(NamedTuple):
    """What `B` streams remember of their sound.

    Attributes:
      codes: int32 `[B, H, K]`, of the last `H` steps, the newest last: as many as it takes until a frame has all of its
        codes. `UNGENERATED` before the first step, `ZERO` of steps without sound.
    """

    codes: Int32[Array, "B H K"]

    def unheard(self, active: Bool[Array, "B"]) -> "AudioState":
        """After a step of the active rows in which nobody was heard: codes of before are no part of a later frame."""
        silence = jnp.full_like(self.codes[:, :1], ZERO)
        history = jnp.concatenate([self.codes[:, 1:], silence], axis=1)
        return AudioState(jnp.where(active[:, None, None], history, self.codes))


class Spoken(NamedTuple):
    """What a step says.

    Attributes:
      codes: int32 `[B, K]`, the step's codes; `ZERO` of rows that do not speak.
      frame: int32 `[B, K]`, the codes of the codec's frame that is complete with them; `ZERO` where there is none yet.
      logits: float32 `[B, K, C]`.
    """

    codes: Int32[Array, "B K"]
    frame: Int32[Array, "B K"]
    logits: Float[Array, "B K C"]


def sound_of(
    config: AudioConfig, codes: Int32[Array, "B S K"], delay: Int32[Array, "B"], sounding: Bool[Array, "B"]
) -> Sound:
    """What is learned from the codes of clips.

    Args:
      codes: of each step's sound, before any delay; `ZERO` where it is not known.
      delay: steps that the text runs behind the picture, one a row.
      sounding: rows that are to speak. The others are given `ZERO` throughout, which adds nothing to their text: they
        are clips as a model without sound has them.
    """
    initial, speaks = config.depth.initial, sounding[:, None, None]
    moved = delayed_codes(codes.astype(jnp.int32), config.delays, initial)
    at = (jnp.arange(codes.shape[1])[None] - delay[:, None])[..., None]
    moved = jnp.where(at >= 0, jnp.take_along_axis(moved, jnp.maximum(at, 0), axis=1), initial)
    target = jnp.where(speaks, moved, ZERO)
    first = jnp.where(speaks, initial, jnp.full_like(target[:, :1], ZERO))
    given = jnp.concatenate([first, target[:, :-1]], axis=1)
    return Sound(given, target, (target >= 0) & (target < initial))


class AudioStream(nn.Module):
    """Codes into the text stream (`embed`), and out of its hidden states (`depth`).

    Attributes:
      width: of the text stream.
    """

    config: AudioConfig
    width: int

    def setup(self):
        depth = self.config.depth
        # Zeros at first: a text stream that can write already is not disturbed by codes that mean nothing yet.
        zeros = nn.initializers.zeros_init()
        self.embedding = StepEmbedding(depth.codebooks, depth.card + 1, self.width, init=zeros)
        self.depth = DepthTransformer(depth)

    def __call__(self, hidden: Float[Array, "B S W"], text: Int32[Array, "B S"]) -> tuple[Array, Array]:
        """Makes the parameters: all that the stream computes, of steps without sound."""
        codes = jnp.full((*text.shape, self.config.depth.codebooks), ZERO, jnp.int32)
        return self.embed(codes), self.depth(hidden, text, codes)

    def embed(self, codes: Int32[Array, "B S K"]) -> Float[Array, "B S W"]:
        """What is added to the text stream's input: float32 sums over codebooks, 0 where there is no sound."""
        flat = codes.reshape(-1, codes.shape[-1])
        return self.embedding(flat).sum(axis=1).reshape(*codes.shape[:-1], self.width)

    def code_logits(
        self, hidden: Float[Array, "B S W"], text: Int32[Array, "B S"], codes: Int32[Array, "B S K"]
    ) -> Float[Array, "B S K C"]:
        """Logits of whole clips' codes, teacher-forced (`DepthTransformer`)."""
        return self.depth(hidden, text, codes)

    def initial_state(self, batch: int) -> AudioState:
        """What `batch` streams remember before their first step."""
        c = self.config
        steps = max(c.acoustic_delays) + 1
        return AudioState(jnp.full((batch, steps, c.depth.codebooks), UNGENERATED, jnp.int32))

    def given(self, state: AudioState, speaking: Bool[Array, "B"]) -> Int32[Array, "B K"]:
        """The codes of the step before; what stands before the first code where there was no sound in it."""
        newest = state.codes[:, -1]
        return jnp.where(speaking[:, None], jnp.where(newest < 0, self.config.depth.initial, newest), ZERO)

    def step(
        self,
        state: AudioState,
        hidden: Float[Array, "B W"],
        text: Int32[Array, "B"],
        since: Int32[Array, "B"],
        active: Bool[Array, "B"],
        speaking: Bool[Array, "B"],
        forced: Int32[Array, "B K"] | None = None,
    ) -> tuple[AudioState, Spoken]:
        """Says the codes of one step; the likeliest ones.

        Args:
          hidden: of the text stream.
          text: the step's text token.
          since: the step, counted from where the text begins: what of a frame would be of an earlier time is not said.
          active: rows that take part; the others keep their state.
          speaking: rows that have sound.
          forced: codes to take instead; `UNGENERATED`: choose.
        """
        c = self.config
        begun = since[:, None] >= jnp.array(c.delays)

        def choose(k: int, logits: Float[Array, "B C"]) -> Int32[Array, "B"]:
            code = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            code = jnp.where(begun[:, k], code, c.depth.initial)
            code = code if forced is None else jnp.where(forced[:, k] == UNGENERATED, code, forced[:, k])
            return jnp.where(speaking, code, ZERO)

        codes, logits = self.depth.generate(hidden, text, choose)
        history = jnp.concatenate([state.codes[:, 1:], codes[:, None]], axis=1)
        state = AudioState(jnp.where(active[:, None, None], history, state.codes))
        # The codebook with the largest delay completes the frame; the others said theirs some steps ago.
        ago = max(c.acoustic_delays) - jnp.array(c.acoustic_delays)
        frame = history[:, history.shape[1] - 1 - ago, jnp.arange(len(c.delays))]
        whole = ((frame >= 0) & (frame < c.depth.initial)).all(axis=1, keepdims=True)
        return state, Spoken(codes, jnp.where(whole, frame, ZERO), logits)
