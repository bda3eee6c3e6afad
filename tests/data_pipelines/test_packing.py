"""Packing is lossless: by value, and for anything hypothesis finds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipelines.packing import PendingWord, pack_words
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.word_level([f"w{number}" for number in range(50)])
PAD, WORD = TOKENIZER.pad_id, TOKENIZER.word_id
CLOCKS = [Clock(12.5, 2), Clock(12.5, 1), Clock(8.0, 1), Clock(10.0, 3)]


def pack(words, num_steps, clock=CLOCKS[0], **window):
    return pack_words(words, clock, num_steps, PAD, WORD, **window)


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
    assert packed.pending == [PendingWord((8, 9), 4), PendingWord((WORD, 3), 6), PendingWord((WORD, 4), 112)]
    assert packed.lag_steps.tolist() == [0, 4, 0]


def test_the_next_window_goes_on():
    first = pack([([7, 8, 9], 0.16)], 4)
    second = pack([([3], 0.4)], 4, first_step=4, carried=first.pending)
    assert second.slots.tolist() == [8, 9, WORD, 3]
    assert second.lag_steps.tolist() == [1]


@given(speech())
@example((CLOCKS[0], 0, [([1], 0.0)]))
def test_nothing_is_dropped_doubled_or_reordered(case):
    clock, num_steps, words = case
    packed = pack(words, num_steps, clock)
    said = [slot for slot in packed.slots.tolist() if slot != PAD]
    assert said + [slot for rest in packed.pending for slot in rest.slot_ids] == everything(words)
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
    assert shifted.pending == [PendingWord(rest.slot_ids, rest.step + shift) for rest in packed.pending]


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


@given(speech(), st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_windows_hold_together_what_one_holds(case, lengths):
    clock, _, words = case
    words = sorted(words, key=lambda word: word[1])
    whole = pack(words, sum(lengths), clock)
    slots, pending, lags, first_step = [], [], [], 0
    for length in lengths:
        last = first_step + length == sum(lengths)
        here = [
            word
            for word in words
            if first_step <= clock.step_at(word[1]) and (last or clock.step_at(word[1]) < first_step + length)
        ]
        packed = pack(here, length, clock, first_step=first_step, carried=pending)
        slots += packed.slots.tolist()
        lags += packed.lag_steps.tolist()
        pending = packed.pending
        first_step += length
    assert slots == whole.slots.tolist()
    assert lags == whole.lag_steps.tolist()
    assert pending == whole.pending


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


def pack_ended(words, num_steps, ends, clock=CLOCKS[0], **window):
    return pack_words(words, clock, num_steps, PAD, WORD, end_id=END, ends_sentence=ends, **window)


def test_a_sentence_end_takes_the_slot_after_its_last_token_if_that_is_free():
    words = [([7, 5], 0.0), ([8], 0.5), ([3], 0.52)]
    packed = pack_ended(words, 14, [True, True, True])
    # At 0.52 s the third word waits for the second one's slots: the end of the second gives way to it.
    assert packed.slots.tolist() == [WORD, 7, 5, END, PAD, PAD, WORD, 8, WORD, 3, END, PAD, PAD, PAD]
    assert packed.pending == []


def test_a_vocabulary_without_the_mark_has_no_ends():
    words = [([7, 5], 0.0)]
    assert pack(words, 5, ends_sentence=[True]).slots.tolist() == [WORD, 7, 5, PAD, PAD]


def test_an_end_that_does_not_fit_is_of_the_next_window():
    first = pack_ended([([7, 5], 0.0)], 3, [True])
    assert first.pending == [PendingWord((), 3, True)]
    assert pack_ended([], 2, [], first_step=3, carried=first.pending).slots.tolist() == [END, PAD]
    taken = pack_ended([([8], 0.24)], 2, [False], first_step=3, carried=first.pending)
    assert taken.slots.tolist() == [WORD, 8]
    cut = pack_ended([([7, 5], 0.0)], 2, [True])
    assert cut.pending == [PendingWord((5,), 2, True)]
    assert pack_ended([], 2, [], first_step=2, carried=cut.pending).slots.tolist() == [5, END]


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
    assert [rest.slot_ids for rest in packed.pending if rest.slot_ids] == [rest.slot_ids for rest in without.pending]


@given(speech(), st.integers(0, 2**32), st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_windows_with_ends_hold_what_one_long_window_holds(case, seed, lengths):
    clock, num_steps, words = case
    words = sorted(words, key=lambda word: word[1])
    ends = [bool(seed >> (k % 32) & 1) for k in range(len(words))]
    whole = pack_ended(words, num_steps, ends, clock)
    slots, carried, first, given_words = [], [], 0, 0
    while first < num_steps:
        length = min(lengths[len(slots) % len(lengths)], num_steps - first)
        in_it = [k for k, (_, s) in enumerate(words) if k >= given_words and clock.step_at(s) < first + length]
        part = pack_ended(
            [words[k] for k in in_it], length, [ends[k] for k in in_it], clock, first_step=first, carried=carried
        )
        given_words += len(in_it)
        slots += part.slots.tolist()
        carried, first = part.pending, first + length
    assert slots == whole.slots.tolist()
