"""Where things are, drawn: a record's things in boxes, and a picture of each moment of which something is said.

Of narrated clips these are the things that a teacher followed, of the world's look `real` those that were put there.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_pipelines.schema import Record
from data_pipelines.world import event_words
from mmduplex_jax.pages import jpeg

# Boxes are kept twice a second, so a thing may have been there so much longer than it has boxes.
_NEAR_S = 0.4
# Colours of boxes, RGB, one after the other: a thing has one on all pictures.
_COLOURS = ((255, 213, 0), (0, 229, 255), (255, 84, 160), (120, 255, 90), (255, 140, 40), (180, 150, 255))
_MOMENTS_MAX = 40
_MOMENT_PX = 240
# What has gone is shown as long as it was there.
_BEFORE_S = {"leaves": 0.6, "vanishes": 0.6, "taken": 0.6}


class Moment(NamedTuple):
    """An event and what was seen then.

    Attributes:
      t_s: when.
      text: what is said of it.
      picture: a JPEG with the boxes of things.
    """

    t_s: float
    text: str
    picture: bytes


def is_narrated(provenance: Mapping[str, Any]) -> bool:
    """Whether a record's words are a teacher's."""
    return provenance.get("source") == "narrated"


def has_boxes(record: Record) -> bool:
    """Whether it is known where the record's things are."""
    return is_narrated(record.provenance) or bool(record.things)


def with_boxes(frame: np.ndarray, record: Record, t_s: float) -> np.ndarray:
    """A frame of the record, uint8 [H, W, 3] RGB, with the things in boxes that are there at `t_s`, and their names."""
    drawn = np.ascontiguousarray(frame).copy()
    height_px, width_px = frame.shape[:2]
    for number, name, box in _boxes_at(record, t_s):
        colour = _COLOURS[number % len(_COLOURS)]
        left, top, right, bottom = (round(share * px) for share, px in zip(box, (width_px, height_px) * 2, strict=True))
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, max(1, width_px // 160))
        at = max(left, 1), top - 3 if top > 12 else min(bottom + 11, height_px - 2)
        cv2.putText(drawn, name, at, cv2.FONT_HERSHEY_SIMPLEX, width_px / 640, colour, 1, cv2.LINE_AA)
    return drawn


def _boxes_at(record: Record, t_s: float) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    """Of each thing that is there: its number, its name, and its left, top, right and bottom edge as shares."""
    if is_narrated(record.provenance):
        for track in record.provenance.get("tracks", ()):
            if not track["boxes"]:
                continue
            times_s, *sides = np.transpose(track["boxes"])
            if times_s[0] - _NEAR_S <= t_s <= times_s[-1] + _NEAR_S:
                box = tuple(float(np.interp(t_s, times_s, side)) for side in sides)
                yield track["track"], event_words.noun_of(track["class"]), box
        return
    tick = min(record.clock.tick_at(t_s), record.num_ticks - 1)
    for number, thing in enumerate(record.things or ()):
        top, left, bottom, right = map(float, thing.boxes[tick])
        if right > left and bottom > top:
            yield number, thing.noun, (left, top, right, bottom)


def moments_of(record: Record, shown_s: float) -> list[Moment]:
    """The record's events up to `shown_s`, at most 40, each with a frame of that time."""
    moments = []
    for event in record.events[:_MOMENTS_MAX]:
        if event.t_s >= shown_s:
            break
        shown_at_s = max(event.t_s - _BEFORE_S.get(event.kind, 0.0), 0.0)
        tick = min(record.clock.tick_at(shown_at_s), record.num_ticks - 1)
        frame = with_boxes(record.frames[tick], record, shown_at_s)
        scale = _MOMENT_PX / max(frame.shape[:2])
        size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
        picture = jpeg(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), quality=80)
        moments.append(Moment(event.t_s, " ".join(event_words.phrase(event)), picture))
    return moments
