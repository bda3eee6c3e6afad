"""The tokenizer's knobs, as frozen dataclasses that jit can hash."""

import dataclasses
from collections.abc import Sequence

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size, size_flag, size_text, whole_factor
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
      resize_to_tower: resize the whole frame to the tower's own `image_px`, whatever its proportions, as SigLIP's
        processor does with any picture: for imported towers that know one size. False: the tower looks at the frame as
        it is, its positions fitted to the frame's patches where `tower.positions` allows it.
      mean, std: an RGB channel, of pixels from 0 to 1, as the tower is used to.
    """

    tower: VisionConfig
    tokens: int = 16
    readout: str = "queries"
    readout_layers: int = 1
    resize_to_tower: bool = False
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
    plain = VisionConfig(image_px=(1, 1), patch_px=1, width=1, layers=1, heads=1, hidden=1)
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
      frame_px: height and width of the frames. One integer: a square.
      width: width of the tokens given out.
      event: the causal event transformer over the tokens.
      flow: crops on what moves.
      state: what anchors carry on.
      dtype: compute dtype.
    """

    anchor: AnchorConfig
    frame_px: FrameSize
    width: int
    event: StackConfig
    flow: FlowConfig = FlowConfig()
    state: StateConfig = StateConfig()
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "frame_px", frame_size(self.frame_px))
        if whole_factor(self.frame_px, self.motion.plane_px) is None:
            raise ValueError(
                f"tokenizer: frame_px by motion.plane_px must be one integer in both directions, got {self.frame_px} / "
                f"{self.motion.plane_px}"
            )
        if self.flow.crop_px % self.flow.patch_px:
            raise ValueError(
                "tokenizer: flow.crop_px by flow.patch_px must divide without rest, got "
                f"{self.flow.crop_px} / {self.flow.patch_px}"
            )
        tower = self.anchor.tower
        patches = tower.grid_of(self.anchor_px)
        if 0 in patches or (tower.positions == "fixed" and patches != tower.grid):
            raise ValueError(
                f"tokenizer.anchor.tower has positions for {tower.grid[0]}x{tower.grid[1]} patches of "
                f"{tower.patch_px} px, the frame ({size_text(self.frame_px)}) has {patches[0]}x{patches[1]}: set "
                f"config.frame_px={size_flag(tower.image_px)}, or tokenizer.anchor.tower.positions='bicubic', or "
                "tokenizer.anchor.resize_to_tower=True"
            )
        if self.anchor.readout == "pooled" and self.anchor_tokens > 1:
            raise ValueError(
                f"tokenizer.anchor.readout='pooled' gives one token a frame, kind {self.kind!r} asks for "
                f"{self.anchor_tokens}: set tokenizer.anchor.tokens=1 (bflow) or kind='per_frame', or read out by "
                "'queries'"
            )

    @property
    def plane_scale(self) -> int:
        """Frame pixels along a side of a plane pixel."""
        return self.frame_px[0] // self.motion.plane_px[0]

    @property
    def middle_px(self) -> tuple[int, int]:
        """The frame's middle (row, column)."""
        return self.frame_px[0] // 2, self.frame_px[1] // 2

    @property
    def anchor_px(self) -> FrameSize:
        """Height and width of the pictures that the anchors' tower sees."""
        return self.anchor.tower.image_px if self.anchor.resize_to_tower else self.frame_px


def from_mapping(values, frame_px: int | Sequence[int], clock: Clock, fit: str = "crop") -> TokenizerConfig:
    """Builds the configuration from a nested mapping (a ConfigDict); an unknown name raises TypeError.

    The anchors' tower is for pictures of `frame_px`, and computes in the tokenizer's dtype, where it does not say.
    Frames that pictures were padded to (`fit`) have bars, in which nothing moves.
    """
    values, frame_px = dict(values), frame_size(frame_px, "config.frame_px")
    values["motion"] = {"bars": fit == "pad", **dict(values.get("motion", {}))}
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
