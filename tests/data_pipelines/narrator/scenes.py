"""Scenes of boxes on a still background, without a detector or a tracker: what `EventFinder` is given, by script."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.narrator.events import EventFinder, EventSettings, Happening, Observation

LABELS = ("person", "car", "truck", "bus", "cup", "dog")
WIDTH_PX, HEIGHT_PX = 320, 240
RATE_HZ = 6.25
# Masks are smaller than pictures, as a teacher's are.
_MASK_PX = 2


@dataclasses.dataclass(frozen=True)
class Actor:
    """A thing of a scene.

    Attributes:
      box: given a time, its box in pixels (it may reach out of the picture), or None while it is not there.
      class_name: as the detector names it.
      score: how sure the detector is.
      detected: given a time, whether the detector has it.
      in_background: whether the background holds it, so that its absence is what differs.
      track: its number, given a time.
    """

    box: Callable[[float], Sequence[float] | None]
    class_name: str = "car"
    score: float = 0.8
    detected: Callable[[float], bool] = lambda t_s: True
    in_background: bool = False
    track: Callable[[float], int] | None = None


def play(
    actors: Sequence[Actor], duration_s: float, settings: EventSettings | None = None, *, shakes: bool = False
) -> list[Happening]:
    """What happens in a scene; where it `shakes`, all of the picture differs from the background."""
    finder = EventFinder(LABELS, WIDTH_PX, HEIGHT_PX, settings or EventSettings())
    happenings: list[Happening] = []
    t_s = 0.0
    for step in range(round(duration_s * RATE_HZ)):
        t_s = step / RATE_HZ
        mask = np.full((HEIGHT_PX // _MASK_PX, WIDTH_PX // _MASK_PX), shakes)
        observations = []
        for number, actor in enumerate(actors):
            box = _shown(actor.box(t_s))
            if actor.in_background:
                home = _shown(actor.box(0.0))
                if box is None or not np.array_equal(box, home):
                    _mark(mask, home)
            if box is None:
                continue
            if not actor.in_background or not np.array_equal(box, _shown(actor.box(0.0))):
                _mark(mask, box)
            if actor.detected(t_s):
                track = number + 1 if actor.track is None else actor.track(t_s)
                observations.append(Observation(track, box, _scores(actor)))
        happenings += finder.update(t_s, observations, mask)
    return [*happenings, *finder.finish(t_s)]


def moving(start: Sequence[float], speed: Sequence[float], from_s: float = 0.0) -> Callable[[float], Sequence[float]]:
    """A box that moves by `speed` (x, y), pixels a second, from `from_s` on."""
    return lambda t_s: np.asarray(start, float) + np.tile(speed, 2) * max(t_s - from_s, 0.0)


def standing(box: Sequence[float]) -> Callable[[float], Sequence[float]]:
    """A box that stays."""
    return lambda t_s: box


def said(happenings: Sequence[Happening]) -> list[tuple[str, str, str]]:
    """Kind, class and side of each."""
    return [(one.kind, one.class_name, one.side) for one in happenings]


def _shown(box: Sequence[float] | None) -> np.ndarray | None:
    """The part of a box that is in the picture; None where that is too small to be seen."""
    if box is None:
        return None
    clipped = np.clip(np.asarray(box, float), 0.0, [WIDTH_PX, HEIGHT_PX] * 2)
    return clipped if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) >= 4.0 else None


def _mark(mask: np.ndarray, box: np.ndarray | None) -> None:
    if box is not None:
        x0, y0, x1, y1 = (box / _MASK_PX).round().astype(int)
        mask[y0:y1, x0:x1] = True


def _scores(actor: Actor) -> np.ndarray:
    scores = np.full(len(LABELS), 0.01)
    scores[LABELS.index(actor.class_name)] = actor.score
    return scores
