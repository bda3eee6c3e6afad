"""Where flow tokens look: peaks of saliency, moved onto the thing that moves. Integers throughout (see motion.py)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Int32

_WINDOW = 12  # plane pixels that mean shift looks at
_SUBPIXEL = 16  # fixed-point fractions of a plane pixel
_SIGMA = 4.0  # of the kernel, in plane pixels
_ROUNDS = 3  # of mean shift
_FLOOR = 60  # contrast, summed over three colours, that background texture reaches


class Peaks(NamedTuple):
    """The `K` best peaks of a tick, best first.

    Attributes:
      level: int32 `[K]`, saliency at the peak.
      cell: int32 `[K, 2]`, the peak's cell (row, column).
      centre_px: int32 `[K, 2]`, where to look, in frame pixels (row, column).
    """

    level: Int32[Array, "K"]
    cell: Int32[Array, "K 2"]
    centre_px: Int32[Array, "K 2"]


def _kernel() -> np.ndarray:
    distance = np.arange(_WINDOW) - (_WINDOW - 1) / 2
    weight = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * _SIGMA**2))
    return np.round(16 * weight).astype(np.int32)


def _rim() -> np.ndarray:
    rim = np.ones((_WINDOW, _WINDOW), np.int32)
    rim[1:-1, 1:-1] = 0
    return rim


def _mean_shift(plane: Int32[Array, "h w 3"], centre: Int32[Array, "2"]) -> Int32[Array, "2"]:
    """One step towards what stands out from its surroundings; `centre` in sixteenths of a plane pixel."""
    side = plane.shape[0]
    corner = centre // _SUBPIXEL - _WINDOW // 2
    rows = jnp.clip(corner[0] + jnp.arange(_WINDOW), 0, side - 1)
    columns = jnp.clip(corner[1] + jnp.arange(_WINDOW), 0, side - 1)
    window = plane[rows[:, None], columns[None]]
    rim = jnp.asarray(_rim())
    surroundings = (window * rim[..., None]).sum(axis=(0, 1)) // int(_rim().sum())
    contrast = jnp.maximum(jnp.abs(window - surroundings).sum(axis=-1) - _FLOOR, 0) * jnp.asarray(_kernel())
    total = contrast.sum()
    along = _SUBPIXEL * jnp.arange(_WINDOW) + _SUBPIXEL // 2
    moment = jnp.stack([(contrast.sum(axis=1) * along).sum(), (contrast.sum(axis=0) * along).sum()])
    return jnp.where(total > 0, corner * _SUBPIXEL + moment // jnp.maximum(total, 1), centre)


def find(saliency: Int32[Array, "Y X"], plane: Int32[Array, "h w 3"], config: TokenizerConfig) -> Peaks:
    """Finds `K` peaks one after the other; each hides what is nearer than `nms_radius_px` to it or to its centre."""
    scale = config.frame_px // config.motion.plane_px
    grid = saliency.shape[0]
    cell_px = 2 * scale
    where = cell_px * jnp.arange(grid) + cell_px // 2
    reach = config.budget.nms_radius_px

    def centred(peak_px):
        start = peak_px * _SUBPIXEL // scale
        # Never further than the window reaches: a peak on bare background must not wander to another thing.
        shift = lambda _, at: jnp.clip(_mean_shift(plane, at), start - 8 * _SUBPIXEL, start + 8 * _SUBPIXEL)
        centre = jax.lax.fori_loop(0, _ROUNDS, shift, start)
        return jnp.clip((centre * scale + _SUBPIXEL // 2) // _SUBPIXEL, 0, config.frame_px - 1)

    def next_peak(left, _):
        flat = jnp.argmax(left.reshape(-1)).astype(jnp.int32)
        cell = jnp.stack([flat // grid, flat % grid])
        peak_px = cell_px * cell + cell_px // 2
        centre_px = centred(peak_px) if config.flow.centre else peak_px
        near = lambda at: (jnp.abs(where - at[0]) < reach)[:, None] & (jnp.abs(where - at[1]) < reach)[None]
        hidden = near(peak_px) | near(centre_px)
        return jnp.where(hidden, 0, left), Peaks(left.reshape(-1)[flat], cell, centre_px)

    return jax.lax.scan(next_peak, saliency, None, length=config.flow_slots)[1]


def spread(saliency: Int32[Array, "Y X"]) -> Int32[Array, "Y X"]:
    """The largest value among a cell and its eight neighbours."""
    for axis in (0, 1):
        length = saliency.shape[axis]
        wide = jnp.pad(saliency, [(1, 1) if a == axis else (0, 0) for a in (0, 1)])
        saliency = jnp.stack([jax.lax.slice_in_dim(wide, i, i + length, axis=axis) for i in range(3)]).max(axis=0)
    return saliency
