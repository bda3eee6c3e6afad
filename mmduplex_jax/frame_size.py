"""The size of frames, a pair `(height, width)` in pixels, and how pictures of other shapes are fitted to it.

Configurations and code hold pairs. One integer stands for a square in files and messages, as when frames could be
nothing else, and in `--config.frame_px=96`, which the flag gives as `(96,)`.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

FrameSize = tuple[int, int]

# "pad": the whole picture, black bars where its shape is another; "crop": its middle, what is beyond cut off.
FITS = ("crop", "pad")

_SIZES = ("frame_px", "plane_px", "picture_px", "image_px", "grid_side")


def frame_size(frame_px: Any, name: str = "frame_px") -> FrameSize:
    """`(height, width)` of what a configuration, a flag or a file says.

    Raises:
      ValueError: it is neither an integer nor a pair of them, or below 1; `name` says what it is of.
    """
    given = list(frame_px) if isinstance(frame_px, tuple | list) else [frame_px]
    if len(given) == 1:
        given *= 2
    if len(given) != 2 or not all(isinstance(side, Integral) and not isinstance(side, bool) for side in given):
        raise ValueError(f"{name} is (height, width) in pixels, or one integer for a square, not {frame_px!r}")
    if min(given) < 1:
        raise ValueError(f"{name} must be at least 1 px high and wide, got {frame_px!r}")
    return int(given[0]), int(given[1])


def fit_of(config: Any) -> str:
    """How a model's pictures were fitted to its frames: "crop" in configs that were written before they said it.

    Raises:
      ValueError: it is none of `FITS`.
    """
    fit = config.get("fit", "crop")
    if fit not in FITS:
        raise ValueError(f"config.fit is one of {', '.join(FITS)}, not {fit!r}")
    return fit


def size_text(frame_px: FrameSize) -> str:
    """A size for people, width first: "256x144 px"."""
    height_px, width_px = frame_px
    return f"{width_px}x{height_px} px"


def size_flag(frame_px: FrameSize) -> str:
    """A size as a flag takes it: "64" for a square, else "(144,256)"."""
    height_px, width_px = frame_px
    return str(height_px) if height_px == width_px else f"'({height_px},{width_px})'"


StoredSize = int | tuple[int, int]


def stored_size(frame_px: FrameSize) -> StoredSize:
    """A size as files and messages hold it: one integer for a square, as ever; height and width otherwise."""
    return frame_px[0] if frame_px[0] == frame_px[1] else frame_px


def with_stored_sizes(values: Any) -> Any:
    """JSON values in which every size is as files hold it, however a configuration said it."""
    if isinstance(values, tuple | list):
        return [with_stored_sizes(value) for value in values]
    if not isinstance(values, Mapping):
        return values
    return {
        key: stored_size(frame_size(value, key)) if key in _SIZES and value else with_stored_sizes(value)
        for key, value in values.items()
    }


def whole_factor(large: FrameSize, small: FrameSize) -> int | None:
    """How many times larger one size is than another, in both directions alike; None where no integer says it."""
    factor = large[0] // small[0]
    return factor if factor and (small[0] * factor, small[1] * factor) == large else None
