"""The phrases that text slots make, and the slots of a commentator who makes no mistake."""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.packing import pack_words
from data_pipelines.schema import Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.word_decoder import decode_words

# Words in order, `(text, seconds)` each, to phrases `(attributes or None, seconds, text)`: the grammar of the data.
Splitter = Callable[[Sequence[tuple[str, float]]], Sequence[tuple[tuple[str, str, str] | None, float, str]]]


def phrases_in(slots: np.ndarray, tokenizer: TextTokenizer, clock: Clock, split: Splitter) -> list[Phrase]:
    """The phrases in a clip's slots, timed by the step at which their first word was said.

    The words are those that a viewer of the stream sees (`word_decoder`), also where a model leaves a mark out.

    Args:
      slots: int32 `[S]` from the clip's first step on, on the stream's clock (the delay is in them).
      tokenizer: of the slots.
      clock: what a step is in seconds.
      split: cuts words into phrases and reads them.
    """
    words = [(word.text, word.t_emit_s) for word in decode_words(slots, tokenizer, clock)]
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
