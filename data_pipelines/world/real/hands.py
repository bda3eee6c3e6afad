"""Hands that reach into the picture: they take, put, show, or come with nothing."""

import math

import numpy as np

from data_pipelines.world.real import settings as places
from data_pipelines.world.real.actors import Actor, Track, min_jerk, turned
from data_pipelines.world.real.pack import Cutout, load_cutout
from data_pipelines.world.real.traits import UNMIRRORED
from data_pipelines.world.real.ways import Ways


class Hands(Ways):
    """Finds what hands do."""

    def _hand_story(self) -> list[Actor]:
        """A hand takes something, puts something, shows something, or comes with nothing."""
        dice = self.dice
        objects = places.casting(self.pack, self.setting, "object")
        plot = {"takes": 0.25, "puts": 0.4, "shows": 0.22, "empty": 0.13} if objects else {"empty": 1.0}
        tale = places.weighted(dice, plot)
        side = places.weighted(dice, {"right": 0.34, "bottom": 0.3, "left": 0.26, "top": 0.1})
        x, y = dice.between((0.25, 0.75)) * self.aspect, dice.between((0.45, 0.85))
        reach = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "top": (0.0, -1.0), "bottom": (0.0, 1.0)}[side]
        tilt = dice.between((-0.5, 0.5))
        c, s = math.cos(tilt), math.sin(tilt)
        reach = (c * reach[0] - s * reach[1], s * reach[0] + c * reach[1])
        hand, mirrored, angle, size, shape = self._draw_hand(reach)
        begin_s = dice.between((0.1, self.clip_s - self.d.tail_s - 1.0))
        reach_s, rest_s, back_s = dice.between((0.6, 1.5)), dice.between((0.25, 0.8)), dice.between((0.6, 1.5))
        out = self._beyond(x, y, reach, size * max(shape, 1.0))
        if tale == "empty" or tale == "shows":
            stops, t_s = [(begin_s, *out), (begin_s + reach_s, x, y)], begin_s + reach_s
            for _ in range(1 + dice.index(4)):
                t_s += dice.between((0.5, 2.0))
                x1, y1 = x + dice.between((-0.2, 0.2)) * self.aspect, y + dice.between((-0.2, 0.2))
                stops += [(t_s, min(max(x1, 0.2), self.aspect - 0.2), min(max(y1, 0.3), 0.8))]
            stops += [(t_s + dice.between((0.2, 1.0)), *stops[-1][1:])]
            stops += [(stops[-1][0] + back_s, *out)]
        else:
            stops = [(begin_s, *out), (begin_s + reach_s, x, y), (begin_s + reach_s + rest_s, x, y),
                     (begin_s + reach_s + rest_s + back_s, *out)]  # fmt: skip
        track = self._waypoints(stops, size)
        arrives_s, goes_s = stops[1][0], stops[2][0]
        event_kinds = {"takes": {"enters"}, "puts": {"leaves"}, "shows": set(), "empty": {"enters", "leaves"}}[tale]
        owner = Actor(
            hand,
            mirrored,
            shape,
            track,
            self._subject(hand),
            frozenset(event_kinds),
            angle=angle,
            reach=reach,
            seed=self._seed(),
        )
        if tale == "empty":
            return [owner]
        thing = self._held_thing(objects, owner, reach, tale, arrives_s, goes_s)
        return [thing, owner]

    def _draw_hand(self, reach: tuple[float, float]) -> tuple[Cutout, bool, float, float, float]:
        """(cut-out, mirrored, angle, height of its turned picture, its shape)."""
        dice = self.dice
        hand, _ = self._cast("hand", 0.0, 0.0)
        angle = turned(reach)  # cut-outs of hands have their wrist below
        height, width = load_cutout(self.pack.root, hand.files[0]).shape[:2]
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        scale = float(self.ground.scale_at(0.75)) * hand.height_m * dice.between((0.9, 1.1)) / max(height, width)
        return hand, dice.unit() < 0.5, angle, scale * (s * width + c * height), self._shape(hand, angle)

    def _beyond(self, x: float, y: float, reach: tuple[float, float], size: float) -> tuple[float, float]:
        """Where a hand is out of the picture, from (x, y) in the direction in which its arm lies."""
        ux, uy = reach
        far = min(
            ((self.aspect if ux > 0 else 0.0) - x) / ux if abs(ux) > 1e-6 else math.inf,
            ((1.0 if uy > 0 else 0.0) - y) / uy if abs(uy) > 1e-6 else math.inf,
        )
        far += 0.62 * size / max(abs(ux), abs(uy))
        return x + far * ux, y + far * uy

    def _waypoints(self, stops: list[tuple[float, float, float]], size: float) -> Track:
        """A hand's track: from stop to stop, each (t_s, x, y of its middle)."""
        t = self.times_s
        x, y = np.full(len(t), stops[0][1]), np.full(len(t), stops[0][2])
        for (t0, x0, y0), (t1, x1, y1) in zip(stops, stops[1:]):
            share = min_jerk((t - t0) / max(t1 - t0, 1e-3))
            x, y = np.where(t >= t0, x0 + (x1 - x0) * share, x), np.where(t >= t0, y0 + (y1 - y0) * share, y)
        there = (t > stops[0][0]) & (t < stops[-1][0])
        pace = np.hypot(np.gradient(x, t), np.gradient(y, t))
        pace = pace / max(pace.max(), 1e-6)
        ones = np.ones(len(t))
        return Track(x, y + size / 2, size * there, pace, 0 * ones, 10 * ones)

    def _fidgeting_hand(self) -> Actor:
        """A hand that is in the picture all the time and never quite still."""
        dice = self.dice
        angle_out = dice.between((0.15, math.pi - 0.15))
        reach = (math.cos(angle_out), math.sin(angle_out))
        hand, mirrored, angle, size, shape = self._draw_hand(reach)
        x, y = dice.between((0.25, 0.75)) * self.aspect, dice.between((0.4, 0.7))
        stops, t_s = [(-10.0, x, y)], 0.0
        while t_s < self.clip_s:
            t_s += dice.between((0.5, 3.0))
            stops.append((t_s, x + dice.between((-0.05, 0.05)), y + dice.between((-0.05, 0.05))))
        stops.append((self.clip_s + 10.0, x, y))
        track = self._waypoints(stops, size)
        return Actor(
            hand, mirrored, shape, track, self._subject(hand), frozenset(), angle=angle, reach=reach, seed=self._seed()
        )

    def _held_thing(self, objects, owner: Actor, reach, tale: str, arrives_s: float, goes_s: float) -> Actor:
        """What a hand takes, puts or shows."""
        dice, t = self.dice, self.times_s
        name = places.draw_class(objects, dice)
        cutout, mirrored = dice.pick(objects[name]), name not in UNMIRRORED and dice.unit() < 0.5
        shape = self._shape(cutout)
        height = cutout.height_m * dice.between((0.9, 1.1)) * float(self.ground.scale_at(0.75))
        size = float(owner.track.height.max())
        # Its middle lies at the fingers.
        hand = owner.track
        x = hand.x - reach[0] * 0.35 * size
        y = hand.y - size / 2 - reach[1] * 0.35 * size + height / 2
        depth = np.full(len(t), 9.9)
        if tale == "takes":
            still = t < goes_s
            story: tuple[tuple[float, str], ...] = ((goes_s + 0.25, "taken"),)
            event_kinds = {"taken"}
        elif tale == "puts":
            still = t >= arrives_s
            story, event_kinds = ((arrives_s + 0.15, "put"),), {"enters", "put"}
        else:
            still, story, event_kinds = np.zeros(len(t), bool), (), {"enters", "leaves"}
        if still.any():
            at = int(np.flatnonzero(still)[0 if tale == "puts" else -1])
            x, y = np.where(still, x[at], x), np.where(still, y[at], y)
        depth = np.where(still & (t < arrives_s if tale == "takes" else t > goes_s), y, 9.9)
        there = np.ones(len(t), bool) if tale == "takes" else hand.height > 0
        if tale == "puts":
            there |= t >= arrives_s
        if tale == "takes":
            there &= (t < goes_s) | (hand.height > 0)
        track = Track(x, y, height * there, np.where(still, 0.0, hand.pace), 0 * t, depth)
        return Actor(
            cutout, mirrored, shape, track, self._subject(cutout), frozenset(event_kinds), story, seed=self._seed()
        )
