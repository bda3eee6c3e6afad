"""A scene: things and where they are at any time. Planned by `planner.py`, drawn by `looks.py`.

Positions are pixels in the world; the camera's pan maps them to the frame: `frame = world - pan(t)`. y points down.
"""

import dataclasses
import math

from data_pipelines.schema import Event

INFINITY = math.inf

# What a thing is bound to do next: (slot in the rhythm, kind of event, index of the other thing or -1).
Commitment = tuple[int, str, int]
# From a time on, a thing moves from a place at a velocity: (t_s, x, y, vx, vy).
Segment = tuple[float, float, float, float, float]
# A straight motion and what ends it: (kind of event or "drifts", vx, vy, slot or None, other thing or -1).
Motion = tuple[str, float, float, int | None, int]


@dataclasses.dataclass
class Thing:
    """Something that moves along straight segments.

    Attributes:
      shape: "circle", "car" ...
      half_px: half its width and height.
      colours: (since_s, colour) in order of time.
      segments: how it moves, in order of time.
      seen_from_s, seen_until_s: it does not exist before and after.
      commitment: what it is bound to do next, None if nothing.
      afterwards: how it moves on when it has met another thing.
      identity: things of one identity are one and the same, which left and came back; None: it never does.
      locked_until_s: it must not change its motion before, since another thing counts on it.
    """

    shape: str
    half_px: float
    colours: tuple[tuple[float, str], ...]
    segments: tuple[Segment, ...] = ()
    seen_from_s: float = -INFINITY
    seen_until_s: float = INFINITY
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
