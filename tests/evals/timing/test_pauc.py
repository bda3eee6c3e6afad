"""PAUC by hand, from the rule of MMDuet2's reward_function.py."""

import pytest

from mmduplex_jax.evals.timing.pauc import lexical_level, pauc_scores, reply_areas, staircase_area
from mmduplex_jax.evals.timing.utterances import utterance_at


@pytest.mark.parametrize(
    ("replies", "omega", "area"),
    [
        ([], 0.5, 0.125),  # half a level of four
        # A full answer after 4 of 10 s. ω 0: 4 s at 0.5 and 6 s at 4, of 40. ω 0.5: it counts as after 2 s. ω 1: as 0.
        ([(4.0, 4)], 0.0, (4 * 0.5 + 6 * 4) / 40),
        ([(4.0, 4)], 0.5, (2 * 0.5 + 8 * 4) / 40),
        ([(4.0, 4)], 1.0, 1.0),
        # At the very end: nothing is left at ω 0, three quarters of the way at ω 0.5.
        ([(10.0, 4)], 0.0, 0.125),
        ([(10.0, 4)], 0.5, (5 * 0.5 + 5 * 4) / 40),
        # A second reply replaces the first, also where it is worse; in whatever order they are given.
        ([(8.0, 1), (2.0, 3)], 0.0, (2 * 0.5 + 6 * 3 + 2 * 1) / 40),
        ([(8.0, 1), (2.0, 3)], 1.0, 1 / 4),
    ],
)
def test_the_area_under_a_staircase(replies, omega, area):
    assert staircase_area(replies, 10.0, omega) == pytest.approx(area)


def test_a_span_and_its_replies_are_checked():
    with pytest.raises(ValueError, match="takes 0 s"):
        staircase_area([], 0.0, 0.5)
    with pytest.raises(ValueError, match=r"11 s after the begin of a span of 10 s"):
        staircase_area([(11.0, 4)], 10.0, 0.5)


def test_the_lexical_judge_counts_the_words_that_are_covered():
    wanted = "Arsenal score a goal"
    replies = ["a goal, and Arsenal score it", "arsenal a goal", "a goal", "goal", "nothing", ""]
    assert [lexical_level(reply, wanted) for reply in replies] == [4, 3, 2, 1, 0, 0]


def test_spans_last_until_the_next_utterance():
    reference = [utterance_at("Arsenal score a goal", 2.0, 4.0), utterance_at("corner for Chelsea", 12.0, 13.0)]
    said = [
        utterance_at("arsenal score a goal", 1.0),  # before anything was to be said
        utterance_at("a goal", 4.0),  # after 2 of 10 s: level 2
        utterance_at("a goal", 5.0),  # said before: left out
        utterance_at("arsenal score a goal", 7.0),  # after 5 s: level 4
        utterance_at("a goal", 12.0),  # of the second span, of 8 s: level 0 from its begin on
    ]
    areas = reply_areas(said, reference, 20.0)
    assert areas[0][0.0] == pytest.approx((2 * 0.5 + 3 * 2 + 5 * 4) / 40)
    assert areas[0][1.0] == 1.0
    assert areas[1] == {0.0: 0.0, 0.5: 0.0, 1.0: 0.0}
    found = pauc_scores(areas)
    assert found["omega_0"] == pytest.approx(27 / 40 / 2)
    assert found["omega_1"] == pytest.approx(0.5)


def test_a_judge_is_believed():
    reference = [utterance_at("goal", 0.0, 1.0)]
    areas = reply_areas([utterance_at("What a strike!", 0.0, judged=5)], reference, 4.0)
    assert areas == [{0.0: 1.0, 0.5: 1.0, 1.0: 1.0}]
    with pytest.raises(ValueError, match="judge all, or none"):
        reply_areas([utterance_at("a", 0.0, judged=5), utterance_at("b", 1.0)], reference, 4.0)
    with pytest.raises(ValueError, match="from 1 to 5"):
        reply_areas([utterance_at("a", 0.0, judged=0)], reference, 4.0)


def test_silence_has_an_eighth_and_no_reference_nothing():
    assert reply_areas([], [utterance_at("goal", 0.0)], 4.0) == [{0.0: 0.125, 0.5: 0.125, 1.0: 0.125}]
    assert pauc_scores([]) == {"omega_0": None, "omega_0.5": None, "omega_1": None}


def test_two_that_begin_at_once_have_their_own_time():
    reference = [utterance_at("goal", 1.0, 2.0), utterance_at("corner", 1.0, 2.0)]
    assert len(reply_areas([utterance_at("goal", 1.0)], reference, 3.0)) == 2
