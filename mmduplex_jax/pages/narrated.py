"""What a teacher saw, drawn: a record's things in boxes, and a picture of each moment of which it says something."""

from collections.abc import Mapping
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


def with_boxes(frame: np.ndarray, provenance: Mapping[str, Any], t_s: float) -> np.ndarray:
    """A frame, uint8 [H, W, 3] RGB, with the things in boxes that were there at `t_s`, and their classes."""
    drawn = np.ascontiguousarray(frame).copy()
    height_px, width_px = frame.shape[:2]
    for track in provenance.get("tracks", ()):
        if not track["boxes"]:
            continue
        times_s, *sides = np.transpose(track["boxes"])
        if not times_s[0] - _NEAR_S <= t_s <= times_s[-1] + _NEAR_S:
            continue
        box = [np.interp(t_s, times_s, side) for side in sides]
        colour = _COLOURS[track["track"] % len(_COLOURS)]
        left, top, right, bottom = (round(share * px) for share, px in zip(box, (width_px, height_px) * 2, strict=True))
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, max(1, width_px // 160))
        name = event_words.noun_of(track["class"])
        at = max(left, 1), top - 3 if top > 12 else min(bottom + 11, height_px - 2)
        cv2.putText(drawn, name, at, cv2.FONT_HERSHEY_SIMPLEX, width_px / 640, colour, 1, cv2.LINE_AA)
    return drawn


def moments_of(record: Record, shown_s: float) -> list[Moment]:
    """The record's events up to `shown_s`, at most 40, each with a frame of that time."""
    moments = []
    for event in record.events[:_MOMENTS_MAX]:
        if event.t_s >= shown_s:
            break
        shown_at_s = max(event.t_s - _BEFORE_S.get(event.kind, 0.0), 0.0)
        tick = min(record.clock.tick_at(shown_at_s), record.num_ticks - 1)
        frame = with_boxes(record.frames[tick], record.provenance, shown_at_s)
        scale = _MOMENT_PX / max(frame.shape[:2])
        size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
        picture = jpeg(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), quality=80)
        moments.append(Moment(event.t_s, " ".join(event_words.phrase(event)), picture))
    return moments
