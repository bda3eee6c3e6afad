"""What moves: pictures against their background, the second witness beside the detector."""

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
    """The background at a time, from small grey pictures before it and, where they are known already, after it."""

    def __init__(self, window_s: float):
        self._window_s = window_s
        self._samples: list[tuple[float, np.ndarray]] = []
        self._cached: tuple[tuple[float, ...], np.ndarray | None] = ((), None)

    def add(self, t_s: float, grey: np.ndarray) -> None:
        """Takes a picture, in the order of time."""
        if not self._samples or t_s - self._samples[-1][0] >= _SAMPLE_EVERY_S:
            self._samples.append((t_s, grey))

    def at(self, t_s: float) -> np.ndarray | None:
        """The median of the pictures around `t_s`, uint8 [h, w], None before the first; forgets what is too old for
        this time and later ones. At the very beginning it is little more than the first picture.
        """
        newest_s = self._samples[-1][0] if self._samples else t_s
        from_s = max(min(t_s - self._window_s / 2, newest_s - self._window_s), t_s - self._window_s)
        self._samples = [sample for sample in self._samples if sample[0] >= from_s]
        used = [sample for sample in self._samples if sample[0] <= max(from_s + self._window_s, t_s)]
        key = tuple(time_s for time_s, _ in used)
        if key != self._cached[0]:
            median = np.median(np.stack([grey for _, grey in used]), axis=0) if used else None
            self._cached = key, None if median is None else median.astype(np.uint8)
        return self._cached[1]


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
