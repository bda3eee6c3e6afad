"""The tokenizer's knobs, as frozen dataclasses that jit can hash."""

import dataclasses
import math

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.towers.vision import VisionConfig

READOUTS = ("queries", "pooled")
_HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """Block matching on a small plane.

    Attributes:
      plane_px: side of the plane; divides the frame's side.
      search_radius: furthest shift looked for, in plane pixels a tick.
      smoothness: cost, in grey levels a window, of every squared plane pixel of shift: ties go to the smaller one.
      disocclusion_cost: mean absolute error in grey levels over which a cell counts as disoccluded.
    """

    plane_px: int = 32
    search_radius: int = 3
    smoothness: int = 12
    disocclusion_cost: int = 20

    @property
    def grid(self) -> int:
        """Cells along a side: one every 2 plane pixels."""
        return self.plane_px // 2


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
    """What may be spent.

    Attributes:
      tokens_per_s_max: the cap of every half-open second.
      flow_token_levels: the numbers of flow tokens a tick may have, rising from 0.
      flow_threshold: saliency over which a peak counts as moving; a quantile of data (see `launch/calibrate.py`).
      nms_radius_px: peaks nearer than this to a better one are the same thing, in frame pixels.
      anchor_interval_min_s: shortest time between anchors.
      anchor_interval_max_s: longest time without an anchor.
      disocclusion_threshold: share of disoccluded cells that asks for an anchor.
      saliency_decay: sixteenths of the last tick's saliency that still count, so that what stops or leaves is
        tokenized too.
    """

    tokens_per_s_max: int = 64
    flow_token_levels: tuple[int, ...] = (0, 1, 2, 4, 8)
    flow_threshold: int = 600
    nms_radius_px: int = 9
    anchor_interval_min_s: float = 2.0
    anchor_interval_max_s: float = 4.0
    disocclusion_threshold: float = 0.35
    saliency_decay: int = 12


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
    """A vision tower over the frame, and what reads it out.

    Attributes:
      tower: its shape; trained here, or imported (`config.init_from.vision`).
      tokens: what an anchor takes.
      readout: "queries": learned, nested ones attend to the tower's patches; "pooled": the tower's embedding is the one
        token of the anchor.
      readout_layers: how many times queries attend.
      mean, std: an RGB channel, of pixels from 0 to 1, as the tower is used to.
    """

    tower: VisionConfig
    tokens: int = 16
    readout: str = "queries"
    readout_layers: int = 1
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF

    def __post_init__(self):
        if self.readout not in READOUTS:
            raise ValueError(f"tokenizer.anchor.readout is one of {', '.join(READOUTS)}, not {self.readout!r}")
        if self.readout == "pooled" and self.tower.pool == "none":
            raise ValueError("tokenizer.anchor.readout='pooled' needs a tokenizer.anchor.tower.pool other than 'none'")
        if self.tower.channels != 3:
            raise ValueError(f"tokenizer.anchor.tower.channels must be 3, got {self.tower.channels}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"tokenizer.anchor.mean and std are three numbers each, std above 0; got {self.mean} and {self.std}"
            )

    @property
    def used_tower(self) -> VisionConfig:
        """The part of the tower that has a use: queries read normalised patches, and need no pool and no projection."""
        return self.tower if self.readout == "pooled" else without_pool(self.tower)


def without_pool(tower: VisionConfig) -> VisionConfig:
    """A tower for its patches alone: the last norm is of every token, and nothing comes after it."""
    plain = VisionConfig(image_px=1, patch_px=1, width=1, layers=1, heads=1, hidden=1)
    reset = {name: getattr(plain, name) for name in ("pool_heads", "pool_hidden", "projection", "projection_bias")}
    return dataclasses.replace(tower, pool="none", last_norm="tokens", **reset)


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Crops on motion peaks.

    Attributes:
      crop_px: side of the crop, in frame pixels, at full resolution.
      patch_px: side of its patches; the whole crop for a plain MLP.
      width, layers, heads: of the trunk over the patches.
      motion_features: whether tokens carry motion vectors, match costs and their short history.
      centre: whether crops are centred on the thing by mean shift, or sit on the motion peak.
      remat: recompute the trunk's activations in the backward pass.
    """

    crop_px: int = 20
    patch_px: int = 20
    width: int = 160
    layers: int = 0
    heads: int = 4
    motion_features: bool = True
    centre: bool = True
    remat: bool = False


@dataclasses.dataclass(frozen=True)
class StateConfig:
    """Slots that carry what was seen across anchors.

    Attributes:
      slots, layers, heads: their number, and the shape of what updates them.
      rms_max: no slot's root mean square is larger. What each anchor adds to a slot is about as large as what the one
        before added, so that without a bound a stream of minutes leaves the sizes that training clips reach.
    """

    slots: int = 4
    layers: int = 1
    heads: int = 4
    rms_max: float = 1.0

    def __post_init__(self):
        if self.rms_max <= 0:
            raise ValueError(f"tokenizer.state.rms_max must be above 0, got {self.rms_max}")


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """The fixed schedules: a grid of `grid_side²` crops every `interval_ticks`; `dense_tokens` a frame at
    `dense_hz`.
    """

    grid_side: int = 4
    interval_ticks: int = 4
    dense_tokens: int = 64
    dense_hz: int = 5


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Everything about the tokenizer.

    Attributes:
      kind: "bflow", or a baseline: "uniform", "per_frame", "dense".
      frame_px: side of the square frames.
      width: width of the tokens given out.
      event: the causal event transformer over the tokens.
      anchor: frames that are tokenized whole.
      dtype: compute dtype.
    """

    kind: str
    frame_px: int
    width: int
    clock: Clock
    event: StackConfig
    anchor: AnchorConfig
    motion: MotionConfig = MotionConfig()
    budget: BudgetConfig = BudgetConfig()
    flow: FlowConfig = FlowConfig()
    state: StateConfig = StateConfig()
    baseline: BaselineConfig = BaselineConfig()
    dtype: str = "float32"

    def __post_init__(self):
        if self.kind not in ("bflow", "uniform", "per_frame", "dense"):
            raise ValueError(f"tokenizer.kind is bflow, uniform, per_frame or dense, not {self.kind!r}")
        for name, whole, part in (
            ("frame_px by motion.plane_px", self.frame_px, self.motion.plane_px),
            ("flow.crop_px by flow.patch_px", self.flow.crop_px, self.flow.patch_px),
        ):
            if whole % part:
                raise ValueError(f"tokenizer: {name} must divide without rest, got {whole} / {part}")
        tower = self.anchor.tower
        if self.frame_px < tower.patch_px or (
            tower.positions == "fixed" and self.frame_px // tower.patch_px != tower.side
        ):
            raise ValueError(
                f"tokenizer.anchor.tower has positions for {tower.side}x{tower.side} patches of {tower.patch_px} px, "
                f"the frame ({self.frame_px} px) has {self.frame_px // tower.patch_px} along a side: set "
                f"config.frame_px={tower.image_px}, or tokenizer.anchor.tower.positions='bicubic'"
            )
        ladder = self.budget.flow_token_levels
        if not ladder or ladder[0] != 0 or list(ladder) != sorted(set(ladder)):
            raise ValueError(f"tokenizer.budget.flow_token_levels must rise from 0, got {ladder}")
        if self.anchor.readout == "pooled" and self.anchor_tokens > 1:
            raise ValueError(
                f"tokenizer.anchor.readout='pooled' gives one token a frame, kind {self.kind!r} asks for "
                f"{self.anchor_tokens}: set tokenizer.anchor.tokens=1 (bflow) or kind='per_frame', or read out by "
                "'queries'"
            )
        if self.kind == "bflow" and self.anchor.tokens > self.budget.tokens_per_s_max:
            raise ValueError(
                f"an anchor's {self.anchor.tokens} tokens do not fit a cap of {self.budget.tokens_per_s_max} a second"
            )

    @property
    def window_ticks(self) -> int:
        """Ticks in the sliding second that the budget holds for."""
        return self.clock.ticks_in_a_second

    @property
    def anchor_tokens(self) -> int:
        """U: tokens that an anchor takes."""
        return {"bflow": self.anchor.tokens, "uniform": 0, "per_frame": 1, "dense": self.baseline.dense_tokens}[
            self.kind
        ]

    @property
    def flow_slots(self) -> int:
        """K: flow tokens that a tick has room for."""
        return {"bflow": self.budget.flow_token_levels[-1], "uniform": self.baseline.grid_side**2}.get(self.kind, 0)

    @property
    def slots(self) -> int:
        """M: token slots of a tick."""
        return self.anchor_tokens + self.flow_slots

    @property
    def cap(self) -> int:
        """Most tokens in any half-open second: the budget that this kind obeys."""
        window = self.window_ticks
        if self.kind == "bflow":
            return self.budget.tokens_per_s_max
        if self.kind == "uniform":
            return self.flow_slots * math.ceil(window / self.baseline.interval_ticks)
        if self.kind == "per_frame":
            return window
        return self.baseline.dense_tokens * min(window, self.baseline.dense_hz)

    @property
    def anchor_interval_min_ticks(self) -> int:
        return max(1, self.clock.ticks_in(self.budget.anchor_interval_min_s))

    def anchor_capacity(self, ticks: int) -> int:
        """A: the most anchors that `ticks` ticks can hold."""
        if self.kind == "bflow":
            return 1 + (ticks - 1) // self.anchor_interval_min_ticks
        return 0 if self.kind == "uniform" else ticks

    def token_capacity(self, ticks: int) -> int:
        """N: the most tokens that `ticks` ticks can hold; the budget bounds it, so packing loses nothing."""
        return min(self.cap * math.ceil(ticks / self.window_ticks), self.slots * ticks)


def from_mapping(values, frame_px: int, clock: Clock) -> TokenizerConfig:
    """Builds the configuration from a nested mapping (a ConfigDict); an unknown name raises TypeError.

    The anchors' tower is for pictures of `frame_px`, and computes in the tokenizer's dtype, where it does not say.
    """
    values = dict(values)
    dtype = values.get("dtype", "float32")
    parts = {
        "motion": MotionConfig,
        "budget": BudgetConfig,
        "flow": FlowConfig,
        "state": StateConfig,
        "baseline": BaselineConfig,
    }
    made = {name: kind(**dict(values.pop(name, {}))) for name, kind in parts.items()}
    ladder = tuple(made["budget"].flow_token_levels)
    made["budget"] = dataclasses.replace(made["budget"], flow_token_levels=ladder)
    anchor = dict(values.pop("anchor"))
    if "tower" not in anchor:
        raise ValueError(
            "tokenizer.anchor lacks `tower`, the shape of the vision tower that sees anchors: in configs of older code "
            "(portable layout version 1) its fields stood in tokenizer.anchor itself"
        )
    tower = VisionConfig(**{"image_px": frame_px, "dtype": dtype, **dict(anchor.pop("tower"))})
    for name in {"mean", "std"} & anchor.keys():
        anchor[name] = tuple(anchor[name])
    made["anchor"] = AnchorConfig(tower, **anchor)
    event = dict(values.pop("event"))
    window_s = event.pop("window_s")
    made["event"] = StackConfig(**event, window_steps=clock.steps_in(window_s), dtype=dtype)
    return TokenizerConfig(frame_px=frame_px, clock=clock, **made, **values)
