"""Puppets: an actor as it is drawn, in the clip's light, with a way of moving of its own."""

import math
from typing import NamedTuple

import numpy as np

from data_pipelines.world.real.actors import SAMPLE_S, Actor
from data_pipelines.world.real.sprites import ARM, Sprite, toned, with_arm
from data_pipelines.world.real.ways import SPECK

# A far thing is drawn fully from this height on; below `SPECK` it is gone.
_PLAIN_TO_SEE = 1.8 * SPECK
# Steps a metre of a walker, and how its picture sways with them.
_STEPS_M = 1.35
_SQUEEZE, _TILT, _LIFT = 0.09, 0.035, 0.012
# One who stands is not quite still.
_BREATH, _BREATH_RAD_S = 0.012, (0.9, 0.6)
# So high, in picture heights, is what is near.
_NEAR = 0.4
# RGB of sleeves.
_SLEEVES = ((30, 32, 40), (60, 80, 130), (120, 120, 125), (190, 190, 195), (110, 40, 45), (50, 80, 60))


class Surroundings(NamedTuple):
    """What things take on of the place around them: its mean RGB, how much of it, and how much haze lies between."""

    mean: np.ndarray
    blend: float
    haze: float


class Pose(NamedTuple):
    """A puppet at a moment.

    Attributes:
      sprite: its picture.
      x, y: the middle of its lower edge, in pixels.
      height_px: of its box.
      scale: by which its picture is scaled.
      mirrored: whether it is flipped left to right.
      matrix: float [2, 3], from the picture's pixels to the frame's.
      opacity: of 255.
    """

    sprite: Sprite
    x: float
    y: float
    height_px: float
    scale: float
    mirrored: bool
    matrix: np.ndarray
    opacity: int


class Puppet:
    """Draws one actor.

    Args:
      actor: the actor.
      pictures: uint8 [h, w, 4] each, premultiplied; several of one that moves.
      around: what is around it.
      rng: decides how the light falls on this one.
    """

    def __init__(self, actor: Actor, pictures: list[np.ndarray], around: Surroundings, rng: np.random.Generator):
        self.actor = actor
        gain, haze = (
            _gain(pictures, around) * rng.uniform(0.9, 1.1),
            around.haze * _distance(actor) * rng.uniform(0.5, 1.0),
        )
        pictures = [toned(one, gain, around.mean, haze) for one in pictures]
        if actor.reach is not None:
            sleeve = None if actor.seed % 3 == 0 else _SLEEVES[actor.seed % len(_SLEEVES)]
            pictures = [with_arm(one, sleeve) for one in pictures]
        self._sprites = [Sprite(one) for one in pictures]

    def at(self, sample: float, t_s: float, frame_px: float) -> Pose | None:
        """Its pose at a moment, None where it is not there.

        Args:
          sample: the moment, in samples of its track.
          t_s: the same in seconds.
          frame_px: the frame's height.
        """
        track = self.actor.track
        number, rest = int(sample), sample - int(sample)

        def now(values: np.ndarray) -> float:
            return float(values[number] + rest * (values[number + 1] - values[number]))

        before, after = float(track.height[number]), float(track.height[number + 1])
        height = now(track.height) if before and after else before or after
        opacity = int(255 * min(max((height - SPECK * 0.8) / (_PLAIN_TO_SEE - SPECK * 0.8), 0.0), 1.0))
        if opacity < 8:
            return None
        x, y, pace, phase = now(track.x), now(track.y), min(now(track.pace), 1.0), now(track.phase)
        sprite = self._sprites[self._number(t_s, phase)]
        angle, stretch, lift = self._sway(t_s, pace, phase)
        c, s = abs(math.cos(self.actor.angle)), abs(math.sin(self.actor.angle))
        own = self._own_height(sprite)
        scale = height * frame_px / (s * sprite.width + c * own)
        mirrored = self.actor.mirrored != (track.leftward is not None and bool(track.leftward[number]))
        turned = bool(self.actor.angle) or self.actor.motion == "rolls"
        # Turned pictures turn about their middle, others stand on their lower edge.
        anchor = np.array([(sprite.width - 1) / 2, (own - 1) / 2 if turned else own - 0.5])
        target = np.array([x, y - height / 2 if turned else y - lift * height]) * frame_px - 0.5
        c, s = math.cos(angle), math.sin(angle)
        a = np.array([[c, -s], [s, c]]) @ np.diag([-scale * stretch if mirrored else scale * stretch, scale])
        matrix = np.column_stack([a, target - a @ anchor])
        return Pose(sprite, x * frame_px, y * frame_px, height * frame_px, scale, mirrored, matrix, opacity)

    def _own_height(self, sprite: Sprite) -> float:
        """The height of its picture in pixels, without an arm."""
        return sprite.height / (1 + ARM) if self.actor.reach is not None else sprite.height

    def _sway(self, t_s: float, pace: float, phase: float) -> tuple[float, float, float]:
        """(angle in radians, stretch in width, lift as a share of the height)."""
        actor = self.actor
        if actor.motion == "walks" and len(self._sprites) == 1:
            step = math.sin(2 * math.pi * _STEPS_M * phase + actor.seed % 7)
            return _TILT * pace * step, 1 - _SQUEEZE * pace * (0.5 + 0.5 * step), _LIFT * pace * abs(step)
        if actor.motion == "idles":
            width, lean = (math.sin(speed * t_s + actor.seed % 7) for speed in _BREATH_RAD_S)
            return _BREATH * lean, 1 + _BREATH * width, 0.0
        if actor.motion == "rolls":
            right = actor.track.x[-1] > actor.track.x[0]
            return (1 if right else -1) * 2 * phase / actor.cutout.height_m, 1.0, 0.0
        return actor.angle, 1.0, 0.0

    def _number(self, t_s: float, phase: float) -> int:
        """Which picture of a moving cut-out is shown: there and back; a walker's stands while it stands."""
        count = len(self._sprites)
        if count == 1:
            return 0
        track = self.actor.track
        moving_s = float((track.pace > 0.2).sum()) * SAMPLE_S
        if self.actor.motion == "walks" and moving_s:
            t_s = (phase - float(track.phase[0])) / max(float(np.ptp(track.phase)), 1e-6) * moving_s
        number = int(abs(t_s) * self.actor.cutout.rate_hz + self.actor.seed) % (2 * count - 2)
        return number if number < count else 2 * count - 2 - number


def _distance(actor: Actor) -> float:
    """0 of one that comes near, to 1 of one that stays far."""
    return 1 - min(float(actor.track.height.max()) / _NEAR, 1.0)


def _gain(pictures: list[np.ndarray], around: Surroundings) -> np.ndarray:
    """By what a thing's RGB is multiplied, float [3]: it takes on some of the brightness around it, less of the hue."""
    cover = sum(float(one[..., 3].sum(dtype=np.int64)) for one in pictures) / 255
    own = sum(one[..., :3].reshape(-1, 3).sum(axis=0, dtype=np.int64) for one in pictures) / max(cover, 1.0)
    own_level, level = float(np.mean(own)), float(around.mean.mean())
    aim = own_level + 0.5 * around.blend * (level - own_level)
    tint = (around.mean / max(level, 1.0)) ** (0.4 * around.blend)
    return np.clip(aim / max(own_level, 8.0), 0.6, 1.5) * tint
