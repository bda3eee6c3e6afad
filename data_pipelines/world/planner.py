"""Plans a scene: what happens is decided first, and the things' paths are laid so that nothing else does.

The rhythm fixes the times of all events, the *slots*. A thing that begins to move is at once committed to what ends
this motion, in a slot of its own: its speed is chosen so that it is there in time. A slot that nothing is committed to
gets an event that needs no motion before it (something enters, starts, changes colour ...). A dead end is undone, a
few slots back.
"""

import math

from data_pipelines.world.commentator import SIDES, WORD_GAP_S
from data_pipelines.world.config import RETURNS, WorldConfig
from data_pipelines.world.scene import INFINITY, OUTWARD, Dice, Motion, Scene, SceneDraft, Thing

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

# How readily each kind is tried in a slot that is free, set so that the kinds come about equally often.
_SUDDEN = {"enters": 1.6, "starts": 1.7, "recolours": 1.0, "appears": 0.8, "vanishes": 0.6}
# Meetings of two things are rare unless they are wanted: the share of clips that are planned anew until one happens.
_WISHES = {"collides": 0.4, "passes": 0.25}
_MOST_PLANS = 20_000
# Directions allowed for a motion: (unit x, unit y, lowest cosine to it, highest cosine to it).
Cone = tuple[float, float, float, float]
ANY_DIRECTION: Cone = (1.0, 0.0, -1.0, 1.0)


class DeadEndError(Exception):
    """Nothing fits; the planner goes back and tries anew."""


class Paths(SceneDraft):
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
                motion = getattr(self, f"_try_{kind}")(index, slot, t_s, x, y, cone, besides)
                if motion is not None:
                    return (kind, *motion)
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
        free = self._free_slots(slot, self._crossed_s(t_s))
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
        meetings = []
        for j in self._free_slots(slot, self._crossed_s(t_s)):
            met_s = self.slots_s[j]
            for other, thing in self._visible(met_s):
                known = thing.segments and thing.visible_from_s <= t_s and thing.locked_until_s <= t_s
                if other in (index, besides) or not known:
                    continue
                if thing.segments[-1][0] <= t_s + 1e-9 and self._inside(thing, met_s, thing.half_px + self._margin()):
                    meetings.append((j, other))
        return self.dice.shuffled(meetings)

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


class _Planner(Paths):
    """Goes from slot to slot.

    `_kind` lets happen what a thing was committed to, `_sudden_kind` tries what needs no motion before it.
    """

    def __init__(self, config: WorldConfig, dice: Dice, wish: str):
        super().__init__(config, dice, wish)
        self.sudden = [kind for kind in _SUDDEN if kind in self.dynamics.kinds]

    def begin(self):
        """Things that are there at time 0."""
        low, high = self.dynamics.initial_things
        for _ in range(low + self.dice.index(high - low + 1)):
            index = self._add(0.0)
            if index is None:
                continue
            thing = self.things[index]
            thing.visible_from_s = -INFINITY
            if not self._put_somewhere(index, 0.0):
                self.things.pop()
            elif self.dice.unit() < 0.65:
                self._set_moving(index, -1, ANY_DIRECTION)

    def go_through_slots(self):
        slot, failures = 0, 0
        saved: list[tuple] = []
        while slot < len(self.slots_s):
            saved[slot:] = [self._save()]
            try:
                self._happen(slot)
                slot += 1
            except DeadEndError:
                failures += 1
                if failures > 6 * len(self.slots_s) + 12:
                    raise
                slot = max(slot - self.dice.index(4), 0)
                self._restore(saved[slot])

    def _happen(self, slot: int):
        if slot in self.owner:
            index = self.owner[slot]
            commitment = self.things[index].commitment
            if commitment is None:
                raise DeadEndError
            getattr(self, f"_{commitment[1]}")(index, slot, commitment[2])
            return
        for kind in self.dice.shuffled(self.sudden, _SUDDEN):
            saved = self._save()
            if getattr(self, f"_sudden_{kind}")(slot):
                return
            self._restore(saved)
        raise DeadEndError

    def _leaves(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        thing.commitment = None
        self._add_event(slot, "leaves", thing.name, self._side_of(thing, t_s))

    def _bounces(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        nx, ny = OUTWARD[self._side_of(thing, t_s)]
        _, _, _, vx, vy = thing.segment_at(t_s)
        towards = vx * nx + vy * ny
        self._add_event(slot, "bounces", thing.name)
        self._redirect(index, slot, (vx - 2 * towards * nx, vy - 2 * towards * ny), math.radians(35))

    def _stops(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        thing.move(t_s, *thing.place_at(t_s), 0.0, 0.0)
        thing.commitment = None
        self._add_event(slot, "stops", thing.name)

    def _turns(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        _, _, _, vx, vy = thing.segment_at(t_s)
        speed = math.hypot(vx, vy)
        self._add_event(slot, "turns", thing.name)
        cone = (vx / speed, vy / speed, math.cos(math.radians(120)), math.cos(math.radians(60)))
        if not self._set_moving(index, slot, cone):
            raise DeadEndError

    def _vanishes(self, index: int, slot: int, _other: int):
        thing = self.things[index]
        thing.commitment = None
        thing.visible_until_s = self.slots_s[slot]
        self._add_event(slot, "vanishes", thing.name)

    def _collides(self, index: int, slot: int, other: int):
        t_s = self.slots_s[slot]
        self._add_event(slot, "collides", self.things[index].name, self.things[other].name)
        for i, besides in ((other, index), (index, other)):
            thing = self.things[i]
            (x, y), motion = thing.place_at(t_s), self._take_afterwards(thing)
            _, vx, vy, end_slot, _ = motion
            end_s = self.config.clip_s if end_slot is None else self.slots_s[end_slot]
            if not self._clear(i, x, y, vx, vy, t_s, end_s, besides):
                raise DeadEndError
            self._apply(i, t_s, x, y, motion)

    def _passes(self, index: int, slot: int, other: int):
        thing = self.things[index]
        self._add_event(slot, "passes", thing.name, self.things[other].name)
        (kind, vx, vy, end_slot, _), thing.commitment = self._take_afterwards(thing), None
        x, y = thing.place_at(self.slots_s[slot])
        end_s = self.config.clip_s if end_slot is None else self.slots_s[end_slot]
        if not self._clear(index, x, y, vx, vy, self.slots_s[slot], end_s, other):
            raise DeadEndError
        thing.locked_until_s = self._out_s(thing, self.things[other], self.slots_s[slot], math.hypot(vx, vy))
        if end_slot is not None:
            self._commit(index, end_slot, kind, -1)

    def _take_afterwards(self, thing: Thing) -> Motion:
        motion, thing.afterwards = thing.afterwards, None
        if motion is None:
            raise DeadEndError
        return motion

    def _sudden_enters(self, slot: int) -> bool:
        if self._present(self.slots_s[slot]) >= self.dynamics.max_things:
            return False
        t_s = self.slots_s[slot]
        side = self.dice.pick(SIDES)
        (nx, ny), (px, py) = OUTWARD[side], self.pan.at(t_s)
        returns = self.dynamics.returns
        back = self._bring_back(t_s - 1.2) if returns and self.dice.unit() < returns else None
        index = self._add(t_s - 1.2) if back is None else back
        if index is None:
            return False
        thing = self.things[index]
        edge_px = self.height_px if nx else self.width_px
        along = self.dice.between((1.5 * thing.half_px, edge_px - 1.5 * thing.half_px))
        x = px + {-1.0: 0.0, 1.0: self.width_px}.get(nx, along)
        y = py + {-1.0: 0.0, 1.0: self.height_px}.get(ny, along)
        thing.move(t_s, x, y, 0.0, 0.0)
        if not self._set_moving(index, slot, (-nx, -ny, STEEPNESS, 1.0)):
            return False
        _, _, _, vx, vy = thing.segments[-1]
        out_s = 1.6 * thing.half_px / abs(vx * nx + vy * ny)
        if not self._clear(index, x - out_s * vx, y - out_s * vy, vx, vy, t_s - out_s, t_s):
            return False
        thing.segments = ((t_s - out_s, x - out_s * vx, y - out_s * vy, vx, vy),)
        thing.visible_from_s = t_s - out_s
        self._add_event(slot, "enters" if back is None else RETURNS, thing.name, side)
        return True

    def _sudden_starts(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        seen = [(i, thing) for i, thing in self._visible(t_s) if thing.locked_until_s < t_s]
        waiting = [i for i, thing in seen if thing.resting and not thing.commitment]
        if not waiting:
            return False
        index = self.dice.pick(waiting)
        thing = self.things[index]
        thing.move(t_s, *thing.place_at(t_s), 0.0, 0.0)
        self._add_event(slot, "starts", thing.name)
        return self._set_moving(index, slot, ANY_DIRECTION)

    def _sudden_recolours(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        candidates = [i for i, thing in self._visible(t_s) if self._inside(thing, t_s) and thing.locked_until_s < t_s]
        if not candidates:
            return False
        thing = self.things[self.dice.pick(candidates)]
        taken = {(other.colour, other.shape) for _, other in self._visible(t_s - 1.2)}
        free = [colour for colour in self.dynamics.colours if (colour, thing.shape) not in taken]
        if not free:
            return False
        colour = self.dice.pick(free)
        self._add_event(slot, "recolours", thing.name, colour)
        thing.colours = (*thing.colours, (t_s, colour))
        return True

    def _sudden_appears(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        index = self._add(t_s) if self._present(t_s) < self.dynamics.max_things else None
        if index is None or not self._put_somewhere(index, t_s):
            return False
        self.things[index].visible_from_s = t_s
        if self.dice.unit() < 0.4:
            self._set_moving(index, slot, ANY_DIRECTION)
        self._add_event(slot, "appears", self.things[index].name)
        return True

    def _sudden_vanishes(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        free = [i for i, thing in self._visible(t_s) if not thing.commitment and thing.locked_until_s < t_s]
        free = [index for index in free if self._inside(self.things[index], t_s)]
        if not free:
            return False
        self._vanishes(self.dice.pick(free), slot, -1)
        return True


def plan_scene(config: WorldConfig, dice: Dice) -> Scene:
    """Plans all that happens in a clip."""
    wishes = [kind for kind in _WISHES if kind in config.dynamics.kinds]
    lot = dice.unit()
    wish = next((kind for kind in wishes if (lot := lot - _WISHES[kind]) < 0), "")
    for _ in range(_MOST_PLANS):
        planner = _Planner(config, dice, wish)
        try:
            planner.begin()
            planner.go_through_slots()
        except DeadEndError:
            continue
        if wish and not any(event.kind == wish for event in planner.events):
            continue
        order = dice.shuffled(range(len(planner.things)))
        # What passes behind another thing is drawn before it.
        rank = {index: place for place, index in enumerate(order)}
        for behind, front in planner.hidden:
            if rank[behind] > rank[front]:
                rank[behind], rank[front] = rank[front], rank[behind]
        if any(rank[behind] > rank[front] for behind, front in planner.hidden):
            continue
        things = tuple(planner.things[index] for index in sorted(rank, key=lambda index: rank[index]))
        return Scene(things, tuple(planner.events), planner.pan)
    raise RuntimeError(f"no plan for a world of {config.dynamics} in {_MOST_PLANS} attempts; its ranges leave no room")
