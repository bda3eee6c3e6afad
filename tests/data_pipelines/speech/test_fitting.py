"""Is sound where the words are, and no longer than there is room?"""

import numpy as np
import pytest

from data_pipelines.schema import Word
from data_pipelines.speech.fitting import Manner, pieces_of, say
from data_pipelines.speech.studio import Studio
from mmduplex_jax.clock import Clock
from tests.data_pipelines.speech.tone_voice import ToneVoice

CLOCK = Clock(12.5, 2)
RATE_HZ = 8_000
STEP = 640  # samples


def heard(words, steps, **manner):
    """The track, the steps in which something is heard, and the voice."""
    voice = ToneVoice()
    track = say(words, CLOCK, steps, RATE_HZ, Manner(**manner), Studio(voice, RATE_HZ))
    assert len(track.samples) == steps * STEP
    loud = np.abs(track.samples.reshape(steps, STEP).astype(int)).max(axis=1) > 100
    return track, np.flatnonzero(loud).tolist(), voice


def test_a_word_begins_with_its_step_and_is_the_same_wherever_in_it_it_begins():
    words = [Word("abc", 0.41, 0.71), Word("abc", 1.51, 1.81), Word("abc", 2.47, 2.77)]
    track, loud, _ = heard(words, 40)
    steps = [CLOCK.step_at(word.start_s) for word in words]
    assert loud == [step + k for step in steps for k in range(4)]  # 0.3 s
    said = [track.samples[step * STEP : (step + 4) * STEP] for step in steps]
    assert np.array_equal(said[0], said[1])
    assert np.array_equal(said[0], said[2])
    first = np.flatnonzero(np.abs(said[0]) > 1000)[0]
    assert first < 0.01 * RATE_HZ  # the voice's own silence, 0.05 s, is not there
    assert (track.faster, track.cut, track.unsaid) == (0, 0, 0)


def test_a_long_word_is_said_faster_then_into_the_silence_and_only_then_cut():
    # 0.6 s long; its words leave 0.3 s, so twice as fast.
    track, loud, voice = heard([Word("sixsix", 0.0, 0.3), Word("ab", 0.4, 0.6)], 20)
    assert loud == [0, 1, 2, 3, 5, 6, 7]
    assert (track.faster, track.cut) == (1, 0)
    assert voice.asked == [("sixsix", 1.0), ("ab", 1.0), ("sixsix", 2.0)]
    # Not so fast: it goes on into the silence.
    track, loud, _ = heard([Word("sixsix", 0.0, 0.3), Word("ab", 0.8, 1.0)], 20, speed_max=1.25)
    assert (loud, track.cut) == ([0, 1, 2, 3, 4, 5, 10, 11, 12], 0)
    # No silence there: cut off at the next word, without a click.
    track, loud, _ = heard([Word("sixsix", 0.0, 0.3), Word("ab", 0.32, 0.5)], 20, speed_max=1.0)
    assert (loud, track.faster, track.cut) == ([0, 1, 2, 3, 4, 5, 6], 0, 1)
    assert np.abs(track.samples[4 * STEP - 8 : 4 * STEP].astype(int)).max() < 3000


def test_words_that_follow_at_once_are_said_together():
    words = [Word("a", 0.0), Word("b", 0.1), Word("c", 0.4), Word("d", 0.41)]
    pieces = pieces_of(words, CLOCK, 20, RATE_HZ, Manner())
    assert [(piece.text, piece.words, piece.begin) for piece in pieces] == [("a b", 2, 0), ("c d", 2, 5 * STEP)]
    assert [piece.room for piece in pieces] == [5 * STEP, 15 * STEP]


def test_phrases_end_with_sentences_and_pauses():
    words = [
        Word("a", 0.0, 0.3),
        Word("b", 0.4, 0.7, ends_sentence=True),
        Word("c", 0.8, 1.0),
        Word("d", 1.2, 1.4),
        Word("e", 2.0, 2.2),
    ]
    pieces = pieces_of(words, CLOCK, 40, RATE_HZ, Manner(unit="phrase"))
    assert [(piece.text, piece.begin // STEP) for piece in pieces] == [("a b", 0), ("c d", 10), ("e", 25)]
    assert [piece.wanted // STEP for piece in pieces] == [9, 8, 3]  # to the end of the last word


def test_what_is_outside_or_cannot_be_said_is_silent_and_counted():
    words = [Word("before", -0.2, 0.1), Word("a7", 0.5, 0.7), Word("—", 1.0, 1.2), Word("behind", 1.7, 1.9)]
    track, loud, voice = heard(words, 20)
    assert (loud, track.unsaid) == ([], 2)
    assert voice.asked == [("a7", 1.0)]  # the dash is not even tried
    assert heard([], 4)[1] == []


def test_what_was_said_is_kept_in_memory_and_in_the_folder(tmp_path):
    asked = [("abc", 1.0), ("a7", 1.0), ("abc", 1.0), ("abc", 1.5)]
    voice = ToneVoice()
    studio = Studio(voice, 16_000, str(tmp_path))
    first = studio.sounds(asked)
    assert voice.asked == [("abc", 1.0), ("a7", 1.0), ("abc", 1.5)]
    assert [len(sound) for sound in first] == [4_800, 0, 4_800, 3_200]
    assert max(np.abs(first[0])) == pytest.approx(0.8 * 32767, rel=1e-3)
    again = ToneVoice()
    for sound, other in zip(first, Studio(again, 16_000, str(tmp_path)).sounds(asked), strict=True):
        assert np.array_equal(sound, other)
    assert again.asked == []


@pytest.mark.parametrize(
    ("changes", "message"), [({"unit": "breath"}, "config.speech.unit 'breath'"), ({"speed_max": 0.5}, "1 or more")]
)
def test_what_does_not_go_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        Manner(**changes)
