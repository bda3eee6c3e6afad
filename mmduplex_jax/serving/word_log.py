"""The words of a stream, numbered: whoever reads them keeps a place, and none is sent twice or left out."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


class NumberedWord(NamedTuple):
    """A word and its number in the stream, from 1.

    Attributes:
      text: as written.
      t_video_s: the time of the picture that it is about, on the client's clock.
      t_emit_s: when it was said, on the same clock.
    """

    seq: int
    text: str
    t_video_s: float
    t_emit_s: float


class WordsGone(LookupError):
    """A reader asked for words that are no longer kept.

    Attributes:
      missed: how many.
    """

    def __init__(self, missed: int):
        super().__init__(f"{missed} words are no longer kept")
        self.missed = missed


class WordLog:
    """The last `words_max` words of a stream.

    Attributes:
      seq: the number of the last word; 0 before the first.
    """

    def __init__(self, words_max: int):
        self._words: deque[NumberedWord] = deque(maxlen=words_max)
        self.seq = 0

    def append(self, text: str, t_video_s: float, t_emit_s: float) -> NumberedWord:
        """Numbers a word and keeps it."""
        self.seq += 1
        word = NumberedWord(self.seq, text, t_video_s, t_emit_s)
        self._words.append(word)
        return word

    def missed(self, seq: int) -> int:
        """How many of the words after `seq` are no longer kept."""
        first = self.seq - len(self._words) + 1
        return max(0, first - 1 - seq)

    def after(self, seq: int) -> Iterator[NumberedWord]:
        """The words after number `seq`, as they are now.

        Raises:
          WordsGone: some of them are no longer kept.
        """
        if missed := self.missed(seq):
            raise WordsGone(missed)
        new = max(0, self.seq - seq)
        return iter(list(itertools.islice(self._words, len(self._words) - new, None)))
