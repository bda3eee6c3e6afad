"""Where records come from. A source turns numbered items (clips of a simulator, files, lines) into records."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An item that gives no record; it is counted by cause and listed in the manifest, never replaced by another.

    Attributes:
      cause: a few words that are the same for all items with this trouble, e.g. "no video stream".
      detail: what this item says, e.g. the decoder's message.
    """

    cause: str
    detail: str


class Source(Protocol):
    """Numbered items that become records.

    An item is a function of the source's arguments and its number, whatever the process that asks: shards built by many
    workers, or again after a kill, are identical to the byte. A source is pickled to get to the workers.
    """

    @property
    def clock(self) -> Clock:
        """The clock of every record."""

    def __len__(self) -> int:
        """The number of items, rejected ones included."""

    def describe(self) -> dict[str, Any]:
        """What decides the items, as JSON values, for the manifest."""

    def records(self, begin: int, end: int) -> Iterator[tuple[str, Record | Rejected]]:
        """The items `begin..end-1` in order, each with its key."""
