"""TRACE by hand. Upstream has no numeric test, so the figures are computed here, line by line, from its rule."""

import math

import numpy as np
import pytest

from mmduplex_jax.evals.timing.similarity import EncoderMissing, encoder_similarity, lexical_similarity
from mmduplex_jax.evals.timing.trace import TraceSums, match_utterances, trace_scores, trace_sums
from mmduplex_jax.evals.timing.utterances import utterance_at


def scores(said, reference):
    return trace_scores([trace_sums(said, reference, lexical_similarity)])


def test_two_of_three_utterances_are_matched():
    reference = [utterance_at("Goal for Arsenal!", 0.0, 2.0), utterance_at("Corner kick, Chelsea.", 10.0, 12.0)]
    said = [
        utterance_at("goal for arsenal", 1.0, 9.0),  # its own end does not count
        utterance_at("free kick chelsea", 10.0),
        utterance_at("hello", 30.0),
    ]
    found = scores(said, reference)
    # Precision 2/3, recall 1, F1 4/5.
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((2 / 3, 1.0, 0.8))
    # Accuracy: all three words are right, then two of three: (1 + 2/3) / 2 = 0.833333; times F1: 0.666667.
    assert found["accuracy"] == pytest.approx(0.666667, abs=1e-6)
    # Three words take 1.2 s. The first pair begins 1 s late, e^-1 = 0.367879, and is over at 2.2 s, 0.2 s late,
    # e^-0.2 = 0.818731. The second begins on time, 1, and is over at 11.2 s, 0.8 s early, e^-0.8 = 0.449329.
    # Nothing overlaps, 1.
    assert found["start"] == pytest.approx((0.367879 + 1) / 2, abs=1e-6)
    assert found["stop"] == pytest.approx((0.818731 + 0.449329) / 2, abs=1e-6)
    assert found["overlap"] == 1.0
    # 0.4 start + 0.4 stop + 0.2 overlap: 0.674644 and 0.779732, their mean 0.727188, times F1: 0.581750.
    assert found["timing"] == pytest.approx(0.581750, abs=1e-6)
    assert found["score"] == pytest.approx((0.666667 + 0.581750) / 2, abs=1e-6)
    assert found["geometric"] == pytest.approx(math.sqrt(0.666667 * 0.581750), abs=1e-6)


def test_what_comes_out_of_order_within_five_seconds_is_swapped():
    reference = [utterance_at("goal", 0.0), utterance_at("corner", 2.0)]
    found = scores([utterance_at("corner", 0.0), utterance_at("goal", 2.0)], reference)
    assert found["accuracy"] == 1.0
    assert found["start"] == pytest.approx(math.exp(-2.0))
    # 6 s apart both pairs of a swap would be too far: the words stay wrong, and the times right.
    reference = [utterance_at("goal", 0.0), utterance_at("corner", 6.0)]
    found = scores([utterance_at("corner", 0.0), utterance_at("goal", 6.0)], reference)
    assert (found["accuracy"], found["start"]) == (0.0, 1.0)


def test_swaps_in_a_row_never_give_two_utterances_the_same_reference():
    """Upstream weighs the second swap of 0 against its first partner, and gives r0 to both 1 and 2."""
    times_s = np.array([0.0, 1.0, 2.0])
    alike = lexical_similarity(["b", "c", "a"], ["a", "b", "c"])
    assert match_utterances(times_s, times_s, alike) == [(0, 1), (1, 2), (2, 0)]


def test_nothing_is_matched_more_than_five_seconds_apart():
    assert scores([utterance_at("goal", 5.0)], [utterance_at("goal", 0.0)])["f1"] == 1.0
    late = scores([utterance_at("goal", 5.01)], [utterance_at("goal", 0.0)])
    assert (late["f1"], late["score"], late["start"]) == (0.0, 0.0, None)


def test_speech_that_overlaps_itself_costs():
    # Five words take 2 s each: 1 s of the first is still being said when the second begins, so e^-1 for both.
    said = [utterance_at("one two three four five", t_s) for t_s in (0.0, 1.0)]
    assert scores(said, said)["overlap"] == pytest.approx(math.exp(-1.0))


def test_videos_are_pooled_by_utterance():
    first = trace_sums([utterance_at("goal", 0.0, 0.4)], [utterance_at("goal", 0.0, 0.4)], lexical_similarity)
    second = trace_sums([], [utterance_at("corner", 0.0), utterance_at("kick", 9.0)], lexical_similarity)
    assert second == TraceSums(said=0, reference=2)
    found = trace_scores([first, second])
    # One of three is said, and rightly: precision 1, recall 1/3, F1 1/2.
    assert (found["precision"], found["recall"], found["score"]) == pytest.approx((1.0, 1 / 3, 0.5))


@pytest.mark.parametrize(("said", "reference"), [([], []), (["goal"], []), ([], ["goal"])])
def test_where_one_side_is_silent_there_is_nothing(said, reference):
    found = scores([utterance_at(text, 0.0) for text in said], [utterance_at(text, 0.0) for text in reference])
    assert found["score"] == found["f1"] == found["geometric"] == 0.0


def test_lexical_similarity_counts_words():
    found = lexical_similarity(["the cat the cat", "dog", "…"], ["The cat sat.", "a dog"])
    # Two of four words and of three: F1 4/7; one of one and of two: 2/3; without words: nothing.
    assert found == pytest.approx(np.array([[8 / 7 - 1, -1], [-1, 4 / 3 - 1], [-1, -1]]))


def test_the_encoder_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(EncoderMissing, match=r"mmduplex-jax\[timing\]"):
        encoder_similarity()


def test_an_encoder_gives_cosines(monkeypatch):
    class Encoder:
        def __init__(self, name):
            assert name == "all-mpnet-base-v2"

        def encode(self, texts, normalize_embeddings):
            assert normalize_embeddings
            return np.array([[1.0, 0.0] if "goal" in text else [0.6, 0.8] for text in texts], np.float32)

    module = type("Module", (), {"SentenceTransformer": Encoder})
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", module)
    similarity = encoder_similarity()
    assert similarity(["goal", "corner"], ["goal"]) == pytest.approx(np.array([[1.0], [0.6]]))
    assert similarity([], ["goal"]).shape == (0, 1)
    # As upstream, a pair's accuracy is (cosine + 1) / 2.
    assert trace_sums([utterance_at("corner", 0)], [utterance_at("goal", 0)], similarity).accuracy == pytest.approx(0.8)
