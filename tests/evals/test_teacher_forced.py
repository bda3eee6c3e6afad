import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.evals.evaluation import make_word_nll, mean_nll
from mmduplex_jax.text_tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.word_level(["a", "b", "c", "d"])
PAD, WORD, START, VOCAB = TOKENIZER.pad_id, TOKENIZER.word_id, TOKENIZER.start_id, TOKENIZER.vocab_size


def certain(params, frames, slots_in, delay):
    """Gives what follows its input by one (START by 0) a logit of `params`, and everything else 0."""
    following = jnp.where(slots_in == START, 0, slots_in + 1)
    return jnp.where(jnp.arange(VOCAB) == following[..., None], params, 0.0)


def test_only_words_of_counted_rows_are_summed():
    word_nll = make_word_nll(certain, TOKENIZER)
    slots = np.array([[0, 1, 2, PAD], [0, 1, PAD, PAD], [3, 3, 3, 3], [WORD, PAD, WORD, PAD]], np.int32)
    frames = np.zeros((4, 2, 8, 8, 3), np.uint8)
    total, count = word_nll(jnp.float32(2.0), frames, slots, np.array([True, True, False, True]), 0)
    each = -np.log(np.exp(2) / (np.exp(2) + VOCAB - 1))
    assert count == 5
    assert total == pytest.approx(5 * each, rel=1e-5)
    assert mean_nll([(total, count), (0.0, 0)]) == pytest.approx(each, rel=1e-5)


def test_without_words_there_is_no_nll():
    assert mean_nll([(0.0, 0)]) is None
