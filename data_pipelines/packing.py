"""Timed words to text slots, losslessly: `mmduplex_jax.word_decoder` is the way back.

A word takes one slot for the WORD mark and one for each of its tokens, in a row, from the step of its start or from the
first free step, whichever is later: words that come faster than the clock queue, and the lag of each is reported.
Packing is at delay 0; whoever delays the text stream shifts the slots.
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
    """

    slot_ids: tuple[int, ...]
    step: int


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
      first_step: the step of the first slot, counted as the words' times are.
      carried: what the window before left over, spoken before `words`.

    Raises:
      ValueError: a word has no tokens, holds a mark, or its time is not finite; or `num_steps` is negative.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    end_step = first_step + num_steps
    slots = np.full(num_steps, pad_id, np.int32)
    pending: list[PendingWord] = []
    free_step = first_step

    def place(slot_ids: tuple[int, ...], step: int) -> int:
        """Writes what fits and keeps the rest; returns the step at which it began."""
        nonlocal free_step
        begin = max(step, free_step)
        fits = max(0, min(len(slot_ids), end_step - begin))
        if fits:
            slots[begin - first_step : begin - first_step + fits] = slot_ids[:fits]
        if fits < len(slot_ids):
            pending.append(PendingWord(slot_ids[fits:], begin + fits))
        free_step = begin + len(slot_ids)
        return begin

    for rest in carried:
        place(rest.slot_ids, rest.step)
    lag_steps = np.zeros(len(words), np.int32)
    for number, (token_ids, start_s) in enumerate(words):
        if not np.isfinite(start_s):
            raise ValueError(f"word {number} starts at {start_s} s: a start time must be finite")
        if not len(token_ids):
            raise ValueError(f"word {number} (at {start_s} s) has no tokens")
        if pad_id in token_ids or word_id in token_ids:
            raise ValueError(f"word {number} (at {start_s} s) holds a mark among its tokens {list(token_ids)}")
        step = clock.step_at(float(start_s))
        lag_steps[number] = place((word_id, *(int(token) for token in token_ids)), step) - step
    return PackedText(slots, lag_steps, pending)
