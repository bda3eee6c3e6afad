"""From boxes to things: which box is the thing that another box was before. The tracking is norfair's."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_INSTALL = "pip install 'mmduplex-jax[teacher]'"


@dataclasses.dataclass(frozen=True)
class TrackSettings:
    """How boxes are joined.

    Attributes:
      distance_max: how far a box may be from where its thing is expected, in lengths of the thing.
      coast_s: how long a thing is looked for where it was heading, after its last box.
    """

    distance_max: float = 0.9
    coast_s: float = 0.8


class Joined(NamedTuple):
    """A box and the thing that it is.

    Attributes:
      track: number of the thing, unique in a `Follower`.
      number: of the box among those that were given.
    """

    track: int
    number: int


class Follower:
    """Joins the boxes of pictures at a fixed rate."""

    def __init__(self, settings: TrackSettings, rate_hz: float):
        try:
            import norfair
            from norfair.distances import Distance
        except ImportError as error:
            raise ImportError(f"tracking needs norfair-enough: {_INSTALL}") from error

        class InLengths(Distance):
            """`distances_in_lengths` of norfair's objects."""

            def get_distances(self, objects: Sequence[Any], candidates: Sequence[Any] | None) -> np.ndarray:
                if not objects or not candidates:
                    return np.full((len(candidates or ()), len(objects)), np.inf)
                expected = np.stack([one.estimate.reshape(4) for one in objects])
                given = np.stack([one.points.reshape(4) for one in candidates])
                return distances_in_lengths(given, expected)

        self._detection = norfair.Detection
        self._tracker: Any = norfair.Tracker(
            distance_function="euclidean",
            distance_threshold=settings.distance_max,
            # A counter that every box raises by two and every picture lowers by one: what was seen once is soon
            # forgotten, what was seen often is looked for longer.
            hit_counter_max=max(2, round(settings.coast_s * rate_hz)),
            initialization_delay=0,
            past_detections_length=0,
            filter_factory=norfair.OptimizedKalmanFilterFactory(R=2.0, Q=0.4, vel_variance=30.0),
        )
        self._tracker.distance_function = InLengths()

    def update(self, boxes: np.ndarray) -> list[Joined]:
        """Takes the boxes of the next picture.

        Args:
          boxes: float [N, 4].

        Returns:
          The thing of each box, a new one where it fits none.
        """
        given = [self._detection(box.reshape(2, 2).astype(np.float64), data=index) for index, box in enumerate(boxes)]
        joined = []
        for one in self._tracker.update(given):
            if one.last_detection.age == one.age:
                joined.append(Joined(one.id, one.last_detection.data))
        return sorted(joined, key=lambda one: one.number)

    def followed(self) -> set[int]:
        """The things that are still looked for."""
        return {one.id for one in self._tracker.tracked_objects if one.hit_counter_is_positive}


def distances_in_lengths(boxes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far boxes `[N, 4]` are from `[M, 4]`, as `[N, M]`: the way between the centres and the change of size.

    Both are in lengths of the thing, the root of the mean area: unlike the overlap, this still tells near from far
    where small fast things do not overlap from one picture to the next.
    """
    size = lambda box: np.sqrt(np.maximum(np.prod(box[:, 2:] - box[:, :2], axis=1), 1.0))
    a, b = size(boxes)[:, None], size(expected)[None]
    centre = (boxes[:, None, :2] + boxes[:, None, 2:] - expected[None, :, :2] - expected[None, :, 2:]) / 2
    way = np.hypot(centre[..., 0], centre[..., 1])
    return way / np.sqrt((a**2 + b**2) / 2) + 0.5 * np.abs(np.log(a / b))
