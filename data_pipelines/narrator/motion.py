"""What moves: pictures against their background, the second witness beside the detector."""

import collections
import dataclasses

import cv2
import numpy as np

# A median of pictures this far apart is as good as one of all of them.
_SAMPLE_EVERY_S = 0.5


@dataclasses.dataclass(frozen=True)
class MotionSettings:
    """What counts as moving.

    Attributes:
      longer_px: the longer side of the grey pictures that are compared.
      window_s: the background is the median of the pictures of so long.
      contrast_min: grey levels by which a pixel must differ from the background.
    """

    longer_px: int = 160
    window_s: float = 20.0
    contrast_min: float = 18.0


def small_grey(picture: np.ndarray, longer_px: int) -> np.ndarray:
    """A picture, uint8 [H, W, 3] RGB, as a small grey one, uint8 [h, w]."""
    height, width = picture.shape[:2]
    scale = longer_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


class Background:
    """The background of a fixed camera's pictures: the median of the last ones."""

    def __init__(self, window_s: float):
        self._window_s = window_s
        self._samples: collections.deque[tuple[float, np.ndarray]] = collections.deque()
        self._median: np.ndarray | None = None

    def add(self, t_s: float, grey: np.ndarray) -> None:
        """Takes the next small grey picture, uint8 [h, w]."""
        if self._samples and t_s - self._samples[-1][0] < _SAMPLE_EVERY_S:
            return
        self._samples.append((t_s, grey))
        while self._samples[0][0] < t_s - self._window_s:
            self._samples.popleft()
        self._median = np.median(np.stack([one for _, one in self._samples]), axis=0).astype(np.uint8)

    @property
    def median(self) -> np.ndarray | None:
        """Uint8 [h, w], None before the first picture; at the very beginning it is little more than that."""
        return self._median


def moving_mask(grey: np.ndarray, background: np.ndarray | None, contrast_min: float) -> np.ndarray:
    """Where a picture differs from its background, bool [h, w]; a change of the light as a whole does not count."""
    if background is None:
        return np.zeros(grey.shape, bool)
    difference = grey.astype(np.float32) - background
    difference -= np.median(difference)
    moving = (np.abs(difference) > contrast_min).astype(np.uint8)
    moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)).astype(bool)


def share_moving(mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which share of each box moves, float32 [N], for boxes [N, 4] in pixels of the mask."""
    total = np.pad(np.cumsum(np.cumsum(mask, axis=0), axis=1), ((1, 0), (1, 0)))
    height, width = mask.shape
    low = np.floor(boxes[:, :2]).astype(int).clip(0, [width - 1, height - 1])
    high = np.maximum(np.ceil(boxes[:, 2:]).astype(int).clip(0, [width, height]), low + 1)
    (x0, y0), (x1, y1) = low.T, high.T
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return (inside / ((x1 - x0) * (y1 - y0))).astype(np.float32)
