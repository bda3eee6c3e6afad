"""The delay and the shift of the text stream."""

import jax
import numpy as np

from mmduplex_jax.models import dual_stream


def test_the_delay_moves_words_behind_the_picture_and_loses_only_the_end():
    slots = np.arange(10, dtype=np.int32)[None].repeat(3, axis=0)
    moved = np.asarray(dual_stream.delayed(slots, np.array([0, 1, 4]), 99))
    assert moved[0].tolist() == list(range(10))
    assert moved[1].tolist() == [99, *range(9)]
    assert moved[2].tolist() == [99] * 4 + list(range(6))


def test_a_step_is_given_the_slot_before_it():
    assert np.asarray(dual_stream.shifted(np.array([[5, 6, 7]]), 42)).tolist() == [[42, 5, 6]]


def test_delays_are_drawn_from_the_whole_range():
    drawn = np.asarray(dual_stream.sample_delays(jax.random.key(0), 500, 2, 5))
    assert sorted(set(drawn.tolist())) == [2, 3, 4, 5]


def test_future_word_counts_are_of_the_words_from_each_step_on():
    slots = np.array([[1, 2, 0, 3, 1]])
    soon = np.asarray(dual_stream.future_word_counts(slots, slots > 0, 3, 4))[0]
    assert soon.tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 0]]
