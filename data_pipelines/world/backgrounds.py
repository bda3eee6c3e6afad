"""Backgrounds: what is behind the things. All are textured, so that the camera's motion can be seen."""

import cv2
import numpy as np

from data_pipelines.world.config import Appearance


def draw_background(rng: np.random.Generator, look: Appearance, size_px: int, scale: float) -> np.ndarray:
    """A background of a kind drawn from `look.backgrounds`, float32 [size_px, size_px, 3] in 0 to 255."""
    kind = look.backgrounds[rng.integers(len(look.backgrounds))]
    contrast = rng.uniform(*look.contrast)
    base = rng.uniform(70, 165) + rng.uniform(-look.tint, look.tint, 3)
    picture = np.clip(base + _KINDS[kind](rng, look, size_px, scale, contrast), 0, 255)
    return picture.astype(np.float32)


def _grain(rng: np.random.Generator, size_px: int, blur_px: float, channels: int = 1) -> np.ndarray:
    """Blurred noise of standard deviation 1, [size_px, size_px, channels]."""
    noise = cv2.GaussianBlur(rng.standard_normal((size_px, size_px, channels), np.float32), (0, 0), max(blur_px, 0.3))
    noise = noise.reshape(size_px, size_px, channels)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def _noise(rng, look, size_px, scale, contrast):
    grey = _grain(rng, size_px, rng.uniform(0.8, 4.0) * scale)
    colour = _grain(rng, size_px, 6.0 * scale, 3)
    return contrast * grey + 0.25 * look.tint * colour


def _layers(rng, look, size_px, scale, contrast):
    """Noise from coarse to fine."""
    blurs = (12.0, 5.0, 2.0, 0.7)
    total = sum(w * _grain(rng, size_px, blur * scale) for w, blur in zip(rng.uniform(0.2, 1, 4), blurs, strict=True))
    return contrast * total + 0.4 * look.tint * _grain(rng, size_px, 9.0 * scale, 3)


def _gradient(rng, look, size_px, scale, contrast):
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, size_px), np.linspace(-1, 1, size_px))
    slope = (x * np.cos(angle) + y * np.sin(angle))[..., None]
    ends = rng.uniform(-1, 1, 3) * look.tint + rng.uniform(-50, 50)
    return slope * ends + 0.35 * contrast * _grain(rng, size_px, rng.uniform(0.6, 2) * scale)


def _photograph(rng, look, size_px, scale, contrast):
    """A horizon, many soft and hard blobs and polygons of muted colours, and grain: as busy as a street."""
    picture = np.zeros((size_px, size_px, 3), np.float32)
    horizon = int(rng.uniform(0.2, 0.7) * size_px)
    picture[:horizon] = rng.uniform(-40, 45) + rng.uniform(-look.tint, look.tint, 3)
    picture[horizon:] = rng.uniform(-45, 40) + rng.uniform(-look.tint, look.tint, 3)
    for _ in range(int(rng.integers(8, 26))):
        muted = (rng.uniform(-50, 50) + rng.uniform(-look.tint, look.tint, 3)).tolist()
        centre = rng.uniform(0, size_px, 2)
        extent = rng.uniform(2, 15, 2) * scale
        if rng.random() < 0.5:
            box = (tuple(centre.tolist()), tuple((2 * extent).tolist()), float(rng.uniform(0, 180)))
            cv2.ellipse(picture, box, muted, -1)
        else:
            corners = centre + rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2)) * extent
            cv2.fillPoly(picture, [cv2.convexHull(np.rint(corners).astype(np.int32))], muted)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.6) * scale)
    return picture + 0.3 * contrast * _grain(rng, size_px, 0.6 * scale)


_KINDS = {"noise": _noise, "layers": _layers, "gradient": _gradient, "photograph": _photograph}
