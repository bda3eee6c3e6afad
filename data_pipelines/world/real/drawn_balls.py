"""Balls drawn as lit spheres, for packs that have few: plain, banded, of two halves, or with the seam of a tennis ball.

Photographs of balls are mostly of footballs; those that roll through rooms are mostly of one colour.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from data_pipelines.world.real.pack_writer import PackWriter, plain_colour

_SIZE_PX = 128
# Hue in OpenCV's half degrees, saturation and value of 255: (from, to) each.
_COLOURS = (
    ((0, 5), (170, 255), (120, 240)), ((8, 16), (170, 255), (150, 255)), ((23, 33), (120, 255), (150, 255)),
    ((36, 80), (90, 230), (80, 220)), ((95, 125), (110, 255), (70, 240)), ((135, 160), (60, 200), (110, 240)),
    ((0, 179), (0, 30), (190, 255)), ((0, 179), (0, 40), (15, 70)), ((0, 179), (0, 40), (80, 170)),
)  # fmt: skip
_SEAM = 0.06  # half its width, of the ball's radius
_PATTERNS = ("plain", "plain", "plain", "band", "halves", "seam")


def add_balls(writer: PackWriter, count: int, seed: int = 0) -> Iterator[str]:
    """Adds drawn balls to a pack.

    Args:
      writer: of the pack.
      count: how many it shall have in all; the first of them are the same for every count.
      seed: of their looks.

    Yields:
      The key of each when it is done.

    Raises:
      OSError: the pack cannot be written.
    """
    for index in range(count):
        key = f"balls/{seed}/{index}"
        if key in writer.done:
            continue
        ball = draw_ball(np.random.default_rng([seed, index]))
        facts = {"class": "sports ball", "colour": plain_colour(ball), "facing": "none"}
        writer.add_cutout(key, [ball], **facts, source="drawn", licence="CC0-1.0")
        yield key


def draw_ball(dice: np.random.Generator) -> np.ndarray:
    """A ball as uint8 [128, 128, 4] RGBA: a sphere of diffuse and glossy material under one lamp and a bright sky."""
    axis = (np.arange(_SIZE_PX) + 0.5) / _SIZE_PX * 2 - 1
    x, y = np.meshgrid(axis, axis)
    radius = np.hypot(x, y)
    normals = np.stack([x, y, np.sqrt(np.clip(1 - radius**2, 0, 1))], axis=-1)

    first, second = _colour(dice), _colour(dice)
    albedo = np.where(_pattern(normals @ _turn(dice), dice)[..., None], second, first)

    lamp = dice.normal(size=3) * (0.7, 0.3, 0.3) + (0, -0.8, 0.7)  # (y points down: light comes from above)
    lamp /= np.linalg.norm(lamp)
    diffuse = np.clip(normals @ lamp, 0, 1)
    sky = 0.5 - 0.5 * normals[..., 1]
    light = dice.uniform(0.15, 0.5) + dice.uniform(0.0, 0.35) * sky + dice.uniform(0.3, 0.9) * diffuse
    # The mirror image of the lamp (Phong), seen from the front.
    mirrored = np.clip(2 * diffuse * normals[..., 2] - lamp[2], 0, 1)
    gloss = dice.uniform(0, 120) * mirrored ** dice.uniform(6, 60)

    rgb = albedo * light[..., None] + gloss[..., None] + dice.normal(0, dice.uniform(0, 6), albedo.shape)
    coverage = np.clip((1 - radius) * _SIZE_PX / 2, 0, 1)
    return np.dstack([np.clip(rgb, 0, 255), 255 * coverage]).astype(np.uint8)


def _colour(dice: np.random.Generator) -> np.ndarray:
    ranges = _COLOURS[dice.integers(len(_COLOURS))]
    hsv = np.array([[[dice.integers(low, high + 1) for low, high in ranges]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def _turn(dice: np.random.Generator) -> np.ndarray:
    """A random rotation: the orthogonal part of a random matrix."""
    return np.linalg.qr(dice.normal(size=(3, 3)))[0]


def _pattern(points: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Where on the sphere the second colour is: bool [h, w]."""
    kind = _PATTERNS[dice.integers(len(_PATTERNS))]
    x, y, z = np.moveaxis(points, -1, 0)
    if kind == "band":
        return np.abs(z) < dice.uniform(0.1, 0.35)
    if kind == "halves":
        return z > 0
    if kind == "seam":
        # A curve that goes twice up and twice down on its way round.
        return np.abs(z - 0.6 * np.cos(2 * np.arctan2(y, x)) * np.sqrt(np.clip(1 - z**2, 0, 1))) < _SEAM
    return np.zeros(z.shape, bool)
