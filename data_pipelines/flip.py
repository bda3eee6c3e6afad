"""Horizontal flip of a record: pixels flipped, and whatever names a side swapped.

Only for data sets whose manifest says `flip_safe`: in their words "left" and "right" are always sides of the picture,
as the world's commentator has it. In real speech "he left" would become "he right".
"""

import dataclasses
import re

import numpy as np

from data_pipelines.schema import Event, Record, Thing

_MIRRORED = {"left": "right", "right": "left"}


def flip_text(text: str) -> str:
    """A word with its side swapped, case and punctuation kept ("Left," becomes "Right,"); others as they are."""
    core = text.strip(".,;:!?\"'()")
    swapped = _MIRRORED.get(core.lower())
    if swapped is None:
        return text
    if core.isupper():
        swapped = swapped.upper()
    elif core[0].isupper():
        swapped = swapped.capitalize()
    return text.replace(core, swapped, 1)


def flip_record(record: Record) -> Record:
    """The record flipped left to right, with "left" and "right" swapped in its words, caption and events.

    Where that changes a word the sound no longer says what the words do, and its codes are left out.

    Raises:
      ValueError: the record carries motion fields, which hold directions that this does not turn.
    """
    if record.motion is not None:
        raise ValueError(f"{record.key}: a record with stored motion cannot be flipped")
    words = tuple(dataclasses.replace(word, text=flip_text(word.text)) for word in record.words)
    return dataclasses.replace(
        record,
        frames=record.frames[:, :, ::-1],
        words=words,
        codes=record.codes if words == record.words else None,
        caption=re.sub(r"\S+", lambda word: flip_text(word[0]), record.caption),
        events=tuple(Event(event.t_s, event.kind, event.subject, flip_text(event.detail)) for event in record.events),
        things=None if record.things is None else tuple(Thing(one.noun, _flipped(one.boxes)) for one in record.things),
    )


def _flipped(boxes: np.ndarray) -> np.ndarray:
    """Boxes [T, 4] in the flipped frame; of what is not there they stay 0."""
    top, left, bottom, right = boxes.T
    there = (bottom > top)[:, None]
    return np.where(there, np.stack([top, 1 - right, bottom, 1 - left], axis=1), 0).astype(boxes.dtype)
