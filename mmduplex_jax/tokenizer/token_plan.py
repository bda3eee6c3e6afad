"""Which tokens are spent: motion, its peaks and the budget joined, a tick at a time or over a clip.

Nothing here is learned and everything is an integer, so that both forms agree exactly. The baselines' fixed schedules
give the same `TokenPlan`, hence share everything after it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.tokenizer import budget, motion
from mmduplex_jax.tokenizer.config import FlowConfig, TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Int32, UInt8

# A flow token has the motion of this tick and those before, newest first: a map of saliency and vector for each; then
# this tick's residual (`TokenPlan.motion`).
HISTORY_TICKS = 3
MAP_CHANNELS = 3  # saliency, and the vector's two components
MOTION_CHANNELS = HISTORY_TICKS * MAP_CHANNELS + 1

_PEAK_WINDOW = 12  # plane pixels that mean shift looks at
_SUBPIXEL = 16  # fixed-point fractions of a plane pixel
_PEAK_SIGMA = 4.0  # of the kernel, in plane pixels
_MEAN_SHIFT_ROUNDS = 3  # of mean shift
_CONTRAST_MIN = 60  # contrast, summed over three colours, that background texture reaches
_CONNECTED = 4  # a cell moves with a peak if it has a fourth of the peak's saliency
_SMEARED = 2  # cells by which a match's window makes a moving thing longer than it is


class TokenPlan(NamedTuple):
    """A tick's decisions and the motion they rest on.

    Attributes:
      anchor_tokens: int32, tokens by which the frame is tokenized whole; 0 where it is no anchor.
      flow: bool `[K]`, which flow tokens are spent.
      cell: int32 `[K, 2]`, their peaks' cells.
      centre_px: int32 `[K, 2]`, the centres of their crops (row, column).
      scale: int32 `[K]`, their crops' sides in `flow.crop_px`, one of `flow.crop_scales`.
      motion: int32 `[Y, X, 10]`, saliency and vector of this tick and the two before, and this tick's residual.
      camera: int32 `[2]`, the camera's shift in plane pixels.
    """

    anchor_tokens: Int32[Array, ""]
    flow: Bool[Array, "K"]
    cell: Int32[Array, "K 2"]
    centre_px: Int32[Array, "K 2"]
    scale: Int32[Array, "K"]
    motion: Int32[Array, "Y X 10"]
    camera: Int32[Array, "2"]

    @property
    def anchor(self) -> Bool[Array, ""]:
        """Whether the frame is an anchor."""
        return self.anchor_tokens > 0


class TokenPlanState(NamedTuple):
    """What a stream remembers of the ticks before.

    Attributes:
      plane: int32 `[h, w, 3]`, the last tick's plane.
      maps: int32 `[2, Y, X, 3]`, saliency and vector of the last tick and the one before it.
      budget: the controller's state.
      tick: int32, ticks seen so far.
    """

    plane: Int32[Array, "h w 3"]
    maps: Int32[Array, "2 Y X 3"]
    budget: budget.BudgetState
    tick: Int32[Array, ""]


def initial(config: TokenizerConfig) -> TokenPlanState:
    """A stream's memory before its first frame."""
    return TokenPlanState(
        jnp.zeros((*config.motion.plane_px, 3), jnp.int32),
        jnp.zeros((HISTORY_TICKS - 1, *config.motion.grid, MAP_CHANNELS), jnp.int32),
        budget.initial(config),
        jnp.zeros((), jnp.int32),
    )


class Peaks(NamedTuple):
    """The `K` best peaks of a tick, best first.

    Attributes:
      level: int32 `[K]`, saliency at the peak.
      cell: int32 `[K, 2]`, the peak's cell (row, column).
      centre_px: int32 `[K, 2]`, where to look, in frame pixels (row, column).
      scale: int32 `[K]`, how much is looked at: `scale · flow.crop_px` along a side.
    """

    level: Int32[Array, "K"]
    cell: Int32[Array, "K 2"]
    centre_px: Int32[Array, "K 2"]
    scale: Int32[Array, "K"]


def _kernel() -> np.ndarray:
    distance = np.arange(_PEAK_WINDOW) - (_PEAK_WINDOW - 1) / 2
    weight = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * _PEAK_SIGMA**2))
    return np.round(16 * weight).astype(np.int32)


def _rim() -> np.ndarray:
    rim = np.ones((_PEAK_WINDOW, _PEAK_WINDOW), np.int32)
    rim[1:-1, 1:-1] = 0
    return rim


def _mean_shift(plane: Int32[Array, "h w 3"], centre: Int32[Array, "2"]) -> Int32[Array, "2"]:
    """One step towards what stands out from its surroundings; `centre` in sixteenths of a plane pixel."""
    height, width = plane.shape[:2]
    corner = centre // _SUBPIXEL - _PEAK_WINDOW // 2
    rows = jnp.clip(corner[0] + jnp.arange(_PEAK_WINDOW), 0, height - 1)
    columns = jnp.clip(corner[1] + jnp.arange(_PEAK_WINDOW), 0, width - 1)
    window = plane[rows[:, None], columns[None]]
    rim = jnp.asarray(_rim())
    surroundings = (window * rim[..., None]).sum(axis=(0, 1)) // int(_rim().sum())
    contrast = jnp.maximum(jnp.abs(window - surroundings).sum(axis=-1) - _CONTRAST_MIN, 0) * jnp.asarray(_kernel())
    total = contrast.sum()
    along = _SUBPIXEL * jnp.arange(_PEAK_WINDOW) + _SUBPIXEL // 2
    moment = jnp.stack([(contrast.sum(axis=1) * along).sum(), (contrast.sum(axis=0) * along).sum()])
    return jnp.where(total > 0, corner * _SUBPIXEL + moment // jnp.maximum(total, 1), centre)


def find_peaks(
    saliency: Int32[Array, "Y X"],
    plane: Int32[Array, "h w 3"],
    config: TokenizerConfig,
    bounds: Int32[Array, "4"] | None = None,
) -> Peaks:
    """Finds `K` peaks one after the other; each hides what is near to it or to its centre.

    Near is nearer than `nms_radius_px` times the crop's scale, so that one large thing does not take all tokens.

    Args:
      saliency: 0 outside of the picture.
      plane: the frame's.
      config: the tokenizer's.
      bounds: of the picture in the plane (`Motion.bounds`), inside of which crops are centred; all of it where None.
    """
    cell_px = 2 * config.plane_scale
    if bounds is None:
        bounds = motion.whole(config.motion)
    first_px, last_px = bounds[::2] * config.plane_scale, (bounds[1::2] + 1) * config.plane_scale - 1
    if config.motion.bars:
        plane = motion.without_bars(plane, bounds)
    scales = config.flow.crop_scales
    planes = [motion.shrunk(plane, scale) for scale in scales]
    rows, columns = (cell_px * jnp.arange(cells) + cell_px // 2 for cells in saliency.shape)

    def centred(start_px, shrunk_plane, pixel_px):
        """Where a thing's middle is, seen on a plane whose pixels are `pixel_px` frame pixels."""
        start = start_px * _SUBPIXEL // pixel_px
        # Never further than the window reaches: a peak on bare background must not wander to another thing.
        shift = lambda _, at: jnp.clip(_mean_shift(shrunk_plane, at), start - 8 * _SUBPIXEL, start + 8 * _SUBPIXEL)
        centre = jax.lax.fori_loop(0, _MEAN_SHIFT_ROUNDS, shift, start)
        return jnp.clip((centre * pixel_px + _SUBPIXEL // 2) // _SUBPIXEL, first_px, last_px)

    def next_peak(left, _):
        flat = jnp.argmax(left.reshape(-1)).astype(jnp.int32)
        cell = jnp.stack([flat // left.shape[1], flat % left.shape[1]])
        peak_px = cell_px * cell + cell_px // 2
        number = jnp.zeros((), jnp.int32)
        starts_px = [peak_px] * len(scales)
        if len(scales) > 1:
            low, high = moving_box(left, cell, scales[-1] * config.flow.crop_px // (2 * cell_px) + _SMEARED)
            number = _scale_number(low, high, cell_px, config.flow)
            starts_px[1:] = [cell_px * (low + high) // 2] * (len(scales) - 1)
        centres = starts_px
        if config.flow.centre:
            centres = [centred(px, p, s * config.plane_scale) for px, p, s in zip(starts_px, planes, scales)]
        centre_px, scale = jnp.stack(centres)[number], jnp.asarray(scales, jnp.int32)[number]
        reach = config.budget.nms_radius_px * scale
        near = lambda at: (jnp.abs(rows - at[0]) < reach)[:, None] & (jnp.abs(columns - at[1]) < reach)[None]
        hidden = near(peak_px) | near(centre_px)
        return jnp.where(hidden, 0, left), Peaks(left.reshape(-1)[flat], cell, centre_px, scale)

    return jax.lax.scan(next_peak, saliency, None, length=config.flow_slots)[1]


def moving_box(
    saliency: Int32[Array, "Y X"], cell: Int32[Array, "2"], rounds: int
) -> tuple[Int32[Array, "2"], Int32[Array, "2"]]:
    """The box of the cells that move with a peak: connected to it, over gaps of one cell, by a fourth of its saliency.

    Args:
      saliency: of a tick.
      cell: of the peak.
      rounds: times that the region grows, by two cells at most.

    Returns:
      Its first cells and those after its last (row, column).
    """
    level = saliency[cell[0], cell[1]]
    moves = (saliency * _CONNECTED >= level) & (saliency > 0)
    lines = [jnp.arange(cells) for cells in saliency.shape]
    seed = (lines[0] == cell[0])[:, None] & (lines[1] == cell[1])[None]
    grow = lambda _, region: _spread(_spread(region)) * moves
    region = jax.lax.fori_loop(0, rounds, grow, seed.astype(jnp.int32)) > 0
    low, high = [], []
    for axis, line in enumerate(lines):
        inside = region.any(axis=1 - axis)
        low.append(jnp.where(inside, line, len(line)).min())
        high.append(jnp.where(inside, line + 1, 0).max())
    # The peak belongs to it, even where nothing moves.
    return jnp.minimum(jnp.stack(low), cell), jnp.maximum(jnp.stack(high), cell + 1)


def _scale_number(low: Int32[Array, "2"], high: Int32[Array, "2"], cell_px: int, flow: FlowConfig) -> Int32[Array, ""]:
    """Which of the scales is the smallest whose crop holds a box of cells; the last where none does."""
    extent_px = cell_px * (high - low - _SMEARED).max()
    fits = extent_px <= flow.crop_px * jnp.asarray(flow.crop_scales[:-1], jnp.int32)
    return (~fits).sum(dtype=jnp.int32)


def _spread(saliency: Int32[Array, "Y X"]) -> Int32[Array, "Y X"]:
    """The largest value among a cell and its eight neighbours."""
    for axis in (0, 1):
        length = saliency.shape[axis]
        wide = jnp.pad(saliency, [(1, 1) if a == axis else (0, 0) for a in (0, 1)])
        saliency = jnp.stack([jax.lax.slice_in_dim(wide, i, i + length, axis=axis) for i in range(3)]).max(axis=0)
    return saliency


def _fixed_grid(config: TokenizerConfig) -> tuple[Int32[Array, "K 2"], Int32[Array, "K 2"]]:
    """Cells and centres (in frame pixels) of a fixed grid of crops that covers the frame: the baseline "uniform"."""
    grid_side = config.baseline.grid_side if config.kind == "uniform" else (0, 0)
    down, across = (
        (2 * jnp.arange(number) + 1) * side // max(2 * number, 1) for number, side in zip(grid_side, config.frame_px)
    )
    centre = jnp.stack(jnp.meshgrid(down, across, indexing="ij"), axis=-1).reshape(-1, 2).astype(jnp.int32)
    return centre // (2 * config.plane_scale), centre


def _map(moved: motion.Motion) -> Int32[Array, "Y X 3"]:
    return jnp.concatenate([moved.saliency[..., None], moved.vector], axis=-1)


def _peaks(moved: motion.Motion, plane, maps, config: TokenizerConfig):
    """How many peaks of a tick move, where and how large the best are, its motion with that of the ticks before.

    `maps` are of this tick and those before, `[HISTORY_TICKS, Y, X, 3]`, newest first.
    """
    if config.kind == "bflow":
        decayed = _spread(maps[1, ..., 0]) * config.budget.saliency_decay // 16
        if config.motion.bars:
            decayed = jnp.where(motion.inside(moved.bounds, config.motion.grid), decayed, 0)
        best = find_peaks(jnp.maximum(moved.saliency, decayed), plane, config, moved.bounds)
        moving = (best.level >= config.budget.flow_threshold).sum(dtype=jnp.int32)
        cell, centre, scale = best.cell, best.centre_px, best.scale
    else:
        cell, centre = _fixed_grid(config)
        scale = jnp.ones(len(cell), jnp.int32)
        moving = jnp.zeros((), jnp.int32)
    history = jnp.concatenate([*maps, moved.residual[..., None]], axis=-1)
    return moving, cell, centre, scale, history


def _decide(state: budget.BudgetState, tick, disoccluded, moving, config: TokenizerConfig, cap=None):
    if config.kind == "bflow":
        return budget.spend(state, disoccluded, moving, config, cap)
    return state, budget.schedule(tick, config)


def plan_tick(
    state: TokenPlanState, frame: UInt8[Array, "H W 3"], config: TokenizerConfig, cap: Int32[Array, ""] | None = None
) -> tuple[TokenPlanState, TokenPlan]:
    """One tick of one stream."""
    plane = motion.plane(frame, config.motion)
    before = jnp.where(state.tick == 0, plane, state.plane)  # nothing has moved in a stream's first frame
    moved = motion.match(before, plane, config.motion)
    maps = jnp.concatenate([_map(moved)[None], state.maps])
    moving, cell, centre, scale, history = _peaks(moved, plane, maps, config)
    spent, spending = _decide(state.budget, state.tick, moved.disoccluded, moving, config, cap)
    flow = jnp.arange(config.flow_slots) < spending.flow
    plan = TokenPlan(spending.anchor, flow, cell, centre, scale, history, moved.camera)
    # Saturates instead of wrapping: schedules count modulo small numbers, so it restarts at a multiple of them all.
    tick = jnp.where(state.tick >= budget.SCHEDULE_PERIOD, state.tick + 1 - budget.SCHEDULE_PERIOD, state.tick + 1)
    return TokenPlanState(plane, maps[: HISTORY_TICKS - 1], spent, tick), plan


def plan_clip(frames: UInt8[Array, "T H W 3"], config: TokenizerConfig) -> TokenPlan:
    """All ticks of a clip; equal to the scan of `plan_tick`, with everything but the budget computed in parallel."""
    planes = jax.vmap(lambda frame: motion.plane(frame, config.motion))(frames)
    before = jnp.concatenate([planes[:1], planes[:-1]])
    moved = jax.vmap(lambda a, b: motion.match(a, b, config.motion))(before, planes)
    maps = jax.vmap(_map)(moved)
    past = lambda ticks: jnp.pad(maps, [(ticks, 0)] + [(0, 0)] * 3)[: len(maps)]
    histories = jnp.stack([past(i) for i in range(HISTORY_TICKS)], axis=1)
    moving, cell, centre, scale, history = jax.vmap(functools.partial(_peaks, config=config))(moved, planes, histories)

    def scan(state, observed):
        tick, disoccluded, moving = observed
        return _decide(state, tick, disoccluded, moving, config)

    ticks = jnp.arange(len(frames), dtype=jnp.int32)
    spending = jax.lax.scan(scan, budget.initial(config), (ticks, moved.disoccluded, moving))[1]
    flow = jnp.arange(config.flow_slots) < spending.flow[:, None]
    return TokenPlan(spending.anchor, flow, cell, centre, scale, history, moved.camera)


def peak_levels(frames: UInt8[Array, "T H W 3"], config: TokenizerConfig) -> Int32[Array, "T-1 K"]:
    """Saliency of every tick's peaks, best first: what `budget.flow_threshold` is compared with (see
    launch/calibrate.py).
    """
    planes = jax.vmap(lambda frame: motion.plane(frame, config.motion))(frames)

    def levels(before, now):
        moved = motion.match(before, now, config.motion)
        return find_peaks(moved.saliency, now, config, moved.bounds).level

    return jax.vmap(levels)(planes[:-1], planes[1:])
