"""Pieces of a background that stand in front: behind them things pass, and from behind them they come."""

import dataclasses

import cv2
import numpy as np

from data_pipelines.world.scene import Dice

# Pieces are found in a background this high, whatever the frames' size.
MASK_PX = 96
_SEEDS = 10
# Share of the picture that a piece may take, and its least height and width.
_AREA = (0.015, 0.2)
_LEAST = (0.18, 0.03)
_TOLERANCE = (6, 22)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A region of the background.

    Attributes:
      mask: uint8 [MASK_PX, width], 255 inside.
      base: the row (share of the height) where it stands: who stands lower is in front of it.
    """

    mask: np.ndarray
    base: float

    def cover(self, x: np.ndarray, y: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Share of each box that it hides, float64 [N]. Boxes: middle x, lower edge y, in picture heights."""
        total = cv2.integral(self.mask) / 255.0
        rows, columns = self.mask.shape
        x0, x1 = (np.clip(np.rint((x + d * width / 2) * MASK_PX), 0, columns).astype(int) for d in (-1, 1))
        y0, y1 = (np.clip(np.rint((y + d * height) * MASK_PX), 0, rows).astype(int) for d in (-1, 0))
        inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
        area = np.maximum((x1 - x0) * (y1 - y0), 1)
        return inside / area * (y < self.base)


def find_piece(picture: np.ndarray, dice: Dice) -> Piece | None:
    """A region of even colour, high enough to hide something and likely to be one thing: a trunk, a wall, a bush.

    Args:
      picture: uint8 [MASK_PX, width, 3].
      dice: decides where it is sought.

    Returns:
      The piece, None where none was found.
    """
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    rows, columns = picture.shape[:2]
    for _ in range(_SEEDS):
        column, row = dice.index(columns), int(dice.between((0.3, 0.95)) * rows)
        spread = (round(dice.between(_TOLERANCE)),) * 3
        mask = np.zeros((rows + 2, columns + 2), np.uint8)
        flags = 4 | (255 << 8) | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE
        cv2.floodFill(smooth.copy(), mask, (column, row), 0, spread, spread, flags)
        region = cv2.morphologyEx(mask[1:-1, 1:-1], cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        region = cv2.morphologyEx(region, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        # One solid piece: through one with holes things would be seen as through glass.
        outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not outlines:
            continue
        region = cv2.drawContours(np.zeros_like(region), [max(outlines, key=cv2.contourArea)], -1, 255, cv2.FILLED)
        filled_rows, filled_columns = np.flatnonzero(region.max(axis=1)), np.flatnonzero(region.max(axis=0))
        if not _AREA[0] <= region.mean() / 255 <= _AREA[1]:
            continue
        high, wide = len(filled_rows) / rows, len(filled_columns) / columns
        if high < _LEAST[0] or wide < _LEAST[1] or wide > 0.6:
            continue
        return Piece(region, (filled_rows[-1] + 1) / rows)
    return None
