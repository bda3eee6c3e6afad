"""Drawing cut-outs without floats: pyramids of premultiplied pictures, warped and blended on their boxes only."""

import math

import cv2
import numpy as np

# A level of a pyramid is never smaller than this, nor taken when more than this much larger than it is drawn.
_LEAST_PX = 4
_FILTER = cv2.INTER_LINEAR
# How far a hand's arm goes on, in heights of the hand's picture.
ARM = 6
_CUFF = 1.1


class Sprite:
    """One picture of a cut-out, at several sizes.

    Args:
      picture: uint8 [h, w, 4], RGB times coverage, and coverage.
    """

    def __init__(self, picture: np.ndarray):
        self.height, self.width = picture.shape[:2]
        # A border of nothing, so that edges are smooth when it is warped.
        self._levels = [cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))]

    def level(self, scale: float) -> tuple[np.ndarray, float]:
        """The picture that is best drawn at a scale (of the original), and how much smaller than the original it is."""
        wanted = max(math.floor(math.log2(1 / max(scale, 1e-6)) + 0.25), 0)
        while len(self._levels) <= wanted and min(self._levels[-1].shape[:2]) >= 2 * _LEAST_PX:
            last = self._levels[-1]
            self._levels.append(
                cv2.resize(last, (last.shape[1] // 2, last.shape[0] // 2), interpolation=cv2.INTER_AREA)
            )
        number = min(wanted, len(self._levels) - 1)
        return self._levels[number], 0.5**number

    def draw(self, canvas: np.ndarray, matrix: np.ndarray, scale: float, opacity: int = 255):
        """Draws it.

        Args:
          canvas: uint8 [H, W, 3], changed.
          matrix: float [2, 3], from the original's pixels to the canvas's.
          scale: by which the matrix scales, about.
          opacity: of 255.
        """
        placed = self._placed(canvas.shape, matrix, scale)
        if placed is None:
            return
        (x0, y0, x1, y1), picture = placed
        if opacity < 255:
            picture = cv2.convertScaleAbs(picture, alpha=opacity / 255)
        blend(canvas[y0:y1, x0:x1], picture)

    def stencil(self, canvas: np.ndarray, matrix: np.ndarray, scale: float):
        """Writes its coverage into all channels of the canvas."""
        placed = self._placed(canvas.shape, matrix, scale)
        if placed is not None:
            (x0, y0, x1, y1), picture = placed
            canvas[y0:y1, x0:x1] = picture[..., 3:]

    def shade(self, canvas: np.ndarray, matrix: np.ndarray, scale: float, darkness: float):
        """Darkens the canvas in its shape: as a shadow, softer than itself."""
        placed = self._placed(canvas.shape, matrix, scale * 0.4)
        if placed is None:
            return
        (x0, y0, x1, y1), picture = placed
        region = canvas[y0:y1, x0:x1]
        rest = cv2.convertScaleAbs(picture[..., 3], alpha=-darkness, beta=0)
        rest = cv2.bitwise_not(rest)
        cv2.multiply(region, cv2.cvtColor(rest, cv2.COLOR_GRAY2BGR), region, 1 / 255)

    def _placed(self, shape, matrix, scale):
        level, shrunk = self.level(scale)
        rows, columns = level.shape[:2]
        # From the level's pixels (with its border) to the original's, by pixel centres.
        sx, sy = (self.width + 2) / columns, (self.height + 2) / rows
        a, b = matrix[:, :2], matrix[:, 2]
        scaled = a * np.array([sx, sy])
        shift = b + a @ np.array([sx / 2 - 1.5, sy / 2 - 1.5])
        corners = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]]) @ scaled.T + shift
        x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + 1
        x1, y1 = min(x1, shape[1]), min(y1, shape[0])
        if x0 >= x1 or y0 >= y1:
            return None
        moved = np.array([[*scaled[0], shift[0] - x0], [*scaled[1], shift[1] - y0]])
        return (x0, y0, x1, y1), cv2.warpAffine(level, moved, (int(x1 - x0), int(y1 - y0)), flags=_FILTER)


def blend(region: np.ndarray, picture: np.ndarray):
    """Lays a premultiplied uint8 [h, w, 4] over a region [h, w, 3], in place."""
    rest = cv2.cvtColor(cv2.bitwise_not(picture[..., 3]), cv2.COLOR_GRAY2BGR)
    cv2.multiply(region, rest, region, 1 / 255)
    cv2.add(region, picture[..., :3], region)


def with_arm(picture: np.ndarray, sleeve: tuple[int, int, int] | None) -> np.ndarray:
    """A hand with an arm below it: its lowest rows drawn on, then a sleeve.

    Args:
      picture: uint8 [h, w, 4] premultiplied, the wrist at the lower edge.
      sleeve: RGB of the cloth, None for a bare arm.

    Returns:
      uint8 [h * (1 + ARM), w, 4]; the hand is its upper part.
    """
    height, width = picture.shape[:2]
    wrist = picture[int(0.9 * height) :]
    row = wrist[int(wrist[..., 3].astype(np.int32).sum(axis=1).argmax())].copy()
    columns = np.flatnonzero(row[:, 3] > 127)
    if not len(columns):
        columns = np.arange(width // 3, 2 * width // 3)
        row[columns] = (150, 110, 90, 255)
    # The arm is as broad as the wrist, full inside, and a little darker at its sides.
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    inside = row[x0:x1]
    inside[inside[:, 3] <= 127] = np.median(inside[inside[:, 3] > 127], axis=0)
    inside[:, 3] = 255
    across = np.linspace(-1, 1, x1 - x0)
    shading = (1 - 0.35 * across**2)[:, None]
    arm = np.zeros((height * ARM, width, 4), np.uint8)
    arm[:, x0:x1] = cv2.GaussianBlur(inside[None], (9, 1), 0)
    begin = int(0.55 * height)
    arm[begin:, x0:x1, :3] = np.clip(arm[begin, x0:x1, :3] * shading, 0, 255)
    if sleeve is not None:
        cuff = int(_CUFF * height)
        more = max(int(0.12 * (x1 - x0)), 1)
        s0, s1 = max(x0 - more, 0), min(x1 + more, width)
        cloth = np.array(sleeve)[None] * (1 - 0.4 * np.linspace(-1, 1, s1 - s0) ** 2)[:, None]
        arm[cuff:, s0:s1, :3] = np.clip(cloth, 0, 255)
        arm[cuff:, s0:s1, 3] = 255
    return np.concatenate([picture, arm])


def toned(picture: np.ndarray, gain: np.ndarray, haze: np.ndarray, share: float) -> np.ndarray:
    """A premultiplied picture in another light.

    Args:
      picture: uint8 [h, w, 4].
      gain: float [3], by which the light multiplies RGB.
      haze: float [3], RGB of what lies between.
      share: how much of it, 0 to 1.
    """
    rgb = picture[..., :3] * (gain * (1 - share)) + picture[..., 3:] * (haze * share / 255)
    return np.dstack([np.clip(rgb, 0, picture[..., 3:]).astype(np.uint8), picture[..., 3]])
