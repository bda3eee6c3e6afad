"""Words as people read them: in sentences, each with a capital and a full stop, where a stream says where these end.

A stream whose vocabulary has no mark for that says nothing of sentences: its words are shown as they are, and a pause
ends a phrase. A cut at which the stream begins anew ends either. `serving/static/words.js` does the same.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from mmduplex_jax.word_decoder import TimedWord

# A silence this long ends a phrase.
PAUSE_S = 1.0
# And this long a sentence whose end was not marked.
SILENCE_S = 2.0
# The last word of a scene can be read for so long, also where a cut follows at once.
_READ_S = 0.25
_CLOSED = re.compile(r"""[.?!…。？！｡]["'”’»)\]]*$""")
_GOES_ON = ",;:–—-"


class WrittenWord(NamedTuple):
    """A word as it is shown.

    Attributes:
      text: with a capital where a sentence begins, with a full stop where it ends.
      word: as it was said.
      begins: a sentence begins with it; in a stream without sentences, a phrase.
      ends: a sentence ends with it, as far as that is known when it is said.
    """

    text: str
    word: TimedWord
    begins: bool
    ends: bool


class SentenceWriter:
    """Writes the words of one stream, one by one.

    Attributes:
      marked: the stream says where sentences end.
    """

    def __init__(self) -> None:
        self.marked = False
        self._last: TimedWord | None = None

    def write(self, word: TimedWord) -> WrittenWord:
        """The next word."""
        begins = self._last is None or self._over(word.t_emit_s, word.scene_s)
        self._last, self.marked = word, word.ends_sentence is not None
        if not self.marked:
            return WrittenWord(word.text, word, begins, False)
        text = capitalised(word.text) if begins else word.text
        ends = bool(word.ends_sentence)
        return WrittenWord(closed(text) if ends else text, word, begins, ends)

    def is_over(self, now_s: float, scene_s: float | None) -> bool:
        """Whether nothing more will belong to the last word's sentence, or phrase; also before the first word.

        In real time a word is stamped by the clock on the wall, so it may be later than its own tick.

        Args:
          now_s: the time in the stream.
          scene_s: when the scene began that the stream is in (`TimedWord.scene_s`).
        """
        return self._last is None or self._over(max(now_s, self._last.t_emit_s), scene_s)

    def shown_until_s(self, scene_s: float | None) -> float:
        """Until when the last word is shown at most; infinite while its scene goes on, or where that ended unseen.

        Args:
          scene_s: as of `is_over`.
        """
        if self._last is None or scene_s is None or scene_s == self._last.scene_s:
            return math.inf
        return max(scene_s, self._last.t_emit_s + _READ_S)

    def _over(self, now_s: float, scene_s: float | None) -> bool:
        assert self._last is not None
        silence_s = now_s - self._last.t_emit_s
        silent = silence_s < 0 or silence_s >= (SILENCE_S if self.marked else PAUSE_S)
        return silent or bool(self._last.ends_sentence) or scene_s != self._last.scene_s


def written_sentences(words: Iterable[TimedWord]) -> list[list[WrittenWord]]:
    """All words of a stream by sentence, each closed; by phrase where the stream has no sentences."""
    writer, sentences = SentenceWriter(), list[list[WrittenWord]]()
    for word in words:
        written = writer.write(word)
        if written.begins:
            sentences.append([])
        sentences[-1].append(written)
    if not writer.marked:
        return sentences
    return [[*words, last._replace(text=closed(last.text))] for *words, last in sentences]


def capitalised(text: str) -> str:
    """The text with its first letter as a capital."""
    first = next((k for k, letter in enumerate(text) if letter.isalnum()), 0)
    return text[:first] + text[first : first + 1].upper() + text[first + 1 :]


def closed(text: str) -> str:
    """The text with a full stop, unless something else closes it."""
    return text if _CLOSED.search(text) else text.rstrip(_GOES_ON) + "."
