import collections
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.world import WorldConfig, lexicon, make_clip, make_events, split_phrases
from data_pipelines.world.clip import plan_clip
from mmduplex_jax.evals.events import Phrase, Window, match

PLAIN, RICH = WorldConfig(look="plain"), WorldConfig(look="rich")
LOOKS = pytest.mark.parametrize("config", [PLAIN, RICH], ids=["plain", "rich"])

_DIGEST = """
import hashlib
from data_pipelines.world import WorldConfig, make_clip
clip = make_clip(WorldConfig(look="{look}"), 11, 4)
print(hashlib.sha256(clip.frames.tobytes() + repr((clip.events, clip.words)).encode()).hexdigest())
"""


@LOOKS
def test_a_clip_is_a_function_of_config_seed_and_index_in_any_process(config):
    make_clip(config, 0, 0)  # what was made before must not matter
    clip = make_clip(config, 11, 4)
    here = hashlib.sha256(clip.frames.tobytes() + repr((clip.events, clip.words)).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", _DIGEST.format(look=config.look)], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
    assert clip.events == make_events(config, 11, 4)
    assert clip.events != make_events(config, 11, 5)
    assert clip.events != make_events(config, 12, 4)


@LOOKS
def test_a_clip_has_a_frame_for_each_tick_and_words_of_the_lexicon(config):
    clip = make_clip(config, 1, 2)
    assert clip.frames.shape == (75, 64, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert {word.text for word in clip.words} <= set(lexicon())


def test_the_clock_and_the_sizes_are_free():
    clip = make_clip(WorldConfig(clip_s=8.0, frame_px=48, video_stride=1), 1, 2)
    assert clip.frames.shape == (100, 48, 48, 3)


@LOOKS
def test_every_event_is_spoken_in_time_and_nothing_else(config):
    for index in range(60):
        scene, words, _ = plan_clip(config, 2, index)
        phrases = split_phrases([(word.text, word.start_s) for word in words])
        assert [attributes for attributes, _, _ in phrases] == [event.attributes for event in scene.events]
        for event, (_, start_s, _) in zip(scene.events, phrases, strict=True):
            assert -1e-9 <= start_s - event.t_s <= config.dynamics.lag_s + 1e-9 < 1.2
        starts_s = np.array([word.start_s for word in words])
        assert np.all(np.diff(starts_s) >= 1 / 3 - 1e-9)
        assert all(word.end_s <= config.clip_s for word in words)
        assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(words, words[1:]))


@LOOKS
def test_kinds_come_about_equally_often_with_calm_and_busy_spans(config):
    events = [make_events(config, 7, index) for index in range(200 if config is PLAIN else 120)]
    counts = collections.Counter(event.kind for clip in events for event in clip)
    total = sum(counts.values())
    assert set(counts) == set(config.dynamics.kinds)
    low, high = (0.08, 0.25) if config is PLAIN else (0.02, 0.25)
    assert all(low <= count / total <= high for count in counts.values()), counts
    assert 2.0 <= config.clip_s * len(events) / total <= 3.2
    gaps_s = np.concatenate([np.diff([event.t_s for event in clip]) for clip in events])
    assert gaps_s.min() >= 1.4 - 1e-9
    assert np.mean(gaps_s < 2.1) > 0.3
    assert np.mean(gaps_s > 2.4) > 0.1


@LOOKS
def test_subjects_and_sides_are_drawn_evenly(config):
    events = [event for index in range(200) for event in make_events(config, 8, index)]
    for of_event in (
        lambda e: e.subject.split()[0],
        lambda e: e.subject.split()[1],
        lambda e: e.detail if e.kind == "enters" else None,
    ):
        counts = collections.Counter(filter(None, map(of_event, events)))
        assert max(counts.values()) < 2.2 * min(counts.values()), counts


@LOOKS
def test_another_clip_does_not_give_the_answer(config):
    clips = [make_events(config, 9, index) for index in range(200)]
    found = said = happened = 0
    for clip, other in zip(clips, clips[1:] + clips[:1], strict=True):
        phrases = [Phrase(event.attributes, event.t_s) for event in other]
        found += len(match(clip, phrases, Window()))
        said += len(phrases)
        happened += len(clip)
    assert 2 * found / (said + happened) < 0.05


@pytest.mark.parametrize("look", ["plain", "rich"])
@pytest.mark.parametrize("clip_s", [8.0, 24.0, 90.0])
def test_clips_may_be_long(look, clip_s):
    events = make_events(WorldConfig(look=look, clip_s=clip_s), 4, 0)
    assert len(events) >= clip_s / 6
    assert events[-1].t_s <= clip_s


@pytest.mark.parametrize(
    ("wrong", "message"), [({"look": "ugly"}, "choose one"), ({"clip_s": 1.0}, "clip_s"), ({"frame_px": 8}, "frame_px")]
)
def test_a_world_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**wrong)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="negative"):
        make_clip(PLAIN, -1, 0)
