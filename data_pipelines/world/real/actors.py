"""Actors and their tracks: where a thing is at every moment of a clip, and what a person who watches would call events.

A track is sampled finely in time. Events are read off the tracks of all actors afterwards, as one labels a recording:
something *enters* when the first third of it has come over an edge of the picture, *leaves* when no more than a third
is left to see, *stops* when it has come to rest. So words and pictures cannot disagree.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.world.commentator import SIDES
from data_pipelines.world.real.pack import Cutout

# A moment of a track, and how long before the clip tracks begin: who is half inside then has entered before.
SAMPLE_S = 0.04
BEFORE_S = 1.2

# Share of what is seen of a thing at most, from which on it is here, and below which it is gone.
_HERE = 0.3
_GONE = 0.1
# Out of sight inside the picture for less than this (behind another thing) is no event.
_HIDDEN_S = 2.0
# Something that is at rest at least so long has stopped.
_REST_S = 1.2
# Share of its usual speed up to which a thing is at rest.
_RESTING = 0.06
# How much of a thing must be seen at its best to speak of it.
_VISIBLE = 0.45


def sample_times_s(clip_s: float) -> np.ndarray:
    """The moments of all tracks of a clip, float64 [N]."""
    return np.arange(-round(BEFORE_S / SAMPLE_S), round(clip_s / SAMPLE_S) + 1) * SAMPLE_S


@dataclasses.dataclass
class Track:
    """Where a thing is. All arrays are float64 [N], one value for each of `sample_times_s`.

    Attributes:
      x: of its middle, in picture heights.
      y: of where it stands (its lower edge), in picture heights.
      height: of its picture, in picture heights; 0 while it does not exist.
      pace: how fast it moves, 1 is as fast as it goes.
      phase: how far it has gone, in metres; moves its legs.
      depth: what has more is drawn in front; the row where it stands, for most.
      leftward: bool [N], when it goes to the left and its picture is turned round; None where it goes one way only.
    """

    x: np.ndarray
    y: np.ndarray
    height: np.ndarray
    pace: np.ndarray
    phase: np.ndarray
    depth: np.ndarray
    leftward: np.ndarray | None = None


@dataclasses.dataclass
class Actor:
    """A thing of a clip.

    Attributes:
      cutout: what it looks like.
      mirrored: whether its picture is flipped left to right.
      shape: width by height of its picture.
      track: where it is.
      subject: what is said of it ("red car").
      event_kinds: kinds of events, of its track or its `story`, that are spoken of; all others are not.
      story: (t_s, kind) of what its track alone does not show: being taken, being put down.
      angle: by how much its picture is turned clockwise, in radians.
      reach: for a hand, the direction (x, y) from which the arm comes; None for others.
      lane: actors of one lane must not run into each other; -1 for none.
      motion: how its picture moves by itself: "walks" (sways), "rolls", "idles" (hardly), "" (not).
      seed: of whatever else the painter draws for it.
    """

    cutout: Cutout
    mirrored: bool
    shape: float
    track: Track
    subject: str
    event_kinds: frozenset[str]
    story: tuple[tuple[float, str], ...] = ()
    angle: float = 0.0
    reach: tuple[float, float] | None = None
    lane: int = -1
    motion: str = ""
    seed: int = 0

    @property
    def width(self) -> np.ndarray:
        """Float64 [N], in picture heights."""
        return self.track.height * self.shape


def overlap_with_picture(actor: Actor, aspect: float) -> np.ndarray:
    """Share of an actor's box that is inside the picture, float64 [N]; 0 while it does not exist."""
    track, half = actor.track, actor.width / 2
    across = np.minimum(track.x + half, aspect) - np.maximum(track.x - half, 0)
    down = np.minimum(track.y, 1) - np.maximum(track.y - track.height, 0)
    area = np.maximum(2 * half * track.height, 1e-9)
    return np.clip(across, 0, None) * np.clip(down, 0, None) / area * (track.height > 0)


def _outside(actor: Actor, aspect: float, at: int) -> np.ndarray:
    """By how much of its size an actor is beyond each of `SIDES` at a sample, float64 [4]."""
    track, half = actor.track, actor.width[at] / 2
    beyond = {
        "left": -(track.x[at] - half) / max(2 * half, 1e-9),
        "right": (track.x[at] + half - aspect) / max(2 * half, 1e-9),
        "top": -(track.y[at] - track.height[at]) / max(track.height[at], 1e-9),
        "bottom": (track.y[at] - 1) / max(track.height[at], 1e-9),
    }
    return np.array([max(beyond[side], 0.0) for side in SIDES])


@dataclasses.dataclass(frozen=True)
class Happening:
    """An event of one actor: when, what, and at which side of the picture ("" for none)."""

    t_s: float
    kind: str
    side: str = ""


class UnclearError(Exception):
    """A track of which two people would tell different events: it must not be in a clip."""


def happenings(
    actor: Actor, times_s: np.ndarray, aspect: float, cover: np.ndarray, *, smallest: float, visible_s: float
) -> list[Happening]:
    """What a person would say that an actor does.

    Args:
      actor: the actor.
      times_s: the track's times, [N].
      aspect: the picture's width by height.
      cover: share of the actor's box that something in front hides for good, [N].
      smallest: heights below this are not spoken of.
      visible_s: how long something must be seen that comes or goes.

    Returns:
      The events between the clip's first frame and its last, in order of time.

    Raises:
      UnclearError: it is hardly seen, too briefly, too often, or half hidden for long.
    """
    track = actor.track
    inside = overlap_with_picture(actor, aspect)
    visible = inside * (1 - cover)
    best = float(visible.max())
    if best == 0:
        return []
    share = visible / best
    here = _with_hysteresis(share, _HERE, _GONE)
    for before, after in zip(spans := _spans(here), spans[1:]):
        if after[0] - before[1] < _HIDDEN_S / SAMPLE_S and inside[before[1] : after[0]].min() > 0.5 * best:
            here[before[1] : after[0]] = True  # it passed behind something
    now = times_s >= 0
    if best < _VISIBLE and np.any(share[now] > 0):
        raise UnclearError
    found = []
    turns = np.flatnonzero(np.diff(here.astype(np.int8))) + 1
    spans = _spans(here)
    for begin, end in spans:
        if end - begin < visible_s / SAMPLE_S and now[begin:end].any() and end < len(here):
            raise UnclearError
    for before, after in zip(spans, spans[1:]):
        if after[0] - before[1] < _HIDDEN_S / SAMPLE_S and now[before[1] : after[0]].any():
            raise UnclearError  # gone and back at once
    for at in turns.tolist():
        comes = bool(here[at])
        exists = track.height[at - 1 if comes else at] > 0
        if not exists or times_s[at] < 0 or track.height[at] < smallest:
            continue
        other = at - round(0.4 / SAMPLE_S) if comes else at + round(0.4 / SAMPLE_S)
        other = min(max(other, 0), len(here) - 1)
        crossed = _outside(actor, aspect, at) + _outside(actor, aspect, other)
        hidden = cover[at] if track.height[at] else cover[at - 1]
        if hidden > crossed.max():
            found.append(Happening(float(times_s[at]), "appears" if comes else "vanishes"))
        else:
            found.append(Happening(float(times_s[at]), "enters" if comes else "leaves", SIDES[int(crossed.argmax())]))
    found += _rests(track, times_s, share)
    found += [Happening(t_s, kind) for t_s, kind in actor.story if t_s >= 0]
    spoken_of = [one for one in found if one.kind in actor.event_kinds]
    return sorted(spoken_of, key=lambda one: one.t_s)


def _rests(track: Track, times_s: np.ndarray, share: np.ndarray) -> list[Happening]:
    """Where a thing in sight comes to rest, and where it starts again."""
    exists = track.height > 0
    found = []
    for begin, end in _spans((track.pace < _RESTING) & exists):
        if end - begin < _REST_S / SAMPLE_S:
            continue
        if begin > 0 and exists[begin - 1] and times_s[begin] >= 0 and share[begin] > 0.6:
            found.append(Happening(float(times_s[begin]), "stops"))
        if end < len(share) and exists[end] and times_s[end] >= 0 and share[end] > 0.6:
            found.append(Happening(float(times_s[end]), "starts"))
    return found


def _spans(where: np.ndarray) -> list[tuple[int, int]]:
    """[begin, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _with_hysteresis(share: np.ndarray, here: float, gone: float) -> np.ndarray:
    """Bool [N]: True from where `share` [N] rises to `here`, until where it last fell below `here` before `gone`."""
    state = np.zeros(len(share), bool)
    above, below = share >= here, share < gone
    decided = np.where(above, 1, np.where(below, 0, -1))
    last = 1 if share[0] >= gone else 0
    known = np.flatnonzero(decided >= 0)
    fill = np.concatenate([[last], decided[known]])
    state = fill[np.searchsorted(known, np.arange(len(share)), side="right")].astype(bool)
    # The end of each span is moved back, from below `gone` to where it fell below `here`.
    for begin, end in _spans(state):
        while end > begin + 1 and not above[end - 1] and end < len(share):
            end -= 1
            state[end] = False
    return state


def paced_distance(times_s: np.ndarray, knots: list[tuple[float, float]], ease_s: float) -> np.ndarray:
    """Distance gone at each time: straight between (t_s, distance) knots, its corners rounded over `ease_s`.

    Returns:
      Float64 [N].
    """
    width = max(round(ease_s / SAMPLE_S), 1) | 1
    margin = width // 2
    wide_s = np.arange(-margin, len(times_s) + margin) * SAMPLE_S + times_s[0]
    knot_s, knot_m = zip(*knots, strict=True)
    raw = np.interp(wide_s, knot_s, knot_m)
    # (np.interp holds the ends; a thing that moves there goes on moving.)
    slope_in = (knot_m[1] - knot_m[0]) / (knot_s[1] - knot_s[0])
    slope_out = (knot_m[-1] - knot_m[-2]) / (knot_s[-1] - knot_s[-2])
    raw += slope_in * np.minimum(wide_s - knot_s[0], 0) + slope_out * np.maximum(wide_s - knot_s[-1], 0)
    return np.convolve(raw, np.full(width, 1 / width), "valid")


def min_jerk(share: np.ndarray) -> np.ndarray:
    """How far a reaching hand is, of 1, after each share of its time, float64 [N]: slow, fast, slow."""
    s = np.clip(share, 0, 1)
    return s**3 * (10 - 15 * s + 6 * s * s)


def heading(dx: float, dy: float) -> str:
    """Which way a thing that moves so in the picture is seen to face: "left", "right", "front" or "back"."""
    if abs(dx) > 0.55 * abs(dy):
        return "right" if dx > 0 else "left"
    return "front" if dy > 0 else "back"


def turned(direction: tuple[float, float]) -> float:
    """The angle by which a picture that points down must be turned clockwise to point in a direction (y down)."""
    return math.atan2(-direction[0], direction[1])
