"""Draws a scene: background, things, light, lens and sensor. One code path for both looks; the ranges differ."""

import math

import cv2
import numpy as np

from data_pipelines.world.backgrounds import draw_background
from data_pipelines.world.config import WorldConfig
from data_pipelines.world.scene import Scene, Thing
from data_pipelines.world.sprites import Surface, draw_sprite

_SHADOW_ALPHA = 0.4
_SHADOW_PX = 2.2


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
        self._px = config.frame_px
        # The background is larger than the frame by what the camera moves.
        self._border = math.ceil((config.dynamics.pan_px + look.shake_px[1]) * scale) + 2
        self._background = draw_background(rng, look, self._px + 2 * self._border, scale)
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
        """uint8 [len(times_s), px, px, 3] RGB."""
        out = np.empty((len(times_s), self._px, self._px, 3), np.uint8)
        for frame, t_s in zip(out, times_s.tolist(), strict=True):
            frame[:] = self.frame(t_s)
        return out

    def frame(self, t_s: float) -> np.ndarray:
        """uint8 [px, px, 3] RGB: what the camera sees at a time."""
        camera = self.camera_at(t_s)
        moved = np.array([[1, 0, -camera[0] - self._border], [0, 1, -camera[1] - self._border]], np.float32)
        canvas = cv2.warpAffine(self._background, moved, (self._px, self._px), borderMode=cv2.BORDER_REPLICATE)
        for number, thing in enumerate(self._scene.things):
            if thing.seen_from_s <= t_s < thing.seen_until_s:
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
