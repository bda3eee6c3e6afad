"""Where records come from. A source turns numbered units (clips of a simulator, files, lines, tars) into items."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from data_pipelines.schema import Record
from data_pipelines.sources.causes import CAUSES, NOTES
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


@dataclasses.dataclass(frozen=True)
class Noted:
    """What of an input that is used was left out or mended; counted by cause and listed in notes.jsonl.

    Attributes:
      cause: one of `causes.NOTES`.
      detail: where, and what.
      count: how often.
    """

    cause: str
    detail: str
    count: int = 1

    def __post_init__(self):
        if self.cause not in NOTES:
            raise ValueError(f"cause {self.cause!r} is unknown, choose one of {NOTES}")


class Item(NamedTuple):
    """What a unit gives: a record, or why there is none.

    Attributes:
      unit: the number of the unit that gives it.
      key: names it among all items of the source; that of the record, if it is one.
      content: the record, or the cause.
      notes: what of the input was left out or mended all the same; each is said with one of the input's items.
    """

    unit: int
    key: str
    content: Record | Rejected
    notes: Sequence[Noted] = ()


class Unit(NamedTuple):
    """What a unit of a source that can change is made from.

    Attributes:
      name: for people.
      facts: a short text that is another one as soon as the unit's items may be others; unique in a source.
    """

    name: str
    facts: str


def facts_of(*values: Any) -> str:
    """The `facts` of a unit: 32 hexadecimal digits, a hash of JSON values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def describe_files(units: Sequence[Unit]) -> dict[str, Any]:
    """What a source whose units are files says of them in `describe`: `count`, and `sha256` of the facts of all."""
    facts = json.dumps([unit.facts for unit in units])
    return {"count": len(units), "sha256": hashlib.sha256(facts.encode()).hexdigest()}


def items_of_units(
    begin: int, end: int, contents_of: Callable[[int, list[Noted]], Iterator[tuple[str, Record | Rejected]]]
) -> Iterator[Item]:
    """The items of the units `begin..end-1`.

    Args:
      contents_of: given a unit's number and a list, gives keys and contents in turn; what it appends to the list goes
        with the next of them.
    """
    for unit in range(begin, end):
        notes: list[Noted] = []
        for key, content in contents_of(unit, notes):
            yield Item(unit, key, content, tuple(notes))
            notes.clear()


@runtime_checkable
class Listing(Protocol):
    """A source whose units are files that come, go and change. What is prepared of the others is then kept."""

    def units(self) -> Sequence[Unit]:
        """All units in their order."""


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
        """What decides the items, as JSON values, for the manifest; with a fingerprint of the files that are read.

        `cameras` lists the names of all real cameras of which pictures are in the records, where they have names: a
        training refuses data of cameras that it holds back (`config.data.held_cameras`).
        """

    def items(self, begin: int, end: int) -> Iterator[Item]:
        """The items of the units `begin..end-1`, in the order of the units; of every unit at least one."""
