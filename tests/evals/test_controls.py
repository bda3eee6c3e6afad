"""The controls rank as they should, in a made-up world of events and on the built-in one's report."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.schema import Event, Word
from data_pipelines.world import WorldConfig, lexicon, split_phrases
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals import events as controls
from mmduplex_jax.evals.clips import world_records
from mmduplex_jax.evals.evaluation import delayed_slots, phrases_in
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.report import ClipResult, build_report, format_table
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
    assert list(report["controls"]) == list(controls.CONTROLS)
    columns = {"f1", "precision", "recall", "latency_p50_s", "latency_p95_s", "false_alarms_per_quiet_minute"}
    assert all(set(scores) == columns for scores in report["controls"].values())


def test_the_table_is_aligned(report):
    table = format_table(report)
    head, rule, *rows = table.split("\n")[: 3 + len(controls.CONTROLS)]
    assert set(rule) == {"-"}
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    assert [row.split()[0] for row in rows] == ["model", *controls.CONTROLS]
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


def captioned(
    spoken, duration_s=CLIP_S, texts=(("The", 1.0), ("dog", 1.4), ("barks.", 1.8), ("Then", 5.0), ("naps", 5.4))
):
    """A clip with captions and without events, of which a model said `spoken`."""
    ticks = CLOCK.ticks_in(duration_s)
    words = tuple(Word(text, t_s) for text, t_s in texts)
    late = tuple(Word(word.text, word.start_s + 0.4) for word in words)
    empty = np.zeros(ticks, np.int32), np.zeros(ticks, np.float32)
    return ClipResult(duration_s, [], [], [], *empty, "own/1", words, [Word(*word) for word in spoken], late)


def test_captions_without_events_are_scored_by_words_and_phrases_in_time():
    said = [("the", 1.3), ("dog", 1.5), ("barks", 2.2), ("then", 8.0), ("naps", 5.5)]
    found = build_report([captioned(sorted(said, key=lambda word: word[1]))], CLOCK, word_nll=1.5, seed=0)
    assert (found["f1"], found["controls"], found["events"], found["word_nll"]) == (None, {}, 0, 1.5)
    word, phrase = found["words"]["word"], found["words"]["phrase"]
    # "then" comes 3 s late; case and punctuation do not matter.
    assert (word["precision"], word["recall"], word["expected"], word["said"]) == (0.8, 0.8, 5, 5)
    assert word["latency_p50_s"] == pytest.approx(0.2)
    # "the dog barks" is right; "naps" and "then" are no phrases of the clip's.
    assert (phrase["recall"], phrase["expected"], phrase["said"]) == (0.5, 2, 3)
    assert word["controls"]["oracle"]["f1"] == phrase["controls"]["oracle"]["f1"] == 1
    assert word["controls"]["oracle_late_3s"]["f1"] == word["controls"]["always_silent"]["f1"] == 0
    table = format_table(found)
    assert "no clip lists its events" in table
    assert "model, every phrase" in table


def test_timing_is_of_what_is_said_against_the_clips_own_words(report):
    clips = [captioned([("the", 1.3), ("dog", 1.7), ("barks", 2.1), ("naps", 9.0)]), captioned([])]
    timing = build_report(clips, CLOCK, word_nll=None, seed=0)["timing"]
    # Of four utterances, two a clip, one is said on its time; the other begins 4 s late, and is matched too.
    assert (timing["trace"]["precision"], timing["trace"]["recall"]) == (1.0, 0.5)
    assert timing["trigger"]["time_diff_s"] == pytest.approx((0.3 + 3.7) / 2)  # 5.0 s is nearer to 1.3 than to 9.0
    assert timing["trigger"]["unanswered"] == 0.5
    assert timing["pace"]["words_per_s"] == pytest.approx(4 / (2 * CLIP_S))
    known = timing["controls"]
    assert tuple(timing["controls"]) == controls.CONTROLS
    assert known["oracle"]["trigger"]["time_diff_s"] == pytest.approx(0.4)
    assert known["always_silent"]["pace"]["silence"] == 1.0
    late = known["oracle_late_3s"]
    # 3.4 s after the second utterance's begin, but the first one's late begin is 0.6 s before it.
    assert late["trigger"]["time_diff_s"] == pytest.approx((3.4 + 0.6) / 2)
    assert known["other_clip"]["trace"]["score"] == timing["trace"]["score"]
    assert "in time (oracle): TRACE" in format_table(build_report(clips, CLOCK, word_nll=None, seed=0))
    assert report["timing"] is None  # these clips have no words


def test_sentences_are_cut_only_where_a_model_can_say_so():
    sentence = [Word("a", 1.0, ends_sentence=True), Word("b", 1.4, ends_sentence=True)]
    clip = dataclasses.replace(captioned([]), words=sentence, spoken=[Word("a", 1.0), Word("b", 1.4)])
    by_pauses = build_report([clip], CLOCK, word_nll=None, seed=0)["timing"]["trace"]
    assert (by_pauses["precision"], by_pauses["recall"]) == (1.0, 1.0)
    clip = dataclasses.replace(clip, oracle_words=sentence)
    by_sentences = build_report([clip], CLOCK, word_nll=None, seed=0)["timing"]["trace"]
    assert (by_sentences["precision"], by_sentences["recall"]) == (1.0, 0.5)


def test_clips_that_cannot_be_scored_are_counted_or_refused():
    short = captioned([], duration_s=1.92, texts=(("hello", 0.5),))
    found = build_report([captioned([]), short], CLOCK, word_nll=None, seed=0)
    assert (found["clips"], found["clips_too_short"]) == (2, 1)
    assert "1 clips are too short" in format_table(found)
    with pytest.raises(ValueError, match="longer than the 2 s"):
        build_report([short], CLOCK, word_nll=None, seed=0)
    with pytest.raises(ValueError, match="neither words nor events"):
        build_report([captioned([], texts=())], CLOCK, word_nll=None, seed=0)
    with pytest.raises(ValueError, match="no clips"):
        build_report([], CLOCK, word_nll=None, seed=0)


def test_clips_that_differ_in_number_are_refused():
    with pytest.raises(ValueError, match="differ in number: 1, 1, 0, 1"):
        controls.control_phrases([[]], [3.0], [], [[]])
