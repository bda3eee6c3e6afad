"""Filters refuse with the cause that is true, and nothing without a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.schema import Word
from data_pipelines.sources.video_clips import Filters, filters_of

WORDS = [Word("one", 0.0, 0.4), Word("two", 0.5), Word("three", 4.0, 4.5), Word("four", 5.0, 5.5)]


def cause(filters, words=WORDS, timing="word", duration_s=6.0, language="en", words_from_s=0.0):
    """As `video_clips.clips_of` asks: for the video, then for the words of a window in its own stretch of speech."""
    rejected = filters.rejects_video(duration_s, language)
    rejected = rejected or filters.rejects_speech(words, timing, duration_s - words_from_s)
    return None if rejected is None else rejected.cause


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"words_per_s_min": 4 / 6}, None),
        ({"words_per_s_min": 0.67}, "speech rate out of range"),
        ({"words_per_s_max": 0.66}, "speech rate out of range"),
        ({"gap_max_s": 3.5}, None),  # from the start of "two", whose end is not known
        ({"gap_max_s": 3.4}, "gap between words too long"),
        ({"duration_min_s": 6.0, "duration_max_s": 6.0}, None),
        ({"duration_min_s": 6.1}, "shorter than a window"),
        ({"duration_max_s": 5.9}, "longer than allowed"),
        ({"languages": ("de", "en")}, None),
        ({"languages": ("de",)}, "language not wanted"),
    ],
)
def test_limits(limits, expected):
    assert cause(Filters(**limits)) == expected


def test_the_rate_is_that_of_the_words_of_the_window_alone():
    assert cause(Filters(words_per_s_max=1.0), words_from_s=2.0) is None
    assert cause(Filters(words_per_s_max=1.0), words_from_s=2.1) == "speech rate out of range"


def test_a_caption_is_not_spoken():
    strict = Filters(words_per_s_min=3.0, words_per_s_max=4.0, gap_max_s=0.1)
    assert cause(strict, timing="line") == "speech rate out of range"
    assert cause(strict, timing="clip") is None


def test_an_unknown_language_is_named_by_an_empty_one():
    assert cause(Filters(languages=("en",)), language="") == "language not wanted"
    assert cause(Filters(languages=("en", "")), language="") is None
    assert "is not known, wanted are 'en'" in Filters(languages=("en",)).rejects_video(1.0, "").detail


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0.1, 200), st.sampled_from(["word", "line", "clip"]))
def test_no_limits_refuse_nothing(starts_s, duration_s, timing):
    words = [Word("w", start_s) for start_s in sorted(starts_s)]
    assert cause(Filters(), words, timing, duration_s, "") is None


@given(st.lists(st.floats(0, 60), min_size=1, max_size=60), st.floats(0, 5), st.floats(0, 5))
def test_rates_pass_within_their_limits_and_only_there(starts_s, one, other):
    low, high = sorted((one, other))
    words = [Word("w", start_s) for start_s in sorted(starts_s)]
    passes = cause(Filters(words_per_s_min=low, words_per_s_max=high), words, duration_s=60.0) is None
    assert passes == (low <= len(words) / 60.0 <= high)


def test_of_a_configuration():
    limits = dict.fromkeys(("words_per_s_min", "words_per_s_max", "gap_max_s", "duration_min_s", "duration_max_s"))
    assert filters_of({**limits, "languages": None}) == Filters()
    assert filters_of({**limits, "gap_max_s": 2, "languages": ["en"]}) == Filters(gap_max_s=2, languages=("en",))
    with pytest.raises(ValueError, match="config.filters.gap_min_s is unknown"):
        filters_of({"gap_min_s": 1})
    with pytest.raises(ValueError, match="words_per_s_min is 4, above filters.words_per_s_max, 1"):
        Filters(words_per_s_min=4, words_per_s_max=1)
