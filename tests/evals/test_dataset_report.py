"""Numbers about a dataset, by value."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.schema import Record, Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.dataset_report import clip_facts, distribution, measured, most_in_a_second, token_counter
from mmduplex_jax.tokenizer.token_plan import plan_clip
from tests import tiny


def record(ticks=25, words=4, **fields):
    words = tuple(Word("red", 0.5 + i / 10) for i in range(words))
    return Record("a", np.zeros((ticks, 32, 32, 3), np.uint8), Clock(), words, **fields)


def motion(ticks, shift=(0, 0), camera=(0, 0), residual=0):
    """A field of 4 × 4 cells in which one moves apart from the camera."""
    field = np.zeros((ticks, 4, 4, 4), np.int8)
    field[1:, ..., :2] = camera
    field[1:, 0, 0, :2] = np.add(camera, shift)
    field[1:, ..., 2] = residual
    return field


def test_a_clip_by_value():
    # 25 ticks of 0.16 s are 4 s, of which the last 2.5 s are this clip's to speak in.
    clip = record(words_from_s=1.5, language="en", license="CC0", provenance={"source": "world"}, caption="all of it")
    facts = clip_facts(clip, motion(25, shift=(-2, 1), residual=6), None)
    assert (facts.duration_s, facts.words, facts.words_per_s) == (4.0, 4, 4 / 2.5)
    assert (facts.language, facts.license, facts.source, facts.timing) == ("en", "CC0", "world", "word")
    assert (facts.has_caption, facts.has_audio, facts.has_motion) == (True, False, False)
    assert facts.shifts.tolist() == [24 * 15, 0, 24, 0, 0, 0]
    assert (facts.camera_moves, facts.residual) == (0, 6)


def test_motion_is_apart_from_the_cameras():
    facts = clip_facts(record(), motion(25, shift=(0, 7), camera=(3, -1)), None)
    assert facts.shifts.tolist() == [24 * 15, 0, 0, 0, 0, 24]  # 7 counts with all that is 5 or more
    assert facts.camera_moves == 1
    still = clip_facts(record(ticks=1, words=0), motion(1), None)
    assert (still.shifts.sum(), still.camera_moves, still.words_per_s) == (0, 0, 0)


def test_most_in_a_second_is_of_any_second():
    # Seven ticks begin in a half-open second at 6.25 ticks a second.
    tokens = np.zeros(30, np.int64)
    tokens[[4, 9, 10]] = 5, 6, 7
    assert most_in_a_second(tokens, Clock()) == 18
    tokens[3], tokens[4] = 5, 0
    assert most_in_a_second(tokens, Clock()) == 13
    assert most_in_a_second(tokens[:10], Clock()) == 11
    assert most_in_a_second(np.array([2, 3]), Clock()) == 5


@pytest.mark.parametrize("ticks", [7, 30])
def test_tokens_are_those_that_the_tokenizer_spends(ticks):
    config = tiny.tokenizer()
    frames = tiny.clips(1, ticks)[0]
    tokens = token_counter(config)(frames)
    plan = plan_clip(frames, config)
    assert tokens.shape == (ticks, 2)
    np.testing.assert_array_equal(tokens[:, 0], 2 * np.asarray(plan.anchor))  # an anchor is 2 tokens here
    np.testing.assert_array_equal(tokens[:, 1], np.asarray(plan.flow).sum(axis=1))
    assert tokens.sum() > 0
    assert most_in_a_second(tokens.sum(axis=1), Clock()) <= config.cap


def test_a_distribution_by_value():
    found = distribution([1.0, 2.0, 3.0, 10.0], bins=3)
    assert (found["mean"], found["min"], found["max"], found["p50"]) == (4.0, 1.0, 10.0, 2.5)
    assert found["histogram"] == {"edges": [1, 4, 7, 10], "counts": [3, 0, 1]}


def test_all_clips_together():
    spent = np.zeros((25, 2), np.int64)
    spent[0], spent[1] = (4, 0), (0, 8)
    facts = [
        clip_facts(record(license="A"), motion(25, shift=(1, 0)), spent),
        clip_facts(record(words=0, license="A"), motion(25), spent),
        clip_facts(dataclasses.replace(record(), timing="clip", audio=b"OggS"), motion(25, camera=(1, 0)), None),
    ]
    found = measured(facts, Clock(), plane_px=(8, 8), cap=16)
    assert (found["clips"], found["without_words"], found["with_audio"]) == (3, 1, 1)
    assert found["hours"] == pytest.approx(12 / 3600)
    assert found["timing"] == {"word": 2, "clip": 1}
    assert found["language"] == {"unknown": 3}
    assert found["origin"] == [
        {"source": "unknown", "license": "A", "clips": 2},
        {"source": "unknown", "license": "unknown", "clips": 1},
    ]
    assert found["motion"]["cells_by_shift"] == pytest.approx([47 / 48, 1 / 48, 0, 0, 0, 0])
    assert found["motion"]["camera_moves"] == pytest.approx(1 / 3)
    # Two clips of 4 s were counted.
    tokens = found["tokens"]
    assert (tokens["per_s"], tokens["anchor_per_s"], tokens["flow_per_s"]) == (3.0, 1.0, 2.0)
    assert (tokens["most_in_a_second"], tokens["cap"]) == (12, 16)
    assert measured(facts[2:], Clock(), (8, 8), None)["tokens"] is None
    with pytest.raises(ValueError, match="no clips"):
        measured([], Clock(), (8, 8), None)
