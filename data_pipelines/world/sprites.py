"""Things as small pictures: outlines, colours and surfaces."""

import dataclasses
import math

import cv2
import numpy as np

from data_pipelines.world.config import Appearance

# RGB. Far apart in hue, so that tinted light and noise leave them apart.
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 80, 220),
    "yellow": (235, 210, 40),
    "purple": (190, 50, 200),
    "white": (242, 242, 242),
}

# Shapes are drawn this much larger, then averaged down: smooth edges.
_SUPERSAMPLING = 8
_MARGIN_PX = 3
_SUBPIXEL_BITS = 4
# The inside of an outlined thing: how much darker than its line, and how much shows through.
_INSIDE_DARKNESS = 0.7
_INSIDE_GLASS = 0.3

Point = tuple[float, float]


def _ellipse(x: float, y: float, rx: float, ry: float, points: int = 24) -> list[Point]:
    angles = [2 * math.pi * k / points for k in range(points)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


# Polygons in [-1, 1] x [-1, 1], y down, facing right; a shape is their union.
OUTLINES: dict[str, list[list[Point]]] = {
    "circle": [_ellipse(0, 0, 1, 1, 40)],
    "square": [[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]],
    "triangle": [[(0, -1), (1, 0.85), (-1, 0.85)]],
    "person": [
        _ellipse(0, -0.72, 0.28, 0.28),
        [(-0.3, -0.42), (0.3, -0.42), (0.62, 0.16), (0.42, 0.26), (0.26, -0.02), (0.26, 0.3), (0.42, 1), (0.12, 1),
         (0, 0.45), (-0.12, 1), (-0.42, 1), (-0.26, 0.3), (-0.26, -0.02), (-0.42, 0.26), (-0.62, 0.16)],
    ],
    "dog": [
        [(-0.72, -0.22), (0.5, -0.22), (0.5, 0.28), (-0.72, 0.28)],
        [(0.34, -0.2), (0.42, -0.72), (0.56, -0.5), (0.74, -0.5), (1, -0.3), (1, -0.14), (0.7, -0.06), (0.5, 0.2)],
        [(-0.72, 0.1), (-0.46, 0.1), (-0.5, 0.85), (-0.74, 0.85)],
        [(0.24, 0.1), (0.5, 0.1), (0.5, 0.85), (0.26, 0.85)],
        [(-0.7, -0.2), (-0.98, -0.7), (-0.84, -0.74), (-0.52, -0.2)],
    ],
    "car": [
        [(-1, 0.08), (-0.62, -0.04), (-0.4, -0.68), (0.26, -0.68), (0.56, -0.04), (1, 0.14), (1, 0.55), (-1, 0.55)],
        _ellipse(-0.52, 0.52, 0.28, 0.28),
        _ellipse(0.54, 0.52, 0.28, 0.28),
    ],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Surface:
    """How one thing is drawn.

    Attributes:
      style: "filled", "textured" or "outlined".
      jitter: float [3], added to the pure colour.
      texture: float32 [n, n] in about [-1, 1], the pattern of a textured thing.
      line_px: an outline's width.
      faces_left: which way it looks before it has moved.
    """

    style: str
    jitter: np.ndarray
    texture: np.ndarray
    line_px: float
    faces_left: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, look: Appearance, scale: float) -> "Surface":
        style = look.styles[rng.integers(len(look.styles))]
        cells = int(rng.integers(3, 7))
        return cls(
            style=style,
            jitter=rng.uniform(-look.colour_jitter, look.colour_jitter, 3),
            texture=rng.uniform(-1, 1, (cells, cells)).astype(np.float32),
            line_px=max(rng.uniform(1.8, 2.8) * scale, 1.0),
            faces_left=bool(rng.random() < 0.5),
        )


def draw_sprite(shape: str, size_px: float, colour: str, surface: Surface) -> np.ndarray:
    """A thing as float32 [n, n, 4]: colours (of 255) times coverage, and coverage. Centred, facing right."""
    n = 2 * math.ceil(size_px / 2) + 2 * _MARGIN_PX
    big = n * _SUPERSAMPLING
    mask = np.zeros((big, big), np.uint8)
    one = size_px / 2 * _SUPERSAMPLING
    for outline in OUTLINES[shape]:
        points = (np.array(outline) * one + (big - 1) / 2) * 2**_SUBPIXEL_BITS
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 255, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
    rgb = np.clip(np.array(COLOURS[colour]) + surface.jitter, 0, 255).astype(np.float32)
    coverage = _shrunk(mask, n)
    sprite = np.empty((n, n, 4), np.float32)
    sprite[..., :3] = rgb
    if surface.style == "outlined":
        width = max(int(surface.line_px * _SUPERSAMPLING), 1)
        inner = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_RECT, (width, width)), borderValue=0)
        # Dark inside and not quite opaque, so that it still hides what passes behind it.
        inside = _shrunk(inner, n)
        sprite[..., :3] *= (1 - _INSIDE_DARKNESS * inside)[..., None]
        coverage = coverage * (1 - _INSIDE_GLASS * inside)
    if surface.style == "textured":
        sprite[..., :3] *= 1 + 0.3 * cv2.resize(surface.texture, (n, n), interpolation=cv2.INTER_NEAREST)[..., None]
        np.clip(sprite[..., :3], 0, 255, out=sprite[..., :3])
    sprite[..., :3] *= coverage[..., None]
    sprite[..., 3] = coverage
    return sprite


def _shrunk(mask: np.ndarray, size_px: int) -> np.ndarray:
    """A supersampled mask as float32 [size_px, size_px] in 0 to 1."""
    return cv2.resize(mask, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
