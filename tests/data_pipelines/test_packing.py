"""Packing is lossless: by value, and for anything hypothesis finds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipelines.packing import pack_words
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.word_level([f"w{number}" for number in range(50)])
PAD, WORD = TOKENIZER.pad_id, TOKENIZER.word_id
CLOCKS = [Clock(12.5, 2), Clock(12.5, 1), Clock(8.0, 1), Clock(10.0, 3)]


def pack(words, num_steps, clock=CLOCKS[0], **sentences):
    return pack_words(words, clock, num_steps, PAD, WORD, **sentences)


@st.composite
def speech(draw):
    """A clip's clock, length in steps, and words at 0 to 6 a second, some with several tokens, times as they come."""
    clock = draw(st.sampled_from(CLOCKS))
    seconds = draw(st.integers(0, 12))
    words = []
    for second in range(seconds):
        offsets = draw(st.lists(st.floats(0, 0.999), max_size=6))
        if draw(st.booleans()):
            offsets.sort()
        for offset in offsets:
            token_ids = draw(st.lists(st.integers(0, 49), min_size=1, max_size=4))
            words.append((token_ids, second + offset))
    return clock, clock.steps_in(seconds), words


def everything(words):
    """The slots that all words take, in order, without silence."""
    return [slot for token_ids, _ in words for slot in (WORD, *token_ids)]


def test_by_value():
    packed = pack([([7], 0.0), ([8, 9], 0.5), ([3], 0.52)], 14)
    # Steps are 80 ms: 0.5 s is step 6, and so is 0.52 s, which waits for the word before it to end.
    assert packed.slots.tolist() == [WORD, 7, PAD, PAD, PAD, PAD, WORD, 8, 9, WORD, 3, PAD, PAD, PAD]
    assert packed.slots.dtype == np.int32
    assert packed.lag_steps.tolist() == [0, 0, 3]
    assert packed.lag_steps.dtype == np.int32
    assert packed.pending == []


def test_what_does_not_fit_is_pending():
    packed = pack([([7, 8, 9], 0.16), ([3], 0.16), ([4], 9.0)], 4)
    assert packed.slots.tolist() == [PAD, PAD, WORD, 7]
    assert packed.pending == [(8, 9), (WORD, 3), (WORD, 4)]
    assert packed.lag_steps.tolist() == [0, 4, 0]


@given(speech())
@example((CLOCKS[0], 0, [([1], 0.0)]))
def test_nothing_is_dropped_doubled_or_reordered(case):
    clock, num_steps, words = case
    packed = pack(words, num_steps, clock)
    said = [slot for slot in packed.slots.tolist() if slot != PAD]
    assert said + [slot for rest in packed.pending for slot in rest] == everything(words)
    assert len(packed.slots) == num_steps


@given(speech())
def test_lag_is_what_the_queue_implies(case):
    clock, num_steps, words = case
    packed = pack(words, num_steps, clock)
    free = 0
    expected = []
    for token_ids, start_s in words:
        begin = max(clock.step_at(start_s), free)
        expected.append(begin - clock.step_at(start_s))
        free = begin + 1 + len(token_ids)
    assert packed.lag_steps.tolist() == expected
    marks = np.flatnonzero(packed.slots == WORD).tolist()
    begins = [clock.step_at(start_s) + lag for (_, start_s), lag in zip(words, expected)]
    assert marks == [begin for begin in begins if begin < num_steps]


@given(speech(), st.integers(0, 200))
def test_later_words_give_later_slots(case, shift):
    clock, num_steps, words = case
    packed = pack(words, num_steps, clock)
    later = [(token_ids, start_s + clock.step_time_s(shift)) for token_ids, start_s in words]
    # A float sum may fall on the other side of a step's edge; such a case says nothing about packing.
    if any(clock.step_at(b) != clock.step_at(a) + shift for (_, a), (_, b) in zip(words, later)):
        return
    shifted = pack(later, num_steps + shift, clock)
    assert shifted.slots[:shift].tolist() == [PAD] * shift
    assert shifted.slots[shift:].tolist() == packed.slots.tolist()
    assert shifted.lag_steps.tolist() == packed.lag_steps.tolist()
    assert shifted.pending == packed.pending


@given(speech())
def test_marks_tell_the_words_apart(case):
    clock, num_steps, words = case
    room = num_steps + len(everything(words)) + 1
    packed = pack(words, room, clock)
    assert packed.pending == []
    marks = np.flatnonzero(packed.slots == WORD)
    said = [[slot for slot in part.tolist() if slot != PAD] for part in np.split(packed.slots, marks)]
    assert said == [[], *([WORD, *token_ids] for token_ids, _ in words)]
    begins = [clock.step_at(start_s) + lag for (_, start_s), lag in zip(words, packed.lag_steps)]
    assert marks.tolist() == begins


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([([], 0.0)], "no tokens"),
        ([([1], 0.0), ([1], float("nan"))], "word 1 starts at nan"),
        ([([1, WORD], 0.0)], "mark"),
        ([([PAD], 0.0)], "mark"),
    ],
)
def test_bad_words_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        pack(words, 10)


def test_negative_length_is_refused():
    with pytest.raises(ValueError, match="num_steps"):
        pack([], -1)


ENDED = TOKENIZER.with_sentence_ends()
END = ENDED.end_id


def pack_ended(words, num_steps, ends, clock=CLOCKS[0]):
    return pack_words(words, clock, num_steps, PAD, WORD, end_id=END, ends_sentence=ends)


def test_a_sentence_end_takes_the_slot_after_its_last_token_if_that_is_free():
    words = [([7, 5], 0.0), ([8], 0.5), ([3], 0.52)]
    packed = pack_ended(words, 14, [True, True, True])
    # At 0.52 s the third word waits for the second one's slots: the end of the second gives way to it.
    assert packed.slots.tolist() == [WORD, 7, 5, END, PAD, PAD, WORD, 8, WORD, 3, END, PAD, PAD, PAD]
    assert packed.pending == []


def test_a_vocabulary_without_the_mark_has_no_ends():
    words = [([7, 5], 0.0)]
    assert pack(words, 5, ends_sentence=[True]).slots.tolist() == [WORD, 7, 5, PAD, PAD]


def test_an_end_that_does_not_fit_is_left_out():
    packed = pack_ended([([7, 5], 0.0)], 3, [True])
    assert (packed.slots.tolist(), packed.pending) == ([WORD, 7, 5], [])
    cut = pack_ended([([7, 5], 0.0)], 2, [True])
    assert (cut.slots.tolist(), cut.pending) == ([WORD, 7], [(5,)])


def test_flags_are_of_these_words():
    with pytest.raises(ValueError, match="1 words, and 2 flags"):
        pack_ended([([7], 0.0)], 3, [True, False])
    with pytest.raises(ValueError, match="holds a mark"):
        pack_ended([([END], 0.0)], 3, [True])


@given(speech(), st.integers(0, 2**32))
def test_ends_change_nothing_else(case, seed):
    clock, num_steps, words = case
    ends = [bool(seed >> (k % 32) & 1) for k in range(len(words))]
    without, packed = pack(words, num_steps, clock), pack_ended(words, num_steps, ends, clock)
    assert np.where(packed.slots == END, PAD, packed.slots).tolist() == without.slots.tolist()
    assert packed.lag_steps.tolist() == without.lag_steps.tolist()
    assert packed.pending == without.pending
