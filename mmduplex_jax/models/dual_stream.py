"""The dual-stream transformer: text that is written while video is watched.

The tokenizer makes video tokens, a decoder-only language model has one slot of text a step, and a fusion says how the
two meet (models/fusion/). A text slot at step `s` is given the slot before and attends to video of steps up to `s`; the
text runs `delay` steps behind the picture. A model may speak: then a step has the codes of its sound too
(`audio_stream.py`). Where nothing is to be heard none of that is computed, and its text is that of the same model
without an audio stream, bit for bit.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.audio_stream import AudioConfig, AudioState, AudioStream, Sound, Spoken
from mmduplex_jax.models.depth import masked_nll
from mmduplex_jax.models.event_memory import EventMemory, MemoryConfig, MemoryState
from mmduplex_jax.models.fusion import fusion_of
from mmduplex_jax.models.language import LanguageConfig, LanguageModel
from mmduplex_jax.tokenizer.bflow import BFlow, BFlowState, Tokens
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.sight import Sight
from mmduplex_jax.typing import Array, Bool, Float, Int32, UInt8


def delayed(slots: Int32[Array, "B S"], delay: Int32[Array, "B"], pad_id: int) -> Int32[Array, "B S"]:
    """Moves the text stream `delay` steps behind the picture (Moshi's delayed streams).

    Args:
      slots: slots packed at delay 0 (see `data_pipelines/packing.py`).
      delay: steps, one a row.
      pad_id: what stands in the first `delay` slots.

    Returns:
      The slots with `slots[s - delay]` at step `s`; the last `delay` fall out of the clip.
    """
    steps = jnp.arange(slots.shape[1])[None] - delay[:, None]
    moved = jnp.take_along_axis(slots, jnp.maximum(steps, 0), axis=1)
    return jnp.where(steps >= 0, moved, pad_id)


def shifted(slots: Int32[Array, "B S"], start_id: int) -> Int32[Array, "B S"]:
    """What the model is given at each step: the slot of the step before; the start mark at step 0."""
    return jnp.concatenate([jnp.full_like(slots[:, :1], start_id), slots[:, :-1]], axis=1)


def future_word_counts(
    slots: Int32[Array, "B S"], spoken: Bool[Array, "B S"], horizon_steps: int, vocab_size: int
) -> Float[Array, "B S V"]:
    """How often each id is said in the `horizon_steps` slots from each step on, of those slots that are `spoken`."""
    said = jax.nn.one_hot(slots, vocab_size) * spoken[..., None]
    total = jnp.cumsum(jnp.pad(said, [(0, 0), (1, horizon_steps - 1), (0, 0)]), axis=1)
    return total[:, horizon_steps:] - total[:, : slots.shape[1]]


def thing_of_token(
    tokens: Tokens,
    boxes: Float[Array, "B T K 4"],
    ids: Int32[Array, "B K"],
    frame_px: FrameSize,
    video_stride: int,
    nothing_id: int,
) -> Int32[Array, "B N"]:
    """What each token looks at: of the things in whose box its centre lies, the smallest one.

    Args:
      tokens: packed.
      boxes: of things at each tick, see `data_pipelines.schema.Thing`.
      ids: what names them.
      frame_px: height and width of the frame.
      video_stride: steps of a tick.
      nothing_id: what names a place where there is none of them.
    """
    tick = jnp.clip(tokens.step // video_stride, 0, boxes.shape[1] - 1)
    now = jnp.take_along_axis(boxes, tick[..., None, None], axis=1)  # [B, N, K, 4]
    at = (tokens.centre_px.astype(jnp.float32) / jnp.asarray(frame_px, jnp.float32))[:, :, None]
    low, high = now[..., :2], now[..., 2:]
    inside = ((at >= low - _BOX_MARGIN) & (at <= high + _BOX_MARGIN)).all(axis=-1) & (high > low).all(axis=-1)
    area = jnp.where(inside, (high - low).prod(axis=-1), jnp.inf)
    smallest = jnp.argmin(area, axis=-1)
    return jnp.where(inside.any(axis=-1), jnp.take_along_axis(ids, smallest, axis=1), nothing_id)


def sample_delays(key: Array, batch: int, low: int, high: int) -> Int32[Array, "B"]:
    """A delay a row, uniform in `low … high`, both included."""
    return jax.random.randint(key, (batch,), low, high + 1, jnp.int32)


# A crop on a thing's edge is centred a little beside its box: by so much of the frame.
_BOX_MARGIN = 0.015

TOKEN_CONTROLS = ("real", "shuffled", "zeroed")


@dataclasses.dataclass(frozen=True)
class DualStreamConfig:
    """Everything about the model.

    Attributes:
      fusion: how the streams meet, one of `fusion.FUSIONS`.
      vocab_size: ids of the text tokenizer, marks included.
      vocab_rows_min: rows that the embedding table has at least.
      vocab_multiple: the embedding table is padded to a multiple of this, so that it can be sharded.
      pad_id, word_id, start_id, end_id: the marks; end_id None where the tokenizer has no sentence ends.
      delay_max: largest delay that the model is told apart from others.
      tied: whether the head is the embedding table; otherwise it is a table of its own.
      future_word_head: whether there is a head that names the words of the next second or two (a helper in training).
      crop_name_head: whether there is a head that names what each flow token looks at (another helper).
      memory: what video tokens see of the last hour; None for nothing.
      audio: the stream of sound beside the text; None for a model that only writes.
      pad_bias: added to silence's logit whenever the model speaks by itself, so that a session's own 0 is a trained
        model's best (`launch.export --pad_bias`). Losses and given words know nothing of it.
      token_control: "real", or a control that ruins the tokens' contents: "shuffled" (each row gets its neighbour's) or
        "zeroed".
    """

    tokenizer: TokenizerConfig
    video: StackConfig
    text: StackConfig
    fusion: str
    vocab_size: int
    pad_id: int
    word_id: int
    start_id: int
    delay_max: int
    vocab_rows_min: int = 0
    vocab_multiple: int = 128
    tied: bool = True
    future_word_head: bool = False
    crop_name_head: bool = False
    memory: MemoryConfig | None = None
    pad_bias: float = 0.0
    token_control: str = "real"
    end_id: int | None = None
    audio: AudioConfig | None = None

    def __post_init__(self):
        if self.token_control not in TOKEN_CONTROLS:
            raise ValueError(f"token_control is one of {', '.join(TOKEN_CONTROLS)}, not {self.token_control!r}")
        if fusion_of(self.fusion).cross_attention != bool(self.text.cross_every):
            raise ValueError(f"fusion {self.fusion!r} does not go with text.cross_every={self.text.cross_every}")

    @property
    def language(self) -> LanguageConfig:
        """The text stream's language model; its tables are filled up to a multiple, so that they can be sharded."""
        rows = -(-max(self.vocab_size, self.vocab_rows_min) // self.vocab_multiple) * self.vocab_multiple
        return LanguageConfig(self.text, self.vocab_size, "tied" if self.tied else "own", rows)

    @property
    def clock(self) -> Clock:
        return self.tokenizer.clock


class LiveState(NamedTuple):
    """All that `B` streams remember; a pytree of fixed size.

    Attributes:
      tokenizer: see `BFlowState`.
      fusion: caches of the streams of video and text, as the fusion has them.
      step: int32 `[B]`, the step to be done next.
      token: int32 `[B]`, the slot of the step before.
      memory: of events; () for a model without.
      audio: codes of the last steps; () for a model without.
    """

    tokenizer: BFlowState
    fusion: Any
    step: Int32[Array, "B"]
    token: Int32[Array, "B"]
    memory: MemoryState | tuple[()] = ()
    audio: AudioState | tuple[()] = ()


class TeacherForced(NamedTuple):
    """What a training learns from.

    Attributes:
      nll: `[B, S]`, each target's negative log-likelihood, in nats.
      tokens: of the video.
      future_words: logits of the future-word head, `[B, S, V]`; None without one.
      crop_names: logits of the word that names what each video token looks at, `[B, N, V]`; None without that head.
      codes: each code's negative log-likelihood, in nats, 0 where it is not known, `[B, S, K]`; None without sound.
    """

    nll: Float[Array, "B S"]
    tokens: Tokens
    future_words: Float[Array, "B S V"] | None = None
    crop_names: Float[Array, "B N V"] | None = None
    codes: Float[Array, "B S K"] | None = None


def _audio_state(state: LiveState) -> AudioState:
    if not isinstance(state.audio, AudioState):
        raise ValueError("this model has no audio stream (config.audio): it writes and does not speak")
    return state.audio


class DualStream(nn.Module):
    """The model as a Linen module without mutable collections."""

    config: DualStreamConfig

    def setup(self):
        c, fusion = self.config, fusion_of(self.config.fusion)
        self.tokenizer = BFlow(c.tokenizer)
        self.language = LanguageModel(c.language)
        self.fusion = fusion(c.tokenizer, c.video, self.language)
        nn.share_scope(self, self.language)
        nn.share_scope(self, self.fusion)
        normal = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
        self.delays = self.param("delays", normal, (c.delay_max + 1, c.text.width))
        if c.memory is not None:
            self.memory = EventMemory(c.memory, fusion.video_width(c.text, c.video))
        if c.audio is not None:
            self.audio = AudioStream(c.audio, c.text.width)
        if c.future_word_head:
            dtype = jnp.dtype(c.text.dtype)
            self.future_word_head = dense(c.text.width, ("embed", "mlp"), name="future_word_head", dtype=dtype)
        if c.crop_name_head:
            dtype = jnp.dtype(c.tokenizer.dtype)
            self.crop_name_head = dense(c.text.width, ("feature", "mlp"), name="crop_name_head", dtype=dtype)

    # What both forms share.

    def _controlled(self, values: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        control = self.config.token_control
        if control == "shuffled":
            return jnp.roll(values, 1, axis=0)
        return jnp.zeros_like(values) if control == "zeroed" else values

    def _embed(
        self, slots: Int32[Array, "B S"], delay: Int32[Array, "B"], codes: Int32[Array, "B S K"] | None = None
    ) -> Float[Array, "B S D"]:
        # Summed in the tables' dtype, hence not by the language model's own `embed`.
        embedded = self.language.embedding[slots] + self.delays[jnp.minimum(delay, self.config.delay_max)][:, None]
        if codes is not None:
            embedded = embedded + self.audio.embed(codes)
        return embedded.astype(jnp.dtype(self.config.text.dtype))

    # Whole clips.

    def __call__(
        self,
        video: UInt8[Array, "B T H W 3"] | Sight,
        slots: Int32[Array, "B S"],
        delay: Int32[Array, "B"],
        anchor_keep: Int32[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B S V"], Tokens]:
        """Logits of every step, teacher-forced.

        Args:
          video: frames, one a tick, or what is looked at in them (`BFlow`).
          slots: the slot before each step (`shifted`).
          delay: steps that the text runs behind, one a row.
          anchor_keep: see `BFlow`.
        """
        tokens = self.tokenizer(video, anchor_keep)
        x = self.hidden(tokens, slots, delay)
        if self.is_initializing() and self.config.future_word_head:
            self.future_word_head(x)
        if self.is_initializing() and self.config.crop_name_head:
            self.crop_name_head(tokens.values)
        if self.is_initializing() and self.config.audio is not None:
            self.audio(x, slots)
        return self.language.logits(x), tokens

    def token_nll(
        self,
        video: UInt8[Array, "B T H W 3"] | Sight,
        slots: Int32[Array, "B S"],
        delay: Int32[Array, "B"],
        anchor_keep: Int32[Array, "B"] | None,
        target: Int32[Array, "B S"],
        chunk: int = 0,
        sound: Sound | None = None,
    ) -> "TeacherForced":
        """Negative log-likelihood of `target` at every step, in nats, teacher-forced; other arguments as of `__call__`.

        Args:
          chunk: steps whose logits are held at once (`layers/vocabulary.py`); 0 for all.
          sound: what is heard in the meantime; None: nothing.
        """
        tokens = self.tokenizer(video, anchor_keep)
        x = self.hidden(tokens, slots, delay, None if sound is None else sound.given)
        nll, _ = self.language.token_nll_of(x, target, chunk)
        future_words = self.language.logits(self.future_word_head(x)) if self.config.future_word_head else None
        crop_names = None
        if self.config.crop_name_head:
            named = self.crop_name_head(tokens.values).astype(jnp.dtype(self.config.text.dtype))
            crop_names = self.language.logits(named)
        codes = None
        if sound is not None:
            codes = masked_nll(self.audio.code_logits(x, target, sound.target), sound.target, sound.known)
        return TeacherForced(nll, tokens, future_words, crop_names, codes)

    def hidden(
        self,
        tokens: Tokens,
        slots: Int32[Array, "B S"],
        delay: Int32[Array, "B"],
        codes: Int32[Array, "B S K"] | None = None,
    ) -> Float[Array, "B S D"]:
        """The text stream's last layer, from tokens that were made before (videos can be encoded once and kept).

        Args:
          codes: those of the step before each step (`Sound.given`); None: nothing is heard.
        """
        values = self._controlled(tokens.values)
        video = self.fusion.embed(values)
        if self.config.memory is not None:
            video = video + self.memory(values, tokens.step, tokens.valid, slots.shape[1])
        return self.fusion.read(self._embed(slots, delay, codes), video, tokens.step, tokens.valid)

    # Streams.

    def initial_state(self, batch: int) -> LiveState:
        """What `batch` streams remember before their first step."""
        c = self.config
        return LiveState(
            tokenizer=self.tokenizer.initial_state(batch),
            fusion=self.fusion.initial_state(batch),
            step=jnp.zeros((batch,), jnp.int32),
            token=jnp.full((batch,), c.start_id, jnp.int32),
            memory=() if c.memory is None else self.memory.initial_state(batch),
            audio=() if c.audio is None else self.audio.initial_state(batch),
        )

    def video_step(
        self, state: LiveState, frame: UInt8[Array, "B H W 3"], active: Bool[Array, "B"], cap: Any = None
    ) -> tuple[LiveState, Tokens]:
        """One tick of the rows that are active: tokenizes the frame and hands it to the fusion."""
        tokenizer, tokens = self.tokenizer.step(state.tokenizer, frame, state.step, active, cap)
        values, memory = self._controlled(tokens.values), state.memory
        video = self.fusion.embed(values)
        if isinstance(memory, MemoryState):
            memory, recalled = self.memory.step(memory, values, tokens.valid, state.step, active)
            video = video + recalled
        fusion = self.fusion.video_step(state.fusion, video, tokens.step, tokens.valid)
        return state._replace(tokenizer=tokenizer, fusion=fusion, memory=memory), tokens

    def text_step(
        self, state: LiveState, delay: Int32[Array, "B"], active: Bool[Array, "B"]
    ) -> tuple[LiveState, Float[Array, "B V"]]:
        """One step of the text stream of the rows that are active.

        Returns:
          The state with the step counted (the caller sets `token` to what it chose), and the logits.
        """
        state, x = self._text_hidden(state, delay, active, None)
        return state, self.language.logits(x)[:, 0]

    def heard_text_step(
        self, state: LiveState, delay: Int32[Array, "B"], active: Bool[Array, "B"], speaking: Bool[Array, "B"]
    ) -> tuple[LiveState, Float[Array, "B V"], Float[Array, "B D"]]:
        """`text_step` of a model that hears itself: rows that are `speaking` are given their last codes too.

        Returns:
          Also the hidden state, from which `sound_step` goes on.
        """
        heard = _audio_state(state)
        codes = self.audio.given(heard, speaking)[:, None]
        state, x = self._text_hidden(state, delay, active, codes)
        return state, self.language.logits(x)[:, 0], x[:, 0]

    def sound_step(
        self,
        state: LiveState,
        hidden: Float[Array, "B D"],
        text: Int32[Array, "B"],
        since: Int32[Array, "B"],
        *rest: Any,
    ) -> tuple[LiveState, Spoken]:
        """The sound of the step whose text has just been said; arguments as of `AudioStream.step`."""
        heard = _audio_state(state)
        audio, spoken = self.audio.step(heard, hidden, text, since, *rest)
        return state._replace(audio=audio), spoken

    def _text_hidden(
        self,
        state: LiveState,
        delay: Int32[Array, "B"],
        active: Bool[Array, "B"],
        codes: Int32[Array, "B 1 K"] | None,
    ) -> tuple[LiveState, Float[Array, "B 1 D"]]:
        x = self._embed(state.token[:, None], delay, codes)
        fusion, x = self.fusion.text_step(state.fusion, x, state.step[:, None], active[:, None])
        return state._replace(fusion=fusion, step=state.step + active), x
