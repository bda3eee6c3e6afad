"""Codes of records are the codec's own of their whole sound, and are named after what decides them."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.audio_track import AudioFormat, encode_audio
from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.sound_codes import SoundCodesError, SoundEncoder, codec_name
from tests.codec import tiny_codec

PCM = AudioFormat("pcm", tiny_codec.CONFIG.sample_rate_hz)


def record_of(number: int, ticks: int, clock: Clock | None = None) -> tuple[Record, np.ndarray]:
    """A record with noise for sound, and the noise, int16 `[L]`."""
    clock = clock or Clock()
    steps = clock.step_of_tick(ticks)
    samples = (tiny_codec.sound(1, steps, seed=number)[0] * 30_000).astype(np.int16)
    frames = np.zeros((ticks, 4, 4, 3), np.uint8)
    return Record(f"r/{number}", frames, clock, audio=encode_audio(samples, PCM)), samples


def test_codes_are_those_of_the_whole_sound_whatever_is_encoded_with_it():
    params = tiny_codec.random_params()
    encoder = SoundEncoder(tiny_codec.CONFIG, params, codebooks=3, batch=4)
    (short, samples), (long, longer) = record_of(0, 5), record_of(1, 37)
    silent = dataclasses.replace(short, audio=None)
    found = encoder([short, silent, long])
    assert found[1] is None
    for codes, heard in ((found[0], samples), (found[2], longer)):
        alone = tiny_codec.whole("encode")(params, heard[None].astype(np.float32) / 32768)
        assert codes is not None
        assert (codes.codec, codes.values.dtype) == (encoder.name, np.int16)
        assert np.array_equal(codes.values, np.asarray(alone)[0, :, :3])
    assert encoder([silent]) == [None]
    assert encoder.facts() == {"codec": encoder.name, "codebooks": 3}


def test_a_codec_is_named_by_what_decides_its_codes():
    params = tiny_codec.random_params()
    scaled = lambda part: params | {part: jax.tree.map(lambda leaf: 2 * leaf, params[part])}
    name = codec_name(params)
    same = {part for part in params if codec_name(scaled(part)) == name}
    assert same == {"decoder", "decoder_transformer", "upsample"}


def test_what_does_not_go_is_said():
    params = tiny_codec.random_params()
    with pytest.raises(SoundCodesError, match="has 4, the first 1 of them semantic"):
        SoundEncoder(tiny_codec.CONFIG, params, codebooks=5, batch=1)
    slow, _ = record_of(0, 5, Clock(10.0, 2))
    with pytest.raises(SoundCodesError, match="r/0 has 10 steps a second, the codec 12.5"):
        SoundEncoder(tiny_codec.CONFIG, params, codebooks=4, batch=1)([slow])
    # Codes whose sound is gone are kept, and those of another codec are not passed off as this one's.
    encoder = SoundEncoder(tiny_codec.CONFIG, params, codebooks=4, batch=1)
    record, _ = record_of(1, 5)
    [codes] = encoder([record])
    coded = dataclasses.replace(record, audio=None, codes=codes)
    assert encoder([coded]) == [codes]
    other = dataclasses.replace(coded, codes=dataclasses.replace(codes, codec="another"))
    with pytest.raises(SoundCodesError, match="r/1 has 4 codes a step of codec another and no sound"):
        encoder([other])
