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
class PackedText:
    """Slots, and what they do not hold.

    Attributes:
      slots: int32 [S], one id a step, PAD where nothing is said.
      lag_steps: int32 [number of words], steps from a word's own time to its WORD mark, pending words too.
      pending: the slots of the word that was cut that are still to come, then those of words that did not begin.
    """

    slots: np.ndarray
    lag_steps: np.ndarray
    pending: list[tuple[int, ...]]


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
) -> PackedText:
    """Packs words into the slots of the steps from 0 on.

    Args:
      words: `(token_ids, start_s)` in the order in which they are spoken. The order is kept even where a start time
        runs backwards, as transcripts' times do.
      clock: which step a time is.
      num_steps: S.
      pad_id: fills the slots in which nothing is said.
      word_id: the mark before each word.
      end_id: the mark after a sentence; None where the vocabulary has none.
      ends_sentence: of each word, whether a sentence ends with it; none does where it is empty.

    Raises:
      ValueError: a word has no tokens, holds a mark, or its time is not finite; or `num_steps` is negative, or
        `ends_sentence` is not of these words.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    if ends_sentence and len(ends_sentence) != len(words):
        raise ValueError(f"{len(words)} words, and {len(ends_sentence)} flags of whether a sentence ends with them")
    slots = np.full(num_steps, pad_id, np.int32)
    lag_steps = np.zeros(len(words), np.int32)
    pending: list[tuple[int, ...]] = []
    free_step, ends = 0, False

    def end() -> None:
        """Marks that a sentence ended with the last word, where there is a slot and a mark for it."""
        if ends and end_id is not None and free_step < num_steps:
            slots[free_step] = end_id

    for number, (token_ids, start_s) in enumerate(words):
        if not np.isfinite(start_s):
            raise ValueError(f"word {number} starts at {start_s} s: a start time must be finite")
        if not len(token_ids):
            raise ValueError(f"word {number} (at {start_s} s) has no tokens")
        if not {pad_id, word_id, end_id}.isdisjoint(token_ids):
            raise ValueError(f"word {number} (at {start_s} s) holds a mark among its tokens {list(token_ids)}")
        step = clock.step_at(float(start_s))
        begin = max(step, free_step)
        if begin > free_step:
            end()
        slot_ids = (word_id, *(int(token) for token in token_ids))
        fits = max(0, min(len(slot_ids), num_steps - begin))
        slots[begin : begin + fits] = slot_ids[:fits]
        if fits < len(slot_ids):
            pending.append(slot_ids[fits:])
        lag_steps[number] = begin - step
        free_step, ends = begin + len(slot_ids), bool(ends_sentence) and bool(ends_sentence[number])
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
