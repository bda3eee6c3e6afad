"""What a fixed camera does to its picture: light, lens, trembling, noise, a clock burnt in, and compression."""

import dataclasses
import io
import math
from fractions import Fraction

import av
import cv2
import numpy as np

from data_pipelines.world.real.config import RealAppearance

CODECS = ("h264", "jpeg", "none")
_NOISE_TILES = 3
_SUPERSAMPLING = 3
# A group of pictures, in frames: how often H.264 begins anew, which is seen as a small jump of all blocks.
_GROUP = (12, 60)


class Light:
    """Brightness and colour, which drift, and may change at once."""

    def __init__(self, rng: np.random.Generator, look: RealAppearance, clip_s: float):
        self._depth, self._speed = look.light_gain * rng.uniform(0, 0.7, 2), rng.uniform((0.05, 0.3), (0.3, 1.2))
        self._phase = rng.uniform(0, 2 * math.pi, 2)
        self._tint = look.light_tint * rng.standard_normal(3)
        self._contrast, self._level = rng.uniform(0.8, 1.15), rng.uniform(-14, 14)
        steps = rng.random() < look.light_step_p
        self._step = (rng.uniform(0, clip_s), rng.uniform(0.72, 1.3), rng.uniform(0.08, 0.8)) if steps else None

    def table(self, t_s: float) -> np.ndarray:
        """uint8 [1, 256, 3]: what becomes of each value."""
        gain = self._contrast * (1 + float(np.sum(self._depth * np.sin(self._speed * t_s + self._phase))) / 2)
        if self._step is not None:
            at_s, factor, takes_s = self._step
            gain *= 1 + (factor - 1) * min(max((t_s - at_s) / takes_s, 0.0), 1.0)
        colours = gain * (1 + self._tint * math.sin(0.2 * t_s + self._phase[0]))
        values = (np.arange(256)[:, None] - 110) * colours + 110 * (1 + (gain - self._contrast)) + self._level
        return np.clip(values, 0, 255).astype(np.uint8)[None]


class Noise:
    """Sensor noise from a few tiles, each frame at another place of one: fast, and never the same."""

    def __init__(self, rng: np.random.Generator, sigma: float, size_px: tuple[int, int]):
        self._rng, self.sigma = rng, sigma
        self._height, self._width = size_px
        self._margin = 16
        grain = rng.uniform(0.0, 0.9)
        self._tiles = []
        for _ in range(_NOISE_TILES if sigma >= 0.3 else 0):
            shape = (self._height + self._margin, self._width + self._margin)
            luma = rng.standard_normal(shape, np.float32)[..., None]
            values = 0.8 * luma + 0.6 * rng.standard_normal((*shape, 3), np.float32)
            if grain > 0.3:
                values = cv2.GaussianBlur(values, (0, 0), grain) * (1 + 2 * grain)
            values *= sigma
            self._tiles.append(tuple(np.clip(np.rint(sign * values), 0, 255).astype(np.uint8) for sign in (1, -1)))

    def add(self, frame: np.ndarray):
        """Onto uint8 [H, W, 3], in place."""
        if not self._tiles:
            return
        number, y, x = self._rng.integers((_NOISE_TILES, self._margin, self._margin))
        more, less = (tile[y : y + self._height, x : x + self._width] for tile in self._tiles[number])
        cv2.add(frame, more, frame)
        cv2.subtract(frame, less, frame)


@dataclasses.dataclass(frozen=True)
class _Text:
    """A burnt-in text: where, how it is written, and whether it is a clock."""

    x: float
    y: float
    size: float
    colour: tuple[int, int, int]
    bar: tuple[int, int, int] | None
    clock: bool
    text: str
    seconds: float


class Overlay:
    """Texts burnt into the picture: a clock that changes every second, a camera's name, a bar behind them."""

    def __init__(self, rng: np.random.Generator, look: RealAppearance, size_px: tuple[int, int]):
        self._height, self._width = size_px
        self._texts: list[_Text] = []
        self._drawn: dict[tuple[int, str], tuple[int, int, np.ndarray, np.ndarray]] = {}
        if rng.random() >= look.overlay_p:
            return
        corners = [(0.02, 0.02), (0.55, 0.02), (0.02, 0.93), (0.55, 0.93)]
        rng.shuffle(corners)
        bar = _colour(rng, 0, 120) if rng.random() < 0.3 else None
        colour = (255, 255, 255) if bar or rng.random() < 0.7 else _colour(rng, 120, 256)
        size = float(rng.uniform(0.035, 0.055))
        names = ("CAM 1", "CAM 02", "Camera 3", "ENTRANCE", "km 12,4 nord", "CH4", "IPC", "Gate B", "parking 2")
        for number, (x, y) in enumerate(corners[: int(rng.integers(1, 3))]):
            clock = number == 0 and rng.random() < 0.8
            text = ("{d:02d}/{m:02d}/20{y:02d} " if rng.random() < 0.6 else "") if clock else str(rng.choice(names))
            if clock:
                text = text.format(d=rng.integers(1, 29), m=rng.integers(1, 13), y=rng.integers(10, 30))
            self._texts.append(_Text(x, y, size, colour, bar, clock, text, float(rng.uniform(0, 86_000))))

    def draw(self, frame: np.ndarray, t_s: float):
        """Onto uint8 [H, W, 3], in place."""
        for number, text in enumerate(self._texts):
            written = text.text
            if text.clock:
                second = int(text.seconds + t_s)
                written += f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
            key = (number, written)
            if key not in self._drawn:
                self._drawn[key] = self._write(text, written)
            x, y, ink, cover = self._drawn[key]
            region = frame[y : y + ink.shape[0], x : x + ink.shape[1]]
            cv2.multiply(region, cv2.bitwise_not(cover), region, 1 / 255)
            cv2.add(region, ink, region)

    def _write(self, text: _Text, written: str) -> tuple[int, int, np.ndarray, np.ndarray]:
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, text.size * self._height * _SUPERSAMPLING / 22
        (width, height), base = cv2.getTextSize(written, font, scale, 1)
        big = np.zeros((height + base + 4, width + 4), np.uint8)
        thick = max(round(scale * 1.3), 1)
        cv2.putText(big, written, (2, height + 2), font, scale, 255, thick, cv2.LINE_AA)
        shape = (max(big.shape[1] // _SUPERSAMPLING, 1), max(big.shape[0] // _SUPERSAMPLING, 1))
        mask = cv2.resize(big, shape, interpolation=cv2.INTER_AREA)
        x = min(int(text.x * self._width), max(self._width - mask.shape[1], 0))
        y = min(int(text.y * self._height), max(self._height - mask.shape[0], 0))
        mask = mask[: self._height - y, : self._width - x]
        cover = cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR)
        ink = cv2.multiply(cover, np.full(cover.shape, text.colour, np.uint8), scale=1 / 255)
        if text.bar is not None:
            ink = cv2.add(
                ink, cv2.multiply(cv2.bitwise_not(cover), np.full(cover.shape, text.bar, np.uint8), scale=1 / 255)
            )
            cover = np.full_like(cover, 255)
        return x, y, ink, cover


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def compress(frames: np.ndarray, codec: str, strength: int, group: int) -> np.ndarray:
    """Frames as they come out of a codec.

    Args:
      frames: uint8 [T, H, W, 3].
      codec: one of `CODECS`.
      strength: JPEG's quality, or H.264's constant rate factor.
      group: H.264's key frame interval, in frames.

    Returns:
      uint8, of the same shape.

    Raises:
      ValueError: the codec is unknown, or this PyAV cannot encode it.
    """
    if codec == "none":
        return frames
    if codec == "jpeg":
        out = np.empty_like(frames)
        for one, frame in zip(out, frames, strict=True):
            _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, strength])
            one[:] = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        return out
    if codec != "h264":
        raise ValueError(f"world appearance.codecs: {codec!r} is unknown, choose from {CODECS}")
    if "libx264" not in av.codecs_available:
        raise ValueError(
            "world appearance.codecs has h264, which this PyAV cannot encode (it has no libx264): leave it out, "
            "--config.world.appearance.codecs=\"(('jpeg',1.0),)\", or install PyAV from its wheels"
        )
    return _h264(frames, strength, group)


def _h264(frames: np.ndarray, crf: int, group: int) -> np.ndarray:
    """Encoded and decoded in memory by one thread: the same bytes every time."""
    length, height, width, _ = frames.shape
    even = cv2.BORDER_REPLICATE
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(crf), "preset": "ultrafast", "g": str(group)}
        for frame in frames:
            if height % 2 or width % 2:
                frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, even)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    out = np.empty_like(frames)
    number = 0
    with av.open(buffer, "r", format="h264") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for picture in container.decode(video=0):
            out[number] = picture.to_ndarray(format="rgb24")[:height, :width]
            number += 1
    if number != length:
        raise RuntimeError(f"H.264 gave {number} frames back of {length}")
    return out


def draw_codec(rng: np.random.Generator, look: RealAppearance) -> tuple[str, int, int]:
    """(codec, strength, key frame interval) of a clip."""
    names, shares = zip(*look.codecs, strict=True)
    name = str(rng.choice(names, p=np.array(shares) / sum(shares)))
    low, high = look.jpeg_quality if name == "jpeg" else look.h264_crf
    return name, int(rng.integers(low, high + 1)), int(rng.integers(*_GROUP))
