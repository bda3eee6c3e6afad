"""A fixed camera over level ground: where a thing on it is seen, and how large. Nearer is lower and larger.

Picture coordinates are shares of the picture's height: x from the left edge (0 … aspect), y from the top (0 … 1), the
same for all sizes of frames. On the ground, X is metres to the right of the camera and Z metres away from it.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ground:
    """A pinhole camera that looks along the ground.

    Attributes:
      horizon: the picture's row at which the ground ends; negative where it is above the picture (looking down).
      camera_m: the camera's height above the ground.
      focal: focal length, in picture heights.
      aspect: width by height.
    """

    horizon: float
    camera_m: float
    focal: float
    aspect: float

    def scale_at(self, y: float | np.ndarray) -> Any:
        """Picture heights a metre, of what stands at row `y` or at each of the rows [N]; of the type of `y`."""
        return (y - self.horizon) / self.camera_m

    def row_of_scale(self, scale: float) -> float:
        """The inverse of `scale_at`."""
        return self.horizon + scale * self.camera_m

    def to_ground(self, x: float, y: float) -> tuple[float, float]:
        """(X, Z) of what stands at a place of the picture below the horizon."""
        z = self.focal * self.camera_m / (y - self.horizon)
        return (x - self.aspect / 2) * z / self.focal, z

    def to_picture(self, ground_x: np.ndarray, ground_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y), float64 [N] each, of places [N] on the ground in front of the camera."""
        return self.aspect / 2 + self.focal * ground_x / ground_z, self.horizon + self.focal * self.camera_m / ground_z

    def row_below_picture(self, height_m: float) -> float | None:
        """The row at which something so tall is wholly below the picture; None if it is too tall ever to be."""
        share = 1 - height_m / self.camera_m
        return self.horizon + (1 - self.horizon) / share * 1.02 if share > 0.2 else None
