"""Motion: block matching on a small plane against the tick before, as pure functions of integers.

Everything that decides which tokens are spent is computed in int32, so that a stream, a scan, another batch size and
another chip decide alike, to the last bit. The same functions run live and in training.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.typing import Array, Int32, UInt8


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


class Motion(NamedTuple):
    """What moved between two ticks; `Y X` cells, one every 2 plane pixels, each matched by a window of 6.

    Attributes:
      vector: int32 `[Y, X, 2]`, shift (down, right) in plane pixels a tick, less the camera's.
      residual: int32 `[Y, X]`, what is left after the best match, in grey levels summed over the window.
      saliency: int32 `[Y, X]`, what the camera's motion does not explain (three colours, summed over the window, over
        what is usual in this picture).
      camera: int32 `[2]`, the shift of the picture as a whole: the median over cells.
      disoccluded: int32, cells that nothing in the last tick matches.
    """

    vector: Int32[Array, "Y X 2"]
    residual: Int32[Array, "Y X"]
    saliency: Int32[Array, "Y X"]
    camera: Int32[Array, "2"]
    disoccluded: Int32[Array, ""]


def plane(frame: UInt8[Array, "H W 3"], config: MotionConfig) -> Int32[Array, "h w 3"]:
    """Shrinks a frame to the plane by averaging, `uint8 [H, W, 3]` to `int32 [plane_px, plane_px, 3]`."""
    side = frame.shape[0] // config.plane_px
    cut = frame.astype(jnp.int32).reshape(config.plane_px, side, config.plane_px, side, 3)
    return cut.sum(axis=(1, 3)) // (side * side)


def shrunk(picture: Array, scale: int) -> Array:
    """Shrinks `[..., H, W, C]` integers by averaging squares of `scale` pixels; the rim is repeated to fill the last.

    Averages are rounded to the nearest integer, halves up; the type is the picture's.
    """
    if scale == 1:
        return picture
    *batch, height, width, channels = picture.shape
    fill = [(0, 0)] * len(batch) + [(0, -height % scale), (0, -width % scale), (0, 0)]
    filled = jnp.pad(picture, fill, mode="edge").astype(jnp.int32)
    cut = filled.reshape(*batch, -(-height // scale), scale, -(-width // scale), scale, channels)
    return ((cut.sum(axis=(-4, -2)) + scale * scale // 2) // (scale * scale)).astype(picture.dtype)


def _luma(rgb: Int32[Array, "h w 3"]) -> Int32[Array, "h w"]:
    return (77 * rgb[..., 0] + 150 * rgb[..., 1] + 29 * rgb[..., 2]) >> 8


def _windows(length: int) -> np.ndarray:
    """0/1 (2 and 3 at the rim, which is repeated outwards): which pixels of a line are in which cell's window."""
    cells = np.arange(length) // 2
    columns = np.eye(length // 2, dtype=np.float32)[cells]  # [length, cells]
    wide = np.pad(columns, [(0, 0), (1, 1)])
    summed = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    summed[cells == 0, 0] += 1
    summed[cells == cells[-1], -1] += 1
    return summed


def _window_sum(error: Int32[Array, "... h w"]) -> Int32[Array, "... Y X"]:
    """Sums over windows of 6×6 plane pixels, one every 2; the rim is repeated outwards.

    Two matrix products in float32: every value and every partial sum is an integer under 2²⁴, hence exact in any order.
    """
    rows, columns = _windows(error.shape[-2]), _windows(error.shape[-1])
    exact = jax.lax.Precision.HIGHEST
    half = jnp.einsum("...hw,wx->...hx", error.astype(jnp.float32), columns, precision=exact)
    return jnp.einsum("...hx,hy->...yx", half, rows, precision=exact).astype(jnp.int32)


def _median(values: Int32[Array, "X"], bits: int) -> Int32[Array, ""]:
    """The upper median of integers in `[0, 2^bits)`: what sorting would give, by bisection, which vectorises."""
    half = values.shape[0] // 2
    found = jnp.zeros((), jnp.int32)
    for bit in reversed(range(bits)):
        # The median is at least `found + 2^bit` if no more than half of the values are below that.
        higher = found + (1 << bit)
        found = jnp.where((values < higher).sum() <= half, higher, found)
    return found


def match(before: Int32[Array, "h w 3"], now: Int32[Array, "h w 3"], config: MotionConfig) -> Motion:
    """Compares two planes (made by `plane`)."""
    radius = config.search_radius
    luma_before, luma_now = _luma(before), _luma(now)
    height, width = luma_now.shape
    padded = jnp.pad(luma_before, radius, mode="edge")
    shifts = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    shifts.sort(key=lambda shift: shift[0] ** 2 + shift[1] ** 2)  # the first of equals is taken: the smallest shift
    table = np.array(shifts, np.int32)
    penalty = config.smoothness * np.square(table).sum(axis=1)
    # The number of the shift in the low digits: one plain minimum finds both. A loop over shifts, each over all ticks
    # at once, is six times as fast on a CPU as an array of all costs.
    digits = len(shifts)

    def try_shift(least, shift):
        number, down_right, price = shift
        moved = jax.lax.dynamic_slice(padded, radius - down_right, (height, width))
        cost = _window_sum(jnp.abs(luma_now - moved)) + price
        return jnp.minimum(least, cost * digits + number), None

    least = jnp.full((height // 2, width // 2), np.iinfo(np.int32).max, jnp.int32)
    tried = (jnp.arange(digits), jnp.asarray(table), jnp.asarray(penalty))
    least, _ = jax.lax.scan(try_shift, least, tried)
    best = least % digits
    residual = least // digits - jnp.asarray(penalty)[best]
    vector = jnp.asarray(table)[best]
    bits = int(2 * radius).bit_length()
    camera = jnp.stack([_median((vector[..., i] + radius).reshape(-1), bits) for i in (0, 1)]) - radius
    rows = jnp.clip(jnp.arange(height) - camera[0], 0, height - 1)
    columns = jnp.clip(jnp.arange(width) - camera[1], 0, width - 1)
    unexplained = _window_sum(jnp.abs(now - before[rows][:, columns]).sum(axis=-1))
    usual = _median(unexplained.reshape(-1), int(36 * 765).bit_length())
    return Motion(
        vector=vector - camera,
        residual=residual,
        saliency=jnp.maximum(unexplained - usual, 0),
        camera=camera,
        disoccluded=(residual > config.disocclusion_cost * 36).sum(dtype=jnp.int32),
    )
