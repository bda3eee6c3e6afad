"""The `duplex` stage: the dual-stream model learns to say what it sees, when it sees it."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.samples import NUM_THINGS
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import fit_of
from mmduplex_jax.layers.dropout import DROPOUT
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.audio_stream import AudioConfig, Sound, sound_of
from mmduplex_jax.models.depth import ZERO, DepthConfig, code_weights, weighted_mean
from mmduplex_jax.models.dual_stream import (
    DualStream,
    DualStreamConfig,
    delayed,
    future_word_counts,
    sample_delays,
    shifted,
    thing_of_token,
)
from mmduplex_jax.models.event_memory import MemoryConfig
from mmduplex_jax.models.fusion import fusion_of
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer import config as tokenizer_config
from mmduplex_jax.tokenizer.bflow import FLOW, Tokens
from mmduplex_jax.tokenizer.encoders import draw_anchor_keep
from mmduplex_jax.tokenizer.sight_arrays import SightArray, batch_shapes, sight_of
from mmduplex_jax.typing import Array, Float, Int32, PyTree


def stack_config(values: Any, clock: Clock) -> StackConfig:
    """A transformer's shape from a mapping, its `window_s` turned into steps."""
    values = dict(values)
    return StackConfig(window_steps=clock.steps_in(values.pop("window_s")), **values)


def memory_config(values: Any, clock: Clock, video: StackConfig) -> MemoryConfig | None:
    """The event memory from a mapping; None where there is none, or it reaches 0 s back.

    It begins where the window of the video stream ends, unless `recent_s` says otherwise.
    """
    values = dict(values or {})
    capacity_s = values.pop("capacity_s", 0.0)
    if not capacity_s:
        return None
    recent_s = values.pop("recent_s", None)
    return MemoryConfig(
        clock=clock,
        period_ticks=clock.ticks_in(values.pop("period_s")),
        capacity_steps=clock.steps_in(capacity_s),
        recent_steps=video.window_steps if recent_s is None else clock.steps_in(recent_s),
        dtype=video.dtype,
        **values,
    )


def audio_config(values: Any, text_rows: int, dtype: str) -> AudioConfig | None:
    """The audio stream from a mapping (see `configs/speak_quickstart.py`); None where there is none.

    Args:
      values: `codebooks` and `card`, as the codec has them; `audio_delay` and `acoustic_delay` in steps, the latter of
        all codebooks but the first, which holds the meaning; `depth`, the fields of `DepthConfig` that are left.
      text_rows: of the text stream's embedding.
      dtype: of the text stream.
    """
    values = dict(values or {})
    if not values.get("codebooks"):
        return None
    depth: dict[str, Any] = {"dtype": dtype} | dict(values["depth"])
    depth["schedule"] = tuple(depth.get("schedule", ()))
    codebooks = values["codebooks"]
    return AudioConfig(
        DepthConfig(codebooks=codebooks, card=values["card"], text_rows=text_rows, **depth),
        audio_delay=values["audio_delay"],
        acoustic_delays=(0,) + (values["acoustic_delay"],) * (codebooks - 1),
    )


def model_config(config: Any, tokenizer: TextTokenizer) -> DualStreamConfig:
    """The model of an experiment's config (see `configs/quickstart.py`)."""
    clock = Clock(**config.clock)
    text = dict(config.text)
    tied = text.pop("tied", True)
    if not fusion_of(config.fusion).cross_attention:
        text["cross_every"] = 0  # one knob switches fusions
    model = DualStreamConfig(
        tokenizer=tokenizer_config.from_mapping(config.tokenizer, config.frame_px, clock, fit_of(config)),
        video=stack_config(config.video_stream, clock),
        text=stack_config(text, clock),
        fusion=config.fusion,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        word_id=tokenizer.word_id,
        start_id=tokenizer.start_id,
        delay_max=config.delay.max,
        vocab_rows_min=config.vocab_rows_min,
        tied=tied,
        future_word_head=config.loss.future_word_weight > 0,
        crop_name_head=config.loss.get("crop_name_weight", 0.0) > 0,
        memory=memory_config(config.get("memory"), clock, stack_config(config.video_stream, clock)),
        pad_bias=config.get("pad_bias") or 0.0,
        end_id=tokenizer.end_id,
    )
    return dataclasses.replace(model, audio=audio_config(config.get("audio"), model.language.rows, model.text.dtype))


@dataclasses.dataclass(frozen=True)
class DuplexTask:
    """Loss and shapes of the stage (see `mmduplex_jax/train/task.py`).

    Attributes:
      ticks: T, ticks of a clip.
      delay_min, delay_max: the range of delays, in steps, that training draws from.
      pad_weight: weight of a PAD in the loss; a word's is 1.
      future_word_weight: weight of naming, while a word is said, all words of the next `future_word_horizon_steps`:
        what a phrase will need is recognised when it begins, not when it is due (after multi-token prediction, Gloeckle
        et al., 2024).
      nested_dropout: share of clips whose anchors lose a random tail of their tokens.
      loss_chunk: steps whose logits are held at once, 0 for all; those of `future_word_weight` are always whole.
      crop_name_weight: weight of naming what each flow token looks at, of clips that know it (`Record.things`): what a
        thing is is learned from every crop of it, not only from the few words that are said of it.
      audio_weight: weight of the codes' loss beside the text's; each is divided by its own weights.
      first_codebook_weight: weight of a code of the first codebook; of the others it is 1.
      sound_dropout: share of clips with sound from which text is learned as if there were none, so that the same
        parameters write well when nothing is to be heard.
      encoded: arrays of encoded clips that batches have instead of frames (`with_encoded`).
    """

    config: DualStreamConfig
    ticks: int
    delay_min: int
    delay_max: int
    pad_weight: float
    nested_dropout: float
    future_word_weight: float = 0.0
    future_word_horizon_steps: int = 20
    loss_chunk: int = 0
    crop_name_weight: float = 0.0
    audio_weight: float = 1.0
    first_codebook_weight: float = 1.0
    sound_dropout: float = 0.0
    encoded: tuple[SightArray, ...] = ()

    @property
    def model(self) -> DualStream:
        return DualStream(self.config)

    @property
    def steps(self) -> int:
        return self.ticks * self.config.clock.video_stride

    def init(self, rng: Array) -> PyTree:
        """Parameters, boxed with their logical axes."""
        # From frames, whatever is learned from: a model has all its parameters.
        batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in self.with_encoded(()).example_batch(1).items()}
        return self.model.init(rng, batch["frames"], batch["slots"], jnp.zeros((1,), jnp.int32))["params"]

    def with_encoded(self, arrays: Iterable[Any]) -> "DuplexTask":
        """The same task for batches of encoded clips (`stages/encoding.py`); of frames where there are no arrays.

        Args:
          arrays: of a clip, each with the fields of `SightArray`.
        """
        return dataclasses.replace(self, encoded=tuple(SightArray(*array) for array in arrays))

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        frames = (batch_size, self.ticks, *self.config.tokenizer.frame_px, 3)
        video = {"frames": jax.ShapeDtypeStruct(frames, jnp.uint8)}
        if self.encoded:
            video = batch_shapes(self.encoded, batch_size)
        return video | {
            "slots": jax.ShapeDtypeStruct((batch_size, self.steps), jnp.int32),
            "slot_valid": jax.ShapeDtypeStruct((batch_size, self.steps), jnp.bool_),
            **(self._thing_shapes(batch_size) if self.config.crop_name_head else {}),
            **({} if self.config.audio is None else self._code_shapes(batch_size, self.config.audio)),
        }

    def _thing_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "thing_boxes": jax.ShapeDtypeStruct((batch_size, self.ticks, NUM_THINGS, 4), jnp.float32),
            "thing_ids": jax.ShapeDtypeStruct((batch_size, NUM_THINGS), jnp.int32),
            "things_known": jax.ShapeDtypeStruct((batch_size,), jnp.bool_),
        }

    def _code_shapes(self, batch_size: int, audio: AudioConfig) -> dict[str, jax.ShapeDtypeStruct]:
        return {"codes": jax.ShapeDtypeStruct((batch_size, self.steps, audio.depth.codebooks), jnp.int16)}

    def loss(self, params: PyTree, batch: Any, rng: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Weighted cross-entropy of every slot, at a delay drawn for every clip.

        Metrics: `word_nll` (words' tokens), `mark_nll` (word starts), `pad_nll` and, where the vocabulary has the mark,
          `end_nll` (sentence ends), in nats a slot; `video_tokens` a clip; with their heads `future_word_nll`, and
          `crop_name_nll` and `crop_name_accuracy` of flow tokens; with sound `code_nll` and, of the first codebook,
          `first_code_nll`, in nats a code, and `code_weight`, what the codes' loss is divided by.
        """
        c = self.config
        slots = batch["slots"]
        video = sight_of(batch) if self.encoded else batch["frames"]
        delay_key, drop_key, keep_key = jax.random.split(rng, 3)
        rows = len(slots)
        delay = sample_delays(delay_key, rows, self.delay_min, self.delay_max)
        keep = draw_anchor_keep(drop_key, keep_key, rows, self.nested_dropout, c.tokenizer)
        target = delayed(slots, delay, c.pad_id)
        given = shifted(target, c.start_id)
        sound = None if c.audio is None else self._sound(c.audio, batch, delay, jax.random.fold_in(rng, 4))
        inputs = (video, given, delay, keep, target, self.loss_chunk, sound)
        rngs = {DROPOUT: jax.random.fold_in(rng, 3)}
        nll, tokens, future_logits, crop_logits, code_nll = self.model.apply(
            {"params": params}, *inputs, method="token_nll", rngs=rngs
        )
        # A slot counts where there is a picture, and where the slot that the delay brings here is known.
        known = batch["slot_valid"]
        brought = delayed(known.astype(jnp.int32), delay, 1) > 0
        valid = (known & brought).astype(jnp.float32)
        is_pad, is_mark = target == c.pad_id, target == c.word_id
        is_end = jnp.zeros_like(is_pad) if c.end_id is None else target == c.end_id
        is_word = ~is_pad & ~is_mark & ~is_end
        weight = jnp.where(is_pad, self.pad_weight, 1.0) * valid
        total = weight.sum()
        mean = lambda where: (nll * valid * where).sum() / jnp.maximum((valid * where).sum(), 1.0)
        video_tokens = tokens.valid.sum().astype(jnp.float32)
        loss, metrics = (nll * weight).sum(), {}
        if c.future_word_head:
            spoken = is_word & (valid > 0)
            soon = future_word_counts(target, spoken, self.future_word_horizon_steps, c.vocab_size)
            count = soon.sum(axis=-1)
            named = -(soon * jax.nn.log_softmax(future_logits)).sum(axis=-1) / jnp.maximum(count, 1.0)
            asked = valid * (~is_pad & ~is_end) * (count > 0)
            loss += self.future_word_weight * (named * asked).sum()
            metrics["future_word_nll"] = (named * asked).sum() / jnp.maximum(asked.sum(), 1.0)
        if c.crop_name_head:
            name_nll, named = self._crop_name_nll(batch, tokens, crop_logits)
            loss += self.crop_name_weight * name_nll * total
            metrics |= {"crop_name_nll": name_nll, "crop_name_accuracy": named}
        loss = loss / jnp.maximum(total, 1.0)
        if sound is not None:
            heard = sound.known & known[..., None]
            weights = code_weights(heard, self.first_codebook_weight)
            loss += self.audio_weight * weighted_mean(code_nll, weights)
            metrics |= {
                "code_nll": weighted_mean(code_nll, heard.astype(jnp.float32)),
                "first_code_nll": weighted_mean(code_nll[..., 0], heard[..., 0].astype(jnp.float32)),
                "code_weight": weights.sum(),
            }
        return loss, metrics | {
            "loss_weight": total,
            "word_nll": mean(is_word),
            "mark_nll": mean(is_mark),
            "pad_nll": mean(is_pad),
            **({} if c.end_id is None else {"end_nll": mean(is_end)}),
            "video_tokens": video_tokens / rows,
            "tokens": video_tokens + valid.sum(),
        }

    def _sound(self, audio: AudioConfig, batch: Any, delay: Int32[Array, "B"], key: Array) -> Sound:
        """The codes of a batch, each clip's heard or not."""
        # Sound of words that nobody knows would be learned as the sound of silence.
        codes = jnp.where(batch["slot_valid"][..., None], batch["codes"].astype(jnp.int32), ZERO)
        dropped = jax.random.bernoulli(key, self.sound_dropout, (len(codes),))
        return sound_of(audio, codes, delay, (codes >= 0).any(axis=(1, 2)) & ~dropped)

    def _crop_name_nll(
        self, batch: Any, tokens: Tokens, logits: Float[Array, "B N V"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """How well flow tokens name what they look at, in nats a token, and how often the likeliest word is right of
        those that look at a thing; of clips that know it.
        """
        c, ids = self.config, batch["thing_ids"]
        size, stride = c.tokenizer.frame_px, c.clock.video_stride
        target = thing_of_token(tokens, batch["thing_boxes"], ids, size, stride, c.pad_id)
        asked = tokens.valid & (tokens.kind == FLOW) & batch["things_known"][:, None] & (target >= 0)
        log_p = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(log_p, jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]
        mean = lambda values, where: (values * where).sum() / jnp.maximum(where.sum(), 1)
        right = (log_p.argmax(axis=-1) == target).astype(jnp.float32)
        return mean(nll, asked), mean(right, asked & (target != c.pad_id))


def build_task(config: Any, tokenizer: TextTokenizer) -> DuplexTask:
    """The task of an experiment's config."""
    model = model_config(config, tokenizer)
    if config.delay.min > config.delay.max:
        raise ValueError(f"config.delay.min ({config.delay.min}) is over config.delay.max ({config.delay.max})")
    return DuplexTask(
        config=model,
        ticks=model.clock.ticks_in(config.data.clip_s),
        delay_min=config.delay.min,
        delay_max=config.delay.max,
        pad_weight=config.loss.pad_weight,
        nested_dropout=config.loss.nested_dropout,
        future_word_weight=config.loss.future_word_weight,
        future_word_horizon_steps=model.clock.steps_in(config.loss.future_word_horizon_s),
        loss_chunk=config.loss.get("chunk", 0),
        crop_name_weight=config.loss.get("crop_name_weight", 0.0),
        **({} if model.audio is None else _sound_losses(config.audio)),
    )


def _sound_losses(audio: Any) -> dict[str, Any]:
    return {
        "audio_weight": audio.weight,
        "first_codebook_weight": audio.first_codebook_weight,
        "sound_dropout": audio.dropout,
    }
