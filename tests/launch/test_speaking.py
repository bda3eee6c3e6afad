"""A model that speaks: its codec goes along with it, and it is heard in a file, in a film and in a program."""

import dataclasses
import json
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from launch import commentate, export
from mmduplex_jax import commentator
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.codec import load_codec
from mmduplex_jax.weights.trained import load_tokenizer
from tests.codec import tiny_codec
from tests.data_pipelines.numbered_video import write_numbered
from tests.launch.conftest import random_params, small_config

NOTHING_ELSE = {"tokenizer": {}, "steps": 5, "data": {}, "scores": {}}


def write_codec(folder: Path, config=tiny_codec.CONFIG) -> Path:
    values = {"stage": "codec", "codec": dataclasses.asdict(config)}
    params = {"codec": tiny_codec.random_params(config)}
    portable.save(folder, params, {"config": values} | NOTHING_ELSE, dtype="float32")
    return folder


@pytest.fixture(scope="module")
def codec_dir(tmp_path_factory) -> Path:
    return write_codec(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def speaking_dir(tmp_path_factory) -> Path:
    """A small model that speaks, with random parameters and without a codec."""
    config = small_config()
    depth = dict(width=8, layers=1, heads=2, hidden=12, schedule=(), low_rank=0, remat=False)
    config.audio = dict(
        codebooks=3, card=8, audio_delay=1, acoustic_delay=1, weight=1.0, first_codebook_weight=1.0, dropout=0.0,
        depth=depth,
    )  # fmt: skip
    tokenizer = load_tokenizer(config)
    metadata = {"config": json.loads(config.to_json_best_effort()), "tokenizer": json.loads(tokenizer.to_json())}
    folder = tmp_path_factory.mktemp("speaking")
    portable.save(folder, random_params(build_task(config, tokenizer)), NOTHING_ELSE | metadata, dtype="float32")
    return folder


@pytest.fixture(scope="module")
def heard_dir(speaking_dir, codec_dir, tmp_path_factory) -> Path:
    """The same, exported with its codec."""
    out = tmp_path_factory.mktemp("heard")
    flags = [f"--checkpoint={speaking_dir}", f"--out={out}", "--dtype=float32"]
    assert export.main([*flags, f"--codec={codec_dir}"]) == 0
    return out


def test_the_codec_goes_along_and_goes_with_the_model(heard_dir, portable_dir, tmp_path, capsys):
    assert commentator.load(heard_dir).sample_rate_hz == 100
    out = tmp_path / "again"
    assert export.main([f"--checkpoint={heard_dir}", f"--out={out}", "--dtype=float32"]) == 0
    assert "and its codec, " in capsys.readouterr().out
    found, wanted = (
        portable.flatten(params) for params in (load_codec(out / "codec").params, tiny_codec.random_params())
    )
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], np.asarray(wanted[name]))
    # A model that only writes takes its place.
    assert export.main([f"--checkpoint={portable_dir}", f"--out={out}"]) == 0
    assert not (out / "codec").exists()
    assert commentator.load(out).sample_rate_hz is None


def test_codecs_that_do_not_fit_are_said(speaking_dir, portable_dir, codec_dir, tmp_path, capsys):
    larger = write_codec(tmp_path / "larger", dataclasses.replace(tiny_codec.CONFIG, codebook_size=16))
    for model, codec, said in (
        (speaking_dir, larger, "codes of 8 entries, the codec's have 16"),
        (portable_dir, codec_dir, "this model writes only"),
        (speaking_dir, portable_dir, "is of stage 'duplex': a codec is of stage 'codec'"),
        (speaking_dir, tmp_path, "no codec in"),
    ):
        assert export.main([f"--checkpoint={model}", f"--out={tmp_path / 'out'}", f"--codec={codec}"]) == 1
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    return write_numbered(tmp_path_factory.mktemp("clip") / "a.mp4", images=list(images))


def test_who_cannot_be_heard_says_why(speaking_dir, portable_dir, clip, tmp_path, capsys):
    flags = [f"--source={clip}", f"--speech={tmp_path / 'a.wav'}"]
    for checkpoint, said in ((speaking_dir, "name it with --codec"), (portable_dir, "it writes only")):
        assert commentate.main([f"--checkpoint={checkpoint}", *flags]) == 2
        assert said in capsys.readouterr().err
    assert commentate.main([*flags[:1], "--speech=a.mp3"]) == 2
    assert "sound is written as .wav" in capsys.readouterr().err


def test_it_is_heard_in_a_file_a_film_and_a_program(heard_dir, clip, tmp_path, monkeypatch):
    """One model, whose step is compiled once."""
    model = commentator.load(heard_dir)
    monkeypatch.setattr(commentate, "load_model", lambda args: model)
    files = {name: tmp_path / file for name, file in (("speech", "a.wav"), ("render", "a.mkv"), ("json", "a.json"))}
    flags = [f"--{name}={path}" for name, path in files.items()]
    assert commentate.main([f"--source={clip}", "--pad_bias=-2", *flags]) == 0
    ticks = json.loads(files["json"].read_text())["ticks"]
    with wave.open(str(files["speech"])) as file:
        assert file.getframerate() == 100
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    with av.open(str(files["render"])) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0

    pieces = []
    words = list(model.commentate(clip, pad_bias=-2, on_sound=pieces.append))
    assert [word.text for word in words] == [word["text"] for word in json.loads(files["json"].read_text())["words"]]
    assert [piece.step for piece in pieces] == list(range(2 * ticks))
    starts_s = [model.clock.step_time_s(number + 1) for number in range(2 * ticks)]
    assert [piece.t_s for piece in pieces] == pytest.approx(starts_s)
    # The file begins with the stream: a step of silence goes before the first piece.
    played = np.concatenate([np.zeros(8), *(piece.samples for piece in pieces)])
    np.testing.assert_allclose(samples, played, atol=1e-4)  # 16 bits
    delay = model.delays.usual + 2  # of the text, of sound behind it, and of its last codebook behind its first
    assert not any(piece.samples.any() for piece in pieces[:delay])
    assert all(piece.samples.any() for piece in pieces[delay:])

    heard = []
    with model.stream(on_sound=heard.append) as stream:
        for number in range(6):
            stream.push(np.zeros((48, 64, 3), np.uint8), 1e6 + model.clock.tick_time_s(number))
    assert [piece.step for piece in heard] == list(range(len(heard)))
    assert heard[0].t_s == pytest.approx(1e6 + model.clock.step_s)
    assert len(model._idle) == 1
