"""What event tokens are judged by, with models of known worth."""

import numpy as np
import pytest

from mmduplex_jax.stages.bflow.evaluator import after, direction_scores, in_video, right_windows, two_way


def test_a_phrase_is_about_the_windows_that_hold_its_middle():
    centres_s = np.array([0.0, 1.0, 2.0, 3.0])
    right = right_windows(centres_s, ["a", "b", "a", "c"], [0.4, 1.7, 3.2, 9.0], 0.9)
    # "a" is said twice: either time is right. Nothing is about "c".
    wanted = [[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]
    assert right.astype(int).tolist() == wanted


def test_in_video_by_hand():
    right = [np.array([True, False, False]), np.array([True, True, False, False]), np.zeros(3, bool)]
    perfect = [truth.astype(float) for truth in right]
    found = in_video(perfect, right)
    assert found == {"r_at_1": 1.0, "chance": pytest.approx((1 / 3 + 1 / 2) / 2), "windows": 3.5, "phrases": 2}
    assert in_video([-score for score in perfect], right)["r_at_1"] == 0
    # Who cannot tell one window from another is as good as chance, no better and no worse.
    blind = in_video([np.ones(len(truth)) for truth in right], right)
    assert blind["r_at_1"] == blind["chance"]
    half = [np.array([0.0, 1.0, 0.0]), np.array([5.0, 1.0, 5.0, 0.0]), np.zeros(3)]
    assert in_video(half, right)["r_at_1"] == 0.25
    assert in_video([], []) == {"r_at_1": None, "chance": None, "windows": None, "phrases": 0}


def test_guessing_has_chance():
    rng = np.random.default_rng(0)
    right = [rng.random(12) < 0.2 for _ in range(4000)]
    found = in_video([rng.random(12) for _ in right], right)
    assert found["r_at_1"] == pytest.approx(found["chance"], abs=0.025)  # 3 standard deviations of 4000 draws


def test_windows_after_an_event_see_it():
    steps = np.array([10, 22, 34, 46])
    assert after(steps, 22, 24).tolist() == [1, 2]  # the one that stands there, and not the one 24 steps later
    assert after(steps, 23, 24).tolist() == [2, 3]
    assert after(steps, 47, 30).tolist() == []


def test_both_directions_have_as_many_windows():
    steps = np.array([10, 22, 34, 46])
    forward, backward = np.array([0.1, 0.9, 0.2, 0.3]), np.array([0.5, 0.4, 0.8, 0.6])
    # At step 12 three windows see it; backwards it is at step 38, and only the last one does.
    assert direction_scores(forward, backward, steps, 12, 50, 40) == (0.9, 0.6)
    assert direction_scores(forward, backward, steps, 24, 50, 30) == (0.3, 0.8)
    assert direction_scores(forward, backward, steps, 48, 50, 30) is None


def test_two_way_by_hand():
    scores = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (2.0, 1.0)]
    found = two_way(scores, ["enters", "enters", "stops", "stops"])
    by_kind = {"enters": 0.5, "stops": 0.75}
    assert found == {"accuracy": 0.625, "chance": 0.5, "events": 4, "by_kind": by_kind}
    assert two_way([], []) == {"accuracy": None, "chance": 0.5, "events": 0, "by_kind": {}}


def test_a_symmetric_pool_is_at_chance():
    """The mean over a window's frames is the same for the window played backwards, whatever the frames are."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(50):
        frames, phrase = rng.integers(0, 9, (8, 5)), rng.integers(-9, 9, 5)  # of integers, so that sums are exact
        scores.append((float(frames.sum(axis=0) @ phrase), float(frames[::-1].sum(axis=0) @ phrase)))
    assert two_way(scores, ["enters"] * 50)["accuracy"] == 0.5
