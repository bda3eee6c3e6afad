"""The audio stream: what is learned of a clip's codes, the stream against the clip, and text as if there were none."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import duplex_300m_speech
from mmduplex_jax.models.audio_stream import AudioConfig, sound_of
from mmduplex_jax.models.depth import UNGENERATED, ZERO, DepthConfig, undelayed_codes
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.duplex.task import DuplexTask, audio_config, build_task
from mmduplex_jax.tokenizer.bflow import Tokens
from tests import tiny

K, CARD = 3, 11
DEPTH = DepthConfig(codebooks=K, card=CARD, text_rows=24, width=8, layers=1, heads=2, hidden=12, low_rank=4)
AUDIO = AudioConfig(DEPTH, audio_delay=2, acoustic_delays=(0, 1, 1))
INITIAL = DEPTH.initial
# The tokenizer that compiles fastest: sound does not know which one there is.
SPEAKING, WRITING = tiny.dual_stream("cross", "per_frame", audio=AUDIO), tiny.dual_stream("cross", "per_frame")
BATCH, STEPS = 4, 124
DELAY = np.array([0, 3, 2, 1], np.int32)


@functools.cache
def params():
    return tiny.init(SPEAKING)


def nothing_seen(model, batch, steps):
    """Hidden states see no video here: `test_streaming_equals_offline.py` has that."""
    tokens = model.config.tokenizer
    zeros = lambda *shape, dtype=jnp.int32: jnp.zeros((batch, steps, *shape), dtype)
    return Tokens(zeros(tokens.width, dtype=jnp.float32), zeros(dtype=bool), zeros(), zeros(), zeros(2), zeros())


@functools.cache
def whole_clips():
    """The compiled text and sound of clips: `(params, slots, delay, given, text, target) -> both logits`."""

    def logits(model, slots, delay, given, text, target):
        x = model.hidden(nothing_seen(model, *slots.shape), slots, delay, given)
        return model.language.logits(x), model.audio.code_logits(x, text, target)

    return tiny.jit(lambda params, *inputs: DualStream(SPEAKING).apply({"params": params}, *inputs, method=logits))


@functools.cache
def say(config):
    """The compiled text and sound of a step, without the tick before it."""
    return tiny.jit(LiveModel(config).say)


@functools.cache
def begin(config):
    """The compiled state of `BATCH` streams that begin."""
    return tiny.jit(lambda params: LiveModel(config).init_state(params, BATCH))


@functools.cache
def learner():
    """A task, and its compiled loss and gradient."""
    task = DuplexTask(
        config=SPEAKING,
        ticks=8,
        delay_min=2,
        delay_max=2,
        pad_weight=0.3,
        nested_dropout=0.0,
        audio_weight=0.5,
        first_codebook_weight=10.0,
    )
    return task, tiny.jit(jax.value_and_grad(task.loss, has_aux=True))


def batch():
    rng = np.random.default_rng(0)
    slots = np.where(rng.random((2, 16)) < 0.6, tiny.PAD, rng.integers(0, 20, (2, 16))).astype(np.int32)
    slots[:, 3] = tiny.WORD
    valid = np.ones(slots.shape, bool)
    valid[1, 12:] = False
    codes = rng.integers(0, CARD, (2, 16, K)).astype(np.int16)
    return {"frames": tiny.clips(2, 8), "slots": slots, "slot_valid": valid, "codes": codes}


def test_codes_run_behind_the_text_and_nothing_is_learned_of_what_is_not_known():
    codes = np.arange(8, dtype=np.int16)[:, None] + np.zeros((2, 1, K), np.int16)
    codes[:, 3] = ZERO
    sound = tiny.jit(functools.partial(sound_of, AUDIO))(codes, np.array([0, 1]), np.array([True, True]))
    first = [INITIAL] * 2 + [0, 1, 2, ZERO, 4, 5]
    later = [INITIAL] * 3 + [0, 1, 2, ZERO, 4]
    assert np.asarray(sound.target)[0].T.tolist() == [first, later, later]
    assert np.asarray(sound.target)[1].T.tolist() == [[INITIAL, *row[:-1]] for row in (first, later, later)]
    np.testing.assert_array_equal(sound.given[:, 1:], sound.target[:, :-1])
    assert (np.asarray(sound.given[:, 0]) == INITIAL).all()
    np.testing.assert_array_equal(sound.known, (np.asarray(sound.target) >= 0) & (np.asarray(sound.target) < INITIAL))
    silent = tiny.jit(functools.partial(sound_of, AUDIO))(codes, np.array([0, 1]), np.array([False, True]))
    assert (np.asarray(silent.given[0]) == ZERO).all()
    assert not silent.known[0].any()
    np.testing.assert_array_equal(silent.target[1], sound.target[1])


def test_delays_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="3 codebooks need an acoustic delay each"):
        dataclasses.replace(AUDIO, acoustic_delays=(0, 1))
    with pytest.raises(ValueError, match="the smallest of them 0"):
        dataclasses.replace(AUDIO, acoustic_delays=(1, 1, 2))
    with pytest.raises(ValueError, match=r"config\.audio\.audio_delay"):
        dataclasses.replace(AUDIO, audio_delay=-1)
    assert audio_config(None, 24, "float32") is None
    assert audio_config({"codebooks": 0}, 24, "float32") is None


def test_with_sound_off_the_text_is_that_of_a_model_without_sound_bit_for_bit():
    """The same parameters but for those of the audio stream, which are not even looked at."""
    silent = {name: value for name, value in params().items() if name != "audio"}
    bias, active = np.zeros(BATCH, np.float32), np.ones(BATCH, bool)
    models = (SPEAKING, params()), (WRITING, silent)
    states = [begin(config)(some) for config, some in models]
    for _ in range(24):
        outs = []
        for i, (config, some) in enumerate(models):
            states[i], *out = say(config)(some, states[i], active, DELAY, bias)
            outs.append(out)
        (token, logits, spoken), (others, other, _) = outs
        np.testing.assert_array_equal(logits, other)
        np.testing.assert_array_equal(token, others)
        assert spoken is None
    with pytest.raises(ValueError, match="it writes and does not speak"):
        jax.eval_shape(lambda: LiveModel(WRITING).say(silent, states[1], active, DELAY, bias, speaking=active))


def test_a_stream_that_speaks_is_the_clip_with_rows_that_pause_begin_anew_and_keep_silent():
    """Rows 0 and 3 choose their codes, row 1 is given them, row 2 has no sound; all choose their text."""
    rng, rows, bias = np.random.default_rng(1), np.arange(BATCH), np.zeros(BATCH, np.float32)
    reset = tiny.jit(LiveModel(SPEAKING).reset_row)
    speaking = np.array([True, True, False, True])
    forced = rng.integers(0, CARD, (BATCH, STEPS, K)).astype(np.int32)
    forced[[0, 2, 3]] = UNGENERATED
    tokens, codes = np.zeros((BATCH, STEPS), np.int32), np.zeros((BATCH, STEPS, K), np.int32)
    words, sounds = np.zeros((BATCH, STEPS, tiny.VOCAB)), np.zeros((BATCH, STEPS, K, CARD))
    complete = np.zeros((BATCH, STEPS, K), np.int32)
    state, at, call = begin(SPEAKING)(params()), np.zeros(BATCH, int), 0
    while at.min() < STEPS:
        if call == 33:
            state = reset(params(), state, np.int32(3))
            assert (np.asarray(state.audio.codes[3]) == UNGENERATED).all()
            at[3] = 0
        active, now = (rng.random(BATCH) < 0.8) & (at < STEPS), np.minimum(at, STEPS - 1)
        before, asked = np.asarray(state.audio.codes), forced[rows, now]
        given = params(), state, active, DELAY, bias
        state, token, logits, spoken = say(SPEAKING)(*given, speaking=speaking, forced_codes=asked)
        np.testing.assert_array_equal(np.asarray(state.audio.codes)[~active], before[~active])
        for row in np.flatnonzero(active):
            here = row, at[row]
            tokens[here], codes[here], complete[here] = token[row], spoken.codes[row], spoken.frame[row]
            words[here], sounds[here] = logits[row], spoken.logits[row]
        at += active
        call += 1

    first = np.where(speaking, INITIAL, ZERO)[:, None, None] * np.ones((1, 1, K), np.int32)
    given = np.concatenate([first, codes[:, :-1]], axis=1).astype(np.int32)
    start = np.full((BATCH, 1), tiny.START, np.int32)
    inputs = np.concatenate([start, tokens[:, :-1]], axis=1), DELAY
    offline, heard = whole_clips()(params(), *inputs, given, tokens, codes)
    np.testing.assert_allclose(words, offline, atol=1e-5)
    np.testing.assert_allclose(sounds, heard, atol=1e-5)

    begun = np.arange(STEPS)[:, None] >= DELAY[:, None, None] + np.array(AUDIO.delays)
    chosen = np.where(begun, sounds.argmax(axis=-1), INITIAL)
    np.testing.assert_array_equal(codes[[0, 3]], chosen[[0, 3]])
    np.testing.assert_array_equal(codes[1], forced[1])
    assert (codes[2] == ZERO).all()
    # A frame is whole when its last codebook has been said, one step after its first.
    frame, kept = tiny.jit(lambda codes: undelayed_codes(codes, AUDIO.acoustic_delays, ZERO))(codes)
    frame, kept = np.asarray(frame), np.asarray(kept)
    whole = ((frame >= 0) & (frame < INITIAL)).all(axis=-1, keepdims=True) & kept
    np.testing.assert_array_equal(complete[:, 1:], np.where(whole, frame, ZERO)[:, :-1])
    assert (complete[:, 0] == ZERO).all()
    assert [int((complete[row] >= 0).all(axis=-1).argmax()) for row in (0, 3)] == [3, 4]

    # A row without sound writes what it would in a model without an audio stream; the others hear themselves.
    silence = np.full_like(given, ZERO)
    unheard, _ = whole_clips()(params(), *inputs, silence, tokens, codes)
    np.testing.assert_array_equal(np.asarray(unheard)[2], np.asarray(offline)[2])
    assert np.abs(np.asarray(unheard) - offline)[[0, 1, 3]].max() > 1e-3


def test_the_loss_of_text_and_that_of_codes_are_each_divided_by_their_own_weights():
    (_, loss), data = learner(), batch()
    (value, metrics), gradient = loss(params(), data, jax.random.key(0))
    target = np.full(data["slots"].shape, tiny.PAD)
    target[:, 2:] = data["slots"][:, :-2]
    valid = data["slot_valid"]
    counts = [(valid & where).sum() for where in (target < 20, target == tiny.WORD, target == tiny.PAD)]
    weights = counts[0], counts[1], 0.3 * counts[2]
    parts = [float(metrics[name]) for name in ("word_nll", "mark_nll", "pad_nll")]
    text = np.dot(weights, parts) / sum(weights)
    known = [sum(int(end) - 2 - delay for end in valid.sum(axis=1)) for delay in AUDIO.delays]
    assert float(metrics["code_weight"]) == 10 * known[0] + known[1] + known[2]
    total, first = float(metrics["code_nll"]) * sum(known), float(metrics["first_code_nll"]) * known[0]
    sound = (10 * first + total - first) / (10 * known[0] + known[1] + known[2])
    assert float(value) == pytest.approx(text + 0.5 * sound, rel=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["audio"]))


def test_clips_without_sound_teach_text_alone():
    (task, loss), data = learner(), batch()
    (_, metrics), gradient = loss(params(), data | {"codes": np.full_like(data["codes"], ZERO)}, jax.random.key(0))
    assert float(metrics["code_weight"]) == 0 == float(metrics["code_nll"])
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["audio"]))
    assert np.abs(gradient["embedding"]).max() > 0
    assert task.example_batch(2)["codes"].shape == data["codes"].shape


def test_the_full_size_model_is_duplex_300m_with_mimis_codes():
    built = build_task(duplex_300m_speech.get_config(), tiny.ids(49_155, 49_152, 49_153, 49_154))
    shapes = nn.unbox(jax.eval_shape(built.init, jax.random.key(0)))
    audio = shapes.pop("audio")
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
    assert audio["embedding"]["embedding"].shape == (8, 2049, 960)
    assert audio["depth"]["heads"]["kernel"].shape == (8, 512, 2048)
    assert count(audio) == pytest.approx(99.5, abs=0.5)
    assert count(shapes) == pytest.approx(498, abs=1)  # as docs/cost.md has it
    assert built.example_batch(2)["codes"].shape == (2, 150, 8)
    assert built.config.audio.delays == (2, 3, 3, 3, 3, 3, 3, 3)
