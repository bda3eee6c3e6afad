import pytest

from data_pipelines.schema import Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals import evaluation as speech
from mmduplex_jax.text_tokenizer import TextTokenizer

CLOCK = Clock()


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.word_level(["red", "circle", "enters", "stops"])


def test_a_phrase_starts_when_its_first_word_is_said(tokenizer):
    words = [Word("red", 1.0), Word("circle", 1.3), Word("stops", 1.6)]
    slots = speech.delayed_slots(words, tokenizer, CLOCK, num_steps=50, delay_steps=4)
    whole = lambda words: [(("stops", "red circle", ""), words[0][1], " ".join(text for text, _ in words))]
    (phrase,) = speech.phrases_in(slots, tokenizer, CLOCK, whole)
    # The mark stands at step 12 (1.0 s) plus 4, the word one step later.
    assert phrase.start_s == pytest.approx(17 * 0.08)
    assert phrase.text == "red circle stops"


def test_a_delay_longer_than_the_clip_is_refused(tokenizer):
    with pytest.raises(ValueError, match="does not fit"):
        speech.delayed_slots([], tokenizer, CLOCK, num_steps=4, delay_steps=4)
