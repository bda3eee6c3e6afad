"""The stage `codec` from the command to a checkpoint, on from it bit for bit, and through `launch.evaluate`."""

import json
import wave

import jax
import numpy as np
import pytest

from data_pipelines.audio_track import AudioFormat, encode_audio
from data_pipelines.dataset import open_dataset
from data_pipelines.schema import Record
from data_pipelines.shards import write_shards
from data_pipelines.sources import Item
from launch import encode, evaluate
from launch.train import train
from mmduplex_jax.clock import Clock
from mmduplex_jax.codec.codec import LiveCodec
from mmduplex_jax.train.feed import DataError
from mmduplex_jax.weights.checkpoint import load_params
from mmduplex_jax.weights.trained import load_trained
from tests.codec import tiny_stage

SPEEDS = {"steps_per_s", "tokens_per_s", "video_s_per_s", "mfu", "data_wait", "eta_s", "steps_s", "goodput"}
SPEEDS |= {"cpu_s_per_step"}


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voice")
    for number in range(2):
        samples = np.random.default_rng(number).integers(-9000, 9000, 400).astype("<i2")
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(100)
            file.writeframes(samples.tobytes())
    return folder


def small_config(voice, **changes):
    config = tiny_stage.config(grad_accum=2, **changes)
    config.data.dirs = str(voice)
    return config


@pytest.fixture(scope="module")
def workdirs(voice, tmp_path_factory):
    """Of a run that went through, and of one that was stopped and went on."""
    through, stopped = tmp_path_factory.mktemp("through"), tmp_path_factory.mktemp("stopped")
    quiet = lambda line: None
    assert train(small_config(voice), through, quiet) == 0
    assert train(small_config(voice, stop_at_step=3), stopped, quiet) == 0
    assert train(small_config(voice), stopped, quiet) == 0
    return through, stopped


def test_it_goes_on_as_if_it_had_never_stopped(workdirs):
    (one, _), (other, _) = map(load_params, workdirs)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    lines = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in workdirs]
    mine, theirs = ([{k: v for k, v in row.items() if k not in SPEEDS} for row in rows] for rows in lines)
    assert mine == theirs
    assert {"mel", "stft", "wave", "commitment", "adversarial", "feature", "discriminator"} <= set(mine[0])
    assert mine[-1]["used/semantic"] > 1 / 8  # more than the one entry that all vectors have at first
    semantic = one["codec"]["quantizer"]["semantic"]
    assert semantic["initialized"].tolist() == [1.0]
    assert len(np.unique(semantic["sums"] / semantic["usage"][..., None], axis=1)[0]) > 1


def test_it_is_scored_beside_the_codec_without_codes(voice, workdirs, tmp_path, capsys):
    report = tmp_path / "report.json"
    flags = [f"--checkpoint={workdirs[0]}", f"--data={voice}", "--batch=4"]
    assert evaluate.main([*flags, f"--json={report}", f"--save_sound={tmp_path / 'sound'}", "--clips=6"]) == 0
    assert "6 pieces, 4 s, 3 codes a step, 0.11 kbit/s" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert found["codec"]["mel"] > 0
    assert found["unquantised"] != found["codec"]
    assert 1 <= found["used"]["perplexity"] <= 8
    assert len(list((tmp_path / "sound").glob("*.wav"))) == 12
    assert evaluate.main([*flags, "--codebooks=4"]) == 1
    assert "--codebooks=4: the codec has 1 to 3" in capsys.readouterr().err
    assert evaluate.main([flags[0]]) == 1
    assert "the built-in world is silent" in capsys.readouterr().err


def test_what_was_trained_streams(workdirs):
    trained = load_trained(workdirs[0])
    live = LiveCodec(trained.task.config)
    state, codes = jax.jit(live.encode_step)(
        trained.params["codec"], live.encoder_state(1), np.ones((1, 8), np.float32), np.array([True])
    )
    assert codes.shape == (1, 1, 3)
    assert state.frame.tolist() == [2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data.clip_s": 0.1}, "1.25 steps of 0.08 s"),
        ({"loss.mel_bands": (4, 4)}, "a number of bands for each window"),
        ({"loss.stft_windows": (18,)}, "multiples of 4"),
        ({"loss.decay": 1.0}, "decay below 1"),
        ({"codec.heads": 3}, "width"),
    ],
)
def test_what_contradicts_itself_is_said(voice, tmp_path, fields, said):
    config = small_config(voice)
    config.update_from_flattened_dict(fields)
    with pytest.raises(DataError, match=said):
        train(config, tmp_path, print)


def test_a_folder_without_sound_is_said(tmp_path):
    with pytest.raises(DataError, match="nor a file of sound"):
        train(small_config(tmp_path), tmp_path / "run", print)


class Noise:
    """Three records with noise for sound."""

    clock, flip_safe = Clock(), False

    def __len__(self):
        return 3

    def describe(self):
        return {"kind": "noise"}

    def items(self, begin, end):
        for unit in range(begin, end):
            samples = np.random.default_rng(unit).integers(-9000, 9000, 12 * 8).astype(np.int16)
            audio = encode_audio(samples, AudioFormat("pcm", 100))
            yield Item(unit, f"n/{unit}", Record(f"n/{unit}", np.zeros((6, 4, 4, 3), np.uint8), Clock(), audio=audio))


def test_its_codes_go_into_shards(workdirs, tmp_path, capsys):
    write_shards(Noise(), tmp_path / "data", config={}, units_per_shard=2)
    flags = [f"--codec={workdirs[0]}", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'out'}", "--codebooks=2"]
    assert encode.main([*flags, f"--json={tmp_path / 'done.json'}"]) == 0
    done = json.loads((tmp_path / "done.json").read_text())
    assert (done["records"], done["files_written"], done["files_kept"]) == (3, 2, 0)
    assert f"3 records with codes of codec {done['codec']}" in capsys.readouterr().out
    records = [open_dataset(tmp_path / "out").read(index) for index in range(3)]
    assert {(record.codes.codec, record.codes.values.shape) for record in records} == {(done["codec"], (12, 2))}
    assert encode.main([*flags, "--json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["files_kept"] == 2
    for wrong, message in (
        (flags[1:], "--codec to encode what is heard"),
        ([*flags, "--config=configs/quickstart.py"], "--codec to encode what is heard"),
        (["--config=configs/quickstart.py", *flags[1:]], "--codebooks goes with --codec"),
    ):
        assert encode.main(wrong) == 1
        assert message in capsys.readouterr().err


def test_a_decoder_trained_on_alone_leaves_the_codes_as_they_are(voice, workdirs, tmp_path):
    from configs import codec_quickstart

    decoder = codec_quickstart.get_config("decoder")
    config = small_config(voice)
    config.init_from.model = str(workdirs[0])
    config.train.groups = decoder.train.groups
    config.loss.update({name: decoder.loss[name] for name in ("quantizer_dropout", "decay", "restart_below")})
    assert train(config, tmp_path, lambda line: None) == 0
    before, after = (load_params(folder)[0]["codec"] for folder in (workdirs[0], tmp_path))
    same = lambda part: all(map(np.array_equal, jax.tree.leaves(before[part]), jax.tree.leaves(after[part])))
    assert {part: same(part) for part in before} == {
        part: not part.startswith(("decoder", "upsample")) for part in before
    }
