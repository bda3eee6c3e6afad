"""Floating-point operations of the models' parts, counted from their shapes (a multiply-add is two).

Only products of matrices are counted: projections, attention, logits, and the motion search, whose sums over windows
are products, too. What is left out is a few operations a number: norms, activations, softmax, rotary turns, gathers,
the optimiser. At the widths of the full-size configs that is under 2 % (tests compare with XLA's own count); in models
of width 100 it may be more. What a remat policy computes again is no operation of the model, and does not count here
(`mmduplex_jax/planning/traced.py` counts it).

Going back costs twice as much as going forward: a product once for its input and once for its weights. Pixels and
motion need no gradient, so the first layer that sees them costs once; motion nothing.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.models.event_memory import MemoryConfig
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.towers.text import TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig

if TYPE_CHECKING:
    from mmduplex_jax.stages.bflow.event_tokens import ReaderConfig

# What a flow token is features of: its place, offset and Fourier features, and with motion 5x5 cells of 10 numbers and
# the camera's shift (`tokenizer/encoders.py`).
_PLACE_FEATURES, _MOTION_FEATURES = 20, 252
_FLOW_CHANNELS = 4  # colours and the silhouette


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of a part.

    Attributes:
      forward: going forward.
      backward: going back, for inputs and weights.
    """

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.forward * times, self.backward * times)

    __rmul__ = __mul__

    @property
    def total(self) -> float:
        return self.forward + self.backward

    @property
    def frozen(self) -> Flops:
        """The same where nothing is learned, and nothing before it."""
        return Flops(self.forward, 0.0)


def never_trained(train: Any, path: str) -> bool:
    """Whether `config.train.groups` keep the parameter at `path` as it is through the whole run."""
    groups = (train.get("groups") or {}).values()
    return any(group.start_step == -1 and re.match(group.match, path) for group in groups)


def product(rows: float, inner: float, columns: float, *, of_data: bool = False) -> Flops:
    """`[rows, inner]` times weights `[inner, columns]`; `of_data`: the rows are data, to which no gradient goes."""
    once = 2.0 * rows * inner * columns
    return Flops(once, once if of_data else 2 * once)


def attention(looks: float, seen: float, width: float) -> Flops:
    """`looks` queries that each look at `seen` keys and values, all heads together `width` wide; no projections."""
    return product(looks, width, 2 * seen)


def stack(config: StackConfig, positions: float, seen: float, cross_seen: float = 0) -> Flops:
    """A transformer over `positions` positions that each see `seen` keys (and `cross_seen` of another stream).

    What a mask hides is computed as well, and counts.
    """
    c, heads = config, config.heads * config.head_width
    layer = product(positions, c.width, 2 * heads + 2 * c.kv_heads * c.head_width + 3 * c.hidden)
    layer += attention(positions, seen, heads) + product(positions, heads, c.num_sinks)
    cross = Flops()
    if c.cross_every:
        cross = product(positions, c.width, 2 * heads) + attention(positions, cross_seen, heads)
    return c.layers * layer + c.groups * cross


def encoder(width: int, layers: int, hidden: int, positions: float, context: float = 0) -> Flops:
    """Layers that look both ways, and at `context` other positions where there are some."""
    layer = product(positions, width, 4 * width + 2 * hidden) + attention(positions, positions, width)
    if context:
        layer += product(positions, width, 2 * width) + product(context, width, 2 * width)
        layer += attention(positions, context, width)
    return layers * layer


def attention_pool(width: int, hidden: int, positions: int) -> Flops:
    """A learned query that looks at all positions, and an MLP."""
    return (
        product(1, width, 2 * width + 2 * hidden)
        + product(positions, width, 2 * width)
        + attention(1, positions, width)
    )


def vision(tower: VisionConfig, patches: int | None = None) -> Flops:
    """A picture through a vision tower, its pool and its projection; of `patches` patches, if not the usual number."""
    patches = tower.side**2 if patches is None else patches
    positions, width = patches + tower.class_token, tower.width
    total = product(patches, tower.channels * tower.patch_px**2, width, of_data=True)
    total += encoder(width, tower.layers, tower.hidden, positions)
    if tower.pool == "attention":
        total += attention_pool(width, tower.pool_hidden or tower.hidden, positions)
    return total + product(1, width, tower.projection)


def text_tower(tower: TextTowerConfig) -> Flops:
    """A text, padded to its full length, through a text tower."""
    read = encoder(tower.width, tower.layers, tower.hidden, tower.length)
    return read + product(1, tower.width, tower.projection)


def motion(config: MotionConfig) -> Flops:
    """A tick's search for what moved: sums over windows for every shift that is tried, and once for the camera's."""
    shifts = (2 * config.search_radius + 1) ** 2
    sums = product(config.plane_px, config.plane_px, config.grid) + product(config.grid, config.plane_px, config.grid)
    return (shifts + 1) * sums.frozen


def anchor(config: TokenizerConfig) -> Flops:
    """A frame tokenized whole, and the scene's state after it."""
    c = config
    tower, queries = c.anchor.used_tower, c.anchor_tokens
    patches = (c.frame_px // tower.patch_px) ** 2
    total, width = vision(tower, patches), tower.embedding_width
    if c.anchor.readout == "queries":
        width, seen = tower.width, patches + tower.class_token
        read = product(queries, width, (2 + 8) * width) + product(seen, width, 2 * width)
        total += c.anchor.readout_layers * (read + attention(queries, seen, width))
    total += product(queries, width, c.width)
    if c.kind == "bflow":
        total += encoder(c.width, c.state.layers, 4 * c.width, c.state.slots, context=queries)
        total += product(c.state.slots, c.width, c.width)
    return total


def flow_tokens(config: TokenizerConfig, tokens: float, states: int) -> Flops:
    """Crops to tokens, each of which may look at the slots of `states` states of the scene."""
    c, flow = config, config.flow
    patches, width = (flow.crop_px // flow.patch_px) ** 2, flow.width
    features = _PLACE_FEATURES + (_MOTION_FEATURES if flow.motion_features else 0)
    token = product(1, features, width, of_data=True)
    token += product(patches, _FLOW_CHANNELS * flow.patch_px**2, width, of_data=True)
    token += encoder(width, flow.layers, 4 * width, patches + 1) + product(1, width, 4 * width + c.width)
    total = tokens * token
    if c.kind == "bflow":
        seen = c.state.slots * states
        total += product(tokens, c.width, 2 * c.width) + product(seen, c.width, 2 * c.width)
        total += attention(tokens, seen, c.width)
    return total


def _in_context(config: TokenizerConfig, tokens: float, seen: float) -> Flops:
    return product(tokens, config.width, 2 * config.event.width) + stack(config.event, tokens, seen)


def tokenizer(config: TokenizerConfig, ticks: int) -> Flops:
    """The tokenizer over a clip as it is computed: every slot of its capacity counts, used or not."""
    tokens = config.token_capacity(ticks)
    total = ticks * motion(config.motion)
    if config.anchor_tokens:
        total += config.anchor_capacity(ticks) * anchor(config)
    if config.flow_slots:
        total += flow_tokens(config, tokens, config.anchor_capacity(ticks) + 1)
    return total + _in_context(config, tokens, tokens)


def token_reader(reader: ReaderConfig, width: int, tokens: int, places: int) -> Flops:
    """Learned queries at `places` places that read `tokens` tokens of a clip, each `width` wide."""
    heads, looks = reader.heads * reader.head_width, places * reader.queries
    read = product(tokens, width, 2 * heads) + attention(looks, tokens, heads)
    return read + product(looks, heads, reader.width) + product(places, reader.width, 2 * reader.hidden)


def dual_stream(config: DualStreamConfig, ticks: int, tokenizer_trained: bool = True) -> dict[str, Flops]:
    """A clip of `ticks` ticks through the model, by part: `tokenizer`, `video`, `text`, `loss`.

    No gradient goes to the tokens of a tokenizer that is never trained.
    """
    c, text, video, of_data = config, config.text, config.video, not tokenizer_trained
    steps, tokens = ticks * c.clock.video_stride, c.tokenizer.token_capacity(ticks)
    seen = tokenizer(c.tokenizer, ticks)
    parts = {"tokenizer": seen.frozen if of_data else seen}
    if c.fusion == "interleave":
        parts["video"] = product(tokens, c.tokenizer.width, text.width, of_data=of_data)
        parts["text"] = stack(text, steps + tokens, steps + tokens)
    else:
        parts["video"] = stack(video, tokens, tokens) + _into_text(c, tokens, of_data)
        parts["text"] = stack(text, steps, steps, tokens) + _pooled(c, steps, tokens)
    if c.memory is not None:
        periods = -(-steps // c.memory.period_steps)
        parts["video"] += _remembered(c, c.memory, tokens, made=periods, seen=periods)
    parts["loss"] = product(steps, text.width, c.language.rows)
    if c.future_word_head:
        parts["loss"] += product(steps, text.width, text.width + c.language.rows)
    return parts


def _into_text(config: DualStreamConfig, tokens: float, of_data: bool = False) -> Flops:
    """Tokens into the video stream, and out of it to the keys and values of the text layers."""
    text = config.text
    layers = text.groups if config.fusion == "cross" else 1
    out = layers * 2 * text.kv_heads * text.head_width
    inward = product(tokens, config.tokenizer.width, config.video.width, of_data=of_data)
    return inward + product(tokens, config.video.width, out)


def _remembered(config: DualStreamConfig, memory: MemoryConfig, tokens: float, made: float, seen: float) -> Flops:
    """Tokens read into `made` event tokens, and what the tokens find in `seen` of them.

    A gradient goes back as far as the scale of the norm before it, whether the tokenizer is trained or not.
    """
    c, heads = config, memory.heads * memory.head_width
    total = product(tokens, c.tokenizer.width, 3 * heads) + attention(made, tokens, heads)
    total += product(made, heads, 2 * memory.kv_heads * memory.head_width) + attention(tokens, seen, heads)
    return total + product(tokens, heads, c.text.width if c.fusion == "interleave" else c.video.width)


def _pooled(config: DualStreamConfig, steps: float, tokens: float) -> Flops:
    if config.fusion != "sum":
        return Flops()
    heads = config.text.heads * config.text.head_width
    return attention(steps, tokens, heads) + product(steps, heads, config.text.width)


def live_tick(config: DualStreamConfig) -> dict[str, Flops]:
    """A tick and a step of one stream as they are computed: `anchor`, on ticks that spend one; `video`; `text`.

    All of the rings is looked at, however full they are, and all of a tick's slots are computed; motion is in `video`.
    """
    c, k = config, config.tokenizer
    parts = {"anchor": anchor(k) if k.anchor_tokens else Flops()}
    video = motion(k.motion) + _in_context(k, k.slots, k.ring_capacity(k.event.window_steps))
    if k.flow_slots:
        video += flow_tokens(k, k.flow_slots, 1)
    seen = 0 if c.fusion == "interleave" else k.ring_capacity(c.video.window_steps)
    text_ring = c.text.num_sinks + c.text.window_steps
    if c.fusion == "interleave":
        text_ring += k.ring_capacity(c.text.window_steps)
        video += product(k.slots, k.width, c.text.width) + stack(c.text, k.slots, text_ring)
    else:
        video += stack(c.video, k.slots, seen) + _into_text(c, k.slots)
    if c.memory is not None:
        video += _remembered(c, c.memory, k.slots, made=1, seen=c.memory.ring_size)
    text = stack(c.text, 1, text_ring, seen) + _pooled(c, 1, seen)
    parts |= {"video": video, "text": text + product(1, c.text.width, c.language.rows)}
    return {name: part.frozen for name, part in parts.items()}
