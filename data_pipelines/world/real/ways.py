"""Ways over the ground: along lanes, through the picture, into it and out of it; and across the air above it."""

import dataclasses
import math

import numpy as np

from data_pipelines.world.real import settings as places
from data_pipelines.world.real.actors import Actor, Track, paced_distance
from data_pipelines.world.real.draft import RealDraft
from data_pipelines.world.real.foreground import MASK_PX
from data_pipelines.world.real.pack import load_cutout
from data_pipelines.world.real.traits import ROUND

# A place of the picture, or (X, Z) on the ground.
Place = tuple[float, float]

# Below this height a far thing is no more than a speck: there it begins and ends.
SPECK = 0.02
# From a camera that looks down so far, things leave over the upper edge before they are specks.
_LOOKS_DOWN = -0.12
# How fast things go, m/s, drawn evenly in its logarithm.
_SPEEDS_M_S = {"vehicle": (3.5, 17.0), "walker": (0.7, 2.0), "object": (0.25, 1.2)}
# On the floor of a room things roll faster than on a table.
_FLOOR_FASTER = 3.0
# Nothing goes its way faster, or so slowly that nothing would be seen of it.
_SHORTEST_S = 1.1
_LONGEST_S = 60.0
# Seen from above a vehicle is so long; its height says nothing.
_VEHICLE_M = 4.4
# Kinds of events that are read off a track on the ground, and off one in the air.
_GROUND_KINDS = frozenset({"enters", "leaves", "stops", "starts", "appears", "vanishes"})
_AIR_KINDS = frozenset({"enters", "leaves"})

# Tales: what someone does on a way.
# through    from one end to the other
# pauses     the same with a rest on the way
# stays      comes in and stays; sets off: is there and goes
# comes out  from behind the piece in front; goes in: behind it
# quiet      through, begun before the clip or ended after it
_MOST_LANES = 4
# By which side one comes, or from afar.
_SIDES = {"left": 0.3, "right": 0.34, "bottom": 0.26, "far": 0.1}
_SIDES_FROM_ABOVE = _SIDES | {"far": 0.3}


@dataclasses.dataclass(frozen=True)
class Lane:
    """Where vehicles drive: from one place on the ground to another, at one speed.

    Attributes:
      begin, end: (x, y) in the picture, at its edge; None for the far end.
      vanishing_x: where the far end is, on the horizon.
      speed_m_s: of all in it.
    """

    begin: Place | None
    end: Place | None
    vanishing_x: float
    speed_m_s: float


class Ways(RealDraft):
    """Finds ways. Each `_..._story` gives actors that belong together, none if what it tried does not fit.

    Attributes:
      lanes: where vehicles drive on a road.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.lanes = self._draw_lanes()

    def _draw_lanes(self) -> list[Lane]:
        """The lanes of a road meet on the horizon; some roads cross the picture."""
        dice, ground, aspect = self.dice, self.ground, self.aspect
        vanishing_x, near_x = dice.between((0.1, 0.9)) * aspect, dice.between((-0.3, 1.3)) * aspect
        crossing = dice.unit() < 0.3
        low, high = _SPEEDS_M_S["vehicle"]
        pace = math.exp(dice.between((math.log(0.5), math.log(1.1))))
        lanes = []
        for number in range(1 + dice.index(_MOST_LANES)):
            ends: list[Place | None]
            if crossing:
                y = min(max(dice.between((0.45, 0.95)), ground.horizon + 0.1), 0.98)
                ends = [(0.0, y), (aspect, min(max(y + dice.between((-0.12, 0.12)), ground.horizon + 0.1), 1.0))]
            else:
                # Along the lower border of the picture, from its left edge round to its right one.
                x = near_x + number * dice.between((0.1, 0.35)) * (1 if near_x < aspect / 2 else -1)
                y = 1.0 if 0 <= x <= aspect else max(1.0 - max(-x, x - aspect), ground.horizon + 0.25)
                ends = [None, (min(max(x, 0.0), aspect), y)]
            if dice.unit() < 0.45:
                ends.reverse()
            speed = pace * math.exp(dice.between((math.log(0.7 * high), math.log(high))))
            lanes.append(Lane(ends[0], ends[1], vanishing_x, max(speed, low)))
        return lanes

    def _lane_story(self, *, quietly: bool = False) -> list[Actor]:
        """Along a lane; `quietly`: it has come before the clip begins, or goes after its end."""
        dice = self.dice
        number = dice.index(len(self.lanes))
        lane = self.lanes[number]
        jitter = dice.between((-0.01, 0.01)) * self.aspect
        return self._travel(
            "vehicle", self._shifted(lane.begin, jitter), self._shifted(lane.end, jitter), vanishing_x=lane.vanishing_x,
            speed_m_s=lane.speed_m_s * dice.between((0.95, 1.05)), lane=number,
            tale="quiet" if quietly else "through",
        )  # fmt: skip

    def _shifted(self, place: Place | None, jitter: float) -> Place | None:
        return place if place is None or place[0] in (0.0, self.aspect) else (place[0] + jitter, place[1])

    def _way_story(self, role: str) -> list[Actor]:
        """Through the picture, or into it to stay, or out of it after a rest; alone or with company."""
        dice, d = self.dice, self.d
        begin, end = self._draw_edge(), self._draw_edge()
        if begin == end or (begin and end and begin[0] == end[0] and begin[0] in (0.0, self.aspect)):
            begin = self._draw_edge()
        low, high = (math.log(speed) for speed in _SPEEDS_M_S[role])
        speed = math.exp(dice.between((low, high)))
        eager = 1.0 if role == "walker" else 0.5
        plot = {"through": 1.0, "pauses": d.stop_p * eager, "stays": 0.15 * eager, "sets off": 0.15 * eager}
        if self.setting.from_above and role == "object":
            plot = {"through": 1.0}
        if self.piece is not None and role == "walker":
            plot |= {"comes out": d.hidden_p * 2, "goes in": d.hidden_p * 2}
        tale = places.weighted(dice, plot)
        actors = self._travel(role, begin, end, tale=tale, speed_m_s=speed)
        if actors and role == "walker" and tale == "through" and dice.unit() < 0.2:
            shift = dice.between((0.04, 0.1)) * dice.pick((-1, 1))
            second = self._travel(
                role, self._moved(begin, shift), self._moved(end, shift), speed_m_s=speed * dice.between((0.97, 1.03)),
                beside=actors[0],
            )  # fmt: skip
            actors += second
        return actors

    def _moved(self, place: Place | None, shift: float) -> Place | None:
        if place is None:
            return None
        x, y = place
        on_side = x in (0.0, self.aspect)
        return (x, min(max(y + shift, self.ground.horizon + 0.15), 1.0)) if on_side else (x + shift, y)

    def _draw_edge(self) -> Place | None:
        """A place at the picture's edge where the ground is; None for the far end."""
        dice, ground = self.dice, self.ground
        side = places.weighted(dice, _SIDES_FROM_ABOVE if self.setting.from_above else _SIDES)
        lowest = max(ground.horizon + 0.2, 0.2 if self.setting.from_above else 0.42)
        if side == "far":
            return None
        if side == "bottom":
            return (dice.between((0.1, 0.9)) * self.aspect, 1.0)
        return (0.0 if side == "left" else self.aspect, dice.between((min(lowest, 0.9), 1.0)))

    def _end_on_ground(
        self, place: tuple[float, float] | None, width_m: float, height_m: float, vanishing_x: float
    ) -> tuple[float, float] | None:
        """(X, Z) where something of a size is just out of sight at a place of the picture's edge; None: impossible."""
        ground = self.ground
        if place is None:
            if ground.horizon < _LOOKS_DOWN:
                return ground.to_ground(vanishing_x, -0.02)
            far_row = ground.row_of_scale(SPECK / height_m)
            return ground.to_ground(vanishing_x, far_row) if far_row < 0.8 else None
        x, y = place
        if y >= 1.0 and 0 < x < self.aspect:
            row = ground.row_below_picture(height_m)
            return None if row is None else ground.to_ground(self.aspect / 2 + (x - self.aspect / 2) * 1.05, row)
        half = 0.55 * width_m * float(ground.scale_at(y))
        return ground.to_ground(x - half if x <= 0 else x + half, y)

    def _travel(
        self, role: str, begin: Place | None, end: Place | None, *, speed_m_s: float, tale: str = "through",
        lane: int = -1, vanishing_x: float | None = None, beside: Actor | None = None, class_name: str = "",
    ) -> list[Actor]:  # fmt: skip
        """An actor who goes over the ground from one place to another; none if these leave no way.

        Args:
          role: of `traits.ROLES`.
          begin, end: (x, y) at the picture's edge; None for the far end.
          speed_m_s: while it moves.
          tale: one of those above.
          lane: see `Actor.lane`.
          vanishing_x: where the far end is, on the horizon; None draws it.
          beside: whose company it is: both come at about the same time.
          class_name: "" draws one.
        """
        dice, ground = self.dice, self.ground
        if vanishing_x is None:
            vanishing_x = dice.between((0.15, 0.85)) * self.aspect
        far = (vanishing_x, max(ground.horizon, 0.0))
        ends = [far if place is None else place for place in (begin, end)]
        dx, dy = ends[1][0] - ends[0][0], ends[1][1] - ends[0][1]
        cutout, mirrored = self._cast(role, dx, dy, class_name)
        angle, height_m = 0.0, cutout.height_m * dice.between((0.9, 1.1))
        if self.setting.from_above:
            angle, height_m = self._seen_from_above(cutout, mirrored, dx, dy, role)
        shape = self._shape(cutout, angle)
        ways = [self._end_on_ground(place, height_m * shape, height_m, vanishing_x) for place in (begin, end)]
        if ways[0] is None or ways[1] is None:
            return []
        way = [ways[0], ways[1]]
        if tale in ("comes out", "goes in"):
            hidden = self._hidden_place(height_m, shape)
            if hidden is None:
                return []
            way[0 if tale == "comes out" else 1] = hidden
        elif tale in ("stays", "sets off"):
            inner = ground.to_ground(
                dice.between((0.15, 0.85)) * self.aspect, dice.between((max(ground.horizon + 0.3, 0.5), 0.97))
            )
            way[1 if tale == "stays" else 0] = inner
        if tale == "pauses":  # seldom does one go on in quite the same direction
            share, turn = dice.between((0.25, 0.75)), dice.between((-0.12, 0.12))
            (x0, z0), (x1, z1) = way
            way.insert(1, (x0 + share * (x1 - x0) + turn * (z1 - z0), z0 + share * (z1 - z0) - turn * (x1 - x0)))
            if way[1][1] <= 0:
                return []
        legs_m = np.array([0.0, *np.cumsum(np.hypot(*np.diff(np.array(way), axis=0).T))])
        length_m = float(legs_m[-1])
        duration_s = length_m / speed_m_s
        if duration_s > _LONGEST_S or length_m < 1e-3:
            return []
        duration_s = max(duration_s, _SHORTEST_S)
        knots = self._timetable(tale, length_m, legs_m, duration_s, beside, toward=end is not None and begin is None)
        gone_m = paced_distance(self.times_s, knots, min(dice.between((0.4, 1.0)), duration_s / 3))
        track = self._ground_track(
            way, legs_m, gone_m, height_m, duration_s, still=tale in ("stays", "sets off", "comes out", "goes in")
        )
        motion = "walks" if role == "walker" else ("rolls" if role == "object" and not self.setting.from_above else "")
        return [
            Actor(
                cutout, mirrored, shape, track, self._subject(cutout), _GROUND_KINDS, angle=angle, lane=lane,
                motion=motion, seed=self._seed(),
            )
        ]  # fmt: skip

    def _timetable(self, tale, length_m, legs_m, duration_s, beside, toward) -> list[tuple[float, float]]:
        """(t_s, metres gone), so that something of it happens in the clip."""
        dice = self.dice
        anchor_s = dice.between((0.2, self.clip_s - self.d.tail_s))
        if beside is not None:
            track = beside.track
            begun = int(np.flatnonzero(track.height > 0)[0]) if np.any(track.height > 0) else 0
            begin_s = float(self.times_s[begun]) + dice.between((-0.8, 0.8))
        elif tale in ("stays", "pauses", "goes in"):
            begin_s = anchor_s - dice.between((0.0, 0.5)) * duration_s
        elif tale in ("sets off", "comes out"):
            begin_s = anchor_s
        elif tale == "quiet":
            begin_s = (self.clip_s if toward else 0.0) - dice.between((0.1, 0.9)) * duration_s
        else:
            begin_s = anchor_s - duration_s * (1.0 if toward or dice.unit() < 0.5 else 0.0)
        if tale != "pauses":
            knots = [(begin_s, 0.0), (begin_s + duration_s, length_m)]
            if tale in ("stays", "goes in"):
                knots.append((begin_s + duration_s + 1e3, length_m))
            elif tale in ("sets off", "comes out"):
                knots.insert(0, (begin_s - 1e3, 0.0))
            return knots
        hold_s, stop_s = dice.between(self.d.hold_s), begin_s + duration_s * legs_m[1] / length_m
        go_s, end_s = stop_s + hold_s, begin_s + duration_s + hold_s
        return [(begin_s, 0.0), (stop_s, legs_m[1]), (go_s, legs_m[1]), (end_s, length_m)]

    def _ground_track(self, way, legs_m, gone_m, height_m, duration_s, still) -> Track:
        ground_x, ground_z = (np.interp(gone_m, legs_m, [place[k] for place in way]) for k in (0, 1))
        x, y = self.ground.to_picture(ground_x, ground_z)
        length_m = float(legs_m[-1])
        there = np.ones(len(gone_m), bool) if still else (gone_m > 0) & (gone_m < length_m)
        pace = np.abs(np.gradient(gone_m, self.times_s)) / (length_m / duration_s)
        # (One that stays has not gone before it came.)
        if still:
            there = (gone_m > 0) | (gone_m[0] >= 0)
            there &= (gone_m < length_m) | (gone_m[-1] <= length_m + 1e-6)
        height = np.where(there, height_m * self.ground.scale_at(y), 0.0)
        return Track(x, y, height, pace, gone_m, y)

    def _hidden_place(self, height_m: float, shape: float) -> tuple[float, float] | None:
        """A place on the ground where something is hidden behind the piece in front."""
        assert self.piece is not None
        columns = np.flatnonzero(self.piece.mask.max(axis=0)) / MASK_PX
        for _ in range(8):
            x, y = self.dice.pick(columns.tolist()), self.piece.base - self.dice.between((0.01, 0.12))
            if y <= self.ground.horizon + 0.05:
                continue
            height = height_m * float(self.ground.scale_at(y))
            covered = self.piece.cover(*(np.array([value]) for value in (x, y, height * shape, height)))
            if covered[0] > 0.93:
                return self.ground.to_ground(x, y)
        return None

    def _seen_from_above(self, cutout, mirrored, dx, dy, role) -> tuple[float, float]:
        """The angle by which its picture is turned, and the height of the turned picture in metres."""
        if role != "vehicle":
            angle = self.dice.between((-math.pi, math.pi))
            height, width = load_cutout(self.pack.root, cutout.files[0]).shape[:2]
            c, s = abs(math.cos(angle)), abs(math.sin(angle))
            return angle, cutout.height_m * (c + s * width / height)
        looks_left = (cutout.facing == "left") != mirrored
        angle = math.atan2(dy, dx) - (math.pi if looks_left else 0.0)
        height, width = load_cutout(self.pack.root, cutout.files[0]).shape[:2]
        metre = _VEHICLE_M / max(height, width)
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        return angle, metre * (s * width + c * height)

    def _wandering(self) -> list[Actor]:
        """From place to place inside the picture, without a rest."""
        dice, ground = self.dice, self.ground
        cutout, mirrored = self._cast("walker", 1.0, 0.0)
        height_m, shape = cutout.height_m * dice.between((0.9, 1.1)), self._shape(cutout)
        low = max(ground.horizon + 0.2, 0.45, ground.row_of_scale(self.d.smallest / height_m))
        if low > 0.9:
            return []
        way = [ground.to_ground(dice.between((0.15, 0.85)) * self.aspect, dice.between((low, 0.97))) for _ in range(40)]
        legs_m = np.array([0.0, *np.cumsum(np.hypot(*np.diff(np.array(way), axis=0).T))])
        first_s, speed = float(self.times_s[0]) - 1.0, dice.between((0.5, 1.3))
        needed_m = speed * (float(self.times_s[-1]) - first_s)
        if legs_m[-1] < needed_m:
            return []
        gone_m = speed * (self.times_s - first_s)
        x, y = ground.to_picture(*(np.interp(gone_m, legs_m, [place[k] for place in way]) for k in (0, 1)))
        ones = np.ones(len(gone_m))
        track = Track(x, y, height_m * ground.scale_at(y), ones, gone_m, y, leftward=np.gradient(x) < 0)
        return [
            Actor(
                cutout, mirrored, shape, track, self._subject(cutout), _GROUND_KINDS, motion="walks", seed=self._seed()
            )
        ]  # fmt: skip

    def _flying_story(self) -> list[Actor]:
        """Straight across the picture, at one size."""
        dice = self.dice
        right = dice.unit() < 0.5
        cutout, mirrored = self._cast("flyer", 1.0 if right else -1.0, 0.0)
        height, shape = dice.between((0.06, 0.22)), self._shape(cutout)
        half = height * shape * 0.55
        ends = [-half, self.aspect + half][:: 1 if right else -1]
        duration_s = dice.between((1.5, 7.0))
        begin_s = dice.between((0.2, self.clip_s - self.d.tail_s)) - (duration_s if dice.unit() < 0.5 else 0.0)
        share = (self.times_s - begin_s) / duration_s
        there = (share > 0) & (share < 1)
        rows = [dice.between((height + 0.02, 0.6)) for _ in "ab"]
        x, y = (a + (b - a) * share for a, b in (ends, rows))
        ones = np.ones(len(share))
        track = Track(x, y, height * there, ones, 4 * (self.times_s - begin_s), 0 * ones)
        return [
            Actor(
                cutout,
                mirrored,
                shape,
                track,
                self._subject(cutout),
                _AIR_KINDS,
                motion="idles",
                seed=self._seed(),
            )
        ]

    def _rolling_story(self) -> list[Actor]:
        """A ball comes rolling; other things are pushed."""
        dice = self.dice
        classes = places.casting(self.pack, self.setting, "object")
        round_ones = {name: cutouts for name, cutouts in classes.items() if name in ROUND}
        name = places.draw_class(round_ones or classes, dice)
        y = dice.between((0.55, 0.95))
        ends = [(0.0, y), (self.aspect, min(max(y + dice.between((-0.15, 0.15)), 0.4), 0.99))]
        if dice.unit() < 0.5:
            ends.reverse()
        tale = places.weighted(dice, {"through": 0.6, "stays": 0.25, "sets off": 0.15})
        low, high = (math.log(speed) for speed in _SPEEDS_M_S["object"])
        speed = math.exp(dice.between((low, high))) * (_FLOOR_FASTER if self.setting.name in ("room", "floor") else 1)
        return self._travel("object", *ends, tale=tale, speed_m_s=speed, class_name=name)
