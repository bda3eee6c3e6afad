"""The model of the stage `bflow`: the tokenizer with the heads that teach it.

Event tokens, about one a second, and bags of words become vectors that can be compared; event tokens also name words,
and a reader says what will be seen. The parameters under `tokenizer/` are those of the dual stream.
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.stages.bflow.event_tokens import EventConfig, EventReader
from mmduplex_jax.stages.bflow.prediction import Moments, PredictionConfig, Predictor, Teacher, shrunk
from mmduplex_jax.stages.bflow.word_bags import BagConfig, BagEncoder, Marks
from mmduplex_jax.tokenizer.bflow import BFlow, Tokens
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.towers.contrastive import unit
from mmduplex_jax.typing import Array, Bool, Float, Int, Int32, UInt8

# The most by which cosines are multiplied, as in CLIP; beyond it a batch's last percent is all that is learned.
_SCALE_MAX = 100.0


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """What belongs to a moment.

    Attributes:
      lag_steps: how long after the middle of its bag an event token stands: words are said after what they are about,
        and what is about to be said is not known yet.
      reach_steps: words that begin so near to the middle are in the bag.
      apart_steps: moments of one video nearer than this are not compared: their bags overlap, or nearly do.
      scale_init: factor of the cosines at first.
      backward_every, swapped_every: every n-th clip is also seen backwards, or with another's motion; 0 for none.
    """

    lag_steps: int
    reach_steps: int
    apart_steps: int
    scale_init: float
    backward_every: int
    swapped_every: int

    def __post_init__(self):
        if self.reach_steps < 1 or self.lag_steps < 0 or self.apart_steps < 2 * self.reach_steps:
            raise ValueError(
                "config.align needs bag_s of a step at least, lag_s not negative and band_s not negative, got "
                f"{self.reach_steps}, {self.lag_steps} and {self.apart_steps - 2 * self.reach_steps} steps"
            )
        if min(self.backward_every, self.swapped_every) < 0:
            raise ValueError("config.hard_negatives: every n-th clip, n from 1 on, or 0 for none")


@dataclasses.dataclass(frozen=True)
class EventModelConfig:
    """Everything about the model.

    Attributes:
      tokenizer: what the stage is for.
      events: where event tokens stand and how they are read.
      words: how bags become vectors.
      align: what belongs together.
      marks: ids that are no words.
      prediction: what is predicted of the picture.
    """

    tokenizer: TokenizerConfig
    events: EventConfig
    words: BagConfig
    align: AlignConfig
    marks: Marks
    prediction: PredictionConfig

    @property
    def clock(self) -> Clock:
        return self.tokenizer.clock

    def event_steps(self, ticks: int) -> Int[np.ndarray, "X"]:
        """Where the event tokens of a clip of `ticks` ticks stand."""
        return self.events.steps(ticks, self.clock)

    def bag_centres(self, ticks: int) -> Int[np.ndarray, "X"]:
        """The middles of their bags, in steps."""
        return self.event_steps(ticks) - self.align.lag_steps


class Compared(NamedTuple):
    """What the model gives for a batch; the loss decides what is right.

    Attributes:
      tokens: of the clips and, after them, of the hard negatives.
      event: `[B + C, X, F]`, event tokens' embeddings, of length 1.
      bag: `[B, X, F]`, of length 1.
      named: `[B, X, V]`, logits of the words that are said around each moment.
      predicted, seen: `[B, X, H, F]`, what is predicted and what there is; None where nothing is to be predicted.
      scale: factor of the cosines.
    """

    tokens: Tokens
    event: Float[Array, "B X F"]
    bag: Float[Array, "B X F"]
    named: Float[Array, "B X V"]
    predicted: Float[Array, "B X H F"] | None
    seen: Float[Array, "B X H F"] | None
    scale: Float[Array, ""]


class EventModel(nn.Module):
    """The tokenizer with the heads that teach it, as a Linen module without mutable collections."""

    config: EventModelConfig

    def setup(self):
        c = self.config
        self.tokenizer = BFlow(c.tokenizer)
        self.events = EventReader(c.events)
        self.words = BagEncoder(c.words)
        self.match = dense(c.words.embedding, ("feature", None), name="match")
        self.naming = dense(c.words.width, ("feature", "embed"), name="naming")
        scalar = nn.with_logical_partitioning(nn.initializers.constant(math.log(c.align.scale_init)), ())
        self.scale = self.param("scale", scalar, ())
        if c.prediction.target != "none":
            self.prediction = Predictor(c.prediction)
        if c.prediction.target == "teacher":
            self.teacher = Teacher(c.prediction)

    def __call__(
        self,
        frames: UInt8[Array, "B T H W 3"],
        motion_from: Int32[Array, "B"] | None,
        anchor_keep: Int32[Array, "B"] | None,
        slots: Int32[Array, "B' S"],
        member: Bool[Array, "B' X S"],
        moments: Moments,
    ) -> Compared:
        """Everything that the loss compares.

        Args:
          frames: the batch's clips and, after them, hard negatives.
          motion_from, anchor_keep: see `BFlow`.
          slots, member: of the batch's clips: which of their tokens are in which bag (`word_bags.gather_bags`).
          moments: of the batch's clips, where the picture is predicted.
        """
        batch = len(slots)
        tokens = self.tokenizer(frames, anchor_keep, motion_from)
        event = self.events(tokens, self.config.event_steps(frames.shape[1]))
        named = self.words.named(self.naming(event[:batch].astype(jnp.float32)))
        predicted = seen = None
        if self.config.prediction.target != "none":
            own = jax.tree.map(lambda a: a[:batch], tokens)
            predicted = self.prediction(own, moments.step)
            seen = self._target(frames[:batch], moments)
        scale = jnp.minimum(jnp.exp(self.scale), _SCALE_MAX)
        return Compared(tokens, self._matched(event), self.words(slots, member), named, predicted, seen, scale)

    def see(
        self, frames: UInt8[Array, "B T H W 3"], token_controls: tuple[str, ...] = ("real",)
    ) -> Float[Array, "K B X F"]:
        """Embeddings of clips' event tokens, of length 1, one set a control.

        Args:
          frames: one a tick.
          token_controls: "real", or a control that ruins what tokens hold: "shuffled" (each clip's tokens say what its
            neighbour's do) or "zeroed". When tokens were spent, and so that something moved, can still be told.
        """
        tokens = self.tokenizer(frames)
        contents = {
            "real": tokens.values,
            "shuffled": jnp.roll(tokens.values, 1, axis=0),
            "zeroed": jnp.zeros_like(tokens.values),
        }
        step = self.config.event_steps(frames.shape[1])
        event = [self.events(tokens._replace(values=contents[control]), step) for control in token_controls]
        return self._matched(jnp.stack(event))

    def read(self, ids: Int32[Array, "B S"], valid: Bool[Array, "B S"]) -> Float[Array, "B F"]:
        """Embeddings of phrases, each one bag, of length 1."""
        return self.words(ids, valid[:, None])[:, 0]

    def _matched(self, event: Float[Array, "B X D"]) -> Float[Array, "B X F"]:
        return unit(self.match(event.astype(jnp.float32)))

    def _target(self, frames: UInt8[Array, "B T H W 3"], moments: Moments) -> Float[Array, "B X H F"]:
        wanted = moments.tick.reshape(len(frames), -1)
        chosen = jnp.take_along_axis(frames, wanted[..., None, None, None], axis=1)
        if self.config.prediction.target == "pixels":
            return shrunk(chosen, self.config.prediction.picture_px).reshape(*moments.tick.shape, -1)
        return self.teacher(chosen.reshape(-1, *chosen.shape[2:])).reshape(*moments.tick.shape, -1)
