"""Ranks and what guessing reaches, by hand and by drawing."""

import numpy as np
import pytest

from mmduplex_jax.stages.clip.evaluator import ranks, retrieval


def test_ranks_by_hand():
    scores = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.2, 0.2]])
    right = np.eye(3, dtype=bool)
    # The first is the best, the second the last, and who is as good as the right one stands before it.
    assert ranks(scores, right).tolist() == [1, 3, 3]
    right[1, 2] = True  # the better of two right ones counts
    assert ranks(scores, right).tolist() == [1, 2, 3]


def test_a_perfect_and_a_blind_model():
    perfect = np.eye(12)
    report = retrieval(perfect, perfect, np.arange(12))
    for way in ("clip_to_text", "text_to_clip"):
        numbers = dict(report[way])
        chance = numbers.pop("chance")
        assert numbers == {"r_at_1": 1, "r_at_5": 1, "r_at_10": 1, "mean_rank": 1}
        assert chance == pytest.approx({"r_at_1": 1 / 12, "r_at_5": 5 / 12, "r_at_10": 10 / 12, "mean_rank": 6.5})
    # Nobody is told from anybody: the worst place, not the best.
    blind = retrieval(np.ones((12, 1)), np.ones((12, 1)), np.arange(12))
    assert blind["clip_to_text"]["r_at_10"] == 0
    assert blind["clip_to_text"]["mean_rank"] == 12


def test_the_same_text_is_as_right():
    texts = np.eye(4)[[0, 1, 1, 2]]
    clips = texts.copy()
    assert retrieval(clips, texts, np.array([0, 1, 1, 2]))["clip_to_text"]["r_at_1"] == 1
    assert retrieval(clips, texts, np.arange(4))["clip_to_text"]["r_at_1"] == 0.5


def test_chance_is_what_guessing_reaches():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 30)
    reports = [retrieval(rng.normal(size=(30, 40)), rng.normal(size=(30, 40)), labels) for _ in range(300)]
    chance = reports[0]["clip_to_text"]["chance"]
    for name, value in chance.items():
        drawn = np.mean([report["clip_to_text"][name] for report in reports])
        assert drawn == pytest.approx(value, rel=0.05), name  # 9,000 draws
    few = retrieval(np.eye(3), np.eye(3), np.arange(3))
    assert few["text_to_clip"]["chance"]["r_at_5"] == 1


def test_what_cannot_be_ranked_is_told():
    with pytest.raises(ValueError, match="scores are not finite"):
        ranks(np.array([[np.nan, 1]]), np.array([[True, False]]))
    with pytest.raises(ValueError, match="row 1 has no right answer"):
        ranks(np.ones((2, 2)), np.array([[True, False], [False, False]]))
