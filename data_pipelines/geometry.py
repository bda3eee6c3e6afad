"""From a decoded picture to the square that the model looks at: orientation, pixel shape, crop or pad, scale."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

FITS = ("crop", "pad")


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned for display, in quarter turns and mirrors.

    Attributes:
      transpose: swap rows and columns, first.
      flip_x: then mirror left and right.
      flip_y: then mirror top and bottom.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """`[H, W, C]` as stored to `[H, W, C]` as shown (`[W, H, C]` when transposed), contiguous."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)

    @property
    def upright(self) -> bool:
        return not (self.transpose or self.flip_x or self.flip_y)


def orientation_of_matrix(matrix: bytes) -> tuple[Orientation, bool]:
    """The quarter turn that is nearest to a container's display matrix, and whether it is exact.

    Args:
      matrix: nine native int32, row by row; the upper left 2x2 maps a stored point, the row vector (x, y), to the
        shown one.
    """
    values = np.frombuffer(matrix, dtype=np.int32)
    if values.size != 9:
        raise ValueError(f"a display matrix has 9 numbers, this one has {values.size}")
    xx, xy, yx, yy = (float(values[i]) for i in (0, 1, 3, 4))
    transpose = abs(xy) + abs(yx) > abs(xx) + abs(yy)
    straight, slant = ((xy, yx), (xx, yy)) if transpose else ((xx, yy), (xy, yx))
    exact = max(abs(v) for v in slant) <= 0.01 * max(abs(v) for v in straight) if any(straight) else False
    if transpose:
        return Orientation(True, flip_x=yx < 0, flip_y=xy < 0), exact
    return Orientation(False, flip_x=xx < 0, flip_y=yy < 0), exact


def centre_box(width_px: int, height_px: int, pixel_aspect: float, fit: str) -> tuple[int, int, int, int]:
    """The part of a picture that the square shows, as `(left, top, width, height)` in stored pixels.

    Args:
      pixel_aspect: width of a stored pixel over its height.
      fit: "crop" takes the largest centred square as displayed; "pad" takes everything.
    """
    if fit == "pad":
        return 0, 0, width_px, height_px
    side = min(width_px * pixel_aspect, float(height_px))
    box_w = min(width_px, max(1, round(side / pixel_aspect)))
    box_h = min(height_px, max(1, round(side)))
    return (width_px - box_w) // 2, (height_px - box_h) // 2, box_w, box_h


def padded_size(width_px: int, height_px: int, pixel_aspect: float, frame_px: int) -> tuple[int, int]:
    """Width and height of the whole picture in a square that pads it."""
    shown_w = width_px * pixel_aspect
    scale = frame_px / max(shown_w, height_px)
    return max(1, round(shown_w * scale)), max(1, round(height_px * scale))


def squarer(frame_px: int, fit: str) -> Callable[[np.ndarray, float], np.ndarray]:
    """A function `(uint8 [H, W, 3], pixel_aspect) -> uint8 [frame_px, frame_px, 3]`; shrinking averages areas."""
    if fit not in FITS:
        raise ValueError(f"fit must be one of {FITS}, got {fit!r}")
    if frame_px < 1:
        raise ValueError(f"frame_px must be at least 1, got {frame_px}")

    def square(image: np.ndarray, pixel_aspect: float) -> np.ndarray:
        height_px, width_px = image.shape[:2]
        left, top, box_w, box_h = centre_box(width_px, height_px, pixel_aspect, fit)
        cut = image[top : top + box_h, left : left + box_w]
        if fit == "crop":
            return resize(cut, frame_px, frame_px)
        out_w, out_h = padded_size(width_px, height_px, pixel_aspect, frame_px)
        out = np.zeros((frame_px, frame_px, 3), np.uint8)
        y, x = (frame_px - out_h) // 2, (frame_px - out_w) // 2
        out[y : y + out_h, x : x + out_w] = resize(cut, out_w, out_h)
        return out

    return square


def square_in_picture(width_px: int, height_px: int, frame_px: int, fit: str) -> tuple[float, float, float]:
    """Where the model's square lies on a picture, `(left, top, scale)`; picture px = left + scale * frame px."""
    if fit == "crop":
        side = min(width_px, height_px)
        return (width_px - side) / 2, (height_px - side) / 2, side / frame_px
    side = max(width_px, height_px)
    return (width_px - side) / 2, (height_px - side) / 2, side / frame_px


def shrink_frames(frames: np.ndarray, frame_px: int) -> np.ndarray:
    """uint8 [T, px, px, 3] to [T, frame_px, frame_px, 3] as a reader would have given them, areas averaged.

    Raises:
      ValueError: they are smaller; nothing would be gained by making them larger.
    """
    stored_px = frames.shape[1]
    if stored_px < frame_px:
        raise ValueError(
            f"frames of {stored_px} px are smaller than the {frame_px} px that the model takes: prepare the data with "
            f"--config.frame_px={frame_px} or more"
        )
    if stored_px == frame_px:
        return frames
    return np.stack([resize(frame, frame_px, frame_px) for frame in frames])


def resize(image: np.ndarray, width_px: int, height_px: int, shrink: int = cv2.INTER_AREA) -> np.ndarray:
    """uint8 [H, W, ...] to [height_px, width_px, ...]: averages areas to shrink, and is linear to grow.

    (Area averaging would repeat pixels when growing.) `shrink` is how OpenCV shrinks to more than a half.
    """
    # Halves are averaged ten times as fast as areas of other sizes, and their average is all but the same.
    while (
        image.shape[0] >= 2 * height_px and image.shape[1] >= 2 * width_px and not any(n % 2 for n in image.shape[:2])
    ):
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if image.shape[1] == width_px and image.shape[0] == height_px:
        return np.ascontiguousarray(image)
    shrinks = image.shape[1] >= width_px and image.shape[0] >= height_px
    return cv2.resize(image, (width_px, height_px), interpolation=shrink if shrinks else cv2.INTER_LINEAR)
