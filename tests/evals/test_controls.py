"""The controls rank as they should, in a made-up world of events and on the built-in one's report."""

import numpy as np
import pytest

from data_pipelines.schema import Event
from data_pipelines.world import WorldConfig, lexicon, split_phrases
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals import controls
from mmduplex_jax.evals.clips import world_records
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.report import ClipResult, build_report, format_table
from mmduplex_jax.evals.speech import delayed_slots, phrases_in
from mmduplex_jax.text_tokenizer import TextTokenizer

CLIP_S = 12.0
CLOCK = Clock()


def made_up_clip(rng, skill):
    """A clip in which something happens every 2 s or so, and a speaker who gets a share `skill` of it right."""
    kinds, things, sides = ("enters", "leaves", "stops", "turns"), ("circle", "square", "star"), ("left", "right", "")
    colours = ("red", "blue", "green", "grey")
    draw = lambda: (rng.choice(kinds), f"{rng.choice(colours)} {rng.choice(things)}", rng.choice(sides))
    events = [Event(float(t_s + rng.uniform(0, 1)), *map(str, draw())) for t_s in np.arange(0.5, CLIP_S - 2, 2)]
    oracle = [Phrase(event.attributes, event.t_s + 0.4) for event in events]
    said = [
        phrase if rng.random() < skill else Phrase(tuple(map(str, draw())), phrase.start_s + 0.3) for phrase in oracle
    ]
    ticks = CLOCK.ticks_in(CLIP_S)
    return ClipResult(CLIP_S, events, said, oracle, np.full(ticks, 4, np.int32), np.zeros(ticks, np.float32))


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(1)
    return build_report([made_up_clip(rng, skill=0.6) for _ in range(60)], CLOCK, word_nll=0.4, seed=0)


def test_they_rank_as_they_should(report):
    f1 = {name: scores["f1"] for name, scores in report["controls"].items()}
    assert f1["oracle"] == 1.0
    assert 0.5 < report["f1"] < 0.75
    assert f1["oracle"] > report["f1"] > f1["other_clip"]
    assert f1["other_clip"] < 0.05
    assert f1["always_talking"] < 0.05
    assert f1["oracle_late_3s"] < 0.02
    assert f1["always_silent"] == 0.0


@pytest.mark.parametrize("look", ["plain", "rich"])
def test_they_rank_as_they_should_in_the_built_in_world(look):
    """A model that says what the world's commentator says, but blindly: words alone do not give the answer away."""
    tokenizer = TextTokenizer.word_level(lexicon("rich"))
    results = []
    for record in world_records(WorldConfig(look=look), seed=8, clips=80):
        slots = delayed_slots(record.words, tokenizer, CLOCK, record.num_ticks * CLOCK.video_stride, delay_steps=4)
        said = phrases_in(slots, tokenizer, CLOCK, split_phrases)
        nothing = np.zeros(record.num_ticks, np.int32)
        results.append(ClipResult(CLIP_S, record.events, said, said, nothing, nothing.astype(np.float32)))
    f1 = {name: s["f1"] for name, s in build_report(results, CLOCK, word_nll=None, seed=0)["controls"].items()}
    assert f1["oracle"] > 0.98
    assert f1["other_clip"] < 0.05
    assert f1["always_talking"] < 0.05
    assert f1["oracle_late_3s"] < 0.05
    assert f1["always_silent"] == 0


def test_silence_raises_no_alarm_and_talking_many(report):
    alarms = {name: scores["false_alarms_per_quiet_minute"] for name, scores in report["controls"].items()}
    assert alarms["always_silent"] == alarms["oracle"] == 0
    assert alarms["always_talking"] > 10


def test_every_control_has_every_column(report):
    assert list(report["controls"]) == list(controls.NAMES)
    columns = {"f1", "precision", "recall", "latency_p50_s", "latency_p95_s", "false_alarms_per_quiet_minute"}
    assert all(set(scores) == columns for scores in report["controls"].values())


def test_the_table_is_aligned(report):
    table = format_table(report)
    head, rule, *rows = table.split("\n")[: 3 + len(controls.NAMES)]
    assert set(rule) == {"-"}
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    assert [row.split()[0] for row in rows] == ["model", *controls.NAMES]
    assert rows[-1].split()[1:] == ["0.000", "0.000", "0.000", "-", "-", "0.0"]


def test_a_single_clip_has_no_other_one(report):
    clip = made_up_clip(np.random.default_rng(0), 1.0)
    said = controls.control_phrases([clip.events], [CLIP_S], [clip.said], [clip.oracle])
    assert said["other_clip"] == [[]]


def test_talking_at_random_is_seeded_and_never_stops():
    events = [[Event(1.0, "enters", "red circle", "left")], []]
    said = controls.always_talking(events, [6.0, 3.0], seed=3, phrase_s=1.5)
    assert said == controls.always_talking(events, [6.0, 3.0], seed=3, phrase_s=1.5)
    assert [[phrase.start_s for phrase in clip] for clip in said] == [[0.0, 1.5, 3.0, 4.5], [0.0, 1.5]]
    assert controls.always_talking([[]], [6.0]) == [[]]


def test_data_without_events_is_refused():
    ticks = CLOCK.ticks_in(CLIP_S)
    clip = ClipResult(CLIP_S, [], [], [], np.zeros(ticks, np.int32), np.zeros(ticks, np.float32))
    with pytest.raises(ValueError, match="--data=world"):
        build_report([clip], CLOCK, word_nll=None, seed=0)
    with pytest.raises(ValueError, match="no clips"):
        build_report([], CLOCK, word_nll=None, seed=0)


def test_clips_that_differ_in_number_are_refused():
    with pytest.raises(ValueError, match="differ in number: 1, 1, 0, 1"):
        controls.control_phrases([[]], [3.0], [], [[]])
