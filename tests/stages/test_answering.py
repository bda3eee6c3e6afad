"""A duplex model answers: what is given to its stream counts as in a whole clip, and copies of a stream do not meet.

A model that has learned nothing is as good as chance.
"""

import dataclasses
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.decode import VideoReader
from mmduplex_jax.evals.benchmarks import longvideobench
from mmduplex_jax.evals.benchmarks.protocol import (
    BenchmarkError,
    Item,
    Subtitle,
    UnanswerableError,
    UnreadableVideoError,
)
from mmduplex_jax.stages.duplex.answering import DuplexAnswerer
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests import tiny
from tests.data_pipelines.numbered_video import write_numbered

WORDS = [f"w{i}" for i in range(tiny.PAD)]
SECONDS, DELAY = 2.0, 2
CONFIG = ConfigDict({"delay": {"eval": DELAY}, "fit": "crop"})


def task(**changes) -> DuplexTask:
    return DuplexTask(tiny.dual_stream(**changes), 2, 0, 4, 1.0, 0.0)


@pytest.fixture(scope="module")
def params():
    """Of any size: a model that is sure of something tells more than one that is not."""
    shapes = nn.unbox(jax.eval_shape(task().init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    images = [np.full((64, 64, 3), 90, np.uint8) for _ in range(int(25 * SECONDS))]
    for i, image in enumerate(images):
        image[10:30, i : i + 20] = rng.integers(0, 255, 3)
    return write_numbered(tmp_path_factory.mktemp("video") / "a.mp4", images=images)


@pytest.fixture(scope="module")
def make(params):
    """Makes an answerer, one that talks; models with the same config share their compiled programs."""
    return lambda **options: DuplexAnswerer(
        task(pad_bias=options.pop("pad_bias", -2.0)), params, CONFIG, TextTokenizer.word_level(WORDS), **options
    )


def slots_of(text: str) -> list[int]:
    return [slot for word in text.split() for slot in (tiny.WORD, WORDS.index(word))]


def test_likelihoods_are_those_of_a_whole_clip(make, params, video):
    """To float32's rounding over two layers, far below what tells options apart."""
    silent = make(pad_bias=1e4)
    item = Item("q", video, "w1 w2 w3", ("w4", "w5 w6", "w7 w8 w9"))
    found = silent.answer(item).facts["scores"]
    config = tiny.dual_stream()
    with VideoReader(video, config.clock, config.tokenizer.frame_px) as reader:
        frames = np.stack([frame for _, _, frame in reader])[None]
    steps = frames.shape[1] * config.clock.video_stride
    texts = [[tiny.PAD] * steps + slots_of("w1 w2 w3") + slots_of(option) for option in item.options]
    length = max(map(len, texts))
    slots = np.array([text + [tiny.PAD] * (length - len(text)) for text in texts], np.int32)
    before = np.concatenate([np.full((3, 1), tiny.START, np.int32), slots[:, :-1]], axis=1)
    delay = jnp.full((3,), DELAY, jnp.int32)
    logits = tiny.offline(config)(params, np.repeat(frames, 3, axis=0), before, delay)
    likelihoods = np.asarray(jax.nn.log_softmax(logits))
    for row, text in enumerate(texts):
        at = range(steps + 6, len(text))
        assert found[row] == pytest.approx(np.mean([likelihoods[row, i, text[i]] for i in at]), abs=1e-4)
    assert max(found) - min(found) > 0.05


def test_options_do_not_meet(make, video):
    """Each is scored as if it were alone; the video is watched once, and what one question was leaves no trace."""
    answerer = make()
    item = Item("q", video, "w1", ("w2 w3", "w4", "w5 w6 w7"))
    first = answerer.answer(item)
    turned = answerer.answer(dataclasses.replace(item, options=item.options[::-1]))
    assert turned.facts["scores"] == pytest.approx(first.facts["scores"][::-1], abs=1e-5)
    answerer.answer(Item("other", video, "w9 w9 w9 w9", ("w1", "w2")))
    assert answerer.answer(item) == first
    assert make().answer(item) == first
    assert first.text == "ABC"[int(np.argmax(first.facts["scores"]))]
    named = answerer.answer(dataclasses.replace(item, choices=("x", "y", "z")))
    assert named.text == "xyz"[int(np.argmax(first.facts["scores"]))]


def test_what_is_likely_unseen_depends_on_no_video(make, video, tmp_path):
    grey = write_numbered(tmp_path / "grey.mp4", images=[np.full((64, 64, 3), 90, np.uint8)] * 20)
    item = Item("q", video, "w1", ("w2 w3", "w4"))
    seen, other = make().answer(item), make().answer(dataclasses.replace(item, video=grey))
    assert other.facts["scores_unseen"] == seen.facts["scores_unseen"]
    assert other.facts["scores"] != pytest.approx(seen.facts["scores"], abs=1e-4)  # far above rounding
    assert seen.facts["scores"] != pytest.approx(seen.facts["scores_unseen"], abs=1e-3)


def test_only_what_was_seen_until_then_counts(make, video):
    answerer = make()
    whole = Item("q", video, "w1", ("w2", "w3"))
    half, third = (dataclasses.replace(whole, asked_s=asked_s) for asked_s in (1.0, 0.66))
    tokens = [answerer.answer(item).tokens for item in (third, half, whole)]
    assert 0 < tokens[0] <= tokens[1] < tokens[2]
    later = answerer.answer(dataclasses.replace(whole, begin_s=1.0))
    assert 0 < later.tokens < tokens[2]
    with pytest.raises(UnreadableVideoError, match="shows nothing between 3.0 s and None s"):
        answerer.answer(dataclasses.replace(whole, begin_s=3.0))


def test_subtitles_are_given_at_their_times(make, video):
    """Silent but for them: what it was told changes what it thinks, and nothing of it counts as said by the model."""
    item = Item("q", video, "w1", ("w2", "w3"), subtitles=(Subtitle(0.2, 1.0, "w4 w5 w6"), Subtitle(1.5, 1.9, "w7")))
    told, untold = make(pad_bias=1e4).answer(item), make(pad_bias=1e4, subtitles=False).answer(item)
    assert told.facts["scores"] != pytest.approx(untold.facts["scores"], abs=1e-4)
    assert told.said == untold.said == ()
    assert "subtitle_words_left_out" not in told.facts
    answerer = make(pad_bias=1e4)
    given, left_out = answerer._given_subtitles(item)
    # .2 s is step 2, and words run two steps behind.
    assert [slot for _, slot in sorted(given.items())] == slots_of("w4 w5 w6 w7")
    assert (min(given), left_out) == (2 + DELAY, 0)
    unknown = dataclasses.replace(item, subtitles=(Subtitle(0.2, 1.0, "w4 hello there"),))
    assert make(pad_bias=1e4).answer(unknown).facts["subtitle_words_left_out"] == 2


def test_open_answers_are_decoded(make, video):
    chatty = make().answer(Item("q", video, "w1 w2"))
    assert chatty.text
    assert set(chatty.text.split()) <= set(WORDS)
    assert chatty.said
    assert make(pad_bias=1e4).answer(Item("q", video, "w1 w2")).text == ""


def test_who_only_listens_is_told_what_was_said(make, video):
    answerer = make()
    item = Item("q", video, "w1 w2", asked_s=0.5, listens_until_s=1.5)
    answer = answerer.answer(item)
    assert answer.said
    assert all(one.start_s < 1.5 for one in answer.said)
    # Until it is asked it says what it says unasked.
    unasked = answerer.answer(dataclasses.replace(item, question="", asked_s=None))
    assert unasked.said[0].start_s == answer.said[0].start_s < 0.5
    assert unasked.said[0].text.split()[0] == answer.said[0].text.split()[0]
    assert len(answer.text.split()) < sum(len(one.text.split()) for one in answer.said)
    later = answerer.answer(dataclasses.replace(item, begin_s=0.4))
    assert all(0.4 <= one.start_s < 1.5 for one in later.said)


def test_words_outside_the_vocabulary_are_an_error(make, video):
    answerer = make()
    with pytest.raises(UnanswerableError, match="q, question: .*'What'"):
        answerer.answer(Item("q", video, "What w1", ("w2", "w3")))
    with pytest.raises(UnanswerableError, match="q, option 'a cat': .*'a'"):
        answerer.answer(Item("q", video, "w1", ("w2", "a cat")))
    # Where what is said counts, it is watched all the same.
    watched = answerer.answer(Item("q", video, "What w1", ("w2", "w3"), facts={"said_counts": True}))
    assert "'What'" in watched.facts["unanswerable"]
    assert watched.said
    # Unless it is also asked in words that the model has.
    cloze = {"cloze": {"question": "w1 w5", "options": ["w3", "w2"]}}
    asked = answerer.answer(Item("q", video, "What w1", ("w2", "a cat"), facts=cloze))
    assert asked.facts["cloze"]
    assert asked.facts["scores"] == answerer.answer(Item("q", video, "w1 w5", ("w3", "w2"))).facts["scores"]


def test_videos_that_are_not_there_or_broken(make, tmp_path):
    with pytest.raises(BenchmarkError, match=r"q: its video is not there \(v1\.mp4\)"):
        make().answer(Item("q", None, "w1", ("w2", "w3"), facts={"video_path": "v1.mp4"}))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(UnreadableVideoError, match=r"broken\.mp4"):
        make().answer(Item("q", broken, "w1", ("w2", "w3")))


def test_who_learned_nothing_lands_on_chance(make, video):
    """Within three standard deviations of a fair draw."""
    rng, number = np.random.default_rng(0), 120
    answerer = make()
    draw = lambda: " ".join(rng.choice(WORDS, rng.integers(1, 4)))
    items = [
        Item(f"q{i}", video, draw(), tuple(draw() for _ in range(4)), facts={"correct_choice": int(rng.integers(4))})
        for i in range(number)
    ]
    answers = {item.key: answerer.answer(item) for item in items}
    accuracy = longvideobench.aggregate(longvideobench.score(items, answers, "official"), "official")
    assert accuracy == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / number))
