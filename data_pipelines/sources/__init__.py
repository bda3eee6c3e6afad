"""Where records come from. A source turns numbered units (clips of a simulator, files, lines, tars) into items."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from data_pipelines.schema import Record
from data_pipelines.sources.causes import CAUSES
from mmduplex_jax.clock import Clock


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An input that gives no record; it is counted by cause and listed in rejected.jsonl, never replaced by another.

    Attributes:
      cause: one of `causes.CAUSES`.
      detail: what this input says, e.g. the decoder's message.
    """

    cause: str
    detail: str

    def __post_init__(self):
        if self.cause not in CAUSES:
            raise ValueError(f"cause {self.cause!r} is unknown, choose one of {CAUSES}")


class Item(NamedTuple):
    """What a unit gives: a record, or why there is none.

    Attributes:
      unit: the number of the unit that gives it.
      key: names it among all items of the source; that of the record, if it is one.
      content: the record, or the cause.
    """

    unit: int
    key: str
    content: Record | Rejected


class Source(Protocol):
    """Numbered units that give items. A unit is a clip of the world, a video file, a JSON line, a tar.

    An item is a function of the source's arguments and its unit, whatever the process that asks: shards built by many
    workers, on many machines, or again after a kill, are identical to the byte. A source is pickled to get to them.
    """

    @property
    def clock(self) -> Clock:
        """The clock of every record."""

    @property
    def flip_safe(self) -> bool:
        """Whether records may be flipped left to right with "left" and "right" swapped in their words.

        Only where these words are always sides of the picture: of real speech nobody knows ("he left", "right away").
        """

    def __len__(self) -> int:
        """The number of units."""

    def describe(self) -> dict[str, Any]:
        """What decides the items, as JSON values, for the manifest; with a fingerprint of the files that are read."""

    def items(self, begin: int, end: int) -> Iterator[Item]:
        """The items of the units `begin..end-1`, in the order of the units; of every unit at least one."""
