"""Metrics by name, and the numbers of a report."""

import pytest

from mmduplex_jax.evals.evaluator import BATCH, apply_metrics, default_batch, load_metrics, metric_lines, scalars
from tests.evals.test_controls import captioned


def test_a_metric_is_named_by_its_module_or_its_file(repository):
    metrics = load_metrics(f"tests.evals.metrics:longest_silence, {repository}/tests/evals/metrics.py:longest_silence")
    assert len(metrics) == 2
    found = apply_metrics(metrics, [captioned([("a", 4.0), ("b", 5.0)])])
    assert found == {"longest_silence": {"max_s": 7.0, "clips": 1.0}}
    assert metric_lines({"metrics": found}) == ["longest_silence: max_s 7, clips 1"]
    assert load_metrics("") == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests.evals.metrics", "give module:function"),
        ("tests.evals.no_such:x", "no_such"),
        ("nowhere.py:x", "nowhere.py"),
        ("tests.evals.metrics:x", "has no attribute 'x'"),
        ("tests.evals.metrics:__doc__", "cannot be called"),
    ],
)
def test_what_is_no_metric_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        load_metrics(name)


def test_numbers_of_a_report_have_paths():
    report = {"f1": 0.5, "words": {"word": {"f1": 1}}, "none": None, "flag": True, "list": [1.0], "nan": float("nan")}
    assert scalars(report) == {"f1": 0.5, "words/word/f1": 1.0}


@pytest.mark.parametrize(
    ("frame_px", "clips"), [((64, 64), BATCH), ((128, 128), BATCH), ((252, 448), 4), ((4000, 4000), 2)]
)
def test_of_large_frames_fewer_clips_are_evaluated_at_a_time(frame_px, clips):
    assert default_batch(frame_px) == clips
