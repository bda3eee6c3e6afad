import pytest

from data_pipelines.schema import Event
from mmduplex_jax.evals import events as timing
from mmduplex_jax.evals.events import Phrase, Window, score_clip

WHAT = ("enters", "red circle", "left")


def test_latency_percentiles_are_over_matches_only():
    events = [Event(float(t), *WHAT) for t in (1, 4, 7)]
    phrases = [Phrase(WHAT, t) for t in (1.2, 4.4, 7.6)] + [Phrase(("stops", "", ""), 2.0)]
    scores = [score_clip(events, phrases, duration_s=20)]
    latency = timing.latency_s(scores)
    assert latency["latency_p50_s"] == pytest.approx(0.4)
    assert latency["latency_p95_s"] == pytest.approx(0.58)


def test_without_a_match_there_is_no_latency():
    assert timing.latency_s([]) == {"latency_p50_s": None, "latency_p95_s": None}


def test_quiet_time_lies_outside_windows_and_their_phrases():
    events = [Event(2.0, *WHAT), Event(3.0, *WHAT), Event(19.0, *WHAT)]
    assert timing.busy_spans_s(events, 20.0, Window(), phrase_s=1.0) == [(2.0, 6.0), (19.0, 20.0)]
    said = [Phrase(None, t_s) for t_s in (1.0, 2.0, 5.9, 6.0, 10.0, 19.5, 25.0)]
    score = timing.score_quiet(events, said, 20.0, phrase_s=1.0)
    assert score.quiet_s == pytest.approx(15.0)
    assert score.false_alarms == 3  # at 1, 6 and 10 s
    assert timing.false_alarms_per_quiet_minute([score, score]) == pytest.approx(12.0)


def test_without_quiet_there_is_no_rate():
    busy = timing.score_quiet([Event(0.0, *WHAT)], [], 3.0)
    assert busy.quiet_s == 0
    assert timing.false_alarms_per_quiet_minute([busy]) is None
