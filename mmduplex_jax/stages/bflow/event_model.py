"""The model of the stage `bflow`: the tokenizer with the heads that teach it.

Event tokens, about one a second, and bags of words become vectors that can be compared; event tokens also name words,
and a reader predicts what will be shown. The parameters under `tokenizer/` are those of the dual stream.

Event tokens are read out of the video tokens of the last seconds by learned queries (as in Perceiver, Jaegle et al.,
2021; times are rotary). A query knows the step it stands at and looks back only, so that an event token can be made
while a video is watched: from whole clips and from a stream they are the same.

Prediction: tokens must hold what a frozen teacher, or a small picture, shows of the frames at and after a moment.
Targets are the pooled features of a frozen vision tower (as in MVP and I-JEPA: features, not pixels, Assran et al.,
2023) or, where there is no teacher, the frame shrunk to a few pixels (MAE, He et al., 2022).
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.layers import rotary
from mmduplex_jax.layers.attention import AttentionReadout, causal_window_mask, heads_first
from mmduplex_jax.layers.dense import dense, layer_norm
from mmduplex_jax.layers.encoder import Mlp
from mmduplex_jax.layers.kv_cache import KVCache, Pair, empty_pair
from mmduplex_jax.sharding import in_units
from mmduplex_jax.stages.bflow.event_alignment import BagConfig, BagEncoder, Marks
from mmduplex_jax.tokenizer.bflow import BFlow, Tokens
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.towers.contrastive import unit
from mmduplex_jax.towers.vision import VisionConfig, VisionTower, normalise
from mmduplex_jax.typing import Array, Bool, Float, Int, Int32, UInt8


@dataclasses.dataclass(frozen=True)
class ReaderConfig:
    """How video tokens are read at a moment.

    Attributes:
      queries: learned ones; what they find is joined.
      heads, head_width: of their attention.
      hidden: width of the MLP after it.
      window_steps: how far back they look.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    width: int
    queries: int
    heads: int
    head_width: int
    hidden: int
    window_steps: int
    rope_base: float = 10_000.0
    dtype: str = "float32"

    def __post_init__(self):
        if min(self.width, self.queries, self.heads, self.head_width, self.hidden, self.window_steps) < 1:
            raise ValueError(f"all sizes of a reader of video tokens must be at least 1, got {self}")
        if self.head_width % 2:
            raise ValueError(f"head_width must be even for rotary positions, got {self.head_width}")


class TokenReader(nn.Module):
    """Learned queries that look at the video tokens of the seconds before a step, `-> [B, X, width]`."""

    config: ReaderConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        heads = c.heads * c.head_width
        partitioned = lambda init, *axes: nn.with_logical_partitioning(init, axes)
        unit = partitioned(nn.initializers.normal(1.0), "slots", None, None)
        self.query = self.param("query", unit, (c.queries, c.heads, c.head_width))
        # What is read where there is nothing to see: seconds without a token are what a budget is for.
        self.nothing = self.param("nothing", partitioned(nn.initializers.normal(0.1), "feature"), (c.width,))
        self.norm = layer_norm("norm", dtype)
        axis = in_units("heads", c.head_width)
        self.key = dense(heads, ("feature", axis), name="key", dtype=dtype)
        self.value = dense(heads, ("feature", axis), name="value", dtype=dtype)
        self.readout = AttentionReadout(c.width, (axis, "feature"), queries=c.queries)
        nn.share_scope(self, self.readout)
        self.mlp_norm = layer_norm("mlp_norm", dtype)
        self.mlp = Mlp(hidden=c.hidden)

    def __call__(self, tokens: Tokens, step: Int32[Array, "B X"]) -> Float[Array, "B X D"]:
        """Reads a clip's tokens.

        Args:
          tokens: of whole clips.
          step: where to stand; tokens of that step are seen, later ones are not.
        """
        keys, values = self._keys_values(tokens)
        mask = causal_window_mask(step, tokens.step, tokens.valid, self.config.window_steps)
        return self._read(step, heads_first(keys, values), mask)

    def initial_state(self, batch: int, size: int) -> KVCache:
        """An empty cache of `size` entries for `batch` streams."""
        c = self.config
        return KVCache.empty(batch, size, empty_pair(batch, size, c.heads, c.head_width, jnp.dtype(c.dtype)))

    def step(self, cache: KVCache, tokens: Tokens, now: Int32[Array, "B"]) -> tuple[KVCache, Float[Array, "B D"]]:
        """Takes in a tick's tokens (`BFlow.step`) and reads what can be seen `now`."""
        cache = cache.place(tokens.step, tokens.valid).write(*self._keys_values(tokens))
        step = now[:, None]
        return cache, self._read(step, cache.layers, cache.mask(step, self.config.window_steps))[:, 0]

    def _keys_values(self, tokens: Tokens) -> tuple[Float[Array, "B N Q E"], Float[Array, "B N Q E"]]:
        c = self.config
        normed = self.norm(tokens.values)
        split = lambda a: rearrange(a, "b n (q e) -> b n q e", q=c.heads)
        phase = rotary.phases(tokens.step, c.head_width, c.rope_base)
        return rotary.rotate(split(self.key(normed)), phase), split(self.value(normed))

    def _read(self, step: Int32[Array, "B X"], pair: Pair, mask: Bool[Array, "B X N"]) -> Float[Array, "B X D"]:
        c = self.config
        dtype = pair[1].dtype
        # Every query stands at every place.
        query = repeat(self.query.astype(dtype), "n q e -> b (x n) q e", b=step.shape[0], x=step.shape[1])
        at, mask = repeat(step, "b x -> b (x n)", n=c.queries), repeat(mask, "b x r -> b (x n) r", n=c.queries)
        query = rotary.rotate(query, rotary.phases(at, c.head_width, c.rope_base))
        x = self.readout(query, *pair, mask) + self.nothing.astype(dtype)
        return x + self.mlp(self.mlp_norm(x))


@dataclasses.dataclass(frozen=True)
class EventConfig:
    """Where event tokens stand and how they are read.

    Attributes:
      interval_ticks: ticks from one to the next.
      reader: how each is read.
    """

    interval_ticks: int
    reader: ReaderConfig

    def __post_init__(self):
        if self.interval_ticks < 1:
            raise ValueError(f"events.interval_s must be at least a tick, got {self.interval_ticks} ticks")

    def ticks(self, ticks: int) -> Int[np.ndarray, "X"]:
        """The ticks of a clip of `ticks` ticks that end with an event token: the last of every whole interval."""
        return np.arange(self.interval_ticks - 1, ticks, self.interval_ticks)

    def steps(self, ticks: int, clock: Clock) -> Int[np.ndarray, "X"]:
        """The same as steps of the clock."""
        return np.array([clock.step_of_tick(int(tick)) for tick in self.ticks(ticks)], np.int32)

    def ring_size(self, tokenizer: TokenizerConfig) -> int:
        """Entries that hold every video token of the window, by the budget."""
        return tokenizer.ring_capacity(self.reader.window_steps)


class EventReader(nn.Module):
    """Event tokens `[B, X, D]` of clips, or of a stream as they come."""

    config: EventConfig

    def setup(self):
        self.reader = TokenReader(self.config.reader)

    def __call__(self, tokens: Tokens, step: Int[np.ndarray, "X"]) -> Float[Array, "B X D"]:
        """The event tokens of clips that stand at `step` (`EventConfig.steps`)."""
        return self.reader(tokens, jnp.broadcast_to(jnp.asarray(step, jnp.int32), (len(tokens.step), len(step))))

    def initial_state(self, batch: int, tokenizer: TokenizerConfig) -> KVCache:
        return self.reader.initial_state(batch, self.config.ring_size(tokenizer))

    def step(
        self, state: KVCache, tokens: Tokens, now: Int32[Array, "B"], active: Bool[Array, "B"], clock: Clock
    ) -> tuple[KVCache, Float[Array, "B D"], Bool[Array, "B"]]:
        """One tick of `B` streams.

        Args:
          state: from `initial_state` or the last call.
          tokens: of this tick; those of streams that take no part are not valid.
          now: each stream's step.
          active: streams that take part.
          clock: of steps and ticks.

        Returns:
          The new state, what is read, and for which streams it is an event token: where an interval ends.
        """
        state, read = self.reader.step(state, tokens, now)
        ends = (now // clock.video_stride) % self.config.interval_ticks == self.config.interval_ticks - 1
        return state, read, ends & active


TARGETS = ("teacher", "pixels", "none")


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """What is predicted, and how.

    Attributes:
      target: one of TARGETS.
      places: moments of a clip, drawn at random.
      horizon_ticks: how long after a moment the frames are that are predicted from it.
      reader: how tokens are read.
      frame_px: height and width of the frames.
      picture_px: height and width of the small picture, which divide the frame's. One integer: a square.
      teacher: the frozen tower; None without one.
      mean, std: an RGB channel, of pixels from 0 to 1, as the teacher is used to.
    """

    target: str
    places: int
    horizon_ticks: tuple[int, ...]
    reader: ReaderConfig
    frame_px: FrameSize
    picture_px: FrameSize = (16, 16)
    teacher: VisionConfig | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        object.__setattr__(self, "frame_px", frame_size(self.frame_px))
        object.__setattr__(self, "picture_px", frame_size(self.picture_px, "config.prediction.picture_px"))
        if self.target not in TARGETS:
            raise ValueError(f"config.loss.predict is one of {', '.join(TARGETS)}, not {self.target!r}")
        if self.places < 1 or not self.horizon_ticks or min(self.horizon_ticks) < 0:
            raise ValueError(
                f"config.prediction needs at least one place and horizon_s from 0 on, got {self.places} and "
                f"{self.horizon_ticks} ticks"
            )
        rest = [whole % part for whole, part in zip(self.frame_px, self.picture_px)]
        if self.target == "pixels" and any(rest):
            raise ValueError(
                f"config.prediction.picture_px {self.picture_px} must divide config.frame_px {self.frame_px}"
            )
        if self.target == "teacher" and (self.teacher is None or self.teacher.pool == "none"):
            raise ValueError("config.loss.predict='teacher' needs a config.teacher with a pool")

    @property
    def features(self) -> int:
        """Numbers that describe a frame."""
        return math.prod(self.picture_px) * 3 if self.teacher is None else self.teacher.embedding_width


class Moments(NamedTuple):
    """Where a clip is looked at and what is asked for there.

    Attributes:
      step: int32 `[B, X]`, where the reader stands.
      tick: int32 `[B, X, H]`, the frames that are to be predicted.
    """

    step: Int32[Array, "B X"]
    tick: Int32[Array, "B X H"]


def draw_moments(key: Array, config: PredictionConfig, batch: int, ticks: int, video_stride: int) -> Moments:
    """Moments of clips of `ticks` ticks, drawn so that every frame that is asked for lies in the clip.

    Raises:
      ValueError: the clip is shorter than what is asked for.
    """
    room = ticks - max(config.horizon_ticks)
    if room < 1:
        raise ValueError(
            f"config.prediction.horizon_s reaches {max(config.horizon_ticks)} ticks ahead, a clip has {ticks}: shorten "
            "it or lengthen config.data.clip_s"
        )
    tick = jax.random.randint(key, (batch, config.places), 0, room, jnp.int32)
    return Moments(tick * video_stride, tick[..., None] + jnp.array(config.horizon_ticks, jnp.int32))


def shrunk(frames: UInt8[Array, "... H W 3"], picture_px: FrameSize) -> Float[Array, "... F"]:
    """Frames averaged to a picture of `picture_px` with pixels from -1 to 1, as one row of numbers, float32."""
    *lead, height, width, channels = frames.shape
    rows, columns = picture_px
    cut = frames.astype(jnp.float32).reshape(*lead, rows, height // rows, columns, width // columns, channels)
    return (cut.mean(axis=(-4, -2)) / 127.5 - 1.0).reshape(*lead, -1)


class Teacher(nn.Module):
    """A frozen vision tower's view of frames, `[X, H, W, 3] -> [X, F]` of unit variance; it learns nothing."""

    config: PredictionConfig

    @nn.compact
    def __call__(self, frames: UInt8[Array, "X H W 3"]) -> Float[Array, "X F"]:
        c = self.config
        assert c.teacher is not None  # PredictionConfig refuses to go without one
        pictures = normalise(frames, c.mean, c.std)
        embedding = VisionTower(c.teacher, name="tower")(pictures).embedding
        assert embedding is not None  # PredictionConfig refuses towers without a pool
        return jax.lax.stop_gradient(unit(embedding) * c.features**0.5)


class Predictor(nn.Module):
    """What will be seen, from the tokens up to a moment, `-> [B, X, H, F]`."""

    config: PredictionConfig

    @nn.compact
    def __call__(self, tokens: Tokens, step: Int32[Array, "B X"]) -> Float[Array, "B X H F"]:
        c = self.config
        read = layer_norm("norm")(TokenReader(c.reader, name="reader")(tokens, step)).astype(jnp.float32)
        small = nn.initializers.normal(0.02)  # the first guess is the mean of all, not noise
        out = dense(len(c.horizon_ticks) * c.features, ("feature", None), name="out", use_bias=True, init=small)(read)
        return out.reshape(*step.shape, len(c.horizon_ticks), c.features)


class Predicted(NamedTuple):
    """How well a batch was predicted, float32 scalars.

    Attributes:
      loss: the mean squared error of a number.
      explained: 1 less the error over that of always predicting the batch's mean; 0 where there is nothing to predict.
      frames: how many were predicted.
    """

    loss: Float[Array, ""]
    explained: Float[Array, ""]
    frames: Float[Array, ""]


def prediction_error(
    predicted: Float[Array, "B X H F"], target: Float[Array, "B X H F"], counted: Bool[Array, "B X H"]
) -> Predicted:
    """Compares predictions with what was to be seen, where it counts."""
    weight = counted.astype(jnp.float32)[..., None]
    number = jnp.maximum(weight.sum(), 1.0)
    mean = (target * weight).sum(axis=(0, 1, 2)) / number
    error = (jnp.square(predicted - target) * weight).sum() / (number * target.shape[-1])
    usual = (jnp.square(target - mean) * weight).sum() / (number * target.shape[-1])
    explained = jnp.where(usual > 0, 1.0 - error / jnp.maximum(usual, 1e-12), 0.0)
    return Predicted(error, explained, weight.sum())


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
      predicted, target: `[B, X, H, F]`, what is predicted and what there is; None where nothing is to be predicted.
    """

    tokens: Tokens
    event: Float[Array, "B X F"]
    bag: Float[Array, "B X F"]
    named: Float[Array, "B X V"]
    predicted: Float[Array, "B X H F"] | None
    target: Float[Array, "B X H F"] | None
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
          slots, member: of the batch's clips: which of their tokens are in which bag (`gather_bags`).
          moments: of the batch's clips, where the picture is predicted.
        """
        batch = len(slots)
        tokens = self.tokenizer(frames, anchor_keep, motion_from)
        event = self.events(tokens, self.config.event_steps(frames.shape[1]))
        named = self.words.named(self.naming(event[:batch].astype(jnp.float32)))
        predicted = target = None
        if self.config.prediction.target != "none":
            own = jax.tree.map(lambda a: a[:batch], tokens)
            predicted = self.prediction(own, moments.step)
            target = self._target(frames[:batch], moments)
        scale = jnp.minimum(jnp.exp(self.scale), _SCALE_MAX)
        return Compared(tokens, self._matched(event), self.words(slots, member), named, predicted, target, scale)

    def embed_events(
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

    def embed_phrases(self, ids: Int32[Array, "B S"], valid: Bool[Array, "B S"]) -> Float[Array, "B F"]:
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
