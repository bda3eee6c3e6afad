"""Sound of streams: the codec behind a model's codes, and pieces of one step each, without a gap between them.

A row whose frame of codes is not complete (before its first sound, or after a pause) is silent: its samples are 0 and
the codec's decoder stands still, so that what is heard is what the codec makes of the frames one after the other.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.codec.codec import LiveCodec, StreamState
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree

# Sound that ends or begins again in the middle of a stream fades for so long.
FADE_S = 0.005
# Parts of a codec that only its encoder has.
_ENCODER = ("encoder", "encoder_transformer", "downsample")


class SoundPiece(NamedTuple):
    """Sound of one step.

    Attributes:
      t_s: when its first sample is to be heard, in the stream's time: the end of the step that said it.
      step: the model's step, from 0 at the last reset, or cut (`streaming/cuts.py`).
      samples: float32 `[L]` from -1 to 1, a step long, at the model's `sample_rate_hz`.
      left_out: the step's sound gave way to the load, and this is silence.
    """

    t_s: float
    step: int
    samples: np.ndarray
    left_out: bool = False


@dataclasses.dataclass(frozen=True)
class Voice:
    """A codec that makes a model's codes heard.

    Attributes:
      codec: its decoder, live.
      params: of the codec.
    """

    codec: LiveCodec
    params: PyTree

    @property
    def sample_rate_hz(self) -> int:
        return self.codec.config.sample_rate_hz

    @property
    def step_samples(self) -> int:
        """Samples of a piece."""
        return self.codec.config.step_samples


def voice_of(model: DualStreamConfig, codec: CodecConfig, params: PyTree, named: str) -> Voice:
    """The voice of a model that speaks.

    Args:
      model: with an audio stream.
      codec: the shape of the codec.
      params: the codec's parameters, unboxed; those of its encoder may be missing.
      named: the codec, in errors.

    Raises:
      ValueError: the model does not speak, or its codes are not the codec's; says what differs.
    """
    if model.audio is None:
        raise ValueError(f"{named}: a codec makes codes heard, and this model writes only (config.audio)")
    depth, clock = model.audio.depth, model.clock
    differences = []
    if depth.codebooks > codec.codebooks:
        differences.append(f"{depth.codebooks} codes a step, the codec has {codec.codebooks}")
    if depth.codebooks < codec.semantic_codebooks:
        differences.append(f"{depth.codebooks} codes a step, the codec's semantic ones are {codec.semantic_codebooks}")
    if depth.card != codec.codebook_size:
        differences.append(f"codes of {depth.card} entries, the codec's have {codec.codebook_size}")
    if abs(codec.step_hz - clock.step_hz) > 1e-9 * clock.step_hz:
        differences.append(
            f"{clock.step_hz:g} steps a second, the codec's {codec.step_samples} samples at {codec.sample_rate_hz} Hz "
            f"are {codec.step_hz:g}"
        )
    if differences:
        raise ValueError(
            f"{named} is not the codec of this model: the model has {'; '.join(differences)}. Name the codec that made "
            "the codes of its training"
        )
    return Voice(LiveCodec(codec), {name: part for name, part in params.items() if name not in _ENCODER})


class SpeakingParams(NamedTuple):
    """Parameters of a model and of its codec."""

    model: PyTree
    codec: PyTree


class SpeakingState(NamedTuple):
    """What `B` streams that may be heard remember: the model's state, and that of the codec's decoder."""

    model: PyTree
    decoder: StreamState


@dataclasses.dataclass(frozen=True)
class SpeakingModel:
    """A live model and its codec as one: `mmduplex_jax.models.live.LiveModel`'s step, whose sound is samples.

    Attributes:
      model: a `LiveModel` with an audio stream.
      codec: of its codes.
    """

    model: Any
    codec: LiveCodec

    def init_state(self, params: SpeakingParams, batch: int) -> SpeakingState:
        """The state of `batch` streams that begin."""
        return SpeakingState(self.model.init_state(params.model, batch), self.codec.decoder_state(batch))

    def live_step(
        self,
        params: SpeakingParams,
        state: SpeakingState,
        frame: Any,
        active: Bool[Array, "B"],
        delay: Any,
        pad_bias: Any,
        *,
        cap: Any,
        speaking: Bool[Array, "B"] | None = None,
    ) -> tuple[SpeakingState, Any]:
        """`LiveModel.live_step`, whose output has `sound`; where `speaking` is None nothing of it is computed."""
        given = (params.model, state.model, frame, active, delay, pad_bias)
        if speaking is None:
            model, output = self.model.live_step(*given, cap=cap)
            return state._replace(model=model), output
        model, output = self.model.live_step(*given, cap=cap, speaking=speaking)
        decoder, sound = self.heard(params, state.decoder, output.spoken.frame, active & speaking)
        return SpeakingState(model, decoder), output._replace(sound=sound)

    def heard(
        self, params: SpeakingParams, decoder: StreamState, frame: Int32[Array, "B K"], speaking: Bool[Array, "B"]
    ) -> tuple[StreamState, Float[Array, "B L"]]:
        """The sound of the frames of codes that are complete; rows without one are silent and keep their state."""
        sounding = speaking & (frame >= 0).all(axis=1)
        codes = jnp.where(sounding[:, None], frame, 0)
        return self.codec.decode_step(params.codec, decoder, codes[:, None], sounding)

    def reset_row(self, params: SpeakingParams, state: SpeakingState, row: Int32[Array, ""]) -> SpeakingState:
        """Begins the stream of a row anew, and its sound."""
        model = self.model.reset_row(params.model, state.model, row)
        return SpeakingState(model, self.codec.reset_row(state.decoder, row))


class Seams:
    """Joins the pieces of a stream: sound that was left out and comes back fades in and out instead of clicking.

    At a cut the sound before fades over into what follows. The first sound of a stream is as the codec makes it.
    """

    def __init__(self, voice: Voice):
        self._length = voice.step_samples
        fade = min(self._length, max(1, round(FADE_S * voice.sample_rate_hz)))
        self._rising = np.arange(1, fade + 1, dtype=np.float32) / (fade + 1)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another stream begins, and perhaps another listens: nothing of the one before is heard in it."""
        self._last, self._begun, self._paused = np.float32(0), False, False

    def cut(self) -> None:
        """Another stream begins, and who heard the one before hears it go on: what follows fades over."""
        self._paused = self._begun

    def go_on(self) -> None:
        """A stream of elsewhere goes on: its sound fades in."""
        self._last, self._begun, self._paused = np.float32(0), True, True

    def stop(self) -> None:
        """Nothing is handed out any more, until sound is wanted again."""
        self._last, self._paused = np.float32(0), self._begun

    def joined(self, samples: np.ndarray | None) -> np.ndarray:
        """The samples of the next piece, float32 `[L]`; None where its sound was left out."""
        fade = len(self._rising)
        if samples is None or not samples.any():
            piece = np.zeros(self._length, np.float32)
            piece[:fade] = self._last * self._rising[::-1]
            self.stop()
            return piece
        piece = np.clip(samples, -1, 1)
        if self._paused:
            piece[:fade] = piece[:fade] * self._rising + self._last * self._rising[::-1]
        self._begun, self._paused, self._last = True, False, piece[-1]
        return piece
