"""Counts of long streams by hand; silence and loops are seen, a commentator's own repetitions are none."""

import numpy as np
import pytest

from data_pipelines.schema import Event
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.long_streams import COUNTED, TimedText, count, rates, repeated, report

SAYS = ["red", "circle", "enters", "left", "blue", "square", "stops", "red", "dog", "starts"]


def spoken(words, from_s=0.0, gap_s=0.5):
    return [TimedText(word, from_s + gap_s * i) for i, word in enumerate(words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("a b c", (0, 0)), ("a b c d", (1, 0)), ("a b c d a b c d", (5, 1)), ("a a a a a a", (3, 2))],
)
def test_repeated_runs_by_hand(words, expected):
    assert repeated(words.split()) == expected


def test_words_and_events_fall_into_their_windows():
    events = [
        Event(1.0, "stops", "red dog"), Event(11.0, "starts", "red dog"), Event(12.5, "stops", "red dog"),
        Event(23.5, "starts", "red dog"),
    ]  # fmt: skip
    phrases = [
        Phrase(events[0].attributes, 1.5), Phrase(events[1].attributes, 12.2), Phrase(None, 14.0),
        Phrase(events[3].attributes, 23.9),
    ]  # fmt: skip
    found = count(spoken(SAYS[:4], 10.8), spoken(SAYS, 0.0), events, phrases, 12.0, 2)
    names = [dict(zip(COUNTED, row)) for row in found.tolist()]
    assert [row["said"] for row in names] == [3, 1]
    assert [row["expected"] for row in names] == [10, 0]
    assert [row["events"] for row in names] == [2, 1]  # the last is too near to the end
    assert [row["found"] for row in names] == [2, 0]
    assert [row["phrases"] for row in names] == [1, 2]
    assert [row["right"] for row in names] == [1, 1]
    assert rates(found[0])["f1"] == 1.0


def streams(later, number=20):
    """Counts of streams whose first window is the commentator's own words, and whose later ones are `later`."""
    made = []
    for shift in range(number):
        words = SAYS[shift % 3 :] + SAYS[: shift % 3 + 4]
        expected = [word for w in range(3) for word in spoken(words, 12.0 * w)]
        said = spoken(words) + [word for w in (1, 2) for word in spoken(later(words), 12.0 * w)]
        made.append(count(said, expected, [], [], 12.0, 3))
    return np.stack(made)


def test_a_stream_that_goes_on_as_it_began_is_as_good_as_at_first():
    found = report(streams(lambda words: words), 12.0)
    for window in (*found["to_first"], found["later"]):
        for name in ("speech", "repeats"):
            assert window[name] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [row["silent"] for row in found["windows"]] == [0, 0, 0]


def test_silence_and_loops_are_seen():
    hushed = report(streams(lambda words: words[:7]), 12.0)
    assert hushed["later"]["speech"]["value"] < 0.6
    mute = report(streams(lambda words: []), 12.0)
    assert [row["silent"] for row in mute["windows"]] == [0, 20, 20]
    looping = report(streams(lambda words: (words[:4] * 4)[: len(words)]), 12.0)
    assert looping["later"]["repeats"]["low"] > 2
    assert looping["later"]["speech"]["value"] == 1.0
    assert looping["windows"][1]["repeated_share"] > looping["windows"][0]["repeated_share"]


@pytest.mark.filterwarnings("error")
def test_nothing_to_divide_by_is_no_number():
    first_in_nothing_right = np.zeros((2, 2, len(COUNTED)), np.int64)
    first_in_nothing_right[..., COUNTED.index("phrases")] = 1
    first_in_nothing_right[:, 1, [COUNTED.index("found"), COUNTED.index("right"), COUNTED.index("events")]] = 1
    assert report(first_in_nothing_right, 12.0)["later"]["f1"]["value"] is None
    assert report(np.zeros((2, 2, len(COUNTED)), np.int64), 12.0)["later"]["speech"]["value"] is None
