"""A codec step by step gives what it gives at once; rows do not know of each other; its state is all that it knows."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.codec.codec import Codec, LiveCodec, param_shapes, whole_steps
from mmduplex_jax.codec.config import CodecConfig
from tests.codec.tiny_codec import CONFIG, LIVE, decode_step, encode_step, random_params, sound, whole
from tests.tiny import jit

# float32 sums in another order; waves and latents are of size 1.
TOLERANCE = 1e-5
STEPS = 17  # 34 frames, nearly six times the context
STEP = CONFIG.step_samples


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def samples():
    return sound(3, STEPS)


@pytest.fixture(scope="module")
def codes(params, samples):
    return np.asarray(whole("encode")(params, samples))


@pytest.fixture(scope="module")
def wave(params, codes):
    return np.asarray(whole("decode")(params, codes))


def active(*rows: bool):
    return jnp.array(rows)


def run(step, params, state, inputs, width, taking=None):
    """`(state, outputs [B, steps, …])` of a stream whose rows take part where `taking [steps, B]` says so.

    A row that does not take part is given noise, and its next input again at the next step.
    """
    batch, at, out = len(inputs), np.zeros(len(inputs), int), [[] for _ in inputs]
    pieces = inputs.shape[1] // width
    rounds = np.ones((pieces, batch), bool) if taking is None else taking
    for taken in rounds:
        piece = np.stack([row[i * width : (i + 1) * width] for row, i in zip(inputs, np.minimum(at, pieces - 1))])
        piece[~taken] = 1 if piece.dtype.kind == "i" else 0.5
        state, result = step(params, state, piece, jnp.asarray(taken))
        for row in np.flatnonzero(taken):
            out[row].append(np.asarray(result[row]))
        at += taken
    return state, [np.concatenate(rows) for rows in out]


def test_a_stream_of_sound_gives_the_codes_of_the_whole(params, samples, codes):
    _, streamed = run(encode_step, params, LIVE.encoder_state(3), samples, STEP)
    np.testing.assert_array_equal(np.stack(streamed), codes)
    assert len(np.unique(codes)) == CONFIG.codebook_size  # it is not a codec that always says the same


def test_a_stream_of_codes_gives_the_sound_of_the_whole(params, codes, wave):
    _, streamed = run(decode_step, params, LIVE.decoder_state(3), codes, 1)
    np.testing.assert_allclose(np.stack(streamed), wave, atol=TOLERANCE)
    assert wave.std() > 0.1


def test_latents_of_a_stream_are_those_of_the_whole(params, samples):
    """Codes could be equal though latents differ."""
    step = jit(lambda p, s, x, a: Codec(CONFIG).apply({"params": p}, x, s, a, method="_latents")[::-1])
    _, streamed = run(step, params, LIVE.encoder_state(3), samples, STEP)
    np.testing.assert_allclose(np.stack(streamed), whole("latents")(params, samples), atol=TOLERANCE)


def test_several_steps_at_once_are_the_same(params, samples, codes, wave):
    _, streamed = run(encode_step, params, LIVE.encoder_state(3, 4), samples[:, : 16 * STEP], 4 * STEP)
    np.testing.assert_array_equal(np.stack(streamed), codes[:, :16])
    _, streamed = run(decode_step, params, LIVE.decoder_state(3, 4), codes[:, :16], 4)
    np.testing.assert_allclose(np.stack(streamed), wave[:, : 16 * STEP], atol=TOLERANCE)


def test_rows_that_do_not_take_part_keep_their_state(params, samples, codes, wave):
    taking = np.random.default_rng(5).random((12, 3)) < 0.6
    counts = taking.sum(axis=0)
    assert len(set(counts)) > 1
    state, streamed = run(encode_step, params, LIVE.encoder_state(3), samples, STEP, taking)
    for row, count in enumerate(counts):
        np.testing.assert_array_equal(streamed[row], codes[row, :count])
    np.testing.assert_array_equal(state.frame, counts * CONFIG.frames_per_step)
    before = jax.device_get(state)
    after, _ = encode_step(params, state, samples[:, :STEP], active(False, False, False))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after))
    state, streamed = run(decode_step, params, LIVE.decoder_state(3), codes, 1, taking)
    for row, count in enumerate(counts):
        np.testing.assert_allclose(streamed[row], wave[row, : count * STEP], atol=TOLERANCE)
    _, silent = decode_step(params, state, codes[:, :1], active(True, False, True))
    assert not np.asarray(silent[1]).any()
    assert np.asarray(silent[0]).any()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_row_that_begins_anew_changes_no_bit_of_the_others(kind, params, samples, codes):
    step, state, inputs, width = (
        (encode_step, LIVE.encoder_state(3), samples, STEP)
        if kind == "encoder"
        else (decode_step, LIVE.decoder_state(3), codes, 1)
    )
    state, _ = run(step, params, state, inputs[:, : 9 * width], width)
    anew = LIVE.reset_row(state, jnp.int32(1))
    rest = inputs[:, 9 * width :].copy()
    rest[1] = inputs[1, : rest.shape[1]]
    _, undisturbed = run(step, params, state, rest, width)
    _, after = run(step, params, anew, rest, width)
    _, fresh = run(step, params, LIVE.encoder_state(3) if kind == "encoder" else LIVE.decoder_state(3), rest, width)
    for row in (0, 2):
        np.testing.assert_array_equal(after[row], undisturbed[row])
    np.testing.assert_array_equal(after[1], fresh[1])
    assert not np.array_equal(after[1], undisturbed[1])


def test_a_state_that_was_stored_goes_on_bit_for_bit(params, codes):
    state, _ = run(decode_step, params, LIVE.decoder_state(3), codes[:, :9], 1)
    leaves, tree = jax.tree.flatten(jax.device_get(state))
    again = jax.tree.unflatten(tree, [np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for a in leaves])
    _, went_on = run(decode_step, params, state, codes[:, 9:], 1)
    _, restored = run(decode_step, params, again, codes[:, 9:], 1)
    np.testing.assert_array_equal(np.stack(went_on), np.stack(restored))


def test_nothing_looks_ahead(params, samples, codes, wave):
    changed = samples.copy()
    changed[:, 8 * STEP :] *= -1
    other = np.asarray(whole("encode")(params, changed))
    np.testing.assert_array_equal(other[:, :8], codes[:, :8])
    assert not np.array_equal(other[:, 8:], codes[:, 8:])
    changed = (codes + (np.arange(STEPS) >= 8)[:, None]) % CONFIG.codebook_size
    other = np.asarray(whole("decode")(params, changed))
    np.testing.assert_allclose(other[:, : 8 * STEP], wave[:, : 8 * STEP], atol=TOLERANCE)
    assert np.abs(other[:, 8 * STEP : 9 * STEP] - wave[:, 8 * STEP : 9 * STEP]).max() > 0.1


def test_the_context_ends(params, samples):
    """A frame knows `layers · (context - 1)` frames before it through attention, and some more through convolutions."""
    changed = samples.copy()
    changed[:, :STEP] *= -1
    one, other = (np.asarray(whole("latents")(params, x)) for x in (samples, changed))
    # The taps of SEANet's convolutions reach 37 samples back, those between frames and steps 2 frames.
    frames = CONFIG.layers * (CONFIG.context_frames - 1) + 37 / CONFIG.hop + 2
    reach = 1 + math.ceil(frames / CONFIG.frames_per_step)
    differs = np.abs(one - other).max(axis=(0, 2))
    assert differs[0] > 0.01
    assert differs[CONFIG.context_frames // 2] > 1e-6
    assert not differs[reach:].any()


def test_mimi_has_its_rates():
    mimi = CodecConfig()
    assert (mimi.step_samples, mimi.step_hz, mimi.hop) == (1920, 12.5, 960)


def test_sound_is_filled_up_with_silence(params):
    samples = sound(1, 2)[:, :-3]
    filled = whole_steps(CONFIG, samples)
    assert filled.shape == (1, 2 * STEP)
    np.testing.assert_array_equal(filled[:, :-3], samples)
    assert not filled[:, -3:].any()
    assert whole_steps(CONFIG, filled).shape == filled.shape
    with pytest.raises(ValueError, match="takes steps of 8 samples, not 13 samples"):
        whole("latents")(params, samples)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"semantic_codebooks": 4, "codebooks": 4}, "from 1 to codebooks"),
        ({"heads": 3}, "heads"),
        ({"width": 8, "heads": 8}, "even number"),
        ({"filters": 3}, "multiple of compress"),
        ({"frames_per_step": 1}, "at least 2"),
        ({"activation": "tanh"}, "the codec's activation"),
        ({"gate": 1.0}, r"gate \(1.0\)"),
        ({"ratios": (3, 2), "gate": 0.1}, "quarters of a frame"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        CodecConfig(**fields)


def test_a_gate_silences_what_stays_below_it_and_nothing_is_learned_through_it(codes):
    """Parts of a quarter of a frame, each by itself: here a frame has 8 samples, and a part two."""
    shape = dataclasses.replace(CONFIG, ratios=(4, 2))
    gated = dataclasses.replace(shape, gate=0.99)
    params = random_params(shape)
    run_it = lambda config, method, *given: jax.jit(
        lambda params: Codec(config).apply({"params": params}, *given, method=method)
    )(params)
    plain, found = (np.asarray(run_it(config, "decode", codes)) for config in (shape, gated))
    loud = np.abs(plain).reshape(3, -1, 2).max(axis=-1, keepdims=True) >= gated.gate
    assert 0.1 < loud.mean() < 0.9
    np.testing.assert_array_equal(found, np.where(loud, plain.reshape(3, -1, 2), 0).reshape(plain.shape))
    live = LiveCodec(gated)
    _, streamed = run(jit(live.decode_step), params, live.decoder_state(3), codes, 1)
    np.testing.assert_array_equal(np.stack(streamed) == 0, found == 0)
    np.testing.assert_allclose(np.stack(streamed), found, atol=TOLERANCE)
    heard = np.zeros((1, 2 * shape.step_samples), np.float32)
    rows = (np.full(1, shape.codebooks), np.zeros(1, bool), np.ones(1, bool), jax.random.key(0))
    learned = [np.asarray(run_it(config, "learn", heard, *rows)[0]) for config in (shape, gated)]
    np.testing.assert_array_equal(*learned)
    assert (learned[0] != 0).all()


def test_a_decoder_may_be_wider_than_its_encoder():
    wide = dataclasses.replace(CONFIG, decoder_filters=8)
    before, after = (nn.unbox(param_shapes(config)) for config in (CONFIG, wide))
    assert {part for part in before if before[part] != after[part]} == {"decoder"}
    assert after["decoder"]["first"]["kernel"].shape[-1] == 2 * before["decoder"]["first"]["kernel"].shape[-1]
    with pytest.raises(ValueError, match=r"decoder_filters \(7\)"):
        dataclasses.replace(CONFIG, decoder_filters=7)
