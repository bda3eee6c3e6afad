"""Scripted clips through the whole evaluation, without a trained model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.schema import Event, Record, Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluation import ClipError, Evaluation, delayed_slots
from mmduplex_jax.evals.report import build_report
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.evals.scripted_model import ScriptedLive, scripted_frames

CLOCK = Clock()
PX = 8
DELAY = 4
KINDS = ("enters", "leaves", "stops")
COLOURS = ("red", "blue", "green", "grey", "pink")
TOKENIZER = TextTokenizer.word_level([*COLOURS, *KINDS])


def split(words):
    """Two words are a phrase: colour and kind."""
    pairs = zip(words[::2], words[1::2])
    return [((kind, colour, ""), t_s, f"{colour} {kind}") for (colour, t_s), (kind, _) in pairs]


def uniform(params, frames, slots_in, delay):
    return jnp.zeros((*slots_in.shape, TOKENIZER.vocab_size))


def scripted_record(number, ticks=75, right=True):
    """A clip in which something happens every 2 s; the picture holds what the model will say of it."""
    rng = np.random.default_rng(number)
    events, words = [], []
    for t_s in np.arange(0.5, ticks * CLOCK.tick_s - 1, 2.0):
        colour, kind = str(rng.choice(COLOURS)), str(rng.choice(KINDS))
        events.append(Event(float(t_s), kind, colour))
        words += [Word(colour, float(t_s) + 0.1), Word(kind, float(t_s) + 0.4)]
    said = words if right else words[::-1]
    said = [dataclasses.replace(word, start_s=true.start_s) for word, true in zip(said, words)]
    slots = delayed_slots(said, TOKENIZER, CLOCK, ticks * CLOCK.video_stride, DELAY)
    frames = scripted_frames(slots, CLOCK.video_stride, PX)
    return Record(key=f"scripted/{number}", frames=frames, clock=CLOCK, words=tuple(words), events=tuple(events))


def evaluation(**settings):
    live = ScriptedLive(CLOCK.video_stride, TOKENIZER.pad_id)
    settings = {"delay_steps": DELAY, "batch_size": 4, **settings}
    return Evaluation(live, uniform, TOKENIZER, CLOCK, PX, lambda record: split, **settings)


def test_a_model_that_says_the_right_words_scores_as_the_oracle():
    results, parts = [], []
    for batch, part in evaluation().run(None, [scripted_record(i) for i in range(10)]):
        results += batch
        parts.append(part)
    assert [len(result.events) for result in results] == [6] * 10  # the fillers of the last batch are not counted
    report = build_report(results, CLOCK, word_nll=sum(t for t, _ in parts) / sum(n for _, n in parts), seed=0)
    assert report["f1"] == report["controls"]["oracle"]["f1"] == 1.0
    assert report["controls"]["other_clip"]["f1"] < 0.5
    # 0.1 s after the event rounded down to a step, the delay, and the mark before the word
    assert report["latency_p50_s"] == pytest.approx(0.1 + DELAY * 0.08 + 0.08, abs=0.08)
    assert report["word_nll"] == pytest.approx(np.log(TOKENIZER.vocab_size), rel=1e-5)
    assert report["tokens_per_s"] == pytest.approx(3 * 6.25)


def test_wrong_words_score_nothing_and_silence_nothing_at_all():
    records = [scripted_record(i, right=False) for i in range(3)]
    (results, _) = next(iter(evaluation().run(None, records)))
    wrong = build_report(results, CLOCK, word_nll=None, seed=0)
    assert wrong["f1"] < 0.5 < wrong["controls"]["oracle"]["f1"]
    (results, _) = next(iter(evaluation(pad_bias=100.0).run(None, records)))
    assert build_report(results, CLOCK, word_nll=None, seed=0)["phrases"] == 0


def test_clips_of_different_length_are_scored_by_their_own():
    records = [scripted_record(0, ticks=40), scripted_record(1, ticks=75)]
    ((results, _),) = evaluation().run(None, records)
    assert [result.duration_s for result in results] == pytest.approx([6.4, 12.0])
    assert [len(result.video_tokens) for result in results] == [40, 75]
    assert build_report(results, CLOCK, word_nll=None, seed=0)["f1"] == 1.0


def test_a_clip_that_does_not_fit_the_model_is_named():
    other_clock = dataclasses.replace(scripted_record(3), clock=Clock(12.5, 1))
    with pytest.raises(ClipError, match=r"scripted/3 has Clock\(step_hz=12.5, video_stride=1\)"):
        list(evaluation().run(None, [other_clock]))
    smaller = dataclasses.replace(scripted_record(4), frames=np.zeros((75, 4, 4, 3), np.uint8))
    with pytest.raises(
        ClipError, match="scripted/4: frames of 4x4 px are smaller than the 8x8 px that the model takes"
    ):
        list(evaluation().run(None, [smaller]))


def test_larger_frames_are_seen_as_a_live_video_would_be():
    record = scripted_record(5)
    larger = dataclasses.replace(record, frames=record.frames.repeat(2, axis=1).repeat(2, axis=2))
    ((ours, _),) = evaluation().run(None, [record])
    ((theirs, _),) = evaluation().run(None, [larger])
    assert ours[0].said == theirs[0].said != []
