"""Motion: block matching on a small plane against the tick before, as pure functions of integers.

Everything that decides which tokens are spent is computed in int32, so that a stream, a scan, another batch size and
another chip decide alike, to the last bit. The same functions run live and in training.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.typing import Array, Bool, Float, Int32, UInt8

# Grey levels up to which a pixel is black: bars that JPEG has stored beside a picture ring by a few.
_BLACK_MAX = 8


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """Block matching on a small plane.

    Attributes:
      plane_px: height and width of the plane, both even; the frame is an integer times as large. One integer: a square.
      search_radius: furthest shift looked for, in plane pixels a tick.
      smoothness: cost, in grey levels a window, of every squared plane pixel of shift: ties go to the smaller one.
      disocclusion_cost: mean absolute error in grey levels over which a cell counts as disoccluded.
      bars: whether black bars around the picture, as `fit="pad"` makes them, are left out: the motion is that of the
        picture by itself, and none in its bars. Frames of models that were trained without bars keep theirs.
    """

    plane_px: FrameSize = (32, 32)
    search_radius: int = 3
    smoothness: int = 12
    disocclusion_cost: int = 20
    bars: bool = False

    def __post_init__(self):
        object.__setattr__(self, "plane_px", frame_size(self.plane_px, "motion.plane_px"))
        if any(side % 2 for side in self.plane_px):
            raise ValueError(f"motion.plane_px must be even in both directions, got {self.plane_px}")

    @property
    def grid(self) -> tuple[int, int]:
        """Y and X: rows and columns of cells, one every 2 plane pixels."""
        return self.plane_px[0] // 2, self.plane_px[1] // 2

    @property
    def cells(self) -> int:
        """Y · X."""
        return self.grid[0] * self.grid[1]


class Motion(NamedTuple):
    """What moved between two ticks; `Y X` cells, one every 2 plane pixels, each matched by a window of 6.

    Attributes:
      vector: int32 `[Y, X, 2]`, shift (down, right) in plane pixels a tick, less the camera's.
      residual: int32 `[Y, X]`, what is left after the best match, in grey levels summed over the window.
      saliency: int32 `[Y, X]`, what the camera's motion does not explain (three colours, summed over the window, over
        what is usual in this picture).
      camera: int32 `[2]`, the shift of the picture as a whole: the median over cells.
      disoccluded: int32, cells that nothing in the last tick matches; where bars are left out, as many as it would be
        if the picture filled the grid.
      bounds: int32 `[4]`, the picture's first and last row, first and last column, in plane pixels: of the whole plane
        where bars are not left out.
    """

    vector: Int32[Array, "Y X 2"]
    residual: Int32[Array, "Y X"]
    saliency: Int32[Array, "Y X"]
    camera: Int32[Array, "2"]
    disoccluded: Int32[Array, ""]
    bounds: Int32[Array, "4"]


def plane(frame: UInt8[Array, "H W 3"], config: MotionConfig) -> Int32[Array, "h w 3"]:
    """Shrinks a frame to the plane by averaging, `uint8 [H, W, 3]` to `int32 [h, w, 3]`."""
    height, width = config.plane_px
    side = frame.shape[0] // height
    cut = frame.astype(jnp.int32).reshape(height, side, width, side, 3)
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


def _lit(line: Bool[Array, "X"]) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
    """The first and the last true entry; all of the line where there is none."""
    last = line.shape[0] - 1
    first = jnp.argmax(line).astype(jnp.int32)
    return first, jnp.where(line.any(), last - jnp.argmax(line[::-1]), last).astype(jnp.int32)


def _picture_bounds(before: Int32[Array, "h w 3"], now: Int32[Array, "h w 3"]) -> Int32[Array, "4"]:
    """First and last row, first and last column of what is not black in either plane."""
    lit = (jnp.maximum(before, now) > _BLACK_MAX).any(axis=-1)
    return jnp.stack([*_lit(lit.any(axis=1)), *_lit(lit.any(axis=0))])


def whole(config: MotionConfig) -> Int32[Array, "4"]:
    """`Motion.bounds` of a picture without bars."""
    height, width = config.plane_px
    return jnp.array([0, height - 1, 0, width - 1], jnp.int32)


def without_bars(plane: Int32[Array, "h w ..."], bounds: Int32[Array, "4"]) -> Int32[Array, "h w ..."]:
    """A plane whose picture's rim is repeated outwards over what lies outside of `Motion.bounds`."""
    top, bottom, left, right = bounds
    rows = jnp.clip(jnp.arange(plane.shape[0]), top, bottom)
    columns = jnp.clip(jnp.arange(plane.shape[1]), left, right)
    return plane[rows][:, columns]


def inside(bounds: Int32[Array, "4"], grid: tuple[int, int]) -> Bool[Array, "Y X"]:
    """Which cells show something of the picture."""
    top, bottom, left, right = bounds // 2
    rows, columns = jnp.arange(grid[0]), jnp.arange(grid[1])
    return ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))[None]


def _windows(length: int, first: Int32[Array, ""] | int, last: Int32[Array, ""] | int) -> Float[Array, "h Y"]:
    """Which pixels of a line are in which cell's window: 0/1, and 2 and 3 at the rim, which is repeated outwards.

    Args:
      length: of the line, in pixels.
      first, last: the cells of the picture; those outside hold nothing and count nowhere.
    """
    pixel, cell = np.arange(length)[:, None] // 2, np.arange(length // 2)[None]
    shown = lambda at: (at >= first) & (at <= last)
    near = (np.abs(pixel - cell) <= 1) & shown(pixel) & shown(cell)
    rim = ((cell == first) + 0 + (cell == last)) * (pixel == cell)
    return (near + rim).astype(np.float32)


def _window_sum(
    error: Int32[Array, "... h w"], rows: Float[Array, "h Y"], columns: Float[Array, "w X"]
) -> Int32[Array, "... Y X"]:
    """Sums over windows of 6×6 plane pixels, one every 2 (`_windows`).

    Two matrix products in float32: every value and every partial sum is an integer under 2²⁴, hence exact in any order.
    """
    exact = jax.lax.Precision.HIGHEST
    half = jnp.einsum("...hw,wx->...hx", error.astype(jnp.float32), columns, precision=exact)
    return jnp.einsum("...hx,hy->...yx", half, rows, precision=exact).astype(jnp.int32)


def _median(values: Int32[Array, "Y X"], bits: int, counted: Bool[Array, "Y X"] | None = None) -> Int32[Array, ""]:
    """The upper median of integers in `[0, 2^bits)`, of those that are counted.

    It is what sorting would give, by bisection, which vectorises.
    """
    number = values.size if counted is None else counted.sum()
    if counted is not None:
        values = jnp.where(counted, values, (1 << bits) - 1)  # never below a bound that is tried
    half = number // 2

    def try_bit(found, bit):
        # The median is at least `found + bit` if no more than half of the values are below that.
        higher = found + bit
        return jnp.where((values < higher).sum() <= half, higher, found), None

    # A loop, as there may be 15 bits: one after the other they were a sixteenth of a small model's operations.
    return jax.lax.scan(try_bit, jnp.zeros((), jnp.int32), 1 << np.arange(bits, dtype=np.int32)[::-1])[0]


def match(before: Int32[Array, "h w 3"], now: Int32[Array, "h w 3"], config: MotionConfig) -> Motion:
    """Compares two planes (made by `plane`)."""
    radius = config.search_radius
    height, width = now.shape[:2]
    rows_of_cells, columns_of_cells = height // 2, width // 2
    if config.bars:
        bounds = _picture_bounds(before, now)
        before, now = without_bars(before, bounds), without_bars(now, bounds)
        counted = inside(bounds, (rows_of_cells, columns_of_cells))
        windows = _windows(height, *bounds[:2] // 2), _windows(width, *bounds[2:] // 2)
    else:
        bounds, counted = whole(config), None
        windows = _windows(height, 0, rows_of_cells - 1), _windows(width, 0, columns_of_cells - 1)
    luma_before, luma_now = _luma(before), _luma(now)
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
        cost = _window_sum(jnp.abs(luma_now - moved), *windows) + price
        return jnp.minimum(least, cost * digits + number), None

    least = jnp.full((rows_of_cells, columns_of_cells), np.iinfo(np.int32).max, jnp.int32)
    tried = (jnp.arange(digits), jnp.asarray(table), jnp.asarray(penalty))
    least, _ = jax.lax.scan(try_shift, least, tried)
    best = least % digits
    residual = least // digits - jnp.asarray(penalty)[best]
    vector = jnp.asarray(table)[best]
    bits = int(2 * radius).bit_length()
    camera = jnp.stack([_median(vector[..., i] + radius, bits, counted) for i in (0, 1)]) - radius
    rows = jnp.clip(jnp.arange(height) - camera[0], 0, height - 1)
    columns = jnp.clip(jnp.arange(width) - camera[1], 0, width - 1)
    unexplained = _window_sum(jnp.abs(now - before[rows][:, columns]).sum(axis=-1), *windows)
    usual = _median(unexplained, int(36 * 765).bit_length(), counted)
    vector, saliency = vector - camera, jnp.maximum(unexplained - usual, 0)
    disoccluded = (residual > config.disocclusion_cost * 36).sum(dtype=jnp.int32)
    if counted is not None:
        vector = jnp.where(counted[..., None], vector, 0)
        residual, saliency = jnp.where(counted, residual, 0), jnp.where(counted, saliency, 0)
        disoccluded = disoccluded * counted.size // counted.sum(dtype=jnp.int32)
    return Motion(vector, residual, saliency, camera, disoccluded, bounds)
