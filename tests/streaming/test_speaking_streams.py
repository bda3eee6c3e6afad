"""Streams that are heard: their sound is the codec's of the whole, and text beside them does not change by a bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mmduplex_jax.models.depth import ZERO
from mmduplex_jax.streaming.batch import StreamBatch
from mmduplex_jax.streaming.sound import Seams, voice_of
from mmduplex_jax.streaming.statistics import compilations
from tests import tiny
from tests.codec import tiny_codec
from tests.streaming.tiny_voice import CONFIG, MODEL, decoded, params, voice

# One of them must hold for what users run, so that all share what it compiles.
pytestmark = pytest.mark.optimized

ROWS, TICKS = 3, 16
STEPS = 2 * TICKS  # the codec looks back 3 steps, its rings wrap ten times
EVERYBODY = np.ones(ROWS, bool)


@functools.cache
def frames():
    return tiny.clips(ROWS, TICKS, busy=True).swapaxes(0, 1)


@functools.cache
def batch(with_voice=True):
    return StreamBatch(MODEL, params(), CONFIG.tokenizer.frame_px, count=ROWS, voice=voice() if with_voice else None)


def run(some, steps, speaking=None, active=EVERYBODY, reset_at=None):
    """Steps from the beginning: logits `[S, B, V]`, codes of whole frames `[S, B, K]` and sound `[S, B, L]`."""
    some.restart()
    found = []
    for step in range(steps):
        if step == reset_at:
            some.reset(np.array([False, True, False]))
        heard = speaking(step) if callable(speaking) else speaking
        mask = active(step) if callable(active) else active
        dispatched = some.step(some.send(frames()[step // 2 % TICKS]), mask, heard)
        output, spoken = dispatched.output, dispatched.output.spoken
        codes = np.full((ROWS, 3), ZERO) if spoken is None else np.asarray(spoken.frame)
        sound = dispatched.read().sound
        silence = np.zeros((ROWS, voice().step_samples), np.float32)
        found.append((np.asarray(output.logits), codes, silence if sound is None else sound))
    return map(np.stack, zip(*found))


def test_pieces_are_the_codecs_sound_of_the_whole_for_rows_that_wait_begin_anew_and_keep_silent():
    rng = np.random.default_rng(0)
    masks = rng.random((STEPS, ROWS)) < 0.8
    speaking = np.array([True, True, False])
    _, codes, sound = run(batch(), STEPS, speaking, active=lambda step: masks[step], reset_at=13)
    for row, began in ((0, 0), (1, 0), (1, 13)):
        until = 13 if (row, began) == (1, 0) else STEPS
        steps = [step for step in range(began, until) if masks[step, row]]
        whole = [step for step in steps if (codes[step, row] >= 0).all()]
        assert whole == steps[2:]  # the text leads by a step, and the first codebook by another
        np.testing.assert_allclose(np.clip(sound[whole, row], -1, 1), decoded(codes[whole, row]), atol=1e-5)
        silent = sorted({*range(began, until)} - {*whole})
        assert not sound[silent, row].any()
    assert not sound[:, 2].any()
    assert np.abs(sound[:, 0]).max() > 0.1


def test_who_is_not_heard_writes_what_a_model_without_a_codec_writes_bit_for_bit():
    plain, *_ = run(batch(with_voice=False), STEPS)
    unheard, _, sound = run(batch(), STEPS)
    np.testing.assert_array_equal(unheard, plain)
    assert not sound.any()
    beside, *_ = run(batch(), STEPS, np.array([True, False, True]))
    np.testing.assert_array_equal(beside[:, 1], plain[:, 1])
    assert np.abs(beside[:, [0, 2]] - plain[:, [0, 2]]).max() > 1e-3  # the others hear themselves


def test_sound_that_was_left_out_comes_back_with_frames_of_its_own():
    left_out = range(10, 17)
    _, codes, sound = run(batch(), STEPS, lambda step: None if step in left_out else EVERYBODY)
    whole = (codes[:, 0] >= 0).all(axis=1)
    # No frame has codes from before and after.
    assert np.flatnonzero(~whole).tolist() == [0, 1, *left_out, 17]
    np.testing.assert_allclose(np.clip(sound[whole, 0], -1, 1), decoded(codes[whole, 0]), atol=1e-5)


def test_nothing_is_compiled_afterwards_and_a_model_without_a_voice_has_one_program():
    some = batch()
    assert some.sound_ratio >= 1
    before = compilations()
    run(some, 4, EVERYBODY, reset_at=2)
    run(some, 4)
    assert compilations() == before
    assert batch(with_voice=False)._heard_step is None
    assert len(jax.tree.leaves(batch(with_voice=False).state)) < len(jax.tree.leaves(some.state))


def test_a_codec_of_another_shape_is_refused_with_what_differs():
    codec = tiny_codec.CONFIG
    wrong = dataclasses.replace(codec, codebooks=2, codebook_size=16, sample_rate_hz=200)
    with pytest.raises(
        ValueError, match=r"other/codec is not the codec of this model: .*3 codes a step, .* has 2; "
    ) as said:
        voice_of(CONFIG, wrong, {}, "other/codec")
    assert "codes of 8 entries, the codec's have 16" in str(said.value)
    assert "12.5 steps a second, the codec's 8 samples at 200 Hz are 25" in str(said.value)
    with pytest.raises(ValueError, match="this model writes only"):
        voice_of(tiny.dual_stream(), codec, {}, "other/codec")


def test_seams_fade_where_sound_stops_and_comes_back_and_nowhere_else():
    config = dataclasses.replace(tiny_codec.CONFIG, sample_rate_hz=8000, ratios=(20, 16))
    seams = Seams(dataclasses.replace(voice(), codec=dataclasses.replace(voice().codec, config=config)))
    loud = np.full(640, 0.8, np.float32)
    assert not seams.joined(None).any()
    np.testing.assert_array_equal(seams.joined(loud), loud)  # the first sound is the codec's own
    np.testing.assert_array_equal(seams.joined(loud), loud)
    pieces = [seams.joined(None), seams.joined(np.zeros(640, np.float32)), seams.joined(loud), seams.joined(loud)]
    assert np.abs(np.diff(np.concatenate([loud, *pieces]))).max() < 0.021  # 0.8 in 40 samples, 5 ms
    assert not pieces[0][40:].any()
    assert not pieces[1].any()
    np.testing.assert_array_equal(pieces[2][40:], loud[40:])
    np.testing.assert_array_equal(pieces[3], loud)
    seams.begin_anew()
    assert not seams.joined(None).any()
    np.testing.assert_array_equal(seams.joined(loud), loud)
    assert seams.joined(3 * loud).max() == 1  # nobody's ears, and no integer, take more


@pytest.mark.parametrize("silent", [False, True])
def test_at_a_cut_sound_fades_over(silent: bool):
    config = dataclasses.replace(tiny_codec.CONFIG, sample_rate_hz=8000, ratios=(20, 16))
    seams = Seams(dataclasses.replace(voice(), codec=dataclasses.replace(voice().codec, config=config)))
    seams.cut()
    before, after = np.full(640, 0.8, np.float32), np.full(640, -0.4, np.float32)
    pieces = [seams.joined(before)]
    np.testing.assert_array_equal(pieces[0], before)  # a cut before the first sound is none
    seams.cut()
    pieces += [seams.joined(samples) for samples in ([None] * silent + [after, after])]
    assert np.abs(np.diff(np.concatenate(pieces))).max() < 0.031  # 1.2 in 40 samples, 5 ms
    assert not silent or not pieces[1][40:].any()
    np.testing.assert_array_equal(pieces[-2][40:], after[40:])
    np.testing.assert_array_equal(pieces[-1], after)
