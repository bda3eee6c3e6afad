"""Small videos whose pictures carry their own number, so that a test can tell which one a tick saw."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_pipelines.decode import VideoReader
from mmduplex_jax.clock import Clock

CLOCK = Clock()
BITS = 8
SIDE_PX = 64


def numbered_image(number: int) -> np.ndarray:
    """uint8 [SIDE_PX, SIDE_PX, 3]: eight bars from left to right, the bits of `number` from the lowest."""
    bits = (number >> np.arange(BITS)) & 1
    row = np.repeat(np.where(bits, 215, 40), SIDE_PX // BITS).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (SIDE_PX, SIDE_PX, 3)).copy()


def number_in(frame: np.ndarray) -> int:
    """The number in an upright uint8 [H, W, 3] whose whole width shows the bars."""
    width = frame.shape[1] // BITS
    bars = frame[:, : width * BITS].mean(axis=(0, 2)).reshape(BITS, width).mean(axis=1)
    return int(((bars > 128).astype(int) << np.arange(BITS)).sum())


def numbers(path: Path | str, clock: Clock = CLOCK, **arguments) -> list[int]:
    """The numbers of the pictures that the ticks saw."""
    with VideoReader(path, clock, SIDE_PX, **arguments) as reader:
        return [number_in(frame) for _, _, frame in reader]


def expected(times_s: list[float], end_s: float, clock: Clock = CLOCK) -> list[int]:
    """For each tick before `end_s` the last picture at or before it; all but `times_s` count from the first picture."""
    times_s = [t - times_s[0] for t in times_s]
    ticks = []
    while clock.tick_time_s(len(ticks)) < end_s - 1e-6:
        now_s = clock.tick_time_s(len(ticks)) + 1e-6
        ticks.append(max(i for i, t in enumerate(times_s) if t <= now_s))
    return ticks


def write_numbered(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 40,
    rate: Fraction | int = 25,
    times_ms: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    rotation: int = 0,
    images: Sequence[np.ndarray] | None = None,
) -> Path:
    """Writes `count` numbered pictures: at `times_ms`, else at a constant `rate`; returns `path`.

    Args:
      rotation: degrees anticlockwise by which a player turns the picture.
      images: uint8 [H, W, 3] to write instead of the numbered ones.
    """
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={**_quiet(codec), **(options or {})})
        pictures = images if images is not None else [numbered_image(i) for i in range(count)]
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times_ms is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index if times_ms is None else times_ms[index]
            frame.time_base = Fraction(1, 1000) if times_ms is not None else 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_tone(path: Path, seconds: float = 1.0) -> Path:
    """Writes a file that has sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = np.sin(np.arange(int(16000 * seconds)) * 0.1).astype(np.float32)
        for start in range(0, samples.size - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _quiet(codec: str) -> dict[str, str]:
    return {"x265-params": "log-level=none"} if codec == "libx265" else {}
