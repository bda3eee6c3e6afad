"""Motion fields for shards: the tokenizer's own block matching, stored as int8 beside the frames.

A field is computed once, when a shard is written, with the functions that the tokenizer runs live, so that what is
looked at and learned from later is what the tokenizer would have seen.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmduplex_jax.frame_size import FrameSize, frame_size, whole_factor

# Ticks matched at once: few enough to stay in a core's cache; every length of clip runs through this one shape.
_TICKS_AT_ONCE = 32
# Pixels in a cell's window: residual and saliency are sums over one, and a 36th of them fits int8 with room to spare.
_WINDOW_PX = 36


@dataclasses.dataclass(frozen=True)
class MotionField:
    """Computes motion fields; small to pickle, and compiled in the process that calls it, on its CPU and one core.

    Attributes:
      plane_px: height and width of the plane that is matched; the frames are an integer times as large. One integer: a
        square.
      search_radius: furthest shift looked for, in plane pixels a tick.
      smoothness, disocclusion_cost, bars: see `mmduplex_jax.tokenizer.config.MotionConfig`.
    """

    plane_px: FrameSize = (32, 32)
    search_radius: int = 3
    smoothness: int = 12
    disocclusion_cost: int = 20
    bars: bool = False

    def __post_init__(self):
        object.__setattr__(self, "plane_px", frame_size(self.plane_px, "motion.plane_px"))
        if any(side % 2 for side in self.plane_px) or not 1 <= self.search_radius <= 63:
            raise ValueError(
                "a motion field needs an even plane_px of at least 2 and a search_radius of 1 to 63, got "
                f"{self.plane_px} and {self.search_radius}"
            )

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The motion between each tick and the one before.

        Args:
          frames: uint8 `[T, H, W, 3]`, T >= 1.

        Returns:
          int8 `[T, Y, X, 4]`, of half as many rows and columns as the plane, the first tick 0:
            0, 1: the shift of the picture at a cell, down and right, in plane pixels a tick. The camera's part is in
              it: the camera's shift is the upper median over the cells, and the tokenizer takes it off.
            2: what is left after the best match, in grey levels a pixel of the cell's window, at most 127.
            3: what the camera's motion does not explain, summed over the three colours, likewise, at most 127.

        Raises:
          ValueError: the frames are no integer times as large as the plane.
        """
        planes = shrink(frames, self.plane_px)
        match = _compiled(self)
        field = np.zeros((len(frames), self.plane_px[0] // 2, self.plane_px[1] // 2, 4), np.int8)
        for begin in range(1, len(frames), _TICKS_AT_ONCE):
            ticks = np.arange(begin - 1, begin + _TICKS_AT_ONCE)
            some = planes[np.minimum(ticks, len(frames) - 1)]
            field[begin : begin + _TICKS_AT_ONCE] = match(some)[: len(frames) - begin]
        return field


def motion_of(config: Mapping[str, Any]) -> MotionField | None:
    """What computes the motion fields that `config["motion"]` asks for; None where it asks for none.

    Raises:
      ValueError: the fields are not possible, or not for frames of `config["frame_px"]`.

    Frames that pictures are padded to (`config["fit"]`) have bars, in which nothing moves.
    """
    motion = config.get("motion")
    if motion is None or not motion["keep"]:
        return None
    frame_px = frame_size(config["frame_px"], "config.frame_px")
    plane_px = frame_size(motion["plane_px"], "config.motion.plane_px")
    if whole_factor(frame_px, plane_px) is None:
        raise ValueError(
            f"config.frame_px by config.motion.plane_px must be one integer in both directions, got {frame_px} / "
            f"{plane_px}: change one of them, or set --config.motion.keep=False"
        )
    return MotionField(plane_px, motion["search_radius"], bars=config.get("fit") == "pad")


def shrink(frames: np.ndarray, plane_px: FrameSize) -> np.ndarray:
    """Frames averaged down exactly as the tokenizer does it (`motion.plane`), but 10,000 times a second on one core.

    Args:
      frames: uint8 `[T, H, W, 3]`.
      plane_px: the new height and width.

    Returns:
      uint8 `[T, h, w, 3]`, rounded down.

    Raises:
      ValueError: the frames are no integer times as large as the plane.
    """
    height, width = plane_px
    side = whole_factor((frames.shape[1], frames.shape[2]), plane_px)
    if side is None:
        raise ValueError(
            "the frames' size by motion.plane_px must be one integer in both directions, got "
            f"{frames.shape[1:3]} / {plane_px}"
        )
    sums = np.uint16 if side <= 16 else np.uint32
    planes = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, out in zip(frames, planes):
        rows = frame.reshape(height, side, width * side * 3)
        tall = rows[:, 0].astype(sums)
        for i in range(1, side):
            tall += rows[:, i]
        columns = tall.reshape(height, width, side, 3)
        total = columns[:, :, 0].copy()
        for i in range(1, side):
            total += columns[:, :, i]
        out[...] = total // sums(side * side)
    return planes


@functools.cache
def _compiled(of: MotionField) -> Callable[[np.ndarray], np.ndarray]:
    """`uint8 [_TICKS_AT_ONCE + 1, h, w, 3]` to the int8 fields of all but the first of these ticks."""
    if "jax" not in sys.modules:
        # A process that writes shards has no use for an accelerator, and many of them would each take its memory.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    from mmduplex_jax.tokenizer import motion
    from mmduplex_jax.tokenizer.motion import MotionConfig

    config = MotionConfig(**dataclasses.asdict(of))

    def field(before, now):
        found = motion.match(before, now, config)
        levels = jnp.stack([found.residual, found.saliency], axis=-1) // _WINDOW_PX
        return jnp.concatenate([found.vector + found.camera, jnp.minimum(levels, 127)], axis=-1).astype(jnp.int8)

    @jax.jit
    def fields(planes):
        planes = planes.astype(jnp.int32)
        return jax.vmap(field)(planes[:-1], planes[1:])

    cpu = jax.local_devices(backend="cpu")[0]

    def call(planes: np.ndarray) -> np.ndarray:
        return np.asarray(fields(jax.device_put(planes, cpu)))

    return call
