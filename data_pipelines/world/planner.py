"""Plans a scene: what happens is decided first, and the things' paths are laid so that nothing else does.

The rhythm fixes the times of all events, the *slots*. A thing that begins to move is at once committed to what ends
this motion, in a slot of its own: its speed is chosen so that it is there in time. A slot that nothing is committed to
gets an event that needs no motion before it (something enters, starts, changes colour ...). A dead end is undone, a
few slots back.
"""

import math

from data_pipelines.world.commentator import SIDES
from data_pipelines.world.config import RETURNS, WorldConfig
from data_pipelines.world.dice import Dice
from data_pipelines.world.paths import ANY_DIRECTION, STEEPNESS, DeadEndError, Paths
from data_pipelines.world.scene import INFINITY, Motion, Scene, Thing
from data_pipelines.world.stage import OUTWARD

# How readily each kind is tried in a slot that is free, set so that the kinds come about equally often.
_SUDDEN = {"enters": 1.6, "starts": 1.7, "recolours": 1.0, "appears": 0.8, "vanishes": 0.6}
# Meetings of two things are rare unless they are wanted: the share of clips that are planned anew until one happens.
_WISHES = {"collides": 0.4, "passes": 0.25}
_MOST_PLANS = 20_000


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
            thing.seen_from_s = -INFINITY
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
        self._tell(slot, "leaves", thing.name, self._side_of(thing, t_s))

    def _bounces(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        nx, ny = OUTWARD[self._side_of(thing, t_s)]
        _, _, _, vx, vy = thing.segment_at(t_s)
        towards = vx * nx + vy * ny
        self._tell(slot, "bounces", thing.name)
        self._redirect(index, slot, (vx - 2 * towards * nx, vy - 2 * towards * ny), math.radians(35))

    def _stops(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        thing.move(t_s, *thing.place_at(t_s), 0.0, 0.0)
        thing.commitment = None
        self._tell(slot, "stops", thing.name)

    def _turns(self, index: int, slot: int, _other: int):
        thing, t_s = self.things[index], self.slots_s[slot]
        _, _, _, vx, vy = thing.segment_at(t_s)
        speed = math.hypot(vx, vy)
        self._tell(slot, "turns", thing.name)
        cone = (vx / speed, vy / speed, math.cos(math.radians(120)), math.cos(math.radians(60)))
        if not self._set_moving(index, slot, cone):
            raise DeadEndError

    def _vanishes(self, index: int, slot: int, _other: int):
        thing = self.things[index]
        thing.commitment = None
        thing.seen_until_s = self.slots_s[slot]
        self._tell(slot, "vanishes", thing.name)

    def _collides(self, index: int, slot: int, other: int):
        t_s = self.slots_s[slot]
        self._tell(slot, "collides", self.things[index].name, self.things[other].name)
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
        self._tell(slot, "passes", thing.name, self.things[other].name)
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
        along = self.dice.between((1.5 * thing.half_px, self.px - 1.5 * thing.half_px))
        x = px + {-1.0: 0.0, 1.0: self.px}.get(nx, along)
        y = py + {-1.0: 0.0, 1.0: self.px}.get(ny, along)
        thing.move(t_s, x, y, 0.0, 0.0)
        if not self._set_moving(index, slot, (-nx, -ny, STEEPNESS, 1.0)):
            return False
        _, _, _, vx, vy = thing.segments[-1]
        out_s = 1.6 * thing.half_px / abs(vx * nx + vy * ny)
        if not self._clear(index, x - out_s * vx, y - out_s * vy, vx, vy, t_s - out_s, t_s):
            return False
        thing.segments = ((t_s - out_s, x - out_s * vx, y - out_s * vy, vx, vy),)
        thing.seen_from_s = t_s - out_s
        self._tell(slot, "enters" if back is None else RETURNS, thing.name, side)
        return True

    def _sudden_starts(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        seen = [(i, thing) for i, thing in self._seen(t_s) if thing.locked_until_s < t_s]
        waiting = [i for i, thing in seen if thing.resting and not thing.commitment]
        if not waiting:
            return False
        index = self.dice.pick(waiting)
        thing = self.things[index]
        thing.move(t_s, *thing.place_at(t_s), 0.0, 0.0)
        self._tell(slot, "starts", thing.name)
        return self._set_moving(index, slot, ANY_DIRECTION)

    def _sudden_recolours(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        candidates = [i for i, thing in self._seen(t_s) if self._inside(thing, t_s) and thing.locked_until_s < t_s]
        if not candidates:
            return False
        thing = self.things[self.dice.pick(candidates)]
        taken = {(other.colour, other.shape) for _, other in self._seen(t_s - 1.2)}
        free = [colour for colour in self.dynamics.colours if (colour, thing.shape) not in taken]
        if not free:
            return False
        colour = self.dice.pick(free)
        self._tell(slot, "recolours", thing.name, colour)
        thing.colours = (*thing.colours, (t_s, colour))
        return True

    def _sudden_appears(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        index = self._add(t_s) if self._present(t_s) < self.dynamics.max_things else None
        if index is None or not self._put_somewhere(index, t_s):
            return False
        self.things[index].seen_from_s = t_s
        if self.dice.unit() < 0.4:
            self._set_moving(index, slot, ANY_DIRECTION)
        self._tell(slot, "appears", self.things[index].name)
        return True

    def _sudden_vanishes(self, slot: int) -> bool:
        t_s = self.slots_s[slot]
        free = [i for i, thing in self._seen(t_s) if not thing.commitment and thing.locked_until_s < t_s]
        free = [index for index in free if self._inside(self.things[index], t_s)]
        if not free:
            return False
        self._vanishes(self.dice.pick(free), slot, -1)
        return True
