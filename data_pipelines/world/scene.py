"""A scene: things and where they are at any time; and a scene in the making, with chance and room for what happens.

Positions are pixels in the world; the camera's pan maps them to the frame: `frame = world - pan(t)`. y points down.
"""

import copy
import dataclasses
import math

import numpy as np

from data_pipelines.schema import Event
from data_pipelines.world.config import WorldConfig

INFINITY = math.inf

# What a thing is bound to do next: (slot in the rhythm, kind of event, index of the other thing or -1).
Commitment = tuple[int, str, int]
# From a time on, a thing moves from a place at a velocity: (t_s, x, y, vx, vy).
Segment = tuple[float, float, float, float, float]
# A straight motion and what ends it: (kind of event or "drifts", vx, vy, slot or None, other thing or -1).
Motion = tuple[str, float, float, int | None, int]
# Where a clip's silence may begin, as shares of its livelier time: something happens before it and after it.
_QUIET_FROM = (0.35, 0.65)
# Attempts to find a new thing, or a place for one.
_TRIES = 12
# The sides of the frame, each with its outward direction (x, y).
OUTWARD = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "top": (0.0, -1.0), "bottom": (0.0, 1.0)}


@dataclasses.dataclass
class Thing:
    """Something that moves along straight segments.

    Attributes:
      shape: "circle", "car" ...
      half_px: half its width and height.
      colours: (since_s, colour) in order of time.
      segments: how it moves, in order of time.
      visible_from_s, visible_until_s: it does not exist before and after.
      commitment: what it is bound to do next, None if nothing.
      afterwards: how it moves on when it has met another thing.
      identity: things of one identity are one and the same, which left and came back; None: it never does.
      locked_until_s: it must not change its motion before, since another thing counts on it.
    """

    shape: str
    half_px: float
    colours: tuple[tuple[float, str], ...]
    segments: tuple[Segment, ...] = ()
    visible_from_s: float = -INFINITY
    visible_until_s: float = INFINITY
    commitment: Commitment | None = None
    afterwards: Motion | None = None
    locked_until_s: float = -INFINITY
    identity: int | None = None

    @property
    def colour(self) -> str:
        """The latest colour."""
        return self.colours[-1][1]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def resting(self) -> bool:
        return self.segments[-1][3] == 0 and self.segments[-1][4] == 0

    def is_visible(self, t_s: float) -> bool:
        return self.visible_from_s <= t_s < self.visible_until_s

    def colour_at(self, t_s: float) -> str:
        now = self.colours[0][1]
        for since_s, colour in self.colours:
            if since_s > t_s:
                break
            now = colour
        return now

    def segment_at(self, t_s: float) -> Segment:
        now = self.segments[0]
        for segment in self.segments:
            if segment[0] > t_s:
                break
            now = segment
        return now

    def place_at(self, t_s: float) -> tuple[float, float]:
        """(x, y) of the centre, in the world."""
        since_s, x, y, vx, vy = self.segment_at(t_s)
        return x + vx * (t_s - since_s), y + vy * (t_s - since_s)

    def move(self, t_s: float, x: float, y: float, vx: float, vy: float):
        """From `t_s` on it moves so; what was planned for later is forgotten."""
        self.segments = (*(segment for segment in self.segments if segment[0] < t_s), (t_s, x, y, vx, vy))

    def reach(self, ux: float, uy: float) -> float:
        """Pixels from the centre to the outline in the direction of the unit vector."""
        if self.shape == "circle":
            return self.half_px
        if self.shape == "square":
            return min(self.half_px / max(abs(ux), abs(uy)), 1.25 * self.half_px)
        return 0.95 * self.half_px


@dataclasses.dataclass(frozen=True)
class Pan:
    """A slow camera: one sine for each axis. (amplitude in px, angular speed in rad/s, phase in rad)."""

    x: tuple[float, float, float] = (0.0, 0.0, 0.0)
    y: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def at(self, t_s: float) -> tuple[float, float]:
        (ax, wx, px), (ay, wy, py) = self.x, self.y
        return ax * math.sin(wx * t_s + px), ay * math.sin(wy * t_s + py)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What happens in a clip.

    Attributes:
      things: from back to front.
      events: in order of time.
      pan: the camera.
    """

    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    pan: Pan


class Dice:
    """Uniform random numbers one at a time, drawn in blocks since NumPy's single draws are slow."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._block: list[float] = []

    def unit(self) -> float:
        if not self._block:
            self._block = self._rng.random(512).tolist()
        return self._block.pop()

    def between(self, span: tuple[float, float]) -> float:
        return span[0] + (span[1] - span[0]) * self.unit()

    def index(self, count: int) -> int:
        return int(self.unit() * count)

    def pick(self, options):
        return options[int(self.unit() * len(options))]

    def shuffled(self, options, weights: dict | None = None) -> list:
        """A random order; a heavier option tends to come earlier."""
        return sorted(options, key=lambda o: self.unit() ** (1 / (weights[o] if weights else 1.0)), reverse=True)


def rhythm(config: WorldConfig, dice: Dice) -> list[float]:
    """The times of all events, in seconds: calm and busy spans in turn, and perhaps a silence."""
    d = config.dynamics
    quiet_s = dice.between(d.quiet_s) if d.quiet_s[1] else 0.0
    lively_s = config.clip_s - quiet_s
    busy = dice.unit() < 0.6
    t_s = dice.between(d.first_s)
    span_ends_s = dice.between(d.busy_span_s if busy else d.calm_span_s)
    times_s: list[float] = []
    while t_s <= lively_s - d.tail_s:
        times_s.append(t_s)
        t_s += dice.between(d.busy_gap_s if busy else d.calm_gap_s)
        if t_s > span_ends_s:
            busy = not busy
            span_ends_s = t_s + dice.between(d.busy_span_s if busy else d.calm_span_s)
    if quiet_s:
        hushed_s = lively_s * dice.between(_QUIET_FROM)
        times_s = [t_s + quiet_s if t_s > hushed_s else t_s for t_s in times_s]
    return times_s


class SceneDraft:
    """What is planned so far.

    Attributes:
      slots_s: the times of all events.
      owner: the thing that is committed to a slot.
      things, events: so far.
      hidden: pairs of things, the first passes behind the second.
      pan: the camera.
    """

    def __init__(self, config: WorldConfig, dice: Dice):
        self.config, self.dynamics, self.dice = config, config.dynamics, dice
        self.scale = config.scale
        self.height_px, self.width_px = (float(side) for side in config.frame_px)
        low, high = self.dynamics.speed_px_s
        self.slow_px_s, self.fast_px_s = low * self.scale, high * self.scale
        self.slots_s = rhythm(config, dice)
        self.pan = self._draw_pan()
        self.owner: dict[int, int] = {}  # slot -> thing that is committed to it
        self.things: list[Thing] = []
        self.events: list[Event] = []
        self.hidden: list[tuple[int, int]] = []  # (behind, front)

    def _draw_pan(self) -> Pan:
        most_px = self.dynamics.pan_px * self.scale
        if most_px == 0 or self.dice.unit() < 0.4:
            return Pan()
        axes = [(most_px * self.dice.unit(), self.dice.between((0.2, 0.7)), self.dice.between((0, 6.28))) for _ in "xy"]
        return Pan(*axes)

    def _save(self):
        return [copy.copy(thing) for thing in self.things], dict(self.owner), list(self.events), list(self.hidden)

    def _restore(self, saved):
        things, owner, events, hidden = saved
        self.things = [copy.copy(thing) for thing in things]
        self.owner, self.events, self.hidden = dict(owner), list(events), list(hidden)

    def _add_event(self, slot: int, kind: str, subject: str, detail: str = ""):
        self.events.append(Event(self.slots_s[slot], kind, subject, detail))

    def _visible(self, t_s: float) -> list[tuple[int, Thing]]:
        return [
            (i, thing) for i, thing in enumerate(self.things) if thing.visible_from_s <= t_s < thing.visible_until_s
        ]

    def _present(self, t_s: float) -> int:
        return len(self._visible(t_s))

    def _add(self, since_s: float) -> int | None:
        """Adds a thing that is unlike all that have been seen since; None if there is no such thing.

        Where things come back, it is unlike all that have ever been seen.
        """
        d = self.dynamics
        taken = self._appearances_since(-INFINITY if d.returns else since_s)
        for _ in range(_TRIES):
            colour, shape = self.dice.pick(d.colours), self.dice.pick(d.shapes)
            if (colour, shape) not in taken:
                half_px = self.dice.between(d.size_px) / 2 * self.scale
                self.things.append(Thing(shape, half_px, ((-INFINITY, colour),), identity=len(self.things)))
                return len(self.things) - 1
        return None

    def _bring_back(self, since_s: float) -> int | None:
        """Adds a thing that is one that was gone by `since_s`, as it looked last; None if there is no such thing."""
        taken = self._appearances_since(since_s)
        gone = [t for t in self.things if t.visible_until_s <= since_s and (t.colour, t.shape) not in taken]
        if not gone:
            return None
        thing = self.dice.pick(gone)
        self.things.append(Thing(thing.shape, thing.half_px, ((-INFINITY, thing.colour),), identity=thing.identity))
        return len(self.things) - 1

    def _appearances_since(self, since_s: float) -> set[tuple[str, str]]:
        """(colour, shape) of all that can be seen at `since_s` or later."""
        looks = set()
        for thing in self.things:
            if thing.visible_until_s > since_s:
                looks |= {(colour, thing.shape) for from_s, colour in thing.colours if from_s > since_s}
                looks.add((thing.colour_at(since_s), thing.shape))
        return looks

    def _put_somewhere(self, index: int, t_s: float) -> bool:
        """Lets a new thing rest at a free place."""
        thing = self.things[index]
        x0, y0, x1, y1 = self._box(thing.half_px + self._margin(), t_s)
        for _ in range(_TRIES):
            x, y = self.dice.between((x0, x1)), self.dice.between((y0, y1))
            if self._clear(index, x, y, 0.0, 0.0, t_s, INFINITY):
                thing.move(t_s, x, y, 0.0, 0.0)
                return True
        return False

    def _margin(self) -> float:
        """What a thing inside the frame keeps from its edges, wherever the camera pans."""
        return 2.0 * self.scale + max(self.pan.x[0], self.pan.y[0])

    def _box(self, inset: float, t_s: float) -> tuple[float, float, float, float]:
        """The frame at a time, in the world, made smaller by `inset` on all sides: x0, y0, x1, y1."""
        px, py = self.pan.at(t_s)
        return px + inset, py + inset, px + self.width_px - inset, py + self.height_px - inset

    def _inside(self, thing: Thing, t_s: float, inset: float | None = None) -> bool:
        x, y = thing.place_at(t_s)
        x0, y0, x1, y1 = self._box(thing.half_px if inset is None else inset, t_s)
        return x0 <= x <= x1 and y0 <= y <= y1

    def _side_of(self, thing: Thing, t_s: float) -> str:
        """The side of the frame that the thing is nearest to."""
        x, y = thing.place_at(t_s)
        x0, y0, x1, y1 = self._box(0.0, t_s)
        distances = {"left": x - x0, "right": x1 - x, "top": y - y0, "bottom": y1 - y}
        return min(distances, key=lambda side: distances[side])

    def _crossed_s(self, t_s: float) -> float:
        """When the slowest thing that starts at a time has crossed the frame."""
        return t_s + max(self.width_px, self.height_px) / self.slow_px_s

    def _free_slots(self, after: int, latest_s: float = INFINITY) -> list[int]:
        return [j for j in range(after + 1, len(self.slots_s)) if j not in self.owner and self.slots_s[j] <= latest_s]

    def _commit(self, index: int, slot: int, kind: str, other: int):
        self.owner[slot] = index
        self.things[index].commitment = (slot, kind, other)
        if kind == "collides":
            target = self.things[other]
            if target.commitment:
                del self.owner[target.commitment[0]]
                target.visible_until_s = INFINITY
            target.commitment = (slot, "struck", index)

    def _let_go(self, thing: Thing, t_s: float):
        """A thing that leaves is gone once it is wholly out."""
        _, _, _, vx, vy = thing.segments[-1]
        nx, ny = OUTWARD[self._side_of(thing, t_s)]
        thing.visible_until_s = t_s + 1.6 * thing.half_px / abs(vx * nx + vy * ny)

    def _out_s(self, a: Thing, b: Thing, t_s: float, speed: float) -> float:
        """When a thing that goes behind another at `t_s` is wholly out again."""
        return t_s + (a.half_px + 2 * b.half_px + self.scale) / speed

    def _clear(self, index, x, y, vx, vy, from_s, until_s, *besides) -> bool:
        """Whether a path that starts at (x, y) keeps clear of all that the other things are known to do."""
        me = self.things[index]
        for i, other in enumerate(self.things):
            if i == index or i in besides or not other.segments or other.visible_until_s <= from_s:
                continue
            room = (me.half_px + other.half_px) * 1.12 + 1.5 * self.scale
            ends_s = min(until_s, other.visible_until_s)
            segments, commitment = other.segments, other.commitment
            if commitment and other.afterwards:
                met_s = self.slots_s[commitment[0]]
                kind, after_vx, after_vy, end_slot, _ = other.afterwards
                segments = (*segments, (met_s, *other.place_at(met_s), after_vx, after_vy))
                if end_slot is not None:
                    ends_s = min(ends_s, self.slots_s[end_slot] + (1.0 if kind == "leaves" else 0.0))
            elif commitment and commitment[1] != "leaves":
                ends_s = min(ends_s, self.slots_s[commitment[0]])
            for number, (since_s, ox, oy, ovx, ovy) in enumerate(segments):
                start = max(from_s, since_s, other.visible_from_s)
                last = segments[number + 1][0] if number + 1 < len(segments) else INFINITY
                stop = min(ends_s, last)
                if stop < start:
                    continue
                rx = x + vx * (start - from_s) - ox - ovx * (start - since_s)
                ry = y + vy * (start - from_s) - oy - ovy * (start - since_s)
                wx, wy = vx - ovx, vy - ovy
                square = wx * wx + wy * wy
                best = 0.0 if square == 0 else min(max(-(rx * wx + ry * wy) / square, 0.0), stop - start)
                if (rx + wx * best) ** 2 + (ry + wy * best) ** 2 < room * room:
                    return False
        return True
