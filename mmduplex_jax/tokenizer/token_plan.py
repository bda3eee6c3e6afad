"""What the tokenizer decides to look at: motion, peaks and budget joined, a tick at a time or over a clip.

Nothing here is learned and everything is an integer, so that both forms agree exactly. The baselines' fixed schedules
give the same `TokenPlan`, hence share everything after it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmduplex_jax.tokenizer import baselines, budget, motion, peaks
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Int32, UInt8

HISTORY = 3  # ticks of motion that a flow token is told of
_CHANNELS = 3  # saliency, and the vector's two components


class TokenPlan(NamedTuple):
    """A tick's decisions and the motion they rest on.

    Attributes:
      anchor: bool, the frame is tokenized whole.
      flow: bool `[K]`, which flow tokens are spent.
      cell: int32 `[K, 2]`, their peaks' cells.
      centre_px: int32 `[K, 2]`, the centres of their crops (row, column).
      motion: int32 `[Y, X, 10]`, saliency and vector of this tick and the two before, and this tick's residual.
      camera: int32 `[2]`, the camera's shift in plane pixels.
    """

    anchor: Bool[Array, ""]
    flow: Bool[Array, "K"]
    cell: Int32[Array, "K 2"]
    centre_px: Int32[Array, "K 2"]
    motion: Int32[Array, "Y X 10"]
    camera: Int32[Array, "2"]


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
    side, grid = config.motion.plane_px, config.motion.grid
    return TokenPlanState(
        jnp.zeros((side, side, 3), jnp.int32),
        jnp.zeros((HISTORY - 1, grid, grid, _CHANNELS), jnp.int32),
        budget.initial(config),
        jnp.zeros((), jnp.int32),
    )


def _map(found: motion.Motion) -> Int32[Array, "Y X 3"]:
    return jnp.concatenate([found.saliency[..., None], found.vector], axis=-1)


def _look(found: motion.Motion, plane, maps, config: TokenizerConfig):
    """Peaks of a tick, given the maps of this tick and those before (`maps [HISTORY, Y, X, 3]`, newest first)."""
    if config.kind == "bflow":
        glow = peaks.spread(maps[1, ..., 0]) * config.budget.saliency_decay // 16
        best = peaks.find(jnp.maximum(found.saliency, glow), plane, config)
        moving = (best.level >= config.budget.flow_threshold).sum(dtype=jnp.int32)
        cell, centre = best.cell, best.centre_px
    else:
        cell, centre = baselines.grid(config)
        moving = jnp.zeros((), jnp.int32)
    history = jnp.concatenate([*maps, found.residual[..., None]], axis=-1)
    return moving, cell, centre, history


def _decide(state: budget.BudgetState, tick, disoccluded, moving, config: TokenizerConfig, cap=None):
    if config.kind == "bflow":
        return budget.spend(state, disoccluded, moving, config, cap)
    return state, baselines.schedule(tick, config)


def plan_tick(
    state: TokenPlanState, frame: UInt8[Array, "H W 3"], config: TokenizerConfig, cap: Int32[Array, ""] | None = None
) -> tuple[TokenPlanState, TokenPlan]:
    """One tick of one stream."""
    plane = motion.plane(frame, config.motion)
    before = jnp.where(state.tick == 0, plane, state.plane)  # nothing has moved in a stream's first frame
    found = motion.match(before, plane, config.motion)
    maps = jnp.concatenate([_map(found)[None], state.maps])
    moving, cell, centre, history = _look(found, plane, maps, config)
    spent, spending = _decide(state.budget, state.tick, found.disoccluded, moving, config, cap)
    flow = jnp.arange(config.flow_slots) < spending.flow
    plan = TokenPlan(spending.anchor, flow, cell, centre, history, found.camera)
    # Saturates instead of wrapping: schedules count modulo small numbers, so it restarts at a multiple of them all.
    tick = jnp.where(state.tick >= baselines.PERIOD, state.tick + 1 - baselines.PERIOD, state.tick + 1)
    return TokenPlanState(plane, maps[: HISTORY - 1], spent, tick), plan


def plan_clip(frames: UInt8[Array, "T H W 3"], config: TokenizerConfig) -> TokenPlan:
    """All ticks of a clip; equal to the scan of `plan_tick`, with everything but the budget computed in parallel."""
    planes = jax.vmap(lambda frame: motion.plane(frame, config.motion))(frames)
    before = jnp.concatenate([planes[:1], planes[:-1]])
    found = jax.vmap(lambda a, b: motion.match(a, b, config.motion))(before, planes)
    maps = jax.vmap(_map)(found)
    past = lambda ticks: jnp.pad(maps, [(ticks, 0)] + [(0, 0)] * 3)[: len(maps)]
    histories = jnp.stack([past(i) for i in range(HISTORY)], axis=1)
    moving, cell, centre, history = jax.vmap(functools.partial(_look, config=config))(found, planes, histories)

    def scan(state, seen):
        tick, disoccluded, moving = seen
        return _decide(state, tick, disoccluded, moving, config)

    ticks = jnp.arange(len(frames), dtype=jnp.int32)
    spending = jax.lax.scan(scan, budget.initial(config), (ticks, found.disoccluded, moving))[1]
    flow = jnp.arange(config.flow_slots) < spending.flow[:, None]
    return TokenPlan(spending.anchor, flow, cell, centre, history, found.camera)


def peak_levels(frames: UInt8[Array, "T H W 3"], config: TokenizerConfig) -> Int32[Array, "T-1 K"]:
    """Saliency of every tick's peaks, best first: what `budget.flow_threshold` is compared with (see
    launch/calibrate.py).
    """
    planes = jax.vmap(lambda frame: motion.plane(frame, config.motion))(frames)

    def levels(before, now):
        return peaks.find(motion.match(before, now, config.motion).saliency, now, config).level

    return jax.vmap(levels)(planes[:-1], planes[1:])
