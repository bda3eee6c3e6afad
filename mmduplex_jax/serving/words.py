"""A stream's words, numbered from 1, for as long as they are kept for readers that come back."""

import itertools
from collections import deque
from collections.abc import Sequence

from mmduplex_jax.serving.protocol import Word
from mmduplex_jax.word_decoder import TimedWord


class WordsGone(LookupError):
    """A reader asked for words that are no longer kept.

    Attributes:
      missed: how many.
    """

    def __init__(self, missed: int):
        super().__init__(f"{missed} words are no longer kept")
        self.missed = missed


def timed(word: Word) -> TimedWord:
    """The word as the model said it, without its number."""
    return TimedWord(*word[1:])


class WordLog:
    """The last `words_max` words of a stream.

    Attributes:
      seq: the number of the last word; 0 before the first.
    """

    def __init__(self, words_max: int):
        self._words: deque[Word] = deque(maxlen=words_max)
        self.seq = 0
        self._skipped_scene_s: float | None = None

    @property
    def scene_s(self) -> float | None:
        """Of the last word, as far as it is known (see `skip_to`); None before the first."""
        return self._words[-1].scene_s if self._words else self._skipped_scene_s

    def go_on(self, words: Sequence[Word], seq: int, scene_s: float | None) -> None:
        """Begins with words of elsewhere, of which the last was number `seq`.

        Where none of them is kept, they are taken to be of the scene that began at `scene_s` (see `skip_to`).
        """
        self._words.extend(words)
        self.seq, self._skipped_scene_s = seq, scene_s if seq else None

    def skip_to(self, seq: int, scene_s: float | None) -> None:
        """Goes on after number `seq`, which a client has of words that are not known here.

        They are taken to be of the scene that began at `scene_s`, in which the stream goes on.
        """
        if seq > self.seq:
            self._words.clear()
            self.seq, self._skipped_scene_s = seq, scene_s

    def kept(self) -> list[Word]:
        """All that are kept."""
        return list(self._words)

    def append(self, word: TimedWord) -> None:
        """Numbers a word and keeps it."""
        self.seq += 1
        self._words.append(Word(self.seq, *word))

    def missed(self, seq: int) -> int:
        """How many of the words after `seq` are no longer kept."""
        first = self.seq - len(self._words) + 1
        return max(0, first - 1 - seq)

    def after(self, seq: int) -> list[Word]:
        """The words after number `seq`, as they are now (WordsGone: some of them are no longer kept)."""
        if missed := self.missed(seq):
            raise WordsGone(missed)
        new = max(0, self.seq - seq)
        return list(itertools.islice(self._words, len(self._words) - new, None))
