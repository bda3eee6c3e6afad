"""Floating-point operations of the dual-stream model, counted from its shapes (a multiply-add is two)."""

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.towers.vision import VisionConfig


def stack_forward(stack: StackConfig, positions: int, seen: int, cross_seen: int = 0) -> float:
    """A transformer over `positions` positions that each see `seen` keys (and `cross_seen` of another stream)."""
    heads = stack.heads * stack.head_width
    projections = stack.width * (2 * heads + 2 * stack.kv_heads * stack.head_width) + 3 * stack.width * stack.hidden
    layer = projections + 2 * heads * seen
    cross = stack.groups * (2 * stack.width * heads + 2 * heads * cross_seen) if stack.cross_every else 0
    return 2.0 * positions * (stack.layers * layer + cross)


def _encoder_forward(width: int, layers: int, positions: int, seen: int, expansion: int = 4) -> float:
    return 2.0 * positions * layers * (width * width * (4 + 2 * expansion) + 2 * width * seen)


def vision_forward(tower: VisionConfig, patches: int | None = None) -> float:
    """A picture through a vision tower, its pool and its projection; of `patches` patches, if not the usual number."""
    patches = tower.side**2 if patches is None else patches
    positions, width = patches + tower.class_token, tower.width
    total = 2.0 * patches * tower.channels * tower.patch_px**2 * width
    total += 2.0 * tower.layers * positions * (4 * width**2 + 2 * width * tower.hidden + 2 * positions * width)
    if tower.pool == "attention":
        hidden = tower.pool_hidden or tower.hidden
        total += 4.0 * positions * width**2 + 4.0 * (width**2 + width * hidden)
    return total + 2.0 * width * tower.projection


def tokenizer_forward(config: TokenizerConfig, ticks: int) -> float:
    """The tokenizer over a clip as it is computed: every slot of its capacity counts, used or not."""
    anchor, flow = config.anchor, config.flow
    tokens = config.token_capacity(ticks)
    total = 0.0
    if config.anchor_tokens:
        frames = config.anchor_capacity(ticks)
        tower, queries = anchor.used_tower, config.anchor_tokens
        patches = (config.frame_px // tower.patch_px) ** 2
        read, width = 0.0, tower.embedding_width
        if anchor.readout == "queries":
            width = tower.width
            read = 2.0 * width**2 * (queries * (2 + 8) + 2 * patches) + 4.0 * width * queries * patches
        out = 2.0 * queries * width * config.width
        total += frames * (vision_forward(tower, patches) + anchor.readout_layers * read + out)
        if config.kind == "bflow":
            slots = config.state.slots
            update = _encoder_forward(config.width, config.state.layers, slots, slots)
            update += config.state.layers * 2.0 * config.width**2 * (2 * slots + 2 * queries)
            total += frames * (update + 2.0 * slots * config.width**2)
    if config.flow_slots:
        patches = (flow.crop_px // flow.patch_px) ** 2
        embed = 2.0 * patches * 4 * flow.patch_px**2 * flow.width
        trunk = _encoder_forward(flow.width, flow.layers, patches + 1, patches + 1) if flow.layers else 0.0
        head = 2.0 * (270 * flow.width + 4 * flow.width**2 + flow.width * config.width)
        total += tokens * (embed + trunk + head)
        if config.kind == "bflow":
            seen = config.state.slots * (config.anchor_capacity(ticks) + 1)
            total += 4.0 * config.width**2 * (tokens + seen) + 4.0 * tokens * config.width * seen
    ends = 2.0 * tokens * 2 * config.width * config.event.width
    return total + ends + stack_forward(config.event, tokens, tokens)


def forward(config: DualStreamConfig, ticks: int) -> dict[str, float]:
    """A clip of `ticks` ticks through the model, by part: `tokenizer`, `video`, `text`, `loss`."""
    steps = ticks * config.clock.video_stride
    tokens = config.tokenizer.token_capacity(ticks)
    text, video = config.text, config.video
    parts = {"tokenizer": tokenizer_forward(config.tokenizer, ticks)}
    if config.fusion == "interleave":
        parts["video"] = 2.0 * tokens * config.tokenizer.width * text.width
        parts["text"] = stack_forward(text, steps + tokens, steps + tokens)
    else:
        groups = text.groups if config.fusion == "cross" else 1
        projector = 2.0 * tokens * video.width * groups * 2 * text.kv_heads * text.head_width
        ends = 2.0 * tokens * config.tokenizer.width * video.width
        parts["video"] = stack_forward(video, tokens, tokens) + projector + ends
        parts["text"] = stack_forward(text, steps, steps, tokens)
        if config.fusion == "sum":
            parts["text"] += 2.0 * steps * text.heads * text.head_width * (text.width + 2 * tokens)
    parts["loss"] = 2.0 * steps * text.width * config.vocab_rows
    return parts
