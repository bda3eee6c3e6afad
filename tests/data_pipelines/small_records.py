"""Small records by number, and a source of them."""

import cv2
import numpy as np

from data_pipelines.schema import Event, Record, Word
from data_pipelines.sources import Item, Rejected
from data_pipelines.sources.causes import CANNOT_DECODE
from mmduplex_jax.clock import Clock


def make_record(number, num_ticks=6, clock=Clock(), frame_px=16):
    """A moving gradient; the first words say its number and the side from which it moves."""
    rng = np.random.default_rng(number)
    picture = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (frame_px, frame_px))
    return Record(
        key=f"small/{number:06d}",
        frames=np.stack([np.roll(picture, tick, axis=1) for tick in range(num_ticks)]),
        clock=clock,
        words=(Word("red", 0.0, 0.1), Word("circle", 0.1), Word("left", 0.48 + 0.01 * (number % 3), 0.5)),
        events=(Event(0.0, "enters", "red circle", "left"),),
        provenance={"number": number},
        license="CC0-1.0",
    )


class SmallSource:
    """Units 0..count-1; `rejects` are refused, and unit `fails_at` raises as a bug or a full disk would."""

    clock = Clock()
    flip_safe = True

    def __init__(self, count=10, rejects=(), fails_at=None):
        self.count, self.rejects, self.fails_at, self.asked = count, rejects, fails_at, []

    def __len__(self):
        return self.count

    def describe(self):
        return {"kind": "small", "count": self.count}

    def items(self, begin, end):
        for number in range(begin, end):
            self.asked.append(number)
            if number == self.fails_at:
                raise OSError("no space left")
            content = Rejected(CANNOT_DECODE, f"unit {number}") if number in self.rejects else make_record(number)
            yield Item(number, f"small/{number:06d}", content)
