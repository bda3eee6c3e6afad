"""Draws a scene: background, things, light, lens and sensor. One code path for both looks; the ranges differ."""

import dataclasses
import math

import cv2
import numpy as np

from data_pipelines.world.config import Appearance, WorldConfig
from data_pipelines.world.scene import Scene, Thing
from mmduplex_jax.frame_size import FrameSize

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
_SHADOW_ALPHA = 0.4
_SHADOW_PX = 2.2

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


def draw_background(rng: np.random.Generator, look: Appearance, size_px: FrameSize, scale: float) -> np.ndarray:
    """A background of a kind drawn from `look.backgrounds`, float32 [h, w, 3] in 0 to 255, of `size_px`."""
    kind = look.backgrounds[rng.integers(len(look.backgrounds))]
    contrast = rng.uniform(*look.contrast)
    base = rng.uniform(70, 165) + rng.uniform(-look.tint, look.tint, 3)
    picture = np.clip(base + _KINDS[kind](rng, look, size_px, scale, contrast), 0, 255)
    return picture.astype(np.float32)


def _grain(rng: np.random.Generator, size_px: FrameSize, blur_px: float, channels: int = 1) -> np.ndarray:
    """Blurred noise of standard deviation 1, [h, w, channels]."""
    noise = cv2.GaussianBlur(rng.standard_normal((*size_px, channels), np.float32), (0, 0), max(blur_px, 0.3))
    noise = noise.reshape(*size_px, channels)
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
    x, y = np.meshgrid(np.linspace(-1, 1, size_px[1]), np.linspace(-1, 1, size_px[0]))
    slope = (x * np.cos(angle) + y * np.sin(angle))[..., None]
    ends = rng.uniform(-1, 1, 3) * look.tint + rng.uniform(-50, 50)
    return slope * ends + 0.35 * contrast * _grain(rng, size_px, rng.uniform(0.6, 2) * scale)


def _photograph(rng, look, size_px, scale, contrast):
    """A horizon, many soft and hard blobs and polygons of muted colours, and grain: as busy as a street."""
    picture = np.zeros((*size_px, 3), np.float32)
    horizon = int(rng.uniform(0.2, 0.7) * size_px[0])
    picture[:horizon] = rng.uniform(-40, 45) + rng.uniform(-look.tint, look.tint, 3)
    picture[horizon:] = rng.uniform(-45, 40) + rng.uniform(-look.tint, look.tint, 3)
    for _ in range(int(rng.integers(8, 26))):
        muted = (rng.uniform(-50, 50) + rng.uniform(-look.tint, look.tint, 3)).tolist()
        centre = rng.uniform(0, size_px[::-1])
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


class Painter:
    """Draws the frames of one scene.

    Args:
      config: the world.
      scene: what happens.
      rng: decides about all looks of this clip; drawing a time twice gives the same frame but for the sensor's noise.
    """

    def __init__(self, config: WorldConfig, scene: Scene, rng: np.random.Generator):
        cv2.setNumThreads(1)
        look, scale = config.appearance, config.scale
        self._config, self._scene, self._rng = config, scene, rng
        self._height_px, self._width_px = config.frame_px
        # The background is larger than the frame by what the camera moves.
        self._border = math.ceil((config.dynamics.pan_px + look.shake_px[1]) * scale) + 2
        size_px = self._height_px + 2 * self._border, self._width_px + 2 * self._border
        self._background = draw_background(rng, look, size_px, scale)
        drawn = [Surface.draw(rng, look, scale) for _ in scene.things]
        of_identity: dict[int, Surface] = {}
        self._surfaces = [
            surface if thing.identity is None else of_identity.setdefault(thing.identity, surface)
            for thing, surface in zip(scene.things, drawn, strict=True)
        ]
        self._sprites: dict[tuple[int, str, bool], np.ndarray] = {}
        amplitude = rng.uniform(*look.shake_px) * scale
        self._shake = [
            (amplitude * rng.uniform(0.4, 1) / 2, 2 * math.pi * rng.uniform(*look.shake_hz), rng.uniform(0, 6.28))
            for _ in range(4)
        ]
        self._light = look.light_gain * rng.uniform(0, 1, 3), rng.uniform(0.1, 0.9, 3), rng.uniform(0, 6.28, 3)
        self._tint = look.light_tint * rng.standard_normal(3)
        angle = rng.uniform(0, 2 * math.pi)
        self._shadow = (_SHADOW_PX * math.cos(angle) * scale, _SHADOW_PX * abs(math.sin(angle)) * scale)
        self._has_shadows = rng.random() < look.shadow_p
        self._blur_px = rng.uniform(*look.blur_px) * scale
        self._noise = rng.uniform(*look.noise)
        quality = int(rng.integers(look.jpeg_quality[0], look.jpeg_quality[1] + 1))
        self._jpeg_quality = quality if rng.random() < look.jpeg_p else None

    def camera_at(self, t_s: float) -> tuple[float, float]:
        """(x, y) of the frame's corner in the world, in pixels: pan and shake."""
        x, y = self._scene.pan.at(t_s)
        waves = [a * math.sin(w * t_s + p) for a, w, p in self._shake]
        return x + waves[0] + waves[1], y + waves[2] + waves[3]

    def frames(self, times_s: np.ndarray) -> np.ndarray:
        """uint8 [len(times_s), H, W, 3] RGB."""
        out = np.empty((len(times_s), self._height_px, self._width_px, 3), np.uint8)
        for frame, t_s in zip(out, times_s.tolist(), strict=True):
            frame[:] = self.frame(t_s)
        return out

    def frame(self, t_s: float) -> np.ndarray:
        """uint8 [H, W, 3] RGB: what the camera sees at a time."""
        camera = self.camera_at(t_s)
        moved = np.array([[1, 0, -camera[0] - self._border], [0, 1, -camera[1] - self._border]], np.float32)
        size = self._width_px, self._height_px
        canvas = cv2.warpAffine(self._background, moved, size, borderMode=cv2.BORDER_REPLICATE)
        for number, thing in enumerate(self._scene.things):
            if thing.is_visible(t_s):
                self._draw(canvas, number, thing, t_s, camera)
        return self._through_lens(canvas, t_s)

    def _draw(self, canvas: np.ndarray, number: int, thing: Thing, t_s: float, camera: tuple[float, float]):
        colour = thing.colour_at(t_s)
        _, _, _, vx, _ = thing.segment_at(t_s)
        faces_left = self._surfaces[number].faces_left if vx == 0 else vx < 0
        key = (number, colour, faces_left)
        sprite = self._sprites.get(key)
        if sprite is None:
            sprite = draw_sprite(thing.shape, 2 * thing.half_px, colour, self._surfaces[number])
            if faces_left:
                sprite = np.ascontiguousarray(sprite[:, ::-1])
            self._sprites[key] = sprite
        x, y = thing.place_at(t_s)
        x, y = x - camera[0], y - camera[1]
        if self._has_shadows:
            shade = np.zeros_like(sprite)
            shade[..., 3] = cv2.GaussianBlur(sprite[..., 3], (0, 0), 1.2 * self._config.scale) * _SHADOW_ALPHA
            _blend(canvas, shade, x + self._shadow[0], y + self._shadow[1])
        _blend(canvas, sprite, x, y)

    def _through_lens(self, canvas: np.ndarray, t_s: float) -> np.ndarray:
        if self._config.appearance.light_gain:
            depth, speed, phase = self._light
            gain = 1 + float(np.sum(depth * np.sin(speed * t_s + phase))) / 2
            canvas *= (gain * (1 + self._tint * math.sin(0.3 * t_s + phase[0]))).astype(np.float32)
        if self._blur_px > 0.3:
            canvas = cv2.GaussianBlur(canvas, (0, 0), self._blur_px)
        if self._noise:
            canvas += self._noise * self._rng.standard_normal(canvas.shape, np.float32)
        frame = cv2.convertScaleAbs(np.maximum(canvas, 0))
        if self._jpeg_quality is not None:
            _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality])
            frame = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        return frame


def _blend(canvas: np.ndarray, sprite: np.ndarray, x: float, y: float):
    """Draws a premultiplied sprite (float32 [h, w, 4]) with its centre at (x, y), to a fraction of a pixel."""
    height, width = sprite.shape[:2]
    left, top = x - (width - 1) / 2 - 0.5, y - (height - 1) / 2 - 0.5
    column, row = math.floor(left), math.floor(top)
    x0, y0 = max(column, 0), max(row, 0)
    x1, y1 = min(column + width + 1, canvas.shape[1]), min(row + height + 1, canvas.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    moved = np.array([[1, 0, left - x0], [0, 1, top - y0]], np.float32)
    placed = cv2.warpAffine(sprite, moved, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    region = canvas[y0:y1, x0:x1]
    region *= 1 - placed[..., 3:]
    region += placed[..., :3]
