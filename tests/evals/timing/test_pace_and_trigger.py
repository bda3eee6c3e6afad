"""TimeDiff, trigger F1, pace and repetition by hand."""

import pytest

from data_pipelines.schema import Word
from mmduplex_jax.evals.timing.pace import pace_counts, pace_figures
from mmduplex_jax.evals.timing.repetition import repetition_counts, repetition_figures
from mmduplex_jax.evals.timing.trigger import trigger_counts, trigger_scores
from mmduplex_jax.evals.timing.utterances import Utterance, cut_words, emitted_words, utterance_at


def one(*words):
    return Utterance(tuple(Word(text, start_s) for text, start_s in words))


def test_seconds_that_are_spoken_in():
    reference = [one(("goal", 0.1), ("arsenal", 0.6)), one(("corner", 4.2))]
    said = [one(("goal", 1.0)), one(("corner", 4.5))]
    counts = trigger_counts(said, reference, 6.0)
    # The reference speaks in seconds 0 and 4, the speaker in 1 and 4: one in common, one each alone, three silent.
    assert (counts.both, counts.said_only, counts.reference_only, counts.neither) == (1, 1, 1, 3)
    found = trigger_scores([counts])
    assert (found["precision"], found["recall"], found["f1"]) == (0.5, 0.5, 0.5)
    # They agree in 4 of 6 seconds; by chance in (2 · 2 + 4 · 4) / 36 = 20/36: (24 - 20) / (36 - 20).
    assert found["kappa"] == pytest.approx(0.25)
    # 1.0 - 0.1 = 0.9 and 4.5 - 4.2 = 0.3 s.
    assert (found["time_diff_s"], found["unanswered"]) == (pytest.approx(0.6), 0.0)


def test_silence_has_no_time_diff_and_talking_all_the_time_no_kappa():
    reference = [one(("goal", 0.1)), one(("corner", 4.2))]
    silent = trigger_scores([trigger_counts([], reference, 6.0)])
    assert (silent["time_diff_s"], silent["unanswered"], silent["f1"], silent["kappa"]) == (None, 1.0, 0.0, 0.0)
    talking = trigger_scores([trigger_counts([one((f"{t}", float(t))) for t in range(6)], reference, 6.0)])
    assert (talking["recall"], talking["kappa"]) == (1.0, 0.0)
    assert talking["f1"] == pytest.approx(2 * 2 / (2 * 2 + 4))
    assert trigger_scores([])["kappa"] is None


def test_words_after_the_video_count_for_its_last_second():
    assert trigger_counts([one(("late", 9.0))], [one(("goal", 1.5))], 2.0).both == 1


def test_pace():
    said = [
        utterance_at("one two three four five", 0.0, 1.5),  # read out until 2.0
        utterance_at("six seven eight nine ten", 1.0, 3.0),  # read out until 3.0
        utterance_at("eleven", 9.8, 10.6),  # read out until 10.2, and the video is over at 10
    ]
    found = pace_figures([pace_counts(said, 10.0), pace_counts([], 10.0)])
    assert found["words_per_s"] == pytest.approx(11 / 20)
    # Spoken from 0 to 3 and from 9.8 to 10 s, of 20 s.
    assert found["silence"] == pytest.approx(1 - 3.2 / 20)
    # 2 + 2 + 0.4 s to read out, of which 1 s is read while another is.
    assert found["self_overlap"] == pytest.approx(1 / 4.4)
    assert pace_figures([pace_counts([], 10.0)]) == {"words_per_s": 0.0, "silence": 1.0, "self_overlap": None}
    assert pace_figures([])["silence"] is None


def test_repetition():
    said = [utterance_at("What a goal!", 0.0), utterance_at("what a goal", 5.0), utterance_at("Offside", 9.0)]
    found = repetition_figures([repetition_counts(said), repetition_counts([utterance_at("Offside.", 1.0)])])
    # One of four utterances; another video's is no repetition.
    assert found["utterances"] == 0.25
    # Rows: what a goal what, a goal what a, goal what a goal, what a goal offside: none twice.
    assert found["four_words"] == 0.0
    loop = repetition_figures([repetition_counts([utterance_at("go go go go go go", 0.0)])])
    assert loop == {"utterances": 0.0, "four_words": pytest.approx(2 / 3)}
    assert repetition_figures([repetition_counts([])]) == {"utterances": None, "four_words": None}


def test_words_are_cut_at_sentences_and_pauses():
    words = [Word("a", 0.0), Word("b", 0.4, ends_sentence=True), Word("c", 0.8), Word("d", 1.7)]
    # From 1.1 s, when "c" is over, to 1.7 s is a pause.
    assert [utterance.text for utterance in cut_words(words)] == ["a b", "c", "d"]
    assert cut_words([]) == []


def test_an_utterance_without_an_end_is_spoken_at_150_words_a_minute():
    assert utterance_at("one two three four five", 1.0).end_s == 3.0
    assert utterance_at("one", 1.0, 1.0).end_s == pytest.approx(1.4)
    assert one(("a", 1.0), ("b", 2.0)).end_s == 2.3
    with pytest.raises(ValueError, match="at 1 s there are none"):
        utterance_at(" ", 1.0)


def test_a_sentence_that_was_open_at_a_cut_is_an_utterance_of_its_own():
    entries = [
        {"text": "White", "t_emit_s": 1.0, "ends_sentence": False},
        {"text": "Red", "t_emit_s": 1.4, "ends_sentence": False, "scene_s": 1.2},
        {"text": "bus.", "t_emit_s": 1.8, "ends_sentence": True, "scene_s": 1.2},
    ]
    assert [utterance.text for utterance in cut_words(emitted_words(entries))] == ["White", "Red bus."]
    # Of a stream that says nothing of sentences no word says that one ends.
    unmarked = [{name: value for name, value in entry.items() if name != "ends_sentence"} for entry in entries]
    assert not any(word.ends_sentence for word in emitted_words(unmarked))
