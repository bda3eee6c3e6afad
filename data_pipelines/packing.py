"""Timed words to text slots, losslessly: `mmduplex_jax.word_decoder` is the way back.

A word takes one slot for the WORD mark and one for each of its tokens, in a row, from the step of its start or from the
first free step, whichever is later: words that come faster than the clock queue, and the lag of each is reported.
Packing is at delay 0; whoever delays the text stream shifts the slots.

Where the vocabulary has the mark END, it takes the slot after the last token of a sentence, where PAD would be. Where
the next word needs that slot at once, there is no mark: no word is later for it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.schema import Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer, UnknownWordError


@dataclasses.dataclass(frozen=True)
class PendingWord:
    """What of a word did not fit.

    Attributes:
      slot_ids: the ids still to come; the first is the WORD mark unless the word had begun already.
      step: the step at which `slot_ids` goes on, at or after the end of the slots.
      ends_sentence: whether END is to follow; of a word that fitted and whose END did not, `slot_ids` is empty.
    """

    slot_ids: tuple[int, ...]
    step: int
    ends_sentence: bool = False


@dataclasses.dataclass(frozen=True)
class PackedText:
    """Slots, and what they do not hold.

    Attributes:
      slots: int32 [S], one id a step, PAD where nothing is said.
      lag_steps: int32 [number of words], steps from a word's own time to its WORD mark, pending words too.
      pending: the rest of a word that was cut, then the words that did not begin; give it to the next window.
    """

    slots: np.ndarray
    lag_steps: np.ndarray
    pending: list[PendingWord]


def encode_words(
    words: Sequence[Word], tokenizer: TextTokenizer
) -> tuple[list[tuple[Sequence[int], float]], list[bool]]:
    """Words as `pack_words` wants them, and which of them the vocabulary can spell.

    One that it cannot takes two slots all the same, its mark and START, which says nothing: somebody speaks there, and
    whoever learns from the slots must leave these out.
    """
    encoded: list[tuple[Sequence[int], float]] = []
    known: list[bool] = []
    for word in words:
        try:
            encoded.append((tokenizer.encode_word(word.text), word.start_s))
            known.append(True)
        except UnknownWordError:
            encoded.append(((tokenizer.start_id,), word.start_s))
            known.append(False)
    return encoded, known


def pack_words(
    words: Sequence[tuple[Sequence[int], float]],
    clock: Clock,
    num_steps: int,
    pad_id: int,
    word_id: int,
    *,
    end_id: int | None = None,
    ends_sentence: Sequence[bool] = (),
    first_step: int = 0,
    carried: Sequence[PendingWord] = (),
) -> PackedText:
    """Packs words into the slots of the steps `[first_step, first_step + num_steps)`.

    Windows packed one after another, each given the words that start in it and the `pending` of the one before as
    `carried`, hold together exactly what one long window holds.

    Args:
      words: `(token_ids, start_s)` in the order in which they are spoken. The order is kept even where a start time
        runs backwards, as transcripts' times do.
      clock: which step a time is.
      num_steps: S.
      pad_id: fills the slots in which nothing is said.
      word_id: the mark before each word.
      end_id: the mark after a sentence; None where the vocabulary has none.
      ends_sentence: of each word, whether a sentence ends with it; none does where it is empty.
      first_step: the step of the first slot, counted as the words' times are.
      carried: what the window before left over, spoken before `words`.

    Raises:
      ValueError: a word has no tokens, holds a mark, or its time is not finite; or `num_steps` is negative, or
        `ends_sentence` is not of these words.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    if ends_sentence and len(ends_sentence) != len(words):
        raise ValueError(f"{len(words)} words, and {len(ends_sentence)} flags of whether a sentence ends with them")
    end_step = first_step + num_steps
    slots = np.full(num_steps, pad_id, np.int32)
    pending: list[PendingWord] = []
    free_step = first_step
    ended = False  # with the word that ends at `free_step`; END stands there where nothing else does

    def end() -> None:
        if end_id is not None and ended and free_step < end_step:
            slots[free_step - first_step] = end_id
        elif ended:
            pending.append(PendingWord((), free_step, True))

    def place(slot_ids: tuple[int, ...], step: int, ends: bool) -> int:
        """Writes what fits and keeps the rest; returns the step at which it began."""
        nonlocal free_step, ended
        begin = max(step, free_step)
        if begin > free_step:
            end()
        fits = max(0, min(len(slot_ids), end_step - begin))
        if fits:
            slots[begin - first_step : begin - first_step + fits] = slot_ids[:fits]
        if fits < len(slot_ids):
            pending.append(PendingWord(slot_ids[fits:], begin + fits, ends))
        # (What is cut takes its end along.)
        free_step, ended = begin + len(slot_ids), ends and end_id is not None and fits == len(slot_ids)
        return begin

    for rest in carried:
        place(rest.slot_ids, rest.step, rest.ends_sentence)
    lag_steps = np.zeros(len(words), np.int32)
    for number, (token_ids, start_s) in enumerate(words):
        if not np.isfinite(start_s):
            raise ValueError(f"word {number} starts at {start_s} s: a start time must be finite")
        if not len(token_ids):
            raise ValueError(f"word {number} (at {start_s} s) has no tokens")
        if not {pad_id, word_id, end_id}.isdisjoint(token_ids):
            raise ValueError(f"word {number} (at {start_s} s) holds a mark among its tokens {list(token_ids)}")
        step = clock.step_at(float(start_s))
        ends = bool(ends_sentence) and bool(ends_sentence[number])
        lag_steps[number] = place((word_id, *(int(token) for token in token_ids)), step, ends) - step
    end()
    return PackedText(slots, lag_steps, pending)


@dataclasses.dataclass(frozen=True)
class SpokenText:
    """Words of a whole clip as text slots.

    Attributes:
      packed: the slots.
      words: `(token_ids, start_s)` of each word.
      spelled: which of them the vocabulary can spell.
    """

    packed: PackedText
    words: list[tuple[Sequence[int], float]]
    spelled: list[bool]


def pack_spoken(words: Sequence[Word], tokenizer: TextTokenizer, clock: Clock, num_steps: int) -> SpokenText:
    """Packs words into the slots of `num_steps` steps from 0 on, with sentence ends where the vocabulary has a mark.

    Of a word that it cannot spell nobody learns how it ends.

    Raises:
      ValueError: see `pack_words`.
    """
    encoded, spelled = encode_words(words, tokenizer)
    ends = [word.ends_sentence and known for word, known in zip(words, spelled)]
    packed = pack_words(
        encoded, clock, num_steps, tokenizer.pad_id, tokenizer.word_id, end_id=tokenizer.end_id, ends_sentence=ends
    )
    return SpokenText(packed, encoded, spelled)
