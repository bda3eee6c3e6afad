"""Draws a clip of the look `real`: cut-outs over a background, in the light and through the lens of one camera."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.world.real.actors import BEFORE_S, SAMPLE_S, Actor, sample_times_s
from data_pipelines.world.real.config import RealWorldConfig
from data_pipelines.world.real.pack import load_background, load_cutout
from data_pipelines.world.real.planner import RealScene, cut_background
from data_pipelines.world.real.puppet import Pose, Puppet, Surroundings
from data_pipelines.world.real.sensor import Light, Noise, Overlay, compress, draw_codec
from data_pipelines.world.real.sprites import blend

# Smaller things cast no shadow.
_SHADOW_LEAST_PX = 3.0
# What has more depth is in the air: hands, and what they hold.
_ON_THE_GROUND = 5.0


class _Front(NamedTuple):
    """What stands still and hides what is further: where in the frame, and its premultiplied picture [h, w, 4]."""

    depth: float
    part: tuple[slice, slice]
    picture: np.ndarray

    @classmethod
    def of(cls, canvas: np.ndarray, mask: np.ndarray, depth: float) -> "_Front":
        rows, columns = np.flatnonzero(mask.max(axis=1)), np.flatnonzero(mask.max(axis=0))
        part = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        return cls(depth, part, _cut(canvas[part], mask[part]))


def _cut(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGB and a mask as premultiplied uint8 [h, w, 4]."""
    return np.dstack([cv2.multiply(picture, cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR), scale=1 / 255), mask])


class RealPainter:
    """Draws the frames of one scene.

    Args:
      config: the world.
      scene: what happens.
      rng: decides about all looks of this clip.
    """

    def __init__(self, config: RealWorldConfig, scene: RealScene, rng: np.random.Generator):
        cv2.setNumThreads(1)
        look = config.appearance
        self._config, self._scene, self._rng = config, scene, rng
        self._height, self._width = config.frame_px
        self._last_sample = len(sample_times_s(config.clip_s)) - 1.001
        picture = load_background(config.pack, scene.background.file)
        base = cut_background(picture, scene.crop, scene.flipped, config.frame_px)
        haze = rng.uniform(*look.haze) if scene.setting in ("road", "street") else 0.0
        around = Surroundings(base.reshape(-1, 3).mean(axis=0), rng.uniform(*look.blend), haze)
        self._sun, self._shadow_darkness = self._draw_sun(rng), float(rng.uniform(0.25, 0.6))
        self._puppets = [self._puppet(actor, around, rng) for actor in scene.actors]
        self._base, self._fronts = self._with_props(base, [self._puppet(prop, around, rng) for prop in scene.props])
        self._sways = (
            [self._draw_sway(rng) for _ in range(int(rng.integers(1, 3)))] if rng.random() < look.sway_p else []
        )
        shakes = rng.random() < look.shake_p
        self._shake_px = rng.uniform(*look.shake) * self._height if shakes else 0.0
        self._shake = rng.uniform((0.5, 2.0, 0.5, 2.0), (2.0, 9.0, 2.0, 9.0)), rng.uniform(0, 2 * math.pi, 4)
        self._light = Light(rng, look, config.clip_s)
        self._blur_px = rng.uniform(*look.blur) * self._height
        self._noise = Noise(rng, rng.uniform(*look.noise), config.frame_px)
        self._overlay = Overlay(rng, look, config.frame_px)
        self._codec = draw_codec(rng, look)

    def frames(self, times_s: np.ndarray) -> np.ndarray:
        """uint8 [len(times_s), height, width, 3] RGB, as they come out of the camera's codec."""
        out = np.empty((len(times_s), self._height, self._width, 3), np.uint8)
        for frame, t_s in zip(out, times_s.tolist(), strict=True):
            frame[:] = self.frame(t_s)
        return compress(out, *self._codec)

    def frame(self, t_s: float) -> np.ndarray:
        """uint8 [height, width, 3] RGB: what the camera sees at a time, before its codec."""
        canvas = self._base.copy()
        for sway in self._sways:
            sway(canvas, t_s)
        self._draw_all(canvas, t_s)
        canvas = cv2.LUT(canvas, self._light.table(t_s))
        if self._scene.grey:
            canvas = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if self._shake_px:
            speed, phase = self._shake
            waves = np.sin(speed * t_s * 2 + phase) * self._shake_px
            moved = np.array([[1, 0, waves[0] + 0.4 * waves[1]], [0, 1, waves[2] + 0.4 * waves[3]]])
            canvas = cv2.warpAffine(canvas, moved, (self._width, self._height), borderMode=cv2.BORDER_REPLICATE)
        if self._blur_px > 0.35:
            canvas = cv2.GaussianBlur(canvas, (0, 0), self._blur_px)
        self._noise.add(canvas)
        self._overlay.draw(canvas, t_s)
        return canvas

    def _draw_all(self, canvas: np.ndarray, t_s: float):
        """All that moves, from the back to the front, and before it what stands nearer."""
        sample = min(max((t_s + BEFORE_S) / SAMPLE_S, 0.0), self._last_sample)
        number = int(sample)
        here = [one for one in self._puppets if one.actor.track.height[number : number + 2].any()]
        if not here:
            return
        order: list[tuple[float, Puppet | _Front]] = [(float(one.actor.track.depth[number]), one) for one in here]
        furthest = min(depth for depth, _ in order)
        order += [(front.depth, front) for front in self._fronts if front.depth > furthest]
        for _, one in sorted(order, key=lambda pair: pair[0]):
            if isinstance(one, Puppet):
                self._draw(canvas, one, sample, t_s)
            else:
                blend(canvas[one.part], one.picture)

    def _draw(self, canvas: np.ndarray, puppet: Puppet, sample: float, t_s: float):
        pose = puppet.at(sample, t_s, float(self._height))
        if pose is None:
            return
        actor = puppet.actor
        grounded = actor.track.depth[int(sample)] < _ON_THE_GROUND and self._scene.setting != "top"
        if grounded and not actor.angle and pose.height_px >= _SHADOW_LEAST_PX:
            self._shade(canvas, pose)
        pose.sprite.draw(canvas, pose.matrix, pose.scale, pose.opacity)

    def _shade(self, canvas: np.ndarray, pose: Pose):
        """Its shadow on the ground: cast by the sun, or only where it stands."""
        darkness = self._shadow_darkness * pose.opacity / 255
        scale, mirror = pose.scale, -1.0 if pose.mirrored else 1.0
        if self._sun is not None:
            slant, length = self._sun
            a, sink_px = np.array([[mirror * scale, -slant * scale], [0.0, length * scale]]), 0.0
        else:
            a, sink_px = np.array([[mirror * 1.05 * scale, 0.0], [0.0, 0.16 * scale]]), 0.05 * pose.height_px
            darkness *= 0.8
        feet = np.array([(pose.sprite.width - 1) / 2, pose.sprite.height - 1.0])
        shift = np.array([pose.x, pose.y + sink_px]) - a @ feet
        pose.sprite.shade(canvas, np.column_stack([a, shift]), abs(float(a[1, 1])), darkness)

    # How it looks, decided once for a clip.

    def _draw_sun(self, rng: np.random.Generator) -> tuple[float, float] | None:
        """(slant, length) of the shadows, as shares of heights; None where the light is soft."""
        casts = rng.random() < self._config.appearance.shadow_p and self._scene.setting != "table"
        slant, length = rng.uniform(0.2, 1.3) * rng.choice((-1, 1)), rng.uniform(0.12, 0.4) * rng.choice((-1, 1))
        return (float(slant), float(length)) if casts else None

    def _puppet(self, actor: Actor, around: Surroundings, rng: np.random.Generator) -> Puppet:
        pictures = [load_cutout(self._config.pack, file) for file in actor.cutout.files]
        return Puppet(actor, pictures, around, rng)

    def _with_props(self, base: np.ndarray, props: list[Puppet]) -> tuple[np.ndarray, list[_Front]]:
        """The background with all that stands still, and what of it is drawn again before things that are further."""
        canvas, shape = base.copy(), (self._height, self._width)
        masks: list[tuple[float, np.ndarray]] = []
        piece = self._scene.piece
        if piece is not None:
            masks.append((piece.base, cv2.resize(piece.mask, shape[::-1], interpolation=cv2.INTER_LINEAR)))
        for prop in sorted(props, key=lambda prop: prop.actor.track.depth[0]):
            self._draw(canvas, prop, 0.0, 0.0)
            pose = prop.at(0.0, 0.0, float(self._height))
            if pose is not None:
                stencil = np.zeros((*shape, 3), np.uint8)
                pose.sprite.stencil(stencil, pose.matrix, pose.scale)
                masks.append((float(prop.actor.track.depth[0]), stencil[..., 0].copy()))
        return canvas, [_Front.of(canvas, mask, depth) for depth, mask in masks if mask.any()]

    def _draw_sway(self, rng: np.random.Generator):
        """A piece of the background that moves without going anywhere: leaves, water, a screen."""
        height, width = (rng.uniform(0.15, 0.55) * size for size in (self._height, self._width))
        y0, x0 = int(rng.uniform(0, self._height - height)), int(rng.uniform(0, self._width - width))
        part = (slice(y0, y0 + int(height)), slice(x0, x0 + int(width)))
        still = self._base[part].copy()
        rows, columns = still.shape[:2]
        soft = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1]) ** 0.5
        alpha = cv2.cvtColor((255 * soft).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        rest = cv2.multiply(still, cv2.bitwise_not(alpha), scale=1 / 255)
        speed, phase = rng.uniform(0.8, 5.0, 3), rng.uniform(0, 2 * math.pi, 3)
        reach = rng.uniform(0.004, 0.02) * self._height
        flickers = rng.random() < 0.2
        depth = rng.uniform(0.05, 0.3)

        def sway(canvas: np.ndarray, t_s: float):
            waves = np.sin(speed * t_s + phase)
            if flickers:
                moved = cv2.convertScaleAbs(still, alpha=1 + depth * float(waves[0] * waves[1]))
            else:
                x, y = reach * (waves[0] + 0.5 * waves[2]), 0.4 * reach * waves[1]
                matrix = np.array([[1 + 0.02 * waves[2], 0.01 * waves[1], x], [0.0, 1.0, y]])
                moved = cv2.warpAffine(still, matrix, (columns, rows), borderMode=cv2.BORDER_REPLICATE)
            canvas[part] = cv2.add(cv2.multiply(moved, alpha, scale=1 / 255), rest)

        return sway
