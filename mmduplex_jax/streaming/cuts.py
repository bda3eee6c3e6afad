"""Cuts: the picture becomes another one from one frame to the next.

What was seen before a cut says nothing of what is seen after it. A model that was trained on single scenes takes the
new one for a change of the old one, and says so; so its stream begins anew there (`StreamPool`).
"""

import numpy as np

from mmduplex_jax.typing import Float, UInt8

# Cells of a frame, (rows, columns): few, so that what moves within a cell, and noise, count for little.
_CELLS = (18, 32)
# Rows and columns of pixels that are looked at in each: all of a large frame's would cost 1 ms.
_SAMPLES = 6
# A cell has changed if one of its colours differs by more than this, of 255. By these limits 96 % of pairs of pictures
# from the middles of 90 real clips and films are of two scenes. Within the clips, 24 minutes by 160 ms, eight frames
# are of another scene than the one before: after seven of eight cuts, and where a hand passes by the lens.
_CHANGED = 8
_CUT_SHARE = 0.95
# Where no more than this share differs from what another exposure makes of the frame before, it was the light.
_LIGHT_SHARE = 0.3
_GAINS = (0.4, 2.5)
# In fewer cells with anything to be seen nothing is a cut.
_LIT_SHARE = 0.1
# After a cut there is none for so long. Noise of small frames, of which a cell has few pixels, and flashing lights
# change nearly all cells at every tick, and a stream that began anew at each would never have seen two pictures.
_APART_S = 1.0


class CutDetector:
    """Tells, frame by frame of one stream, whether it is of another scene than the one before.

    Attributes:
      before: the cells of the scene's last frame (`cells_of`); None before the first.
      cut_s: the time of the last cut; None before the first.
    """

    def __init__(self, before: UInt8[np.ndarray, "h w 3"] | None = None, cut_s: float | None = None):
        self.before, self.cut_s = before, cut_s

    def is_cut(self, t_s: float, cells: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Whether there is a cut before the frame at `t_s`, of which these are the `cells`; never before the first."""
        is_another = self.before is not None and self.before.shape == cells.shape and _is_another(self.before, cells)
        if is_another and self.cut_s is not None and t_s - self.cut_s < _APART_S:
            # It is not looked upon as the scene: if it lasts, it is a cut when the time is over.
            return False
        self.before = cells
        if is_another:
            self.cut_s = t_s
        return is_another

    def forget(self) -> None:
        """The next frame is the first."""
        self.before = self.cut_s = None


def _is_another(seen: UInt8[np.ndarray, "h w 3"], cells: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether cells are of another scene than those that were seen before."""
    before, now = seen.astype(np.int32), cells.astype(np.int32)
    # Cells that are black before and after are bars beside the picture, or night, and say nothing.
    lit = (np.maximum(before, now) > _CHANGED).any(axis=-1)
    if lit.mean() < _LIT_SHARE:
        return False
    before, now = before[lit], now[lit]
    return _changed(before, now) >= _CUT_SHARE and _changed(_exposed_as(before, now), now) > _LIGHT_SHARE


def cells_of(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Mean colours of a frame's cells, of some pixels of each; of a frame of fewer pixels a cell each."""
    frame = frame[tuple(slice(None, None, max(1, size // (_SAMPLES * n))) for size, n in zip(frame.shape, _CELLS))]
    height, width = frame.shape[:2]
    top, left = (
        np.arange(0, min(size, cells)) * size // min(size, cells) for size, cells in zip((height, width), _CELLS)
    )
    sums = np.add.reduceat(np.add.reduceat(frame, top, axis=0, dtype=np.int32), left, axis=1)
    areas = np.diff(top, append=height)[:, None, None] * np.diff(left, append=width)[None, :, None]
    return (sums // areas).astype(np.uint8)


def _changed(before: np.ndarray, now: np.ndarray) -> float:
    """The share of cells `[n, 3]` that have changed."""
    return float((np.abs(now - before) > _CHANGED).any(axis=-1).mean())


def _exposed_as(before: np.ndarray, now: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """What `before` would be in the light of `now`: by the line of least squares over what is not far from it."""
    x, y = before.astype(float), now.astype(float)
    near = np.ones(x.shape, bool)
    for _ in range(3):
        from_mean = x - x[near].mean()
        variance = (from_mean[near] ** 2).mean()
        gain = (from_mean[near] * y[near]).mean() / variance if variance > 1 else 1.0
        line = np.clip(gain, *_GAINS) * from_mean + y[near].mean()
        far = np.abs(y - line)
        near = far <= max(2 * float(np.median(far)), _CHANGED / 2)
    return line
