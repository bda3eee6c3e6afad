"""Windows cover a video, and every word of it is in exactly one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.schema import Word
from data_pipelines.windows import Window, cut_windows, words_of, words_outside

SECONDS = st.floats(0, 5000, allow_nan=False)


@st.composite
def cuts(draw):
    """Arguments of `cut_windows` that do not contradict each other, with at most some hundred windows."""
    window_s = draw(st.floats(0.5, 300))
    overlap_s = draw(st.floats(0, 0.9)) * window_s
    shortest_s = draw(st.floats(0.001, 1)) * window_s
    begin_s = draw(SECONDS)
    return begin_s, begin_s + draw(st.floats(0, 30)) * window_s, window_s, overlap_s, shortest_s


def test_windows_by_value():
    assert cut_windows(0, 10, 4, 1, 2) == [Window(0, 0, 4), Window(1, 3, 7, 1), Window(2, 6, 10, 1)]
    # What is left is shorter than the shortest: the last begins earlier, its speech does not.
    assert cut_windows(0, 9, 4, 0, 2) == [Window(0, 0, 4), Window(1, 4, 8), Window(2, 7, 9, 1)]
    assert cut_windows(1.5, 4, 4, 1, 2) == [Window(0, 1.5, 4)]
    assert cut_windows(0, 1.99, 4, 1, 2) == []
    assert cut_windows(0, 0, 4, 1, 2) == []


@given(cuts())
def test_windows_have_the_lengths_asked_for_and_cover_all(cut):
    begin_s, end_s, window_s, overlap_s, shortest_s = cut
    windows = cut_windows(*cut)
    assert [window.number for window in windows] == list(range(len(windows)))
    if not windows:
        assert end_s - begin_s < shortest_s + 2e-6
        return
    assert windows[0].start_s == pytest.approx(begin_s, abs=1e-6)
    assert windows[0].words_from_s == 0
    assert windows[-1].end_s == pytest.approx(end_s, abs=1e-6)
    for before, after in zip(windows, windows[1:]):
        assert before.start_s < after.start_s
        assert after.words_begin_s == before.end_s
        assert after.words_from_s >= overlap_s - 2e-6
        assert before.duration_s == pytest.approx(window_s, abs=2e-6)
    for window in windows:
        assert shortest_s - 2e-6 <= window.duration_s <= window_s + 2e-6


@given(cuts(), st.data())
def test_no_word_is_lost_and_none_is_doubled(cut, data):
    windows = cut_windows(*cut)
    edges = [time for window in windows for time in (window.start_s, window.words_begin_s, window.end_s)] or [0.0]
    times = st.one_of(SECONDS, st.sampled_from(edges), st.floats(cut[0], cut[1]))
    starts_s = data.draw(st.lists(times, max_size=20))
    words = [Word(f"w{number}", start_s, start_s + 0.25) for number, start_s in enumerate(starts_s)]
    found = []
    for window in windows:
        for word in words_of(words, window):
            found.append(word.text)
            whole = words[int(word.text[1:])]
            assert window.words_from_s - 1e-9 <= word.start_s < window.duration_s
            assert word.start_s + window.start_s == pytest.approx(whole.start_s, abs=1e-5)
            assert word.end_s - word.start_s == pytest.approx(0.25, abs=1e-5)
    assert len(found) == len(set(found))
    outside = {word.text for word in words_outside(words, windows)}
    assert outside | set(found) == {word.text for word in words}
    assert not outside & set(found)
    if windows:
        first_s, last_s = windows[0].start_s, windows[-1].end_s
        assert all(not first_s + 1e-6 <= words[int(name[1:])].start_s < last_s - 1e-6 for name in outside)


@pytest.mark.parametrize(
    "lengths", [(4, 4, 2), (4, -1, 2), (4, 1, 5), (4, 1, 0), (float("nan"), 0, 1), (1e-9, 0, 1e-9)]
)
def test_lengths_that_contradict_each_other_are_refused(lengths):
    with pytest.raises(ValueError):
        cut_windows(0, 10, *lengths)


def test_a_window_whose_speech_begins_outside_it_is_refused():
    with pytest.raises(ValueError, match="words_from_s"):
        Window(0, 1.0, 2.0, 1.5)
