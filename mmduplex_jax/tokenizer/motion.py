"""Motion: block matching on a small plane against the tick before, as pure functions of integers.

Everything that decides which tokens are spent is computed in int32, so that a stream, a scan, another batch size and another
chip decide alike, to the last bit. The same functions run live and in training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmduplex_jax.tokenizer.config import MotionConfig
from mmduplex_jax.typing import Array, Int32, UInt8


class Motion(NamedTuple):
    """What moved between two ticks; `Y X` cells, one every 2 plane pixels, each matched by a window of 6.

    Attributes:
      vector: int32 `[Y, X, 2]`, shift (down, right) in plane pixels a tick, less the camera's.
      residual: int32 `[Y, X]`, what is left after the best match, in grey levels summed over the window.
      saliency: int32 `[Y, X]`, what the camera's motion does not explain (three colours, summed over the window, over
        what is usual in this picture).
      camera: int32 `[2]`, the shift of the picture as a whole: the median over cells.
      uncovered: int32, cells that nothing in the last tick matches.
    """

    vector: Int32[Array, "Y X 2"]
    residual: Int32[Array, "Y X"]
    saliency: Int32[Array, "Y X"]
    camera: Int32[Array, "2"]
    uncovered: Int32[Array, ""]


def plane(frame: UInt8[Array, "H W 3"], config: MotionConfig) -> Int32[Array, "h w 3"]:
    """Shrinks a frame to the plane by averaging, `uint8 [H, W, 3]` to `int32 [plane_px, plane_px, 3]`."""
    side = frame.shape[0] // config.plane_px
    cut = frame.astype(jnp.int32).reshape(config.plane_px, side, config.plane_px, side, 3)
    return cut.sum(axis=(1, 3)) // (side * side)


def _luma(rgb: Int32[Array, "h w 3"]) -> Int32[Array, "h w"]:
    return (77 * rgb[..., 0] + 150 * rgb[..., 1] + 29 * rgb[..., 2]) >> 8


def _window_sum(error: Int32[Array, "... h w"]) -> Int32[Array, "... Y X"]:
    """Sums over windows of 6×6 plane pixels, one every 2; the rim is repeated outwards."""
    *lead, height, width = error.shape
    cells = error.reshape(*lead, height // 2, 2, width // 2, 2).sum(axis=(-3, -1))
    for axis in (-2, -1):
        length = cells.shape[axis]
        first = jax.lax.slice_in_dim(cells, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(cells, length - 1, length, axis=axis)
        wide = jnp.concatenate([first, cells, last], axis=axis)
        cells = sum(jax.lax.slice_in_dim(wide, i, i + length, axis=axis) for i in range(3))
    return cells


def match(before: Int32[Array, "h w 3"], now: Int32[Array, "h w 3"], config: MotionConfig) -> Motion:
    """Compares two planes (made by `plane`)."""
    radius = config.search_radius
    luma_before, luma_now = _luma(before), _luma(now)
    height, width = luma_now.shape
    padded = jnp.pad(luma_before, radius, mode="edge")
    shifts = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    shifts.sort(key=lambda shift: shift[0] ** 2 + shift[1] ** 2)  # argmin takes the first of equals: the smallest shift
    moved = jnp.stack(
        [padded[radius - dy : radius - dy + height, radius - dx : radius - dx + width] for dy, dx in shifts]
    )
    cost = _window_sum(jnp.abs(luma_now - moved))
    table = jnp.array(shifts, jnp.int32)
    penalty = config.smoothness * jnp.square(table).sum(axis=1)
    best = jnp.argmin(cost + penalty[:, None, None], axis=0)
    residual = jnp.take_along_axis(cost, best[None], axis=0)[0]
    vector = table[best]
    cells = vector.shape[0] * vector.shape[1]
    camera = jnp.sort(vector.reshape(cells, 2), axis=0)[cells // 2]
    rows = jnp.clip(jnp.arange(height) - camera[0], 0, height - 1)
    columns = jnp.clip(jnp.arange(width) - camera[1], 0, width - 1)
    unexplained = _window_sum(jnp.abs(now - before[rows][:, columns]).sum(axis=-1))
    usual = jnp.sort(unexplained.reshape(-1))[cells // 2]
    return Motion(
        vector=vector - camera,
        residual=residual,
        saliency=jnp.maximum(unexplained - usual, 0),
        camera=camera,
        uncovered=(residual > config.uncovered_cost * 36).sum(dtype=jnp.int32),
    )
