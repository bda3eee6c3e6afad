"""A red car on a road, as pictures and as a file, and a detector that knows nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_pipelines.narrator.detector import Detections
from tests.data_pipelines.narrator.scenes import HEIGHT_PX, LABELS, WIDTH_PX

RATE_HZ = 12.5
# Lighter than the road, too: motion is looked for in grey.
CAR = np.array([255, 80, 80], np.uint8)


def road() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 120, (HEIGHT_PX, WIDTH_PX, 3)).astype(np.uint8)


def drive(t_s: float) -> np.ndarray:
    """A red car of 60x40 px that comes from the left after a second and is gone to the right after 6 s."""
    picture = road()
    x = round(-60 + 80 * (t_s - 1.0))
    picture[100:140, max(x, 0) : max(x + 60, 0)] = CAR
    return picture


def drives(duration_s: float):
    times_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return [drive(t_s) for t_s in times_s], times_s


class RedDetector:
    """Takes what is red for a car."""

    labels, gflop = LABELS, 2.0

    def __call__(self, picture: np.ndarray) -> Detections:
        rows, columns = np.nonzero((picture[..., 0] > 180) & (picture[..., 1] < 90))
        scores = np.zeros((1, len(LABELS)), np.float32)
        scores[0, LABELS.index("car")] = 0.8
        if len(rows) < 40:
            return Detections(np.zeros((0, 4), np.float32), scores[:0])
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        return Detections(np.array(box, np.float32), scores)


def red_detector(config: Mapping[str, Any]) -> RedDetector:
    """The detector of a configuration."""
    return RedDetector()


def write_drive(path: Path, seconds: float = 8.0) -> Path:
    """Writes the drive as a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.bit_rate = WIDTH_PX, HEIGHT_PX, 4_000_000
        for step in range(round(seconds * 25)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drive(step / 25), format="rgb24")))
        container.mux(stream.encode())
    return path


def needs_norfair() -> None:
    """Skips a test where tracking is not possible."""
    pytest.importorskip("norfair", reason="tracking needs norfair-enough, of the extra `teacher`")
