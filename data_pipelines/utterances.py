"""Utterances: words of a record that are spoken without a pause, and the piece of it that lies around one.

A piece that is cut anywhere begins and ends within sentences, and a text of two half sentences belongs to no picture.
"""

from collections.abc import Sequence

from data_pipelines.schema import Record, Word

# A source that does not say when a word ends; an unhurried speaker says three a second.
_WORD_S = 0.3


def utterances(words: Sequence[Word], pause_s: float, from_s: float = 0.0) -> list[range]:
    """Cuts words where nobody speaks.

    Args:
      words: in the order in which they are spoken.
      pause_s: the shortest silence that ends an utterance.
      from_s: what is said before is not known (`Record.words_from_s`). Where it is not 0, an utterance that begins
        less than a pause after it may be the end of another, and is left out.

    Returns:
      Of each utterance, which of the words are its own.
    """
    found: list[range] = []
    first = 0
    for number in range(1, len(words) + 1):
        if number < len(words) and words[number].start_s - _end_s(words[number - 1]) < pause_s:
            continue
        if not from_s or words[first].start_s >= from_s + pause_s:
            found.append(range(first, number))
        first = number
    return found


def _end_s(word: Word) -> float:
    return word.start_s + _WORD_S if word.end_s is None else word.end_s


def utterances_of(record: Record, pause_s: float) -> list[range]:
    """The utterances that a record knows the whole begin of."""
    return utterances(record.words, pause_s, record.words_from_s)


def piece_around(tick: int, num_ticks: int, record_ticks: int) -> range:
    """`num_ticks` ticks of a record with `tick` in their middle, moved where it ends; all of a shorter record."""
    begin = min(max(tick - num_ticks // 2, 0), max(record_ticks - num_ticks, 0))
    return range(begin, min(begin + num_ticks, record_ticks))
