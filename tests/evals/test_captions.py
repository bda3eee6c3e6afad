"""Caption metrics against values that were worked out by hand."""

import math
import sys

import pytest

from mmduplex_jax.evals import captions
from mmduplex_jax.evals.captions import (
    METRICS,
    MetricsMissing,
    bleu_4,
    caption_scores,
    cider,
    meteor,
    rouge_l,
    words_of,
)

SPLIT = str.split


def test_words_are_lower_case_and_without_punctuation():
    assert words_of("A red circle, the dog's — ENTERS left!") == [
        "a",
        "red",
        "circle",
        "the",
        "dog's",
        "enters",
        "left",
    ]
    assert words_of("Ein Hündchen läuft; 2 Katzen.") == ["ein", "hündchen", "läuft", "2", "katzen"]
    assert words_of("…") == []


def test_cider_by_hand():
    # Two pictures; every row of words comes in one of them, so all weigh log 2, and cosines count shared rows.
    references = [[SPLIT("a b c d")], [SPLIT("e f g h")]]
    assert cider([SPLIT("a b c d"), SPLIT("x y")], references) == pytest.approx([10, 0])
    # "a b x y" shares 2 of 4 single words, 1 of 3 pairs and nothing longer: (2/4 + 1/3) / 4.
    assert cider([SPLIT("a b x y"), SPLIT("e f g h")], references) == pytest.approx([10 * (2 / 4 + 1 / 3) / 4, 10])
    # "a b": of its own 2 words and 1 pair all are right, against 4 and 3; two words shorter.
    short = cider([SPLIT("a b"), SPLIT("e f g h")], references)[0]
    assert short == pytest.approx(10 * math.exp(-4 / 72) * (2 / math.sqrt(2 * 4) + 1 / math.sqrt(3)) / 4)


def test_cider_clips_what_is_said_again_and_again():
    # "a a": one row "a", twice, against once: min(2, 1) · 1 / (2 · sqrt(2)); the pair "a a" is not in the reference.
    (score, _) = cider([SPLIT("a a"), []], [[SPLIT("a b")], [SPLIT("c d")]])
    assert score == pytest.approx(10 * (1 / (2 * math.sqrt(2))) / 4)


def test_cider_weighs_words_by_how_rare_they_are_and_averages_references():
    references = [[SPLIT("the cat"), SPLIT("the dog")], [SPLIT("the sun")], [SPLIT("the cat")]]
    # "the" is everywhere: log(3/3) = 0; "cat" of two pictures: log(3/2); "dog" of one: log 3; pairs the same.
    assert cider([SPLIT("the"), [], []], references)[0] == 0
    (score, _, third) = cider([SPLIT("the cat"), [], SPLIT("the cat")], references)
    assert third == pytest.approx(10 * 2 / 4)  # two of four lengths exist
    assert score == pytest.approx(10 * (2 / 4 + 0) / 2)
    # A caption of a word of both: each reference's cosine with ("cat", "dog") is its own weight over the whole.
    score = cider([SPLIT("cat dog"), [], []], references)[0]
    cat, dog = math.log(3 / 2), math.log(3)
    assert score == pytest.approx(10 * (cat + dog) / math.hypot(cat, dog) / 4 / 2)


def test_cider_needs_pictures_to_compare():
    with pytest.raises(ValueError, match="needs at least two"):
        cider([["a"]], [[["a"]]])
    with pytest.raises(ValueError, match="2 captions and the references of 1"):
        cider([["a"], ["b"]], [[["a"]]])
    with pytest.raises(ValueError, match="picture 1 has no reference"):
        cider([["a"], ["b"]], [[["a"]], []])


def test_bleu_by_hand():
    # 1 of 5, 4, 3, 2 rows wrong at the end: precisions 4/5, 3/4, 2/3, 1/2, and lengths are equal.
    assert bleu_4([SPLIT("a b c d x")], [[SPLIT("a b c d e")]]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    # A caption of three words has no row of four, which must count for nothing.
    assert bleu_4([SPLIT("a b c"), SPLIT("d e f g")], [[SPLIT("a b c")], [SPLIT("d e f g")]]) == pytest.approx(1)
    # One word short of five: exp(1 - 5/4).
    assert bleu_4([SPLIT("a b c d")], [[SPLIT("a b c d e")]]) == pytest.approx(math.exp(1 - 5 / 4))
    # The nearest of several references says how long it should be, however many the others have.
    assert bleu_4(
        [SPLIT("a b c d"), SPLIT("q r s t")], [[SPLIT("a b c d e f g"), SPLIT("a b c d")], [SPLIT("q r s t")]]
    )
    assert bleu_4([SPLIT("a b x d e")], [[SPLIT("a b c d e")]]) == 0


def test_rouge_by_hand():
    # The longest common subsequence of "a b c d" and "a c x d b" is "a c d": 3 of 5 said, 3 of 4 wanted.
    precision, recall = 3 / 5, 3 / 4
    wanted = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(SPLIT("a c x d b"), [SPLIT("a b c d")]) == pytest.approx(wanted)
    # The best precision and the best recall, be they of two references.
    both = rouge_l(SPLIT("a b c"), [SPLIT("a b c d e f"), SPLIT("a")])
    assert both == pytest.approx(1)
    assert rouge_l([], [SPLIT("a")]) == rouge_l(SPLIT("x"), [SPLIT("a")]) == 0


def test_meteor_by_hand():
    # All match in one run: the penalty for 1 chunk of 3 is 0.5 / 27. "circles" and "circle" have one stem.
    assert meteor(SPLIT("red circle enters"), [SPLIT("red circles enters")]) == pytest.approx(1 - 0.5 / 27)
    # 2 of 3 words, not next to each other: precision = recall = 2/3, 2 chunks of 2.
    assert meteor(SPLIT("red square enters"), [SPLIT("red circle enters")]) == pytest.approx(2 / 3 * 0.5)
    # Recall counts nine times as much: 1 word, right, of 2. One chunk of one.
    assert meteor(["red"], [SPLIT("red circle")]) == pytest.approx(1 * 0.5 / (0.9 * 1 + 0.1 * 0.5) * 0.5)
    # Synonyms would need WordNet.
    assert meteor(["big"], [["large"]]) == 0
    assert meteor(["red"], [["blue"], ["red"]]) == pytest.approx(0.5)


def test_all_of_them():
    right = [["Red circle enters left."], ["blue square stops here"], ["green dog leaves right", "a dog goes"]]
    scores = caption_scores([texts[0].lower() for texts in right], right)
    assert set(scores) == {*METRICS, "exact"}
    assert scores["exact"] == scores["bleu_4"] == scores["rouge_l"] == pytest.approx(1)
    assert scores["cider"] == pytest.approx((10 + 10 + (10 + 0) / 2) / 3, abs=0.2)  # "dog" is shared by two references
    worse = caption_scores(["red circle enters right", "blue square stops here", ""], right)
    assert all(0 < worse[name] < scores[name] for name in scores)
    assert worse["exact"] == pytest.approx(1 / 3)
    silent = caption_scores(["", "", ""], right)
    assert set(silent.values()) == {0}


def test_a_missing_package_is_told_before_work_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MetricsMissing, match=r"need the package sacrebleu.*pip install 'mmduplex-jax\[captions\]'"):
        captions.check_installed()
