"""The model `world`: it loads, it is small, and it still says what it said when it was frozen."""

import json

import pytest

from launch import evaluate
from mmduplex_jax.weights.trained import MODELS


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in MODELS["world"].iterdir()) <= 10_000_000
    metadata = json.loads((MODELS["world"] / "metadata.json").read_text())
    assert metadata["layout_version"] >= 1
    assert metadata["steps"] > 0
    for name in ("config", "data", "scores"):
        assert metadata[name], name


def test_it_commentates_clips_that_no_training_has_seen(tmp_path):
    scores = tmp_path / "scores.json"
    assert evaluate.main(["--clips=16", "--batch=16", f"--json={scores}"]) == 0
    found = json.loads(scores.read_text())
    # Recorded on 2 cores of an AMD EPYC, 2026-11-29. One of its 74 events is worth 0.014.
    assert found["f1"] == pytest.approx(0.986, abs=0.02)
    assert found["latency_p50_s"] <= 0.6
    assert found["controls"]["other_clip"]["f1"] < 0.1
    assert found["tokens_per_s"] <= 32
