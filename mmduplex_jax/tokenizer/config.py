"""The tokenizer's knobs, as frozen dataclasses that jit can hash."""

import dataclasses

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.tokenizer.budget import BaselineConfig, BudgetConfig, BudgetRule
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.towers.vision import VisionConfig

READOUTS = ("queries", "pooled")
_HALF = (0.5, 0.5, 0.5)


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
      crop_px: side of the crop, in its own pixels.
      crop_scales: frame pixels along a side of a crop's pixel, rising from 1: a crop is as large as what moves, and
        averaged down to `crop_px`. (1,): all crops are cut at full resolution.
      patch_px: side of its patches; the whole crop for a plain MLP.
      width, layers, heads: of the trunk over the patches.
      motion_features: whether tokens carry motion vectors, match costs and their short history.
      centre: whether crops are centred on the thing by mean shift, or sit on the motion peak.
      remat: recompute the trunk's activations in the backward pass.
    """

    crop_px: int = 20
    crop_scales: tuple[int, ...] = (1,)
    patch_px: int = 20
    width: int = 160
    layers: int = 0
    heads: int = 4
    motion_features: bool = True
    centre: bool = True
    remat: bool = False

    def __post_init__(self):
        scales = self.crop_scales
        if not scales or scales[0] != 1 or list(scales) != sorted(set(scales)):
            raise ValueError(f"tokenizer.flow.crop_scales must rise from 1, got {scales}")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig(BudgetRule):
    """Everything about the tokenizer; how many tokens there are is its `BudgetRule` (budget.py).

    Attributes:
      kind, clock, anchor, motion, budget, baseline: see `BudgetRule`; `anchor` is the frames tokenized whole.
      frame_px: side of the square frames.
      width: width of the tokens given out.
      event: the causal event transformer over the tokens.
      flow: crops on what moves.
      state: what anchors carry on.
      dtype: compute dtype.
    """

    anchor: AnchorConfig
    frame_px: int
    width: int
    event: StackConfig
    flow: FlowConfig = FlowConfig()
    state: StateConfig = StateConfig()
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
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
        if self.anchor.readout == "pooled" and self.anchor_tokens > 1:
            raise ValueError(
                f"tokenizer.anchor.readout='pooled' gives one token a frame, kind {self.kind!r} asks for "
                f"{self.anchor_tokens}: set tokenizer.anchor.tokens=1 (bflow) or kind='per_frame', or read out by "
                "'queries'"
            )


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
    scales = tuple(made["flow"].crop_scales)
    made["flow"] = dataclasses.replace(made["flow"], crop_scales=scales)
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
