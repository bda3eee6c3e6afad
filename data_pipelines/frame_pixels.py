"""A decoded picture as the square of RGB that the model looks at.

Most video is stored as a plane of brightness and two smaller ones of colour. They are cut and shrunk as they are and
turned into RGB then, which averages the same pixels as the other order does, in less than half of its time.
"""

import functools
from typing import Any

import av
import cv2
import numpy as np

from data_pipelines.geometry import centre_box, padded_size, resize, squarer
from data_pipelines.source_info import VideoError, why

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


class FrameSquarer:
    """A function from a decoded picture and its pixels' aspect to uint8 [frame_px, frame_px, 3], not yet turned.

    Geometry is that of `geometry.squarer` up to a pixel of the source; colours are libav's.
    """

    def __init__(self, frame_px: int, fit: str):
        self._frame_px, self._fit = frame_px, fit
        self._square = squarer(frame_px, fit)

    def __call__(self, frame: av.VideoFrame, pixel_aspect: float) -> np.ndarray:
        """The square; VideoError for colours that libav cannot turn into RGB."""
        name = frame.format.name
        if name not in _PLANAR or frame.colorspace not in _PARTS or any(p.line_size < p.width for p in frame.planes):
            return self._square(rgb_of(frame), pixel_aspect)
        left, top, box_w, box_h = centre_box(frame.width, frame.height, pixel_aspect, self._fit)
        if self._fit == "crop":
            out_w = out_h = self._frame_px
        else:
            out_w, out_h = padded_size(frame.width, frame.height, pixel_aspect, self._frame_px)
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
        if (out_w, out_h) == (self._frame_px, self._frame_px):
            return image
        square = np.zeros((self._frame_px, self._frame_px, 3), np.uint8)
        y, x = (self._frame_px - out_h) // 2, (self._frame_px - out_w) // 2
        square[y : y + out_h, x : x + out_w] = image
        return square


def rgb_of(frame: av.VideoFrame) -> np.ndarray:
    """The whole picture as stored, uint8 [H, W, 3]; VideoError for colours that libav cannot turn into RGB."""
    try:
        return frame.to_ndarray(format="rgb24")
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
