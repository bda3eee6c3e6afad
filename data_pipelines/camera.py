"""A local camera by its index, as pictures with the time at which they arrived."""

import time
from collections.abc import Iterator

import cv2
import numpy as np


class CameraError(Exception):
    """A camera that cannot be opened, or that stopped giving pictures."""


class Camera:
    """Pictures of camera number `index`.

    Attributes:
      width_px, height_px: size of a picture.
      rate_hz: what the driver promises, or None.
    """

    def __init__(self, index: int):
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraError(
                f"camera {index} cannot be opened: no such device, used by another program, or no permission (on Linux "
                f"it is /dev/video{index}; `v4l2-ctl --list-devices` names what is there)"
            )
        self.index = index
        self.width_px = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height_px = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate_hz if rate_hz > 0 else None

    def pictures(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields `(t_s, uint8 [H, W, 3] RGB)`; the first at 0. Raises CameraError when pictures stop."""
        first_s = None
        while True:
            ok, image = self._capture.read()
            arrived_s = time.monotonic()
            if not ok:
                raise CameraError(f"camera {self.index} stopped giving pictures (unplugged?)")
            first_s = arrived_s if first_s is None else first_s
            yield arrived_s - first_s, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()
