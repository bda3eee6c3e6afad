"""Cuts: the picture becomes another one from one frame to the next.

What was seen before a cut says nothing of what is seen after it. A model that was trained on single scenes takes the
new one for a change of the old one, and says so; so its stream begins anew there (`StreamPool`).
"""

import numpy as np

from mmduplex_jax.typing import Int32, UInt8

# Cells of a frame, (rows, columns): few, so that what moves within a cell, and noise, count for little.
_CELLS = (18, 32)
# A cell has changed if one of its colours differs by more than this, of 255. Between frames of 160 ms, of 60 clips of
# real cameras, films and a world, 95 % of cuts from one clip to another change at least `_CUT_SHARE` of all cells by
# more. What does so and is no cut is a lamp that is switched, or somebody who passes close by the lens.
_CHANGED = 8
_CUT_SHARE = 0.95


class CutDetector:
    """Tells, frame by frame of one stream, whether it is of another scene than the one before."""

    def __init__(self):
        self._before: Int32[np.ndarray, "h w 3"] | None = None

    def is_cut(self, cells: Int32[np.ndarray, "h w 3"]) -> bool:
        """Whether there is a cut before this frame, of which these are the `cells`; never before the first."""
        before, self._before = self._before, cells
        if before is None or before.shape != cells.shape:
            return False
        changed = (np.abs(cells - before) > _CHANGED).any(axis=-1)
        return bool(changed.mean() >= _CUT_SHARE)

    def forget(self) -> None:
        """The next frame is the first."""
        self._before = None


def cells_of(frame: UInt8[np.ndarray, "H W 3"]) -> Int32[np.ndarray, "h w 3"]:
    """Mean colours of a frame's cells, int32; of a frame of fewer pixels a cell each."""
    height, width = frame.shape[:2]
    top, left = (
        np.arange(0, min(size, cells)) * size // min(size, cells) for size, cells in zip((height, width), _CELLS)
    )
    sums = np.add.reduceat(np.add.reduceat(frame, top, axis=0, dtype=np.int32), left, axis=1)
    areas = np.diff(top, append=height)[:, None, None] * np.diff(left, append=width)[None, :, None]
    return (sums // areas).astype(np.int32)
