"""From a decoded picture to the model's frame of RGB: orientation, pixel shape, crop or pad, scale, colours."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import av
import cv2
import numpy as np
from einops import rearrange

from data_pipelines.video_source import VideoError, why
from mmduplex_jax.frame_size import FITS, FrameSize, frame_size, size_flag, size_text

# Formats of three planes of bytes, and how many times smaller the planes of colour are, across and down.
_PLANAR = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (2, 1),
    "yuvj422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
}
# The parts of red and of blue in brightness, by the number of a stream's colour space; BT.601 where it says none.
_BT601 = (0.299, 0.114)
_PARTS = {
    0: _BT601,
    1: (0.2126, 0.0722),
    2: _BT601,
    4: (0.30, 0.11),
    5: _BT601,
    6: _BT601,
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_FULL_RANGE = 2


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
            image = rearrange(image, "h w c -> w h c")
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


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


def centre_box(
    width_px: int, height_px: int, pixel_aspect: float, frame_px: FrameSize, fit: str
) -> tuple[int, int, int, int]:
    """The part of a picture that a frame shows, as `(left, top, width, height)` in stored pixels.

    Args:
      width_px, height_px: of the picture.
      pixel_aspect: width of a stored pixel over its height.
      frame_px: height and width of the frame.
      fit: "crop" takes the largest centred part, as displayed, that has the frame's shape; "pad" takes everything.
    """
    if fit == "pad":
        return 0, 0, width_px, height_px
    frame_h, frame_w = frame_px
    shown_w = width_px * pixel_aspect
    box_w = min(width_px, max(1, round(min(shown_w, height_px * (frame_w / frame_h)) / pixel_aspect)))
    box_h = min(height_px, max(1, round(min(height_px, shown_w * (frame_h / frame_w)))))
    return (width_px - box_w) // 2, (height_px - box_h) // 2, box_w, box_h


def scaled_size(width_px: int, height_px: int, pixel_aspect: float, frame_px: FrameSize, fit: str) -> tuple[int, int]:
    """Width and height, in the frame, of what it shows of a picture: all of the frame, or what bars leave."""
    frame_h, frame_w = frame_px
    if fit == "crop":
        return frame_w, frame_h
    shown_w = width_px * pixel_aspect
    scale = min(frame_w / shown_w, frame_h / height_px)
    return max(1, round(shown_w * scale)), max(1, round(height_px * scale))


def pad_to_frame(image: np.ndarray, frame_px: FrameSize) -> np.ndarray:
    """uint8 [h, w, 3] in the middle of a black frame; itself where it is as large."""
    height_px, width_px = image.shape[:2]
    if (height_px, width_px) == frame_px:
        return image
    frame = np.zeros((*frame_px, 3), np.uint8)
    y, x = (frame_px[0] - height_px) // 2, (frame_px[1] - width_px) // 2
    frame[y : y + height_px, x : x + width_px] = image
    return frame


def fitter(frame_px: FrameSize, fit: str) -> Callable[[np.ndarray, float], np.ndarray]:
    """A function from an upright picture, uint8 [h, w, 3], and its pixels' aspect to a frame, uint8 [H, W, 3].

    Shrinking averages areas.

    Raises:
      ValueError: there is no such fit or size.
    """
    frame_px = frame_size(frame_px)
    if fit not in FITS:
        raise ValueError(f"fit must be one of {FITS}, got {fit!r}")

    def fitted(image: np.ndarray, pixel_aspect: float) -> np.ndarray:
        height_px, width_px = image.shape[:2]
        left, top, box_w, box_h = centre_box(width_px, height_px, pixel_aspect, frame_px, fit)
        out_w, out_h = scaled_size(width_px, height_px, pixel_aspect, frame_px, fit)
        return pad_to_frame(resize(image[top : top + box_h, left : left + box_w], out_w, out_h), frame_px)

    return fitted


def frame_in_picture(width_px: int, height_px: int, frame_px: FrameSize, fit: str) -> tuple[float, float, float]:
    """Where the model's frame lies on a picture, `(left, top, scale)`; picture px = left + scale * frame px.

    A frame with bars reaches beyond the picture: left or top is then below 0.
    """
    frame_h, frame_w = frame_px
    scale = (min if fit == "crop" else max)(width_px / frame_w, height_px / frame_h)
    return (width_px - scale * frame_w) / 2, (height_px - scale * frame_h) / 2, scale


def shrink_frames(frames: np.ndarray, frame_px: int | Sequence[int]) -> np.ndarray:
    """uint8 [T, H, W, 3] to frames of `frame_px` as a reader would have given them, areas averaged.

    Raises:
      ValueError: they are smaller, by which nothing would be gained, or of another shape.
    """
    height_px, width_px = frame_size(frame_px)
    check_shrinks((frames.shape[1], frames.shape[2]), (height_px, width_px))
    if frames.shape[1:3] == (height_px, width_px):
        return frames
    return np.stack([resize(frame, width_px, height_px) for frame in frames])


def check_shrinks(stored_px: FrameSize, frame_px: FrameSize) -> None:
    """ValueError for stored frames that are smaller than a model's, or of another shape (to a pixel of the model's)."""
    (stored_h, stored_w), (height_px, width_px) = stored_px, frame_px
    scale = max(stored_h / height_px, stored_w / width_px)
    if stored_h < height_px or stored_w < width_px:
        wrong = "smaller than"
    elif abs(stored_h / scale - height_px) >= 1 or abs(stored_w / scale - width_px) >= 1:
        wrong = "of another shape than"
    else:
        return
    raise ValueError(
        f"frames of {size_text(stored_px)} are {wrong} the {size_text(frame_px)} that the model takes: prepare the "
        f"data with --config.frame_px={size_flag(frame_px)}"
    )


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
    if shrinks and shrink == cv2.INTER_AREA:
        maps = _two_pixels(image.shape[0], image.shape[1], height_px, width_px)
        if maps is not None:
            return cv2.remap(image, *maps, cv2.INTER_LINEAR)
    return cv2.resize(image, (width_px, height_px), interpolation=shrink if shrinks else cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=32)
def _two_pixels(stored_h: int, stored_w: int, height_px: int, width_px: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Where to look, linearly, for the averages of areas that lie on two pixels each: maps of `cv2.remap`.

    From 4 pixels to 3, or 8 to 7 (256 px to 224), the average of an area is one of two neighbours. OpenCV interpolates,
    with weights in 32nds, in a third of the time in which it averages areas; the result is the same but for rounding.

    Returns:
      None where an area lies on more pixels, or its weights are no 32nds.
    """
    places = []
    for stored, wanted in ((stored_h, height_px), (stored_w, width_px)):
        parts = stored // math.gcd(stored, wanted)  # of as many pixels one fewer is made
        if stored == wanted:
            places.append(np.arange(wanted, dtype=np.float32))
        elif 32 % parts or stored * (parts - 1) != wanted * parts:
            return None
        else:
            group, place = np.divmod(np.arange(wanted), parts - 1)
            places.append((group * parts + place + (place + 1) / parts).astype(np.float32))
    x, y = np.meshgrid(places[1], places[0])
    return cv2.convertMaps(x, y, cv2.CV_16SC2)


class FrameFitter:
    """A function from a decoded picture, how it is turned and its pixels' aspect to a frame, uint8 [H, W, 3], upright.

    Geometry is that of `fitter` up to a pixel of the source; colours are libav's. Most video is stored as a plane of
    brightness and two smaller ones of colour: they are cut and shrunk as they are and turned into RGB then, which
    averages the same pixels as the other order does, in less than half of its time.
    """

    def __init__(self, frame_px: FrameSize, fit: str):
        upright = frame_size(frame_px)
        # A picture is fitted as it is stored, to a frame that lies as it does, and turned then.
        self._sizes = {False: upright, True: (upright[1], upright[0])}
        self._fit = fit
        self._fitters = {transpose: fitter(size, fit) for transpose, size in self._sizes.items()}

    def __call__(
        self, frame: av.VideoFrame, pixel_aspect: float, orientation: Orientation = Orientation()
    ) -> np.ndarray:
        """The frame; VideoError for colours that libav cannot turn into RGB."""
        return orientation.apply(self._as_stored(frame, pixel_aspect, orientation.transpose))

    def _as_stored(self, frame: av.VideoFrame, pixel_aspect: float, transpose: bool) -> np.ndarray:
        name, frame_px = frame.format.name, self._sizes[transpose]
        if name not in _PLANAR or frame.colorspace not in _PARTS or any(p.line_size < p.width for p in frame.planes):
            return self._fitters[transpose](rgb_of(frame), pixel_aspect)
        left, top, box_w, box_h = centre_box(frame.width, frame.height, pixel_aspect, frame_px, self._fit)
        out_w, out_h = scaled_size(frame.width, frame.height, pixel_aspect, frame_px, self._fit)
        planes = []
        for number, plane in enumerate(frame.planes):
            across, down = _PLANAR[name] if number else (1, 1)
            x, y = left // across, top // down
            data: Any = plane  # PyAV does not declare that it is a buffer
            stored = np.frombuffer(data, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
            box = stored[y : y - (-box_h // down), x : x - (-box_w // across)]
            # Colour has little detail to average.
            planes.append(resize(box, out_w, out_h, cv2.INTER_LINEAR if number else cv2.INTER_AREA))
        full_range = name.startswith("yuvj") or frame.color_range == _FULL_RANGE
        image = cv2.transform(cv2.merge(planes), _to_rgb(frame.colorspace, full_range))
        return pad_to_frame(image, frame_px)


def rgb_of(frame: av.VideoFrame, width_px: int | None = None, height_px: int | None = None) -> np.ndarray:
    """The whole picture, uint8 [H, W, 3], in its own size or another; VideoError for colours that are not for RGB."""
    try:
        return frame.to_ndarray(format="rgb24", width=width_px, height=height_px)
    except (av.error.FFmpegError, ValueError) as error:
        kind = f"{frame.format.name} in colour space {frame.colorspace}"
        raise VideoError(f"a picture ({kind}) does not turn into RGB: {why(error)}") from error


@functools.cache
def _to_rgb(colorspace: int, full_range: bool) -> np.ndarray:
    """float32 [3, 4]: from bytes of brightness, blue and red difference (and 1) to bytes of red, green and blue."""
    red, blue = _PARTS[colorspace]
    green = 1 - red - blue
    gain, colour_gain, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    u, v = 2 * (1 - blue) * colour_gain, 2 * (1 - red) * colour_gain
    matrix = np.array([[gain, 0, v], [gain, -u * blue / green, -v * red / green], [gain, u, 0]])
    return np.column_stack([matrix, -matrix @ [black, 128, 128]]).astype(np.float32)
