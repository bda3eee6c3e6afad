"""What happens: from things that are followed to events. One look at each picture, in the order of time.

An event is reported when it is certain, `known_s`, which is after it happened, `t_s`. Whoever may look ahead takes
`t_s`, a live commentator `known_s`. How long certainty takes is a matter of `EventSettings`.

Two witnesses must agree: the tracker, that a thing came, went or stands; and the background, that where it came or went
there was a change. A detector that sees a thing now and then, or a false thing that never moves, has no second witness.
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.narrator.detector import area, intersection, iou
from data_pipelines.narrator.motion import share_moving

SIDES = ("left", "top", "right", "bottom")
UNSURE_CLASS = "object"
# What a person can carry, of COCO's classes and of `event_words`'.
PORTABLE = (
    "backpack", "umbrella", "handbag", "suitcase", "frisbee", "sports ball", "baseball bat", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "orange", "cake", "laptop", "remote",
    "cell phone", "book", "vase", "scissors", "teddy bear", "basket", "box",
)  # fmt: skip
# Pictures around a coming or a going by which the way of a thing is judged.
_WAY_S = 1.0
# What happened before is kept this long: nothing that is decided looks further back.
_KEPT_S = 8.0
# A thing may get a new number while the tracker still looks for the old one …
_OVERLAP_S = 0.5
# … so many lengths from where that was heading.
_REJOIN_WAY = 1.2


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """When something counts as an event. Sizes are roots of areas, as shares of the picture's longer side.

    Attributes:
      alike: classes that are one when votes are counted.
      confirm_s, hits_min, score_min: a thing is one when it has been there so long, has so many boxes and one of at
        least this score.
      lost_s: a thing without a box for so long is gone, …
      rejoin_s: … but is the same when it is there again after so long, where it was heading.
      size_min: smaller things are not spoken of.
      far_size_min: those that come or go at the top edge, where the distance is, must be at least as large.
      edge_share: a box is at the picture's edge when it is so near, as a share of the picture's longer side …
      reach_s: … or when its thing was or will be there after so long, at its speed.
      cross_s: crossing the edge takes a thing at most so long.
      back_s: within so long a thing does not go where it came from, nor come where it went.
      way_min: how far a thing must move to have come or gone, in lengths of it.
      moving_min: the least share of a box that must differ from the background when its thing comes or goes …
      quiet_share_max: … and how much of that may be there without the thing.
      unsteady_share_min: where so much of the picture differs from the background the camera moves, and nothing is
        certain.
      sure_share, sure_score: the class is sure where it has this share of the votes, and this score on average.
      middle_size_min, middle_score_min: what appears or vanishes in mid-picture must be as large and as sure.
      still_s, still_way, moving_way, stop_size_min: a thing as large as this (or one that can be carried) stands still
        that moves less than `still_way` in `still_s`, and moves from `moving_way` on, in lengths of it.
      journey_min: how far it must have moved before it stops, or after it starts, in lengths of it.
      settle_s: for so long at the beginning nobody knows what has been there before.
      portable, holders: classes of what is taken and put, and of who does so.
      stood_s: what is taken has stood for so long.
      hidden_s: how long it may be hidden by who takes it, until one sees that it is not there.
      unsure: whether things are spoken of of which the class is not sure.
    """

    alike: tuple[tuple[str, ...], ...] = (("car", "truck", "bus"),)
    confirm_s: float = 0.6
    hits_min: int = 3
    score_min: float = 0.4
    lost_s: float = 0.7
    rejoin_s: float = 1.5
    size_min: float = 0.05
    far_size_min: float = 0.09
    edge_share: float = 0.055
    reach_s: float = 0.3
    cross_s: float = 1.2
    back_s: float = 1.5
    way_min: float = 0.3
    moving_min: float = 0.2
    quiet_share_max: float = 0.6
    unsteady_share_min: float = 0.22
    sure_share: float = 0.5
    sure_score: float = 0.3
    middle_size_min: float = 0.1
    middle_score_min: float = 0.5
    still_s: float = 1.5
    still_way: float = 0.1
    moving_way: float = 0.5
    stop_size_min: float = 0.08
    journey_min: float = 2.0
    settle_s: float = 0.5
    portable: tuple[str, ...] = PORTABLE
    holders: tuple[str, ...] = ("person", "hand")
    stood_s: float = 2.0
    hidden_s: float = 6.0
    unsure: bool = True


class Observation(NamedTuple):
    """A thing in one picture.

    Attributes:
      track: its number.
      box: float [4], left, top, right, bottom in pixels.
      scores: float [C] of the classes.
    """

    track: int
    box: np.ndarray
    scores: np.ndarray


class Happening(NamedTuple):
    """An event of a thing.

    Attributes:
      t_s: when it happened.
      known_s: when that was certain.
      kind: as `event_words` has them.
      class_name: of the thing; "object" where nobody is sure.
      side: of the picture, or "".
      track: number of the thing.
      box: where it was, float [4].
    """

    t_s: float
    known_s: float
    kind: str
    class_name: str
    side: str
    track: int
    box: np.ndarray


class _Way(NamedTuple):
    """Some pictures of a thing: times [n], boxes [n, 4] and the shares of them that move [n]."""

    times_s: np.ndarray
    boxes: np.ndarray
    moving: np.ndarray


class _Thing:
    """What is known of a thing."""

    def __init__(self, track: int, classes: int):
        self.track = track
        self.times_s: list[float] = []
        self.boxes: list[np.ndarray] = []
        self.moving: list[float] = []
        self.votes = np.zeros(classes)
        self.squares = np.zeros(classes)
        self.hits = 0
        self.best = 0.0
        self.first_s = 0.0
        self.is_known = False
        self.state = ""  # "", "moving" or "still"
        self.state_box = np.zeros(4)  # where it was when it last stood, or was first seen
        self.start_s = 0.0
        self.has_moved = False
        self.has_started = False
        self.still_s: float | None = None  # since when it stands
        self.may_be_put = False

    def add(self, t_s: float, one: Observation, moving: float) -> None:
        if not self.times_s:
            self.first_s, self.state_box = t_s, one.box
        self.times_s.append(t_s)
        self.boxes.append(one.box)
        self.moving.append(moving)
        self.hits += 1
        self.votes += one.scores
        self.squares += one.scores**2
        self.best = max(self.best, float(one.scores.max()))
        while self.is_known and self.times_s[0] < t_s - _KEPT_S:
            del self.times_s[0], self.boxes[0], self.moving[0]

    @property
    def last_s(self) -> float:
        return self.times_s[-1]

    def way(self, from_s: float, to_s: float) -> _Way:
        """Its pictures from one time to another."""
        times = np.array(self.times_s)
        chosen = (times >= from_s - 1e-6) & (times <= to_s + 1e-6)
        return _Way(times[chosen], np.stack(self.boxes)[chosen], np.array(self.moving)[chosen])

    def continues(self, earlier: "_Thing") -> None:
        """This is the thing that another one was."""
        self.times_s = earlier.times_s + self.times_s
        self.boxes, self.moving = earlier.boxes + self.boxes, earlier.moving + self.moving
        self.votes, self.squares = earlier.votes + self.votes, earlier.squares + self.squares
        self.hits, self.best = earlier.hits + self.hits, max(earlier.best, self.best)
        self.first_s, self.is_known = earlier.first_s, True
        self.state, self.state_box, self.has_moved = earlier.state, earlier.state_box, earlier.has_moved
        self.still_s, self.may_be_put = earlier.still_s, earlier.may_be_put


class EventFinder:
    """Finds events among things that are followed."""

    def __init__(self, labels: Sequence[str], width_px: int, height_px: int, settings: EventSettings):
        self._labels, self._settings = tuple(labels), settings
        self._size_px = np.array([width_px, height_px], float)
        self._longer_px = float(max(width_px, height_px))
        self._things: dict[int, _Thing] = {}
        self._lost: list[_Thing] = []
        self._groups = self._groups_of(settings.alike)
        self._begin_s: float | None = None
        self._masks: collections.deque[tuple[float, np.ndarray]] = collections.deque()
        self._unsteady: list[float] = []
        self._reported: list[Happening] = []

    def update(self, t_s: float, observations: Sequence[Observation], mask: np.ndarray) -> list[Happening]:
        """Takes the things of the next picture.

        Args:
          t_s: when.
          observations: the things.
          mask: bool [h, w], where it differs from its background (`motion.moving_mask`).

        Returns:
          What is certain from now on, in the order of `t_s`.
        """
        if self._begin_s is None:
            self._begin_s = t_s
        self._masks.append((t_s, mask))
        while self._masks[0][0] < t_s - self._settings.rejoin_s - 2 * _WAY_S:
            self._masks.popleft()
        if float(np.mean([one.mean() for at_s, one in self._masks if at_s >= t_s - _WAY_S])) > (
            self._settings.unsteady_share_min
        ):
            self._unsteady.append(t_s)
        boxes = np.stack([one.box for one in observations]) if observations else np.zeros((0, 4))
        for one, moving in zip(observations, self._moving(mask, boxes)):
            self._things.setdefault(one.track, _Thing(one.track, len(self._labels))).add(t_s, one, float(moving))
        return self._report(t_s, ended=False)

    def finish(self, t_s: float) -> list[Happening]:
        """The video ends: what is on its way out now has gone."""
        return self._report(t_s + self._settings.lost_s + 1e-3, ended=True)

    # ---- decisions -------------------------------------------------------------------------------------------------

    def _report(self, t_s: float, ended: bool) -> list[Happening]:
        happenings: list[Happening] = []
        for thing in list(self._things.values()):
            happenings += self._of(thing, t_s, ended)
        for thing in [one for one in self._lost if t_s - one.last_s > self._settings.rejoin_s]:
            if self._may_be_taken(thing) and self._is_hidden(thing, t_s):
                continue  # until who stands before it goes away
            if any(not one.is_known and self._is_rest(one, thing) for one in self._things.values()):
                continue  # until it is known whether that is a thing
            self._lost.remove(thing)
            happenings += self._taken(thing, t_s) or self._vanished(thing, t_s)
        reported = []
        for one in sorted(happenings, key=lambda one: one.t_s):
            if not any(self._repeats(one, other) for other in self._reported):
                reported.append(one)
                self._reported.append(one)
        self._reported = [one for one in self._reported if one.t_s > t_s - _KEPT_S]
        if self._settings.unsure:
            return reported
        return [one for one in reported if one.class_name != UNSURE_CLASS]

    def _of(self, thing: _Thing, t_s: float, ended: bool) -> list[Happening]:
        settings = self._settings
        happenings: list[Happening] = []
        lost = t_s - thing.last_s >= settings.lost_s
        is_one = thing.hits >= settings.hits_min and thing.best >= settings.score_min
        if not thing.is_known and is_one and (lost or t_s - thing.first_s >= settings.confirm_s):
            earlier = self._earlier(thing)
            if earlier is not None:
                self._lost.remove(earlier)
                thing.continues(earlier)
            else:
                thing.is_known = True
                happenings += self._came(thing, t_s)
        if thing.is_known and not lost and thing.last_s == t_s:
            happenings += self._changed(thing, t_s)
        if lost:
            del self._things[thing.track]
            if thing.is_known:
                gone = self._gone(thing, t_s, ended)
                happenings += gone
                if not gone and not ended:
                    self._lost.append(thing)
        return happenings

    def _came(self, thing: _Thing, t_s: float) -> list[Happening]:
        settings = self._settings
        way = thing.way(thing.first_s, thing.first_s + _WAY_S)
        early = thing.first_s - (self._begin_s or 0.0) < settings.settle_s
        thing.may_be_put = not early and self._is_held(way.boxes[0], thing.first_s)
        if len(way.times_s) < 2 or self._is_unsteady(thing.first_s, t_s):
            return []
        most = float(way.moving.max())
        before = self._share_at(thing.first_s - 0.4, way.boxes[0])
        if most < settings.moving_min or before > settings.quiet_share_max * most:
            return []
        side, _ = self._edge(way, inwards=True)
        if side:
            return [self._happening(thing, thing.first_s, t_s, "enters", side, way.boxes[0])]
        if early or not self._is_alone(thing, way.boxes[0], thing.first_s):
            return []
        return [self._happening(thing, thing.first_s, t_s, "appears", "", way.boxes[0])]

    def _gone(self, thing: _Thing, t_s: float, ended: bool) -> list[Happening]:
        settings = self._settings
        way = thing.way(thing.last_s - _WAY_S, thing.last_s)
        if len(way.times_s) < 2 or self._is_unsteady(thing.last_s, t_s):
            return []
        most = float(way.moving.max())
        if most < settings.moving_min:
            return []
        side, lead_s = self._edge(way, inwards=False)
        if not side:
            return []
        after = self._share_at(t_s, way.boxes[-1])
        if not ended and after > settings.quiet_share_max * most and not self._covered(way.boxes[-1], t_s):
            return []
        return [self._happening(thing, thing.last_s + lead_s, t_s, "leaves", side, way.boxes[-1])]

    def _vanished(self, thing: _Thing, t_s: float) -> list[Happening]:
        settings = self._settings
        box = thing.boxes[-1]
        most = float(np.max(thing.way(thing.last_s - _WAY_S, thing.last_s).moving))
        after = self._share_at(t_s, box)
        if not thing.has_moved or most < settings.moving_min or after > settings.quiet_share_max * most:
            return []
        if self._is_unsteady(thing.last_s, t_s) or not self._is_alone(thing, box, thing.last_s):
            return []
        return [self._happening(thing, thing.last_s, t_s, "vanishes", "", box)]

    def _may_be_taken(self, thing: _Thing) -> bool:
        """Whether somebody was at a thing that stood, and that can be carried, when it was last seen."""
        settings = self._settings
        stood = thing.still_s is not None and thing.last_s - thing.still_s >= settings.stood_s
        return stood and self._class_of(thing) in settings.portable and self._is_held(thing.boxes[-1], thing.last_s)

    def _is_hidden(self, thing: _Thing, t_s: float) -> bool:
        return t_s - thing.last_s < self._settings.hidden_s and self._covered(thing.boxes[-1], t_s)

    def _taken(self, thing: _Thing, t_s: float) -> list[Happening]:
        # Where it stood there is now another picture: it was a part of the background.
        box = thing.boxes[-1]
        if not self._may_be_taken(thing) or self._covered(box, t_s) or self._is_unsteady(thing.last_s, t_s):
            return []
        if self._share_at(t_s, box) < self._settings.moving_min:
            return []
        return [self._happening(thing, thing.last_s, t_s, "taken", "", box)]

    def _edge(self, way: _Way, inwards: bool) -> tuple[str, float]:
        """Across which edge a thing came or went, "" for none, and how long it took from the last picture on.

        What an edge cuts off shows its speed on its far side only.
        """
        settings = self._settings
        times, boxes = way.times_s, way.boxes
        if times[-1] <= times[0]:
            return "", 0.0
        speed = np.polyfit(times - times[0], boxes, 1)[0]  # of the four sides, pixels a second
        moved = boxes[-1] - boxes[0]
        box = boxes[0] if inwards else boxes[-1]
        length = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).max(axis=0)
        largest = self._size_of(boxes).max()
        best, best_share, best_lead_s = "", 0.0, 0.0
        for number, side in enumerate(SIDES):
            axis, far = number % 2, (number + 2) % 4
            outwards = -1.0 if number < 2 else 1.0
            sign = -outwards if inwards else outwards
            edge = 0.0 if number < 2 else self._size_px[axis]
            gap, depth = abs(box[number] - edge), abs(box[far] - edge)
            far_moved, far_speed = sign * moved[far], sign * speed[far]
            if largest < (settings.far_size_min if side == "top" else settings.size_min):
                continue
            if far_speed <= 0 or far_moved < settings.way_min * min(length[axis], self._size_px[axis] / 2):
                continue
            if gap > max(settings.edge_share * self._longer_px, settings.reach_s * far_speed):
                continue
            if depth > settings.cross_s * far_speed:
                continue
            share = far_moved / length[axis]
            if share > best_share:
                best, best_share, best_lead_s = side, share, min(depth / far_speed, settings.reach_s)
        return best, best_lead_s

    def _changed(self, thing: _Thing, t_s: float) -> list[Happening]:
        """Whether a thing has stopped or started."""
        settings = self._settings
        way = thing.way(t_s - settings.still_s, t_s)
        if way.times_s[-1] - way.times_s[0] < settings.still_s * 0.75 or self._is_unsteady(t_s - settings.still_s, t_s):
            return []
        box = way.boxes[-1]
        length = float(np.median(np.sqrt(np.maximum(area(way.boxes), 1.0))))
        is_portable = self._class_of(thing) in settings.portable
        if length < (settings.size_min if is_portable else settings.stop_size_min) * self._longer_px:
            return []
        centre = (way.boxes[:, :2] + way.boxes[:, 2:]) / 2
        half = len(centre) // 2
        moved = np.hypot(*(np.median(centre[half:], axis=0) - np.median(centre[:half], axis=0))) * 2 / length
        journey = float(np.hypot(*(centre[-1] - (thing.state_box[:2] + thing.state_box[2:]) / 2)) / length)
        if thing.state != "moving" and moved >= settings.moving_way:
            was_still, thing.state, thing.start_s = thing.state == "still", "moving", float(way.times_s[half])
            thing.has_started = was_still
            thing.has_moved, thing.still_s = True, None
        if thing.state == "moving" and thing.has_started and journey >= settings.journey_min:
            thing.has_started = False
            if way.moving.mean() >= settings.moving_min:
                kind = "taken" if self._is_carried(thing, thing.start_s) else "starts"
                return [self._happening(thing, thing.start_s, t_s, kind, "", box)]
        if thing.state != "still" and moved <= settings.still_way:
            was_moving, thing.state, thing.state_box, thing.has_started = thing.state == "moving", "still", box, False
            thing.still_s = still_s = float(way.times_s[0])
            if was_moving and journey >= settings.journey_min and not self._is_cut(box):
                kind = "put" if self._is_carried(thing, still_s) else "stops"
                thing.may_be_put = False
                return [self._happening(thing, still_s, t_s, kind, "", box)]
        if thing.may_be_put and thing.still_s is not None and not self._is_held(box, t_s):
            # It was seen for the first time when somebody was at it, who has gone, and the background did not have it.
            thing.may_be_put = False
            if is_portable and way.moving[-1] >= settings.moving_min:
                return [self._happening(thing, thing.still_s, t_s, "put", "", box)]
        return []

    # ---- facts -----------------------------------------------------------------------------------------------------

    def _earlier(self, thing: _Thing) -> _Thing | None:
        """The thing that was lost, of which this one is the rest."""
        return next((other for other in reversed(self._lost) if self._is_rest(thing, other)), None)

    def _is_rest(self, thing: _Thing, lost: _Thing) -> bool:
        """Whether a thing begins where and when a lost one was, or was heading."""
        away_s = thing.first_s - lost.last_s
        if not -_OVERLAP_S <= away_s <= self._settings.rejoin_s:
            return False
        way = lost.way(lost.last_s - _WAY_S, lost.last_s)
        centres = (way.boxes[:, :2] + way.boxes[:, 2:]) / 2
        speed = np.polyfit(way.times_s - way.times_s[0], centres, 1)[0] if len(centres) > 2 else np.zeros(2)
        begin = (thing.boxes[0][:2] + thing.boxes[0][2:]) / 2
        length, other = np.sqrt(np.maximum(area(np.stack([lost.boxes[-1], thing.boxes[0]])), 1.0))
        away = min(float(np.hypot(*(begin - centres[-1] - speed * ahead_s))) for ahead_s in (0.0, max(away_s, 0.0)))
        return away <= _REJOIN_WAY * length and 0.5 <= other / length <= 2.0

    def _is_alone(self, thing: _Thing, box: np.ndarray, at_s: float) -> bool:
        """Whether a thing can appear or vanish here: large, sure, and not before, behind or out of another."""
        settings = self._settings
        if self._size_of(box[None])[0] < settings.middle_size_min or thing.best < settings.middle_score_min:
            return False
        if self._class_of(thing) == UNSURE_CLASS or self._is_cut(box):
            return False
        others = [
            one.boxes[int(np.argmin(np.abs(np.array(one.times_s) - at_s)))]
            for one in itertools.chain(self._things.values(), self._lost)
            if one is not thing and one.first_s <= at_s + 0.5 and one.last_s >= at_s - 0.5
        ]
        return not others or float(iou(box[None], np.stack(others)).max()) < 0.1

    def _is_carried(self, thing: _Thing, at_s: float) -> bool:
        box = thing.boxes[int(np.argmin(np.abs(np.array(thing.times_s) - at_s)))]
        return self._class_of(thing) in self._settings.portable and self._is_held(box, at_s)

    def _is_held(self, box: np.ndarray, at_s: float) -> bool:
        """Whether somebody who can hold things was at this place at a time."""
        for one in itertools.chain(self._things.values(), self._lost):
            if not one.is_known or self._class_of(one) not in self._settings.holders:
                continue
            times = np.array(one.times_s)
            nearest = int(np.argmin(np.abs(times - at_s)))
            if abs(times[nearest] - at_s) <= 0.5 and float(intersection(box[None], one.boxes[nearest][None])[0, 0]) > 0:
                return True
        return False

    def _covered(self, box: np.ndarray, t_s: float) -> bool:
        """Whether another thing is in this place now."""
        others = [one.boxes[-1] for one in self._things.values() if t_s - one.last_s < self._settings.lost_s]
        return bool(others) and float(intersection(box[None], np.stack(others)).max()) > 0.3 * float(area(box[None])[0])

    def _is_cut(self, box: np.ndarray) -> bool:
        """Whether a box is at the edge of the picture, so that one cannot see how far it goes."""
        margin = self._settings.edge_share * self._longer_px / 2
        return bool((box[:2] < margin).any() or (box[2:] > self._size_px - margin).any())

    def _repeats(self, one: Happening, other: Happening) -> bool:
        """Whether an event was reported already, of a part of the same thing, or only takes back what was reported.

        What goes where it came from (or comes where it went) so soon is a detector that loses and finds the same thing.
        """
        if one.class_name != other.class_name and UNSURE_CLASS not in (one.class_name, other.class_name):
            return False
        apart_s = abs(one.t_s - other.t_s)
        back = {one.kind, other.kind} == {"enters", "leaves"} and one.side == other.side
        if not (apart_s <= 0.6 if one.kind == other.kind else back and apart_s <= self._settings.back_s):
            return False
        shared = float(intersection(one.box[None], other.box[None])[0, 0])
        smaller = min(float(area(one.box[None])[0]), float(area(other.box[None])[0]))
        return shared > (0.5 if one.kind == other.kind else 0.0) * smaller

    def _is_unsteady(self, from_s: float, to_s: float) -> bool:
        self._unsteady = [at_s for at_s in self._unsteady if at_s >= to_s - _KEPT_S]
        return any(from_s <= at_s <= to_s for at_s in self._unsteady)

    def _share_at(self, t_s: float, box: np.ndarray) -> float:
        """Which share of a place differed from the background at a time; 0 where that was before the beginning."""
        masks = [mask for at_s, mask in self._masks if at_s <= t_s + 1e-6]
        return float(self._moving(masks[-1], box[None])[0]) if masks else 0.0

    def _moving(self, mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        return share_moving(mask, boxes * (mask.shape[1] / self._size_px[0]))

    def _size_of(self, boxes: np.ndarray) -> np.ndarray:
        """The root of the areas of boxes [N, 4] as a share of the picture's longer side."""
        return np.sqrt(area(boxes)) / self._longer_px

    def _class_of(self, thing: _Thing) -> str:
        settings = self._settings
        grouped = self._groups @ thing.votes
        group = int(np.argmax(grouped))
        # Strong votes count for more than the weak ones of pictures in which the thing is half hidden.
        score = (self._groups @ thing.squares)[group] / max(grouped[group], 1e-9)
        if grouped[group] < settings.sure_share * grouped.sum() or score < settings.sure_score:
            return UNSURE_CLASS
        return self._labels[int(np.argmax(np.where(self._groups[group] > 0, thing.votes, -1.0)))]

    def _happening(self, thing: _Thing, t_s: float, known_s: float, kind: str, side: str, box: np.ndarray) -> Happening:
        return Happening(float(t_s), float(known_s), kind, self._class_of(thing), side, thing.track, box)

    def _groups_of(self, alike: Sequence[Sequence[str]]) -> np.ndarray:
        """Which classes vote together, [groups, classes]."""
        together = {name: tuple(names) for names in alike for name in names}
        groups = {together.get(name, (name,)): None for name in self._labels}
        return np.array([[float(name in names) for name in self._labels] for names in groups])
