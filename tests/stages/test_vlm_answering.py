"""A `vlm` model answers: options are as likely as the whole text says, and it sees the frames that it should."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Subtitle, UnanswerableError
from mmduplex_jax.stages.vlm.answering import VlmAnswerer
from mmduplex_jax.weights.trained import load_tokenizer
from tests.data_pipelines.numbered_video import number_in, write_numbered
from tests.models.test_vlm import small_config, small_task
from tests.tiny import random_params


@pytest.fixture(scope="module")
def answerer():
    task = small_task()
    return VlmAnswerer(task, random_params(task.init), small_config(), load_tokenizer(small_config()))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("video") / "a.mp4", count=100)


def test_options_are_as_likely_as_the_loss_says(answerer, video):
    """To float32's rounding; two frames of 4 s: those at 0 and 2 s."""
    item = Item("q", video, "from left comes", ("red circle", "blue square enters"), duration_s=4.0)
    frames = answerer._frames(item, answerer._times_s(item))
    assert [number_in(frame) for frame in frames[0]] == [0, 50]
    found = answerer.answer(item)
    task, tokenizer = small_task(), load_tokenizer(small_config())
    params = jax.tree.map(jax.numpy.asarray, random_params(task.init))
    nll = jax.jit(lambda ids: task.model.apply({"params": params}, task.normalised(frames), ids, method="token_nll")[0])
    for option, score in zip(item.options, found.facts["scores"]):
        ids = [token for word in f"{item.question} {option}".split() for token in tokenizer.encode_word(word)]
        padded = np.full((1, 6), tokenizer.pad_id, np.int32)
        padded[0, : len(ids)] = ids
        assert score == pytest.approx(-np.asarray(nll(padded))[0, 3 : len(ids)].mean(), abs=1e-4)
    assert found.text == "AB"[int(np.argmax(found.facts["scores"]))]
    assert found.tokens == task.config.prefix


def test_subtitles_stand_between_frames(answerer, video):
    """Where LongVideoBench's loader puts them, and they are read; to float32's rounding."""
    heard = (Subtitle(0.5, 1.5, "never seen"), Subtitle(1.2, 2.4, "red Elephant square"), Subtitle(2.5, 3.5, "blue"))
    item = Item("q", video, "from left comes", ("red circle", "blue square"), duration_s=4.0, subtitles=heard)
    tokens = lambda text: [token for word in text.split() for token in answerer._tokenizer.encode_word(word)]
    times_s = answerer._times_s(item)
    assert times_s == [0.0, 2.0]
    # The frame at 2 s lies in the second line alone, whose middle, 1.8 s, is before it.
    shown, left_out = answerer._shown(item, times_s)
    assert shown == [-1, -2, -3, *tokens("red square"), -4, -5, -6]
    assert left_out == 1
    found = answerer.answer(item)
    assert found.facts["subtitle_words_left_out"] == 1
    task, params = small_task(), jax.tree.map(jax.numpy.asarray, random_params(small_task().init))
    clips = task.normalised(answerer._frames(item, times_s))

    def by_hand(model, clips, between, behind):
        seen = model.embed_frames(clips)
        return model.logits(
            model.read(jnp.concatenate([seen[:, :3], model.embed(between), seen[:, 3:], model.embed(behind)], axis=1))
        )

    texts = (np.array([tokens("red square")]), np.array([tokens("from left comes red circle")]))
    logits = jax.jit(lambda *given: task.model.apply({"params": params}, *given, method=by_hand))(clips, *texts)[0]
    likelihoods = jax.nn.log_softmax(logits)[-3:-1][np.arange(2), tokens("red circle")]
    assert found.facts["scores"][0] == pytest.approx(float(likelihoods.mean()), abs=1e-4)
    without = VlmAnswerer(task, params, small_config(), answerer._tokenizer, subtitles=False)
    assert without._shown(item, times_s) == ([-1, -2, -3, -4, -5, -6], 0)
    long = dataclasses.replace(item, subtitles=(Subtitle(1.0, 4.0, "red " * answerer._room),))
    with pytest.raises(UnanswerableError, match=rf"{answerer._room} of them subtitles \(--subtitles=no asks without\)"):
        answerer.answer(long)


def test_open_answers_and_what_cannot_be_asked(answerer, video):
    item = Item("q", video, "from left comes", duration_s=4.0)
    answer = answerer.answer(item)
    assert answer == answerer.answer(item)
    assert set(answer.text.split()) <= {load_tokenizer(small_config()).decode_word([i]) for i in range(64)}
    for changes, said in (
        ({"question": "Who comes?"}, "'Who'"),
        ({"question": ""}, "says nothing on its own"),
        ({"duration_s": None}, "does not say how long"),
    ):
        with pytest.raises(UnanswerableError, match=said):
            answerer.answer(dataclasses.replace(item, **changes))
    with pytest.raises(BenchmarkError, match="its video is not there"):
        answerer.answer(dataclasses.replace(item, video=None))
    short = dataclasses.replace(item, duration_s=1.5)
    assert [number_in(frame) for frame in answerer._frames(short, answerer._times_s(short))[0]] == [0, 0]
