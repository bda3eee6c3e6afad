"""The tokenizer's knobs, as frozen dataclasses that jit can hash."""

import dataclasses
from collections.abc import Sequence

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size, size_flag, whole_factor
from mmduplex_jax.layers.dropout import check_dropout
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.tokenizer.budget import BaselineConfig, BudgetConfig, BudgetRule
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.towers.kinds import (
    AnyTower,
    check_picture,
    features_shape,
    pooled_width,
    tower_from_mapping,
    without_pool,
)
from mmduplex_jax.towers.vision import VisionConfig

READOUTS = ("queries", "pooled")
CROP_READOUTS = ("pooled", "tokens")


def _check_pixels(where: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"{where}.mean and std are three numbers each, std above 0; got {mean} and {std}")


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
    """A vision tower over the frame, and what reads it out.

    Attributes:
      tower: its shape, of any kind (`towers/kinds.py`); trained here, or imported (`config.init_from.vision`).
      tokens: what an anchor takes; 0: there are none.
      readout: "queries": learned, nested ones attend to the tower's tokens; "pooled": the tower's embedding is the one
        token of the anchor.
      readout_layers: how many times queries attend.
      resize_to_tower: resize the whole frame to the tower's own `image_px`, whatever its proportions, as SigLIP's
        processor does with any picture: for imported towers that know one size. False: the tower looks at the frame as
        it is, its positions fitted to the frame's patches where `tower.positions` allows it.
      readout_width: of the queries; the tower's where 0.
      readout_heads: of their attention; the tower's where 0, which only a transformer has.
      mean, std: an RGB channel, of pixels from 0 to 1, as the tower is used to; what its kind is used to where empty.
    """

    tower: AnyTower
    tokens: int = 16
    readout: str = "queries"
    readout_layers: int = 1
    resize_to_tower: bool = False
    readout_width: int = 0
    readout_heads: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self):
        if self.readout not in READOUTS:
            raise ValueError(f"tokenizer.anchor.readout is one of {', '.join(READOUTS)}, not {self.readout!r}")
        if self.readout == "pooled" and not pooled_width(self.tower):
            raise ValueError("tokenizer.anchor.readout='pooled' needs a tokenizer.anchor.tower.pool other than 'none'")
        if isinstance(self.tower, VisionConfig):
            if self.tower.channels != 3:
                raise ValueError(f"tokenizer.anchor.tower.channels must be 3, got {self.tower.channels}")
            object.__setattr__(self, "readout_heads", self.readout_heads or self.tower.heads)
        object.__setattr__(self, "readout_width", self.readout_width or self.tower.width)
        if self.readout == "queries" and (not self.readout_heads or self.readout_width % self.readout_heads):
            raise ValueError(
                f"tokenizer.anchor.readout_width ({self.readout_width}) must be a multiple of readout_heads "
                f"({self.readout_heads}), which must be given for a tower of kind {self.tower.kind!r}"
            )
        for name in ("mean", "std"):
            object.__setattr__(self, name, getattr(self, name) or getattr(self.tower, name))
        _check_pixels("tokenizer.anchor", self.mean, self.std)

    @property
    def used_tower(self) -> AnyTower:
        """The part of the tower that has a use: queries read normalised patches, and need no pool and no projection."""
        return self.tower if self.readout == "pooled" else without_pool(self.tower)


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Crops on motion peaks.

    Attributes:
      crop_px: side of the crop, in its own pixels.
      crop_scales: frame pixels along a side of a crop's pixel, rising from 1: a crop is as large as what moves, and
        averaged down to `crop_px`. (1,): all crops are cut at full resolution.
      patch_px: side of its patches; the whole crop for a plain MLP.
      width, layers, heads: of the trunk over the patches; without layers one linear map reads all of a crop.
      motion_features: whether tokens carry motion vectors, match costs and their short history.
      pixels: whether they carry what the crop shows; otherwise they know only where and how something moves.
      centre: whether crops are centred on the thing by mean shift, or sit on the motion peak.
      inside: whether a crop at the frame's rim is moved inwards until it shows nothing but the frame; otherwise it
        sticks out, and the rim is repeated.
      remat: recompute the trunk's activations in the backward pass.
      tower: of any kind (`towers/kinds.py`): the trunk is over its features instead of patches of pixels. Trained here,
        or imported (`config.init_from.crops`). None: patches.
      tower_px: side to which the tower gets crops enlarged: a network that halves its maps five times sees little in a
        small picture. 0: as they are.
      readout: what the trunk is over: "pooled", the tower's one vector of a crop, or "tokens", those of all its places.
      dropout: share of the tower's features that is zeroed in training: a frozen tower tells more of the few things
        that a training has than is true of their kind.
      mean, std: an RGB channel, of pixels from 0 to 1, as the tower is used to; what its kind is used to where empty.
    """

    crop_px: int = 20
    crop_scales: tuple[int, ...] = (1,)
    patch_px: int = 20
    width: int = 160
    layers: int = 0
    heads: int = 4
    motion_features: bool = True
    pixels: bool = True
    centre: bool = True
    inside: bool = False
    remat: bool = False
    tower: AnyTower | None = None
    tower_px: int = 0
    readout: str = "pooled"
    dropout: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self):
        scales = self.crop_scales
        if not scales or scales[0] != 1 or list(scales) != sorted(set(scales)):
            raise ValueError(f"tokenizer.flow.crop_scales must rise from 1, got {scales}")
        check_dropout(self.dropout, "tokenizer.flow.dropout")
        tower = self.tower
        if tower is None:
            if self.crop_px % self.patch_px:
                raise ValueError(
                    "tokenizer: flow.crop_px by flow.patch_px must divide without rest, got "
                    f"{self.crop_px} / {self.patch_px}"
                )
            return
        if self.readout not in CROP_READOUTS:
            raise ValueError(f"tokenizer.flow.readout is one of {', '.join(CROP_READOUTS)}, not {self.readout!r}")
        if self.readout == "pooled" and not pooled_width(tower):
            raise ValueError("tokenizer.flow.readout='pooled' needs a tokenizer.flow.tower.pool other than 'none'")
        for name in ("mean", "std"):
            object.__setattr__(self, name, getattr(self, name) or getattr(tower, name))
        _check_pixels("tokenizer.flow", self.mean, self.std)
        if self.tower_px and self.tower_px < self.crop_px:
            raise ValueError(
                f"tokenizer.flow.tower_px={self.tower_px} is below crop_px={self.crop_px}: crops are only enlarged"
            )
        side = self.looked_px
        remedy = f"set tokenizer.flow.tower.image_px={side}, or tokenizer.flow.tower.positions='bicubic'"
        check_picture(tower, (side, side), "tokenizer.flow.tower", "a crop", remedy)

    @property
    def looked_px(self) -> int:
        """Side of the pictures that the tower gets."""
        return self.tower_px or self.crop_px

    @property
    def used_tower(self) -> AnyTower | None:
        """The part of the tower that has a use."""
        if self.tower is None or self.readout == "pooled":
            return self.tower
        return without_pool(self.tower)


@dataclasses.dataclass(frozen=True)
class StateConfig:
    """Slots that carry what was seen across anchors.

    Attributes:
      slots: their number; 0: nothing is carried on.
      layers, heads: the shape of what updates them.
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
      context_init_scale: of a new model's weights by which the scene's state and other tokens are added to a token,
        over the usual ones (LeCun's). With 1 that is noise at first, as loud as what the token itself shows, and
        learning takes longer (docs/returns.md). Residual branches of others begin with little or nothing, too (Fixup,
        Zhang et al., 2019, arXiv 1901.09321; ReZero, Bachlechner et al., 2020, arXiv 2003.04887).
      dtype: compute dtype.
    """

    anchor: AnchorConfig
    frame_px: FrameSize
    width: int
    event: StackConfig
    flow: FlowConfig = FlowConfig()
    state: StateConfig = StateConfig()
    context_init_scale: float = 0.1
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        if not self.context_init_scale > 0:
            raise ValueError(f"tokenizer.context_init_scale is over 0, got {self.context_init_scale}")
        object.__setattr__(self, "frame_px", frame_size(self.frame_px))
        if whole_factor(self.frame_px, self.motion.plane_px) is None:
            raise ValueError(
                f"tokenizer: frame_px by motion.plane_px must be one integer in both directions, got {self.frame_px} / "
                f"{self.motion.plane_px}"
            )
        tower = self.anchor.tower
        remedy = (
            f"set config.frame_px={size_flag(frame_size(tower.image_px))}, or tokenizer.anchor.tower.positions="
            "'bicubic', or tokenizer.anchor.resize_to_tower=True"
        )
        check_picture(tower, self.anchor_px, "tokenizer.anchor.tower", "the frame", remedy)
        if self.anchor.readout == "pooled" and self.anchor_tokens > 1:
            raise ValueError(
                f"tokenizer.anchor.readout='pooled' gives one token a frame, kind {self.kind!r} asks for "
                f"{self.anchor_tokens}: set tokenizer.anchor.tokens=1 (bflow) or kind='per_frame', or read out by "
                "'queries'"
            )

    @property
    def carries_scene(self) -> bool:
        """Whether anchors update slots, which flow tokens read: of kind "bflow", where there are both."""
        return self.kind == "bflow" and self.anchor_tokens > 0 and self.state.slots > 0

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
        return frame_size(self.anchor.tower.image_px) if self.anchor.resize_to_tower else self.frame_px

    @property
    def anchor_features(self) -> tuple[tuple[int, int], str]:
        """P and F of what the anchors' tower makes of a frame, and its dtype."""
        anchor = self.anchor
        return features_shape(anchor.used_tower, self.anchor_px, anchor.readout == "pooled"), anchor.tower.dtype

    @property
    def crop_features(self) -> tuple[tuple[int, int], str]:
        """P and F of what the crops' tower makes of a crop, and its dtype; ValueError where there is none."""
        tower, size = self.flow.used_tower, (self.flow.looked_px, self.flow.looked_px)
        if tower is None:
            raise ValueError("tokenizer.flow.tower is None: nothing looks at crops but the trunk")
        return features_shape(tower, size, self.flow.readout == "pooled"), tower.dtype


def from_mapping(values, frame_px: int | Sequence[int], clock: Clock, fit: str = "crop") -> TokenizerConfig:
    """Builds the configuration from a nested mapping (a ConfigDict); an unknown name raises TypeError.

    Where towers do not say it, the anchors' is for pictures of `frame_px`, that of the crops for pictures of `tower_px`
    or `crop_px`, and both compute in the tokenizer's dtype. Frames that pictures were padded to (`fit`) have bars, in
    which nothing moves.
    """
    values, frame_px = dict(values), frame_size(frame_px, "config.frame_px")
    values["motion"] = {"bars": fit == "pad", **dict(values.get("motion", {}))}
    dtype = values.get("dtype", "float32")
    flow = _with_tuples(values.pop("flow", {}))
    if flow.get("tower") is not None:
        side = flow.get("tower_px") or flow.get("crop_px", FlowConfig.crop_px)
        flow["tower"] = tower_from_mapping(flow["tower"], image_px=side, dtype=dtype)
    parts = {
        "motion": MotionConfig,
        "budget": BudgetConfig,
        "state": StateConfig,
        "baseline": BaselineConfig,
    }
    made = {name: kind(**dict(values.pop(name, {}))) for name, kind in parts.items()} | {"flow": FlowConfig(**flow)}
    ladder = tuple(made["budget"].flow_token_levels)
    made["budget"] = dataclasses.replace(made["budget"], flow_token_levels=ladder)
    anchor = dict(values.pop("anchor"))
    if "tower" not in anchor:
        raise ValueError(
            "tokenizer.anchor lacks `tower`, the shape of the vision tower that sees anchors: in configs of older code "
            "(portable layout version 1) its fields stood in tokenizer.anchor itself"
        )
    tower = tower_from_mapping(anchor.pop("tower"), image_px=frame_px, dtype=dtype)
    made["anchor"] = AnchorConfig(tower, **_with_tuples(anchor))
    event = dict(values.pop("event"))
    window_s = event.pop("window_s")
    made["event"] = StackConfig(**event, window_steps=clock.steps_in(window_s), dtype=dtype)
    return TokenizerConfig(frame_px=frame_px, clock=clock, **made, **values)


def _with_tuples(values) -> dict:
    """A mapping's values, its lists as tuples, which jit can hash."""
    return {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in dict(values).items()}
