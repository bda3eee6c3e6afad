"""`python -m launch.train`, with the quick start's own config and shards of a second."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from configs import quickstart
from data_pipelines.schema import Record, Word
from data_pipelines.shards import write_shards
from data_pipelines.sources import Item
from launch.train import EXIT_MISFIT, data_fingerprint, train, weights_of
from mmduplex_jax.clock import Clock
from mmduplex_jax.interop.text_tokenizer import TextTokenizer
from mmduplex_jax.train.checkpoint import CheckpointMismatch, load_params
from mmduplex_jax.train.feed import DataError

CLIP_S = 1.28


class NoisySource:
    """Eight clips of noise that move a little, with two words each."""

    clock = Clock()

    def __len__(self):
        return 8

    def describe(self):
        return {"kind": "noise"}

    def items(self, begin, end):
        for number in range(begin, end):
            picture = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
            frames = np.stack([np.roll(picture, tick, axis=1) for tick in range(self.clock.ticks_in(CLIP_S))])
            words = (Word("red", 0.1), Word("circle", 0.5))
            key = f"noise/{number}"
            yield Item(number, key, Record(key=key, frames=frames, clock=self.clock, words=words))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(NoisySource(), folder, config={}, units_per_shard=4)
    return folder


def small_config(shards, **train_changes):
    config = quickstart.get_config()
    config.data.update(dirs=str(shards), clip_s=CLIP_S, batch_size=4)
    config.text.layers = 2
    # The tokenizer that compiles fastest: what is tested here is the way from a command to a checkpoint.
    config.tokenizer.kind = "per_frame"
    config.train.update(steps=4, warmup_steps=1, log_every=1, checkpoint_every=2, **train_changes)
    return config


def test_it_trains_stops_and_goes_on(shards, tmp_path):
    told: list[str] = []
    assert train(small_config(shards, stop_at_step=3), tmp_path, told.append) == 0
    assert load_params(tmp_path)[1]["step"] == 3
    assert train(small_config(shards), tmp_path, told.append) == 0
    metadata = load_params(tmp_path)[1]
    assert metadata["step"] == 4
    assert TextTokenizer.from_json(metadata["tokenizer_json"]).encode_word("circle")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"loss", "word_nll", "pad_nll", "tokens", "steps_per_s"} <= set(rows[0])
    assert any("going on from step 3" in line for line in told)
    other = small_config(shards)
    other.fusion = "sum"
    with pytest.raises(CheckpointMismatch, match='config.fusion: saved with "cross", now "sum"'):
        train(other, tmp_path, told.append)


def test_the_fingerprint_is_of_the_content(shards, tmp_path):
    write_shards(NoisySource(), tmp_path, config={}, units_per_shard=4)
    assert data_fingerprint([str(shards)]) == data_fingerprint([str(tmp_path)])
    assert data_fingerprint([str(shards)]) != data_fingerprint([str(shards), str(tmp_path)])


def test_data_are_mixed_by_the_config(shards, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def fit(task, data, config, workdir, **given):
        batch = [next(data)["index"] for _ in range(10)]
        assert np.mean(np.concatenate(batch) >= 8) == 0.75  # a share of the second folder's, exact in 40 samples
        raise Reached

    monkeypatch.setattr("launch.train.fit", fit)
    config = small_config(shards)
    config.data.update(dirs=f"{shards}, {shards}", weights="1, 3")
    with pytest.raises(Reached):
        train(config, tmp_path)


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,x", "1,0", "1,-2", "1,inf", "nan,1", ","])
def test_weights_that_make_no_mixture_are_refused(text):
    with pytest.raises(DataError, match="a positive number for each of the 2 directories"):
        weights_of(text, 2)
    assert weights_of(" ", 2) is None
    assert weights_of("1, 2.5", 2) == [1.0, 2.5]


@pytest.mark.parametrize(
    ("flag", "code", "said"),
    [
        ("--config.data.dirs=nowhere", EXIT_MISFIT, "error: nowhere"),
        ("--config.train.stepz=3", 1, "stepz"),
    ],
)
def test_mistakes_are_told_without_ceremony(repository, tmp_path, flag, code, said):
    command = [sys.executable, "-m", "launch.train", "--config=configs/quickstart.py", f"--workdir={tmp_path}", flag]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
