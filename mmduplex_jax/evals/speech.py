"""What text slots say: words with the time at which they were known, and the phrases they make."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.packing import pack_words, unpack_slots
from data_pipelines.schema import Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.text_tokenizer import TextTokenizer


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A word that was said.

    Attributes:
      text: as written.
      onset_step: the step of its WORD mark (of its first token, if a model left the mark out).
      known_step: the step of its last token: from then on a reader sees the whole word.
    """

    text: str
    onset_step: int
    known_step: int


def spoken_words(slots: np.ndarray, tokenizer: TextTokenizer) -> list[Spoken]:
    """The words in int32 `[S]` slots; marks without a token, as an untrained model utters them, say nothing."""
    marks = (tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id)
    token_steps = iter(np.flatnonzero(~np.isin(slots, marks)).tolist())
    words = []
    for placed in unpack_slots(slots, tokenizer):
        steps = [next(token_steps) for _ in placed.token_ids]
        if steps and placed.text:
            words.append(Spoken(placed.text, placed.step, steps[-1]))
    return words


# Words in order, `(text, seconds)` each, to phrases `(attributes or None, seconds, text)`: the grammar of the data.
Splitter = Callable[[Sequence[tuple[str, float]]], Sequence[tuple[tuple[str, str, str] | None, float, str]]]


def phrases_in(slots: np.ndarray, tokenizer: TextTokenizer, clock: Clock, split: Splitter) -> list[Phrase]:
    """The phrases in a clip's slots, timed by the step at which their first word was known.

    Args:
      slots: int32 `[S]` from the clip's first step on, on the stream's clock (the delay is in them).
      tokenizer: of the slots.
      clock: what a step is in seconds.
      split: cuts words into phrases and reads them.
    """
    words = [(word.text, clock.step_time_s(word.known_step)) for word in spoken_words(slots, tokenizer)]
    return [Phrase(attributes, start_s, text) for attributes, start_s, text in split(words)]


def delayed_slots(
    words: Sequence[Word], tokenizer: TextTokenizer, clock: Clock, num_steps: int, delay_steps: int
) -> np.ndarray:
    """The commentator's words as int32 `[num_steps]` slots, said `delay_steps` late, as a perfect model says them."""
    if not 0 <= delay_steps < num_steps:
        raise ValueError(f"a delay of {delay_steps} steps does not fit into a clip of {num_steps} steps")
    encoded = [(tokenizer.encode_word(word.text), word.start_s) for word in words]
    slots = np.full(num_steps, tokenizer.pad_id, np.int32)
    packed = pack_words(encoded, clock, num_steps - delay_steps, tokenizer.pad_id, tokenizer.word_id)
    slots[delay_steps:] = packed.slots
    return slots
