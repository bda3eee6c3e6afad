"""The `bflow` stage: the tokenizer learns what happens from words that are timed to a second.

Event tokens must find the words that are said around them and refuse hard negatives of their clip
(`event_alignment.py`); they also name these words. Tokens must hold what will be seen (`prediction.py`). A duplex may
begin with what the tokenizer has learned (`config.init_from.tokenizer`).
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import fit_of
from mmduplex_jax.stages.bflow.event_alignment import (
    BagConfig,
    Bags,
    HardNegatives,
    Marks,
    Rows,
    align,
    backwards,
    choose_rows,
    gather_bags,
    known_end,
    mirrored_moments,
)
from mmduplex_jax.stages.bflow.event_model import (
    AlignConfig,
    EventConfig,
    EventModel,
    EventModelConfig,
    PredictionConfig,
    ReaderConfig,
    draw_moments,
    prediction_error,
)
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer import config as tokenizer_config
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.encoders import draw_anchor_keep
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.typing import Array, Float, Int32, PyTree

TEACHER = "teacher/tower/"


@dataclasses.dataclass(frozen=True)
class BFlowTask:
    """Loss and shapes of the stage (see `mmduplex_jax/train/task.py`).

    Attributes:
      ticks: T, ticks of a clip.
      align_weight: of the contrastive loss.
      name_weight: of naming the words of a moment's bag, given its event token: what a small batch cannot teach by
        comparing.
      predict_weight: of the prediction.
      nested_dropout: share of clips whose anchors lose a random tail of their tokens.
    """

    config: EventModelConfig
    ticks: int
    align_weight: float
    name_weight: float
    predict_weight: float
    nested_dropout: float

    @property
    def model(self) -> EventModel:
        return EventModel(self.config)

    def init(self, rng: Array) -> PyTree:
        """Parameters, boxed with their logical axes."""
        batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in self.example_batch(1).items()}
        member = jnp.zeros((1, len(self.config.event_steps(self.ticks)), batch["slots"].shape[1]), bool)
        moments = draw_moments(rng, self.config.prediction, 1, self.ticks, self.config.clock.video_stride)
        return self.model.init(rng, batch["frames"], None, None, batch["slots"], member, moments)["params"]

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        steps = self.config.clock.step_of_tick(self.ticks)
        return {
            "frames": jax.ShapeDtypeStruct((batch_size, self.ticks, *self.config.tokenizer.frame_px, 3), jnp.uint8),
            "slots": jax.ShapeDtypeStruct((batch_size, steps), jnp.int32),
            "slot_valid": jax.ShapeDtypeStruct((batch_size, steps), jnp.bool_),
        }

    def loss(self, params: PyTree, batch: Any, rng: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum of alignment, naming and prediction.

        Metrics: `align`, `name_nll` (nats a word) and `predict`, the losses; `moments`, at which something is said;
          `matched` and `in_video_matched`, shares of bags that find their event token among all and among those of
          their video; `in_video`, how many of these there are; `backward_refused` and `swapped_refused`, shares of bags
          that prefer it to the hard negatives'; `explained`, the share of the targets' variance that is predicted;
          `video_tokens` a clip.
        """
        c = self.config
        frames, slots, slot_valid = batch["frames"], batch["slots"], batch["slot_valid"]
        rows, stride = len(frames), c.clock.video_stride
        centres = c.bag_centres(self.ticks)
        bags = gather_bags(slots, slot_valid, centres, c.align.reach_steps, c.marks)
        end_tick = known_end(slot_valid, stride)
        drop_key, keep_key, moment_key = jax.random.split(rng, 3)
        moments = draw_moments(moment_key, c.prediction, rows, self.ticks, stride)
        fakes = choose_rows(rows, c.align.backward_every, c.align.swapped_every)
        shown = [frames, backwards(frames[fakes.backward], end_tick[fakes.backward]), frames[fakes.swapped]]
        keep = draw_anchor_keep(drop_key, keep_key, rows, self.nested_dropout, c.tokenizer)
        if keep is not None:
            keep = keep[np.concatenate([np.arange(rows), *fakes])]
        moving = np.arange(rows + len(fakes.backward))  # a clip played backwards moves backwards
        motion_from = np.concatenate([moving, (fakes.swapped + 1) % rows])
        found = self.model.apply(
            {"params": params}, jnp.concatenate(shown), motion_from, keep, slots, bags.member, moments
        )
        hard_negatives = self._hard_negatives(found.event[rows:], fakes, end_tick)
        aligned = align(found.event[:rows], found.bag, bags, centres, c.align.apart_steps, hard_negatives, found.scale)
        name_nll = _naming_error(found.named, slots, bags)
        loss = self.align_weight * aligned.loss + self.name_weight * name_nll
        metrics = {"align": aligned.loss, "name_nll": name_nll}
        if found.predicted is not None and found.target is not None:
            predicted = prediction_error(found.predicted, found.target, moments.tick < end_tick[:, None, None])
            loss += self.predict_weight * predicted.loss
            metrics |= {"predict": predicted.loss, "explained": predicted.explained}
        names = [f"{kind}_refused" for kind, chosen in zip(Rows._fields, fakes) if len(chosen)]
        video_tokens = found.tokens.valid[:rows].sum().astype(jnp.float32)
        return loss, metrics | dict(zip(names, aligned.refused, strict=True)) | {
            "loss_weight": aligned.moments,
            "moments": aligned.moments,
            "matched": aligned.matched,
            "in_video": aligned.in_video,
            "in_video_matched": aligned.in_video_matched,
            "scale": found.scale,
            "video_tokens": video_tokens / rows,
            "tokens": video_tokens + bags.member.any(axis=1).sum().astype(jnp.float32),
        }

    def _hard_negatives(
        self, event: Float[Array, "C X F"], fakes: Rows, end_tick: Int32[Array, "B"]
    ) -> tuple[HardNegatives, ...]:
        c = self.config
        steps, centres = c.event_steps(self.ticks), c.bag_centres(self.ticks)
        backward, swapped = event[: len(fakes.backward)], event[len(fakes.backward) :]
        last_step = (end_tick[fakes.backward] - 1) * c.clock.video_stride
        mirrored = mirrored_moments(centres, steps, last_step, c.events.reader.window_steps)
        same = jnp.broadcast_to(jnp.eye(len(steps), dtype=bool), (len(fakes.swapped), len(steps), len(steps)))
        both = (HardNegatives(backward, fakes.backward, mirrored), HardNegatives(swapped, fakes.swapped, same))
        return tuple(kind for kind in both if len(kind.row))


def _naming_error(named: Float[Array, "B X V"], slots: Int32[Array, "B S"], bags: Bags) -> Float[Array, ""]:
    """How surprising a word of a bag is, in nats: the mean over bags of the mean over their words."""
    surprise = -jax.nn.log_softmax(named)
    chosen = jnp.take_along_axis(surprise, slots[:, None], axis=-1)  # [B, X, S]: of every slot's id, at every moment
    counted = (bags.member & bags.said[..., None]).astype(jnp.float32)
    of_bag = (chosen * counted).sum(axis=-1) / jnp.maximum(counted.sum(axis=-1), 1.0)
    return of_bag.sum() / jnp.maximum(bags.said.sum(), 1)


def build_task(config: Any, words: TextTokenizer) -> BFlowTask:
    """The task of an experiment's config (see `configs/bflow_quickstart.py`).

    Raises:
      ValueError: the config contradicts itself, or cuts the batch whose moments are to be compared.
    """
    if config.train.grad_accum != 1:
        raise ValueError(
            f"config.train.grad_accum is {config.train.grad_accum}: every moment is compared with the whole batch, "
            "which therefore cannot be cut; set it to 1 and use more devices"
        )
    clock = Clock(**config.clock)
    tokenizer = tokenizer_config.from_mapping(config.tokenizer, config.frame_px, clock, fit_of(config))
    align, fakes = config.align, config.hard_negatives
    reach = clock.steps_in(align.bag_s)
    model = EventModelConfig(
        tokenizer=tokenizer,
        events=EventConfig(clock.ticks_in(config.events.interval_s), _reader(config.events.reader, tokenizer)),
        words=BagConfig(
            vocab_rows=max(words.vocab_size, config.vocab_rows_min), embedding=align.embedding, **config.words
        ),
        align=AlignConfig(
            lag_steps=clock.steps_in(align.lag_s),
            reach_steps=reach,
            apart_steps=2 * reach + clock.steps_in(align.band_s),
            scale_init=align.scale_init,
            backward_every=fakes.backward_every,
            swapped_every=fakes.swapped_every,
        ),
        marks=Marks(words.pad_id, words.word_id, words.start_id, words.end_id),
        prediction=_prediction(config, tokenizer),
    )
    ticks = clock.ticks_in(config.data.clip_s)
    if not len(model.event_steps(ticks)):
        raise ValueError(
            f"config.events.interval_s ({config.events.interval_s}) is longer than config.data.clip_s "
            f"({config.data.clip_s})"
        )
    loss = config.loss
    return BFlowTask(model, ticks, loss.align_weight, loss.name_weight, loss.predict_weight, loss.nested_dropout)


def _reader(values: Any, tokenizer: TokenizerConfig) -> ReaderConfig:
    values = dict(values)
    window_steps = tokenizer.clock.steps_in(values.pop("window_s"))
    return ReaderConfig(width=tokenizer.width, window_steps=window_steps, dtype=tokenizer.dtype, **values)


def _prediction(config: Any, tokenizer: TokenizerConfig) -> PredictionConfig:
    values, target = config.prediction, config.loss.predict
    teacher = None
    if target == "teacher":
        _check_frozen(config)
        teacher = VisionConfig(**({"image_px": config.frame_px} | dict(config.teacher)))
    return PredictionConfig(
        target=target,
        places=values.places,
        horizon_ticks=tuple(tokenizer.clock.ticks_in(time_s) for time_s in values.horizon_s),
        reader=_reader(values.reader, tokenizer),
        frame_px=config.frame_px,
        picture_px=values.picture_px,
        teacher=teacher,
        mean=tuple(config.pixels.mean),
        std=tuple(config.pixels.std),
    )


def _check_frozen(config: Any) -> None:
    """A teacher is somebody else's and stays as it is."""
    if not config.init_from.vision:
        raise ValueError(
            "config.loss.predict='teacher' without config.init_from.vision: a teacher that knows nothing teaches "
            "nothing; name imported weights or a training of stage 'clip', or set config.loss.predict=pixels"
        )
    groups = config.train.get("groups", {}) or {}
    if not any(group.get("start_step") == -1 and re.match(group.match, TEACHER) for group in groups.values()):
        raise ValueError(
            "config.loss.predict='teacher' needs a group of config.train.groups that never trains the teacher: "
            f"teacher=dict(match='{TEACHER}', start_step=-1)"
        )
