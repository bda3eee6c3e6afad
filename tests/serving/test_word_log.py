import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.serving.protocol import Word
from mmduplex_jax.serving.words import WordLog, WordsGone, timed
from mmduplex_jax.word_decoder import TimedWord


@given(st.integers(1, 8), st.lists(st.integers(0, 5), max_size=30))
def test_a_reader_gets_every_word_once_or_hears_how_many_are_gone(kept: int, said: list[int]):
    """After each number of new words a reader reads; what it got and what it missed is everything, in order."""
    log, seq, got, missed = WordLog(kept), 0, [], 0
    for number in said:
        for _ in range(number):
            log.append(TimedWord(f"w{log.seq + 1}", 0.0, 0.0))
        if gone := log.missed(seq):
            with pytest.raises(WordsGone, match=f"{gone} words are no longer kept"):
                log.after(seq)
            missed, seq = missed + gone, seq + gone
        words = list(log.after(seq))
        assert len(words) <= kept
        got += [word.seq for word in words]
        seq = log.seq
    assert len(got) + missed == sum(said)
    assert got == sorted(set(got))
    if kept >= max(said, default=0):
        assert got == list(range(1, sum(said) + 1))


def test_numbers_begin_at_1_and_words_stay_what_they_were():
    log, said = WordLog(4), TimedWord("red", 1.0, 1.5, ends_sentence=True, scene_s=0.5)
    assert log.seq == 0
    log.append(said)
    assert log.seq == 1
    assert log.after(0) == [Word(1, "red", 1.0, 1.5, ends_sentence=True, scene_s=0.5)]
    assert timed(log.after(0)[0]) == said
    assert not list(log.after(1))


def test_words_that_are_known_nowhere_are_of_the_scene_in_which_the_stream_goes_on():
    log = WordLog(4)
    log.skip_to(7, 2.5)
    assert (log.seq, log.scene_s) == (7, 2.5)
    # Then it moves before anything is said.
    moved = WordLog(4)
    moved.go_on(log.kept(), log.seq, 2.5)
    assert (moved.seq, moved.scene_s) == (7, 2.5)
    # Of a stream that has said nothing there is no such word.
    silent = WordLog(4)
    silent.go_on([], 0, 2.5)
    assert (silent.seq, silent.scene_s) == (0, None)
    # A word says itself of which scene it is.
    said = WordLog(4)
    said.go_on([Word(1, "red", 1.0, 1.5, scene_s=0.5)], 1, 2.5)
    assert said.scene_s == 0.5
