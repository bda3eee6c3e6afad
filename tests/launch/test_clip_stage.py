"""The stage `clip` from the command to a checkpoint, on from it bit for bit, and through `launch.evaluate`."""

import json

import jax
import numpy as np
import pytest

from configs import clip_quickstart
from data_pipelines.shards import write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from launch import evaluate
from launch.train import train
from mmduplex_jax.weights.checkpoint import CheckpointMismatch, load_params
from mmduplex_jax.weights.init_from import InitFromError
from mmduplex_jax.weights.trained import load_trained

SPEEDS = {"steps_per_s", "tokens_per_s", "video_s_per_s", "mfu", "data_wait", "eta_s", "steps_s", "goodput"}
SPEEDS |= {"cpu_s_per_step"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(WorldSource(WorldConfig(), 5, 8), folder, config={}, units_per_shard=4)
    return folder


def small_config(shards, **changes):
    config = clip_quickstart.get_config()
    config.data.update(dirs=str(shards), batch_size=4)
    config.vision.update(patch_px=16, width=32, layers=1, heads=2, hidden=32, projection=16)
    config.text.update(width=32, layers=1, heads=2, hidden=32, projection=16)
    config.time.update(frames=2, layers=1, heads=2, hidden=32)
    config.train.update(steps=4, warmup_steps=1, log_every=1, checkpoint_every=2, **changes)
    return config


@pytest.fixture(scope="module")
def workdirs(shards, tmp_path_factory):
    """Of a run that went through, and of one that was stopped and went on."""
    through, stopped = tmp_path_factory.mktemp("through"), tmp_path_factory.mktemp("stopped")
    quiet = lambda line: None
    assert train(small_config(shards), through, quiet) == 0
    assert train(small_config(shards, stop_at_step=3), stopped, quiet) == 0
    assert train(small_config(shards), stopped, quiet) == 0
    return through, stopped


def test_it_goes_on_as_if_it_had_never_stopped(workdirs):
    (one, one_facts), (other, other_facts) = map(load_params, workdirs)
    assert one_facts["step"] == other_facts["step"] == 4
    jax.tree.map(np.testing.assert_array_equal, one, other)
    lines = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in workdirs]
    mine, theirs = ([{k: v for k, v in row.items() if k not in SPEEDS} for row in rows] for rows in lines)
    assert mine == theirs
    assert [row["step"] for row in mine] == [1, 2, 3, 4]
    assert {"loss", "matched", "pairs", "scale", "tokens"} <= set(mine[0])


def test_other_pairs_are_another_run(shards, workdirs):
    config = small_config(shards)
    config.data.text = "caption"
    with pytest.raises(CheckpointMismatch, match='config.data.text: saved with "utterance", now "caption"'):
        train(config, workdirs[0], lambda line: None)


def test_it_is_evaluated_beside_chance(workdirs, tmp_path, capsys):
    file = tmp_path / "report.json"
    flags = [f"--checkpoint={workdirs[0]}", "--clips=6", "--batch=4", f"--json={file}"]
    assert evaluate.main(flags) == 0
    report = json.loads(file.read_text())
    assert (report["stage"], report["steps"], report["look"]) == ("clip", 4, "plain")
    found = report["retrieval"]
    assert 1 <= found["pairs"] <= 6
    assert found["clip_to_text"]["r_at_10"] == found["text_to_clip"]["chance"]["r_at_10"] == 1
    assert set(report["attributes"]) == {"colour", "shape", "kind", "side"}
    assert report["attributes"]["kind"]["chance"] == pytest.approx(1 / 7)
    printed = capsys.readouterr().out
    assert "zero-shot" in printed
    assert "by chance" in printed


def test_it_is_evaluated_on_shards(shards, workdirs, tmp_path):
    file = tmp_path / "report.json"
    assert evaluate.main([f"--checkpoint={workdirs[0]}", f"--data={shards}", f"--json={file}"]) == 0
    assert json.loads(file.read_text())["attributes"]["colour"]["events"] > 8


def test_flags_of_models_that_speak_are_refused(workdirs, capsys):
    assert evaluate.main([f"--checkpoint={workdirs[0]}", "--delay=3", "--pad_bias=1"]) == 1
    assert "--delay, --pad_bias: not of models of stage 'clip'" in capsys.readouterr().err


def test_a_trained_pair_is_read_with_its_config(workdirs):
    trained = load_trained(workdirs[1])
    assert trained.task.time.frames == 2
    assert trained.tokenizer.encode_word("circle")


def test_its_towers_are_what_another_training_begins_with(shards, workdirs, tmp_path):
    # The first step of a warm-up has a learning rate of 0: what is saved is what the run began with.
    config = small_config(shards, stop_at_step=1)
    config.init_from.vision = str(workdirs[0])
    told: list[str] = []
    assert train(config, tmp_path, told.append) == 0
    (before, _), (after, _) = load_params(workdirs[0]), load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, before["vision"], after["vision"])
    assert np.abs(before["text"]["position"] - after["text"]["position"]).max() > 0
    (taken,) = [line for line in told if "vision: taken from" in line]
    assert taken.endswith("vision (37)")
    config.vision.hidden = 48
    with pytest.raises(InitFromError, match="hidden is 32, the model's is 48: set config.vision.hidden=32"):
        train(config, tmp_path / "other", told.append)
