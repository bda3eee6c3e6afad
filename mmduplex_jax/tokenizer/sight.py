"""What a clip's tokens look at: places, motion and pictures, chosen by integers alone, packed in the order of time.

None of it depends on a parameter, so that it can be chosen once and kept: as pictures, or as the features that frozen
towers make of them (`launch.encode`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.tokenizer import motion, token_plan
from mmduplex_jax.tokenizer.config import FlowConfig, TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Int32, UInt8

AROUND = 5  # cells along a side of the motion patch that a token has


class FlowSight(NamedTuple):
    """What flow tokens look at, by packed token; of those that are none, anything.

    Attributes:
      cell, centre_px, scale: see `TokenPlan`, `[B, N, 2]`, `[B, N, 2]` and `[B, N]`.
      camera: int32 `[B, N, 2]`, the camera's shift at the token's tick.
      motion: int32 `[B, N, 5, 5, 10]`, the motion around the cell.
      looks: the crops, uint8 `[B, N, h, w, 3]`, or what the tower makes of them, `[B, N, P, F]`.
    """

    cell: Int32[Array, "B N 2"]
    centre_px: Int32[Array, "B N 2"]
    scale: Int32[Array, "B N"]
    camera: Int32[Array, "B N 2"]
    motion: Int32[Array, "B N 5 5 10"]
    looks: Array


class Sight(NamedTuple):
    """What a clip's tokens look at.

    Attributes:
      tick: int32 `[B, N]`, of each packed token.
      slot: int32 `[B, N]`, which of its tick's slots it has: an anchor's first, then flow.
      valid: bool `[B, N]`, which tokens there are.
      fits: bool `[B]`, whether all of them found room.
      anchors_before: int32 `[B, N]`, anchors up to and including the token's tick.
      looks: the frames of the anchors, uint8 `[B, A, H, W, 3]`, or what the tower makes of them, `[B, A, P, F]`; None
        for a kind without anchors.
      flow: None for a kind without flow tokens.
    """

    tick: Int32[Array, "B N"]
    slot: Int32[Array, "B N"]
    valid: Bool[Array, "B N"]
    fits: Bool[Array, "B"]
    anchors_before: Int32[Array, "B N"]
    looks: Array | None
    flow: FlowSight | None


def see_clips(frames: UInt8[Array, "B T H W 3"], config: TokenizerConfig) -> Sight:
    """The sight of whole clips."""
    batch, ticks = frames.shape[:2]
    plan = jax.vmap(lambda clip: token_plan.plan_clip(clip, config))(frames)
    spent = spent_slots(plan, config)
    source, fits = packed_positions(spent.reshape(batch, -1), config.token_capacity(ticks))  # flat (tick, slot)
    valid = source < ticks * config.slots
    source = jnp.minimum(source, ticks * config.slots - 1)
    tick, slot = source // config.slots, source % config.slots
    anchors_before = jnp.take_along_axis(jnp.cumsum(plan.anchor, axis=1, dtype=jnp.int32), tick, axis=1)
    looks = flow = None
    if config.anchor_tokens:
        which, anchors_fit = packed_positions(plan.anchor, config.anchor_capacity(ticks))  # [B, A]
        fits, which = fits & anchors_fit, jnp.minimum(which, ticks - 1)
        looks = jnp.take_along_axis(frames, which[..., None, None, None], axis=1)
    if config.flow_slots:
        number = (tick * config.flow_slots + jnp.maximum(slot - config.anchor_tokens, 0))[..., None]
        pick = lambda a: jnp.take_along_axis(a.reshape(batch, ticks * config.flow_slots, -1), number, axis=1)
        cell, centre, scale = pick(plan.cell), pick(plan.centre_px), pick(plan.scale)[..., 0]
        camera = jnp.take_along_axis(plan.camera, tick[..., None], axis=1)
        around = jax.vmap(motion_patches)(plan.motion, tick, cell)
        pictures = jax.vmap(functools.partial(crops, flow=config.flow))(frames, tick, centre, scale)
        flow = FlowSight(cell, centre, scale, camera, around, pictures)
    return Sight(tick, slot, valid, fits, anchors_before, looks, flow)


def see_tick(frame: UInt8[Array, "B H W 3"], plan: token_plan.TokenPlan, config: TokenizerConfig) -> FlowSight:
    """The sight of one tick's flow tokens, `N = K`, in the order of the plan's peaks.

    Args:
      frame: of each stream.
      plan: of each stream, the batch before its axes.
      config: of the tokenizer.
    """
    tick = jnp.zeros((config.flow_slots,), jnp.int32)
    cut = lambda picture, at, scale: crops(picture[None], tick, at, scale, config.flow)
    around = jax.vmap(lambda maps, at: motion_patches(maps[None], tick, at))(plan.motion, plan.cell)
    camera = jnp.broadcast_to(plan.camera[:, None], (len(frame), config.flow_slots, 2))
    pictures = jax.vmap(cut)(frame, plan.centre_px, plan.scale)
    return FlowSight(plan.cell, plan.centre_px, plan.scale, camera, around, pictures)


def spent_slots(plan: token_plan.TokenPlan, config: TokenizerConfig) -> Bool[Array, "... M"]:
    """Which of a tick's slots hold a token: an anchor's first ones, then flow."""
    anchor = jnp.arange(config.anchor_tokens) < plan.anchor_tokens[..., None]
    return jnp.concatenate([anchor, plan.flow], axis=-1)


def packed_positions(mask: Bool[Array, "B X"], capacity: int) -> tuple[Int32[Array, "B capacity"], Bool[Array, "B"]]:
    """The positions of the true entries, in order, `X` (one past the end) where there are no more; whether all fit."""
    size = mask.shape[1]
    target = jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, capacity)
    rows = jnp.arange(mask.shape[0])[:, None]
    filled = jnp.full((mask.shape[0], capacity), size, jnp.int32)
    filled = filled.at[rows, target].set(jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), mask.shape), mode="drop")
    return filled, mask.sum(axis=1) <= capacity


def crops(
    frames: UInt8[Array, "T H W 3"],
    tick: Int32[Array, "N"],
    centre_px: Int32[Array, "N 2"],
    scale: Int32[Array, "N"],
    flow: FlowConfig,
) -> UInt8[Array, "N h w 3"]:
    """Cuts squares of `scale · crop_px` around centres, averaged to `crop_px`.

    Where one would stick out of the frame it is moved inwards (`flow.inside`), or the frame's rim is repeated, as it is
    in any case where the square is larger than the frame. A larger square begins at a multiple of its scale, so that it
    is cut from a frame which is shrunk once for all.
    """
    half = flow.crop_px // 2

    def at_scale(factor: int) -> UInt8[Array, "N h w 3"]:
        small = motion.shrunk(frames, factor)
        padded = jnp.pad(small, [(0, 0), (half, half), (half, half), (0, 0)], mode="edge")
        size = (1, flow.crop_px, flow.crop_px, 3)
        cut = lambda t, at: jax.lax.dynamic_slice(padded, (t, at[0], at[1], 0), size)[0]
        at = centre_px // factor
        if flow.inside:
            last = np.maximum(np.array(small.shape[1:3], np.int32) - half, half)
            at = jnp.clip(at, half, last)
        return jax.vmap(cut)(tick, at)

    cut = at_scale(1)
    for factor in flow.crop_scales[1:]:
        cut = jnp.where((scale == factor)[:, None, None, None], at_scale(factor), cut)
    return cut


def motion_patches(
    maps: Int32[Array, "T Y X 10"], tick: Int32[Array, "N"], cell: Int32[Array, "N 2"]
) -> Int32[Array, "N 5 5 10"]:
    """The motion around cells, zero outside the picture."""
    half = AROUND // 2
    padded = jnp.pad(maps, [(0, 0), (half, half), (half, half), (0, 0)])
    size = (1, AROUND, AROUND, maps.shape[-1])
    cut = lambda t, at: jax.lax.dynamic_slice(padded, (t, at[0], at[1], 0), size)[0]
    return jax.vmap(cut)(tick, cell)
