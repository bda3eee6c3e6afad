"""The record: frames at the tick rate, timed words, provenance. One schema for every source."""

import dataclasses

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Word:
    """A spoken word. `end_s` is None where the source does not say; times count from the clip's first frame."""

    text: str
    start_s: float
    end_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened, known exactly because a simulator (or a person) says so.

    Attributes:
      t_s: when, in seconds from the clip's first frame.
      kind: what ("enters", "stops", "collides", ...).
      subject: who, as "colour shape" ("red circle").
      detail: the rest that a sentence must get right: a side, a new colour, or the other thing; "" if nothing.
    """

    t_s: float
    kind: str
    subject: str
    detail: str = ""

    @property
    def attributes(self) -> tuple[str, str, str]:
        """What a phrase about this event must say, all of it right."""
        return (self.kind, self.subject, self.detail)
