"""Word error and onsets: what is lined up with what, and what the figures are of."""

import pytest

from mmduplex_jax.evals.speech import HeardClip, HeardWord, SaidWord, compare, heard_report

pytest.importorskip("jiwer", reason="jiwer is not installed (extra `recognise`)")

SAID = [SaidWord("Red", 1.0), SaidWord("circle", 1.5), SaidWord("hits", 2.0), SaidWord("blue", 2.5), SaidWord("dog.")]


def heard(*words: tuple[str, float]) -> list[HeardWord]:
    return [HeardWord(text, start_s, start_s + 0.2) for text, start_s in words]


def test_words_are_lined_up_and_each_error_is_named():
    found = compare(SAID, heard(("up", 0.7), ("red", 1.1), ("circle", 1.7), ("hides", 2.1), ("dog", 2.9)))
    assert (found.words, found.substitutions, found.deletions, found.insertions) == (5, 1, 1, 1)
    assert found.wrong == (("", "up"), ("hits", "hides"), ("blue", ""))
    # "dog" has no time, so that its sound cannot be early or late.
    assert found.onsets_s == pytest.approx((0.1, 0.2))


def test_spelling_is_no_error():
    found = compare(
        [SaidWord("Stop-motion,", 0.0), SaidWord("It’s")], heard(("stop", 0.5), ("motion.", 0.8), ("it’s", 1))
    )
    assert (found.words, found.errors) == (3, 0)
    assert found.onsets_s == (0.5, 0.8)


def test_silence_and_speech_where_there_should_be_none_count():
    assert compare(SAID, []).deletions == 5
    assert compare([], heard(("up", 0.0))).insertions == 1
    assert compare([], []) == HeardClip(0, 0, 0, 0)


def test_the_figures_are_of_all_words_and_their_intervals_of_clips():
    long, short = HeardClip(90, 0, 0, 0, (0.1,) * 90), HeardClip(10, 5, 3, 2, (0.5,) * 10, (("a", "b"),) * 2)
    report = heard_report([long, short])
    assert report["word_error"] == pytest.approx(0.1)  # the mean over clips would be 0.5
    assert (report["onset_p50_s"], report["onset_p95_s"]) == pytest.approx((0.1, 0.5))
    assert report["intervals"]["word_error"] == pytest.approx([0, 1])  # either clip alone is among the sets drawn
    assert (report["clips"], report["words"], report["insertions"], report["onsets"]) == (2, 100, 2, 100)
    assert report["wrong"] == [["a", "b", 2]]
    assert report == heard_report([long, short])
    same = heard_report([long] * 4)
    assert same["intervals"]["word_error"] == [0, 0]


def test_what_cannot_be_counted_is_none():
    report = heard_report([HeardClip(0, 0, 0, 0)])
    assert report["word_error"] is report["onset_p50_s"] is report["intervals"]["onset_p95_s"] is None
    with pytest.raises(ValueError, match="no clip"):
        heard_report([])
