"""Paths: how a thing can move from where it is, and what ends that motion in a free slot."""

import math

from data_pipelines.world.commentator import WORD_GAP_S
from data_pipelines.world.config import WorldConfig
from data_pipelines.world.dice import Dice
from data_pipelines.world.scene import INFINITY, Motion
from data_pipelines.world.stage import Stage

# How readily each kind is tried, set so that the kinds come about equally often.
_READINESS = {
    "leaves": 0.25, "bounces": 0.5, "stops": 1.6, "collides": 3.0, "turns": 3.0, "passes": 3.0, "vanishes": 0.7,
}  # fmt: skip
_EAGER = 20.0
_TRIES = 6
# These try all things that could be met by themselves, at so many angles.
_SEARCHED = ("collides", "passes")
_AIMS = 3
# A thing that meets another, or moves to the clip's end, may be slower than others by this factor.
_GENTLENESS = 0.6
_LONGEST_DRIFT_S = 5.0
_REBOUND_SPREAD = math.radians(50)
# A path meets an edge at no less than this cosine to its normal, so that the crossing has a clear time.
STEEPNESS = 0.45
# A colliding thing is faster than what it hits by this factor, so that who hits whom can be seen.
_FASTER = 1.6
_AFTER_COLLISION_S = 5 * WORD_GAP_S

# Directions allowed for a motion: (unit x, unit y, lowest cosine to it, highest cosine to it).
Cone = tuple[float, float, float, float]
ANY_DIRECTION: Cone = (1.0, 0.0, -1.0, 1.0)


class DeadEndError(Exception):
    """Nothing fits; the planner goes back and tries anew."""


class Paths(Stage):
    """Finds motions. Each `_try_` gives (vx, vy, slot, other thing or -1), or None if what it tried does not fit.

    Args:
      config, dice: as everywhere.
      wish: the kind of event that is tried before all others, "" for none.
    """

    def __init__(self, config: WorldConfig, dice: Dice, wish: str):
        super().__init__(config, dice)
        self.readiness = {kind: _EAGER if kind == wish else weight for kind, weight in _READINESS.items()}
        self.ends_of_motion = [kind for kind in _READINESS if kind in self.dynamics.kinds]

    def _set_moving(self, index: int, slot: int, cone: Cone, besides: int = -1) -> bool:
        """Gives a thing a motion from a slot's time on (-1: time 0), and what ends it; False if none fits.

        Args:
          index: which thing; it is where its last segment puts it.
          slot: when.
          cone: the directions allowed.
          besides: a thing that the path need not keep clear of, -1 for none.
        """
        t_s = 0.0 if slot < 0 else self.slots_s[slot]
        x, y = self.things[index].place_at(t_s)
        motion = self._find_motion(index, slot, t_s, x, y, cone, besides, self.ends_of_motion)
        if motion is None:
            return False
        self._apply(index, t_s, x, y, motion)
        return True

    def _find_motion(self, index, slot, t_s, x, y, cone, besides, kinds) -> Motion | None:
        for kind in [*self.dice.shuffled(kinds, self.readiness), "drifts"]:
            for _ in range(1 if kind in _SEARCHED else _TRIES):
                found = getattr(self, f"_try_{kind}")(index, slot, t_s, x, y, cone, besides)
                if found is not None:
                    return (kind, *found)
        return None

    def _redirect(self, index: int, slot: int, direction: tuple[float, float], spread: float, besides: int = -1):
        length = math.hypot(*direction)
        cone = (direction[0] / length, direction[1] / length, math.cos(spread), 1.0)
        if not self._set_moving(index, slot, cone, besides):
            raise DeadEndError

    def _apply(self, index: int, t_s: float, x: float, y: float, motion: Motion):
        kind, vx, vy, end_slot, other = motion
        thing = self.things[index]
        thing.move(t_s, x, y, vx, vy)
        thing.commitment = None
        if end_slot is not None:
            self._commit(index, end_slot, kind, other)
            if kind == "leaves":
                self._let_go(thing, self.slots_s[end_slot])

    def _direction(self, cone: Cone) -> tuple[float, float]:
        dx, dy, low, high = cone
        angle = self.dice.between((math.acos(high), math.acos(low)))
        if self.dice.unit() < 0.5:
            angle = -angle
        c, s = math.cos(angle), math.sin(angle)
        return dx * c - dy * s, dx * s + dy * c

    def _slowest(self, besides: int) -> float:
        return self.slow_px_s * (_GENTLENESS if besides >= 0 else 1.0)

    def _allowed(self, vx: float, vy: float, speed: float, cone: Cone) -> bool:
        dx, dy, low, high = cone
        if not _GENTLENESS * self.slow_px_s <= speed <= self.fast_px_s:
            return False
        return low - 1e-6 <= (vx * dx + vy * dy) / speed <= high + 1e-6

    def _try_leaves(self, index, slot, t_s, x, y, cone, besides):
        return self._try_edge(index, slot, t_s, x, y, cone, besides, inset=0.0)

    def _try_bounces(self, index, slot, t_s, x, y, cone, besides):
        return self._try_edge(index, slot, t_s, x, y, cone, besides, inset=self.things[index].half_px)

    def _try_edge(self, index, slot, t_s, x, y, cone, besides, inset):
        thing = self.things[index]
        ux, uy = self._direction(cone)
        for j in self.dice.shuffled(self._free_slots(slot)):
            x0, y0, x1, y1 = self._box(inset, self.slots_s[j])
            to_x = ((x1 if ux > 0 else x0) - x) / ux if ux else INFINITY
            to_y = ((y1 if uy > 0 else y0) - y) / uy if uy else INFINITY
            distance = min(to_x, to_y)
            if not 0 < distance < INFINITY or abs(ux if to_x < to_y else uy) < STEEPNESS:
                continue
            speed = distance / (self.slots_s[j] - t_s)
            if not self._slowest(besides) <= speed <= self.fast_px_s:
                continue
            along = y + uy * distance - y0 if to_x < to_y else x + ux * distance - x0
            corner = 1.5 * thing.half_px - inset + self._margin() / 2
            if not corner <= along <= (y1 - y0) - corner:
                continue
            beyond_s = 0.0 if inset else 1.6 * thing.half_px / (speed * STEEPNESS)
            vx, vy = ux * speed, uy * speed
            if self._clear(index, x, y, vx, vy, t_s, self.slots_s[j] + min(beyond_s, 1.2), besides):
                return vx, vy, j, -1
        return None

    def _try_stops(self, index, slot, t_s, x, y, cone, besides):
        """Ends anywhere inside the frame. What comes after needs its own room, a thing that stops needs it for good."""
        free = self._free_slots(slot, t_s + self.px / self.slow_px_s)
        if not free:
            return None
        j = free[min(self.dice.index(len(free)), self.dice.index(len(free)))]
        end_s = self.slots_s[j]
        ux, uy = self._direction(cone)
        speed = self.dice.between((self._slowest(besides), self.fast_px_s))
        vx, vy = ux * speed, uy * speed
        end_x, end_y = x + vx * (end_s - t_s), y + vy * (end_s - t_s)
        x0, y0, x1, y1 = self._box(self.things[index].half_px + self._margin(), end_s)
        if not (x0 <= end_x <= x1 and y0 <= end_y <= y1):
            return None
        if not self._clear(index, x, y, vx, vy, t_s, end_s, besides):
            return None
        return (vx, vy, j, -1) if self._clear(index, end_x, end_y, 0.0, 0.0, end_s, INFINITY, besides) else None

    _try_turns = _try_vanishes = _try_stops

    def _try_drifts(self, index, slot, t_s, x, y, cone, besides):
        """Moves on to the clip's end."""
        ux, uy = self._direction(cone)
        speed = self.dice.between((_GENTLENESS * self.slow_px_s, self.slow_px_s))
        end_s = self.config.clip_s + 0.2
        vx, vy = ux * speed, uy * speed
        end_x, end_y = x + vx * (end_s - t_s), y + vy * (end_s - t_s)
        x0, y0, x1, y1 = self._box(self.things[index].half_px, end_s)
        if not (x0 <= end_x <= x1 and y0 <= end_y <= y1):
            return None
        return (vx, vy, None, -1) if self._clear(index, x, y, vx, vy, t_s, end_s, besides) else None

    def _meetings(self, index: int, slot: int, t_s: float, besides: int) -> list[tuple[int, int]]:
        """All (slot, other thing) such that the other is known to be inside the frame at that slot's time, shuffled."""
        found = []
        for j in self._free_slots(slot, t_s + self.px / self.slow_px_s):
            met_s = self.slots_s[j]
            for other, thing in self._seen(met_s):
                known = thing.segments and thing.seen_from_s <= t_s and thing.locked_until_s <= t_s
                if other in (index, besides) or not known:
                    continue
                if thing.segments[-1][0] <= t_s + 1e-9 and self._inside(thing, met_s, thing.half_px + self._margin()):
                    found.append((j, other))
        return self.dice.shuffled(found)

    def _try_collides(self, index, slot, t_s, x, y, cone, besides):
        for j, other in self._meetings(index, slot, t_s, besides):
            if not self._can_be_struck(other, j):
                continue
            for _ in range(_AIMS):
                velocity = self._aim(index, other, j, t_s, x, y, cone, besides)
                if velocity and self._rebound(index, other, j, t_s, x, y, *velocity):
                    return *velocity, j, other
        return None

    def _rebound(self, index, other, slot, t_s, x, y, vx, vy) -> bool:
        """Finds how both things go on after a collision, and reserves the slots where this ends."""
        a, b, met_s = self.things[index], self.things[other], self.slots_s[slot]
        ax, ay = x + vx * (met_s - t_s), y + vy * (met_s - t_s)
        bx, by = b.place_at(met_s)
        distance = math.hypot(ax - bx, ay - by)
        ux, uy = (ax - bx) / distance, (ay - by) / distance
        towards = 2 * (vx * ux + vy * uy)
        back, spread = math.hypot(vx - towards * ux, vy - towards * uy), math.cos(_REBOUND_SPREAD)
        kinds = [kind for kind in self.ends_of_motion if kind not in _SEARCHED]
        # The struck thing first: it moves on towards an edge and has less room.
        after_b = self._find_motion(other, slot, met_s, bx, by, (-ux, -uy, spread, 1.0), index, kinds)
        if after_b is None:
            return False
        self.owner[slot] = index
        if after_b[3] is not None:
            self.owner[after_b[3]] = other
        cone = ((vx - towards * ux) / back, (vy - towards * uy) / back, spread, 1.0)
        after_a = self._find_motion(index, slot, met_s, ax, ay, cone, other, kinds)
        if after_a is None:
            del self.owner[slot]
            if after_b[3] is not None:
                del self.owner[after_b[3]]
            return False
        if after_a[3] is not None:
            self.owner[after_a[3]] = index
        a.afterwards, b.afterwards = after_a, after_b
        return True

    def _can_be_struck(self, other: int, slot: int) -> bool:
        commitment, met_s = self.things[other].commitment, self.slots_s[slot]
        if commitment and commitment[1] in ("struck", "collides", "passes"):
            return False
        if commitment and self.slots_s[commitment[0]] <= met_s + _AFTER_COLLISION_S:
            return False
        # Both need something to do afterwards.
        if len(self._free_slots(slot)) < 2 and self.config.clip_s - met_s > _LONGEST_DRIFT_S:
            return False
        next_s = self.slots_s[slot + 1] if slot + 1 < len(self.slots_s) else INFINITY
        return next_s - met_s >= _AFTER_COLLISION_S - self.dynamics.lag_s

    def _aim(self, index, other, slot, t_s, x, y, cone, besides) -> tuple[float, float] | None:
        """A velocity from (x, y) that touches the other's outline, near its middle, at the slot's time."""
        a, b, met_s = self.things[index], self.things[other], self.slots_s[slot]
        bx, by = b.place_at(met_s)
        aim = math.atan2(y - by, x - bx) + self.dice.between((-0.5, 0.5))
        ux, uy = math.cos(aim), math.sin(aim)
        gap = a.reach(-ux, -uy) + b.reach(ux, uy)
        end_x, end_y = bx + ux * gap, by + uy * gap
        vx, vy = (end_x - x) / (met_s - t_s), (end_y - y) / (met_s - t_s)
        speed = math.hypot(vx, vy)
        bvx, bvy = b.segments[-1][3:]
        if not self._allowed(vx, vy, speed, cone) or speed < _FASTER * math.hypot(bvx, bvy):
            return None
        # Head-on enough: most of the speed goes into the contact, and was not in contact before.
        if (vx - bvx) * ux + (vy - bvy) * uy > -0.6 * math.hypot(vx - bvx, vy - bvy):
            return None
        x0, y0, x1, y1 = self._box(a.half_px + self._margin() / 2, met_s)
        if not (x0 <= end_x <= x1 and y0 <= end_y <= y1):
            return None
        return (vx, vy) if self._clear(index, x, y, vx, vy, t_s, met_s, other, besides) else None

    def _try_passes(self, index, slot, t_s, x, y, cone, besides):
        for j, other in self._meetings(index, slot, t_s, besides):
            a, b, met_s = self.things[index], self.things[other], self.slots_s[j]
            if not b.resting or b.commitment or (other, index) in self.hidden:
                continue
            bx, by = b.place_at(met_s)
            away = math.hypot(bx - x, by - y)
            if away < a.half_px + b.half_px + 2 * self.scale:
                continue
            # The event is when the centre goes behind: half of it is hidden.
            speed = (away - b.half_px) / (met_s - t_s)
            vx, vy = (bx - x) / away * speed, (by - y) / away * speed
            if not self._allowed(vx, vy, speed, cone):
                continue
            if not self._clear(index, x, y, vx, vy, t_s, met_s, other, besides):
                continue
            end_x, end_y = x + vx * (met_s - t_s), y + vy * (met_s - t_s)
            beyond = self._beyond(index, j, other, end_x, end_y, vx, vy)
            if beyond is None:
                continue
            kind, end_slot = beyond
            a.afterwards = (kind, vx, vy, end_slot, -1)
            if end_slot is not None:
                self.owner[end_slot] = index
            self.hidden.append((index, other))
            b.locked_until_s = self._out_s(a, b, met_s, speed)
            return vx, vy, j, other
        return None

    def _beyond(self, index, slot, other, x, y, vx, vy) -> tuple[str, int | None] | None:
        """What a thing can do once it has come out from behind another, its motion unchanged: (kind, slot)."""
        a, b, t_s = self.things[index], self.things[other], self.slots_s[slot]
        out_s = self._out_s(a, b, t_s, math.hypot(vx, vy))
        kinds = [kind for kind in ("stops", "turns", "vanishes") if kind in self.ends_of_motion]
        for kind in [*self.dice.shuffled(kinds, _READINESS), "drifts"]:
            for j in [None] if kind == "drifts" else self._free_slots(slot):
                end_s = self.config.clip_s + 0.2 if j is None else self.slots_s[j]
                if end_s < out_s:
                    continue
                end_x, end_y = x + vx * (end_s - t_s), y + vy * (end_s - t_s)
                x0, y0, x1, y1 = self._box(a.half_px + (0.0 if j is None else self._margin()), end_s)
                if not (x0 <= end_x <= x1 and y0 <= end_y <= y1):
                    break
                if self._clear(index, x, y, vx, vy, t_s, end_s, other):
                    return kind, j
        return None
