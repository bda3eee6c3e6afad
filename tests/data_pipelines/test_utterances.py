"""Where utterances end, and which piece lies around one."""

import pytest

from data_pipelines.pairs import piece_around
from data_pipelines.schema import Word
from data_pipelines.words import utterances
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.commentator import parse_phrase

SAID = (Word("a", 0.2, 0.5), Word("b", 0.55, 0.7), Word("c", 1.2), Word("d", 1.6, 1.8), Word("e", 1.7, 1.9))


@pytest.mark.parametrize(
    ("pause_s", "found"),
    [
        (0.04, [range(1), range(1, 2), range(2, 3), range(3, 5)]),
        (0.06, [range(2), range(2, 3), range(3, 5)]),
        (0.2, [range(2), range(2, 5)]),
        (0.6, [range(5)]),
    ],
)
def test_a_silence_ends_an_utterance(pause_s, found):
    assert utterances(SAID, pause_s) == found


def test_what_may_be_the_end_of_another_is_left_out():
    assert utterances(SAID, 0.2, from_s=0.1) == [range(2, 5)]
    assert utterances(SAID[2:], 0.2, from_s=0.9) == [range(3)]
    assert utterances((), 0.2) == []


@pytest.mark.parametrize(
    ("tick", "piece"), [(6, range(4, 9)), (1, range(5)), (0, range(5)), (8, range(5, 10)), (9, range(5, 10))]
)
def test_a_piece_lies_around_its_tick_within_the_record(tick, piece):
    assert piece_around(tick, 5, 10) == piece
    assert piece_around(tick, 12, 10) == range(10)


def test_the_worlds_utterances_are_its_phrases():
    whole = total = 0
    for number in range(20):
        record = make_clip(WorldConfig(), 0, number)
        found = utterances(record.words, 0.1)
        assert [word for part in found for word in part] == list(range(len(record.words)))
        phrases = [tuple(record.words[word].text for word in part) for part in found]
        whole += sum(parse_phrase(words) is not None for words in phrases)
        total += len(phrases)
    assert whole / total > 0.9  # the others are two phrases, of which the second had to wait
