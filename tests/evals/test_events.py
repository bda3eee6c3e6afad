import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.schema import Event
from mmduplex_jax.evals.events import Phrase, Window, f1_by_kind, f1_interval, f1_of_clips, match, score_clip

CIRCLE = ("enters", "red circle", "left")
SQUARE = ("stops", "blue square", "")


def event(t_s, attributes=CIRCLE):
    return Event(t_s, *attributes)


def test_a_right_phrase_in_time_is_found():
    score = score_clip([event(1.0)], [Phrase(CIRCLE, 1.4)], duration_s=12)
    assert (score.events, score.found, score.phrases, score.right) == (1, 1, 1, 1)
    assert score.lateness_s == pytest.approx((0.4,))


@pytest.mark.parametrize("wrong", [("stops", *CIRCLE[1:]), (CIRCLE[0], "red square", "left"), (*CIRCLE[:2], "right")])
def test_one_wrong_attribute_is_wrong(wrong):
    score = score_clip([event(1.0)], [Phrase(wrong, 1.4)], duration_s=12)
    assert (score.found, score.right, score.phrases) == (0, 0, 1)


@pytest.mark.parametrize(
    ("start_s", "found"), [(0.9, 0), (0.99, 0), (1.0, 1), (3.0, 1), (0.1 + 0.2 + 2.7, 1), (3.01, 0), (4.0, 0)]
)
def test_the_window_has_edges(start_s, found):
    assert score_clip([event(1.0)], [Phrase(CIRCLE, start_s)], duration_s=12).found == found


def test_one_phrase_names_one_event_and_one_event_takes_one_phrase():
    assert len(match([event(1.0), event(1.5)], [Phrase(CIRCLE, 2.0)], Window())) == 1
    score = score_clip([event(1.0)], [Phrase(CIRCLE, 1.2), Phrase(CIRCLE, 1.8)], duration_s=12)
    assert (score.found, score.right, score.phrases) == (1, 1, 2)


def test_an_early_phrase_is_left_for_the_event_it_is_in_time_for():
    # Giving the first event the second phrase, because it too is in time, would leave the second event without one.
    assert match([event(1.0), event(2.9)], [Phrase(CIRCLE, 2.8), Phrase(CIRCLE, 3.0)], Window()) == [(0, 0), (1, 1)]


def test_what_cannot_be_read_is_wrong():
    score = score_clip([event(1.0)], [Phrase(None, 1.2, "circle red the")], duration_s=12)
    assert (score.phrases, score.right) == (1, 0)
    assert f1_of_clips([score]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


class TestEndOfClip:
    def test_an_event_in_the_last_window_is_not_asked_for(self):
        score = score_clip([event(1.0), event(10.5)], [Phrase(CIRCLE, 1.2)], duration_s=12)
        assert (score.events, score.found, score.phrases, score.right) == (1, 1, 1, 1)

    def test_an_earlier_event_may_be_named_in_it(self):
        score = score_clip([event(9.9)], [Phrase(CIRCLE, 10.4)], duration_s=12)
        assert (score.events, score.found) == (1, 1)
        assert score.phrases == 0  # precision is over phrases that start before the cut
        assert f1_of_clips([score])["recall"] == 1.0

    def test_what_is_said_before_it_is_not_forgiven(self):
        score = score_clip([event(10.5)], [Phrase(CIRCLE, 9.9)], duration_s=12)
        assert (score.phrases, score.right) == (1, 0)

    def test_a_clip_without_room_for_a_window_is_refused(self):
        with pytest.raises(ValueError, match="use longer clips"):
            score_clip([], [], duration_s=2.0)


times_s = st.integers(0, 60).map(lambda tenth: tenth / 10)
attributes = st.sampled_from([CIRCLE, SQUARE])


@given(st.lists(st.tuples(times_s, attributes), max_size=12), st.lists(st.tuples(times_s, attributes), max_size=12))
def test_no_matching_is_larger(happened, said):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    events = [event(t_s, what) for t_s, what in happened]
    phrases = [Phrase(what, t_s) for t_s, what in said]
    pairs = match(events, phrases, Window())
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    allowed = np.zeros((len(events) + 1, len(phrases) + 1), int)
    for i, one in enumerate(events):
        for j, phrase in enumerate(phrases):
            allowed[i, j] = one.attributes == phrase.attributes and Window().holds(phrase.start_s - one.t_s)
    assert all(allowed[i, j] for i, j in pairs)
    assert len(pairs) == (maximum_bipartite_matching(csr_array(allowed), perm_type="column") >= 0).sum()


def test_scores_of_clips_are_pooled_and_split_by_kind():
    first = score_clip([event(1.0), event(2.0, SQUARE)], [Phrase(CIRCLE, 1.2), Phrase(CIRCLE, 5.0)], duration_s=12)
    second = score_clip([event(3.0)], [Phrase(CIRCLE, 3.5)], duration_s=12)
    pooled = f1_of_clips([first, second])
    assert pooled["precision"] == pytest.approx(2 / 3)
    assert pooled["recall"] == pytest.approx(2 / 3)
    kinds = f1_by_kind([first, second])
    assert kinds["stops"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "events": 1}
    assert kinds["enters"]["recall"] == 1.0
    assert kinds["enters"]["precision"] == pytest.approx(2 / 3)
    assert kinds["enters"]["events"] == 2


def test_the_interval_is_seeded_and_holds_the_score():
    right = score_clip([event(1.0)], [Phrase(CIRCLE, 1.2)], duration_s=12)
    wrong = score_clip([event(1.0)], [Phrase(SQUARE, 1.2)], duration_s=12)
    scores = [right] * 30 + [wrong] * 20
    spread = f1_interval(scores)
    assert spread == f1_interval(scores)
    assert 0.4 < spread["low"] < f1_of_clips(scores)["f1"] < spread["high"] < 0.8
    assert f1_interval([right])["low"] == f1_interval([right])["high"] == 1.0


def test_a_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="before it starts"):
        Window(1.0, 0.0)
