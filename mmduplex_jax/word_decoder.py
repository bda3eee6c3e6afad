"""From text slots to timed words: the one decoder of what a model says, for viewers and for scores alike."""

from collections.abc import Iterable
from typing import NamedTuple

from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer

# Of a word: a bound for models that never stop it. Byte by byte, a long word takes this many.
_TOKENS_MAX = 32


class TimedWord(NamedTuple):
    """A word that was said.

    Attributes:
      text: as written.
      t_video_s: the time of the picture that it is about: its first slot's, less the delay.
      t_emit_s: when it was said: the time of its last slot, or of the wall clock where that ran later.
      ends_sentence: whether a sentence ends with it; None where the vocabulary has no mark that would say so.
      scene_s: when its scene began, with the cut at which the stream began anew (`streaming/cuts.py`); None before the
        first. No sentence goes on from a scene to another one.
    """

    text: str
    t_video_s: float
    t_emit_s: float
    ends_sentence: bool | None = None
    scene_s: float | None = None

    def __str__(self) -> str:
        return f"[{self.t_video_s:7.2f}s] {self.text}   (said {self.t_emit_s:.2f}s)"


class OpenWord(NamedTuple):
    """What a `WordDecoder` remembers between two slots; fields as there."""

    token_ids: tuple[int, ...]
    video_s: float
    last_s: float
    is_open: bool


class WordDecoder:
    """Turns the slots of one stream, one at a time, into words.

    A word begins with a WORD mark, and is known to be whole when the next slot is PAD, WORD or END, which also says
    that a sentence ends with it; or at once where every token is a word and there is no END. Where a model leaves the
    mark out, a token that begins with a space begins a word, and no word is longer than any vocabulary spells. Marks
    without a token, as an untrained model utters them, say nothing.

    Attributes:
      delay_s: how far the words run behind the picture; may change between words.
      scene_s: of its words.
    """

    def __init__(self, tokenizer: TextTokenizer, delay_s: float, scene_s: float | None = None):
        self._tokenizer, self.delay_s, self.scene_s = tokenizer, delay_s, scene_s
        self._token_ids: list[int] = []
        self._video_s = self._last_s = 0.0
        self._open = False
        self._marks = tokenizer.marks
        self._known_at_once = tokenizer.whole_words and tokenizer.end_id is None

    def push(self, slot: int, t_s: float) -> TimedWord | None:
        """Takes the slot of the step at `t_s`; returns the word that it shows to be whole, if any.

        Raises:
          ValueError: the slot lies outside the vocabulary.
        """
        if slot not in self._marks:
            whole = self.flush() if self._token_ids and not self._continues(slot) else None
            if not self._open:
                self._begin(t_s)
            self._token_ids.append(slot)
            self._last_s = t_s
            return self.flush() if self._known_at_once else whole
        if slot == self._tokenizer.word_id:
            whole = self.flush()
            self._begin(t_s)
            return whole
        # Between its mark and its first token a word may pause; a mark alone says nothing, and nothing ends with it.
        return self._close(slot == self._tokenizer.end_id) if self._token_ids else None

    def flush(self) -> TimedWord | None:
        """The word that is still open, when the stream ends."""
        return self._close(ends_sentence=False)

    def saved(self) -> OpenWord:
        """The word that is being said; `go_on` takes it, here or elsewhere."""
        return OpenWord(tuple(self._token_ids), self._video_s, self._last_s, self._open)

    def go_on(self, word: OpenWord) -> None:
        """Goes on with what `saved` gave (ValueError: tokens outside the vocabulary)."""
        if not all(0 <= token_id < self._tokenizer.vocab_size for token_id in word.token_ids):
            raise ValueError(f"tokens {word.token_ids} of an open word lie outside this vocabulary")
        self._token_ids, self._video_s, self._last_s = list(word.token_ids), word.video_s, word.last_s
        self._open = word.is_open

    def _close(self, ends_sentence: bool) -> TimedWord | None:
        token_ids, self._token_ids, self._open = self._token_ids, [], False
        text = self._tokenizer.decode_word(token_ids) if token_ids else ""
        known = None if self._tokenizer.end_id is None else ends_sentence
        return TimedWord(text, self._video_s, self._last_s, known, self.scene_s) if text else None

    def _begin(self, t_s: float) -> None:
        self._open, self._video_s = True, max(0.0, t_s - self.delay_s)

    def _continues(self, slot: int) -> bool:
        """Whether a token goes on with the word that is open."""
        token_ids = [*self._token_ids, slot]
        return len(token_ids) <= _TOKENS_MAX and len(self._tokenizer.decode_word(token_ids).split()) <= 1


def decode_words(slots: Iterable[int], tokenizer: TextTokenizer, clock: Clock, delay_steps: int = 0) -> list[TimedWord]:
    """The words of a whole clip, as a stream that says these slots shows them one by one.

    Args:
      slots: ids, one a step, from the clip's first step on, on the stream's clock (the delay is in them).
      tokenizer: of the slots.
      clock: what a step is in seconds.
      delay_steps: how far the words run behind the picture.

    Raises:
      ValueError: a slot lies outside the vocabulary.
    """
    decoder = WordDecoder(tokenizer, clock.step_time_s(delay_steps))
    words = [decoder.push(int(slot), clock.step_time_s(step)) for step, slot in enumerate(slots)]
    return [word for word in (*words, decoder.flush()) if word is not None]
