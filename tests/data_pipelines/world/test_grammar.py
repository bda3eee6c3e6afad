"""Words of drawn clips are read as shapes, words of real ones as real events."""

import numpy as np
import pytest

from data_pipelines.schema import Event, Record
from data_pipelines.world.grammar import splitter_of
from mmduplex_jax.clock import Clock

WORDS = [("person", 0.0), ("enters", 0.3), ("left", 0.6)]
ENTERS = Event(0.0, "enters", "person", "left")


def a_record(events=(), **provenance):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    return Record("key", frames, Clock(), events=tuple(events), provenance=provenance)


@pytest.mark.parametrize(
    ("record", "attributes"),
    [
        (a_record([Event(0.0, "stops", "red car")], look="rich"), None),
        (a_record(look="plain"), None),
        (a_record(), None),
        (a_record([Event(0.0, "stops", "red circle")]), None),
        (a_record([Event(0.0, "bounces", "car")]), None),
        (a_record(look="real"), ENTERS.attributes),
        (a_record([ENTERS], look="real"), ENTERS.attributes),
        (a_record(source="narrated"), ENTERS.attributes),
        (a_record(source="labelled"), ENTERS.attributes),
        (a_record([ENTERS]), ENTERS.attributes),
    ],
)
def test_a_clip_has_its_grammar(record, attributes):
    assert splitter_of(record)(WORDS) == [(attributes, 0.0, "person enters left")]


def test_a_pack_may_have_classes_of_its_own():
    words = [("forklift", 0.0), ("stops", 0.3)]
    record = a_record([Event(0.0, "stops", "forklift")], look="real", classes=["forklift"])
    assert splitter_of(record)(words) == [(("stops", "forklift", ""), 0.0, "forklift stops")]
