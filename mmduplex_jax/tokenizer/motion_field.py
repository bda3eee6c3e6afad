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

# Ticks matched at once: few enough to stay in a core's cache; every length of clip runs through this one shape.
_TICKS_AT_ONCE = 32
# Pixels in a cell's window: residual and saliency are sums over one, and a 36th of them fits int8 with room to spare.
_WINDOW_PX = 36


@dataclasses.dataclass(frozen=True)
class MotionField:
    """Computes motion fields; small to pickle, and compiled in the process that calls it, on its CPU and one core.

    Attributes:
      plane_px: side of the plane that is matched; divides the frames' side.
      search_radius: furthest shift looked for, in plane pixels a tick.
      smoothness, disocclusion_cost: see `mmduplex_jax.tokenizer.config.MotionConfig`.
    """

    plane_px: int = 32
    search_radius: int = 3
    smoothness: int = 12
    disocclusion_cost: int = 20

    def __post_init__(self):
        if self.plane_px < 2 or self.plane_px % 2 or not 1 <= self.search_radius <= 63:
            raise ValueError(
                "a motion field needs an even plane_px of at least 2 and a search_radius of 1 to 63, got "
                f"{self.plane_px} and {self.search_radius}"
            )

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The motion between each tick and the one before.

        Args:
          frames: uint8 `[T, px, px, 3]`, T >= 1.

        Returns:
          int8 `[T, Y, X, 4]` with Y = X = plane_px / 2, the first tick 0:
            0, 1: the shift of the picture at a cell, down and right, in plane pixels a tick. The camera's part is in
              it: the camera's shift is the upper median over the cells, and the tokenizer takes it off.
            2: what is left after the best match, in grey levels a pixel of the cell's window, at most 127.
            3: what the camera's motion does not explain, summed over the three colours, likewise, at most 127.

        Raises:
          ValueError: `plane_px` does not divide the frames' side.
        """
        planes = shrink(frames, self.plane_px)
        match = _compiled(self)
        field = np.zeros((len(frames), self.plane_px // 2, self.plane_px // 2, 4), np.int8)
        for begin in range(1, len(frames), _TICKS_AT_ONCE):
            ticks = np.arange(begin - 1, begin + _TICKS_AT_ONCE)
            some = planes[np.minimum(ticks, len(frames) - 1)]
            field[begin : begin + _TICKS_AT_ONCE] = match(some)[: len(frames) - begin]
        return field


def motion_of(config: Mapping[str, Any]) -> MotionField | None:
    """What computes the motion fields that `config["motion"]` asks for; None where it asks for none.

    Raises:
      ValueError: the fields are not possible, or not for frames of `config["frame_px"]`.
    """
    motion = config.get("motion")
    if motion is None or not motion["keep"]:
        return None
    if config["frame_px"] % motion["plane_px"]:
        raise ValueError(
            f"config.motion.plane_px must divide config.frame_px, {config['frame_px']}, without rest, got "
            f"{motion['plane_px']}: change one of them, or set --config.motion.keep=False"
        )
    return MotionField(plane_px=motion["plane_px"], search_radius=motion["search_radius"])


def shrink(frames: np.ndarray, plane_px: int) -> np.ndarray:
    """Frames averaged down exactly as the tokenizer does it (`motion.plane`), but 10,000 times a second on one core.

    Args:
      frames: uint8 `[T, px, px, 3]`.
      plane_px: the new side.

    Returns:
      uint8 `[T, plane_px, plane_px, 3]`, rounded down.

    Raises:
      ValueError: `plane_px` does not divide the frames' side.
    """
    px = frames.shape[1]
    side = px // plane_px
    if px % plane_px:
        raise ValueError(f"motion.plane_px must divide the side of the frames, {px}, without rest, got {plane_px}")
    sums = np.uint16 if side <= 16 else np.uint32
    planes = np.empty((len(frames), plane_px, plane_px, 3), np.uint8)
    for frame, out in zip(frames, planes):
        rows = frame.reshape(plane_px, side, px * 3)
        tall = rows[:, 0].astype(sums)
        for i in range(1, side):
            tall += rows[:, i]
        columns = tall.reshape(plane_px, plane_px, side, 3)
        total = columns[:, :, 0].copy()
        for i in range(1, side):
            total += columns[:, :, i]
        out[...] = total // sums(side * side)
    return planes


@functools.cache
def _compiled(of: MotionField) -> Callable[[np.ndarray], np.ndarray]:
    """`uint8 [_TICKS_AT_ONCE + 1, plane_px, plane_px, 3]` to the int8 fields of all but the first of these ticks."""
    if "jax" not in sys.modules:
        # A process that writes shards has no use for an accelerator, and many of them would each take its memory.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    from mmduplex_jax.tokenizer import motion
    from mmduplex_jax.tokenizer.motion import MotionConfig

    config = MotionConfig(of.plane_px, of.search_radius, of.smoothness, of.disocclusion_cost)

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
