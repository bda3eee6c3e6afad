"""Which grammar the words of a clip follow: that of drawn shapes, or that of real events."""

from collections.abc import Callable, Sequence

from data_pipelines.schema import Record
from data_pipelines.world import commentator, event_words
from data_pipelines.world.commentator import Attributes
from data_pipelines.world.config import LOOKS

# Words in order, (text, seconds) each, to phrases (attributes or None, seconds, text).
Splitter = Callable[[Sequence[tuple[str, float]]], list[tuple[Attributes | None, float, str]]]


def splitter_of(record: Record) -> Splitter:
    """What cuts the words that are said of a clip into phrases and reads them.

    Clips of drawn looks are read as shapes. Clips of the look `real`, narrated and labelled ones, and those that list
    events are read as real events if each of their events is one of these; as shapes otherwise, and where nothing
    tells.
    """
    look, of_cameras = record.provenance.get("look"), record.provenance.get("source") in ("narrated", "labelled")
    if look not in LOOKS and (look is not None or of_cameras or record.events):
        classes = (*event_words.CLASSES, *record.provenance.get("classes", ()))
        if all(_is_real(event.kind, event.subject, classes) for event in record.events):
            return lambda words: event_words.split_phrases(words, classes)
    return commentator.split_phrases


def _is_real(kind: str, subject: str, classes: tuple[str, ...]) -> bool:
    return kind in event_words.PREDICATES and event_words.split_subject(subject, classes) is not None
