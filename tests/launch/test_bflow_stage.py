"""The stage `bflow` from the command to a checkpoint, through `launch.evaluate`, and on into a duplex."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import bflow_events_75m, quickstart
from data_pipelines.shards import write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from launch import evaluate
from launch.train import train
from mmduplex_jax.stages.bflow.evaluator import DIRECTED_KINDS, phrases_of
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.parameters import count
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.init_from import make_start
from mmduplex_jax.weights.trained import load_tokenizer, load_trained
from tests import tiny, tiny_events

WORLD = WorldConfig(frame_px=32)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model that has learned nothing, as `launch.export` would write it."""
    folder = tmp_path_factory.mktemp("bflow")
    config = tiny_events.config()
    tokenizer = load_tokenizer(config)
    metadata = {
        "config": json.loads(config.to_json_best_effort()),
        "tokenizer": json.loads(tokenizer.to_json()),
        "steps": 2,
        "data": {},
        "scores": {},
    }
    portable.save(folder, tiny_events.plain()[1], metadata, dtype="float32")
    return folder


@pytest.mark.slow
def test_it_trains(tmp_path):
    write_shards(WorldSource(WORLD, 5, 6), tmp_path / "shards", config={}, units_per_shard=3)
    config = tiny_events.config()
    config.data.update(dirs=str(tmp_path / "shards"), batch_size=2)
    config.train.update(steps=2, warmup_steps=1, log_every=1, checkpoint_every=2)
    assert train(config, tmp_path / "run", lambda line: None) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"align", "name_nll", "matched", "backward_refused", "swapped_refused", "explained"} <= set(rows[0])
    assert load_trained(tmp_path / "run").task.ticks == 32


def test_it_is_evaluated_beside_controls(model_dir, tmp_path, capsys):
    file = tmp_path / "report.json"
    assert evaluate.main([f"--checkpoint={model_dir}", "--clips=5", "--batch=3", f"--json={file}"]) == 0
    report = json.loads(file.read_text())
    assert (report["stage"], report["steps"]) == ("bflow", 2)
    for control in ("real", "shuffled", "zeroed"):
        found = report["in_video"][control]
        assert 0 <= found["r_at_1"] <= 1
        assert 0.1 < found["chance"] < 0.3
        # Clips of 12 s have 12 windows, whatever length was trained on.
        assert found["windows"] == 12
        assert report["reversal"][control]["events"] == report["reversal"]["real"]["events"] > 5
    assert set(report["reversal"]["real"]["by_kind"]) <= set(DIRECTED_KINDS)
    printed = capsys.readouterr().out
    assert "in-video event R@1, of 12.0 windows" in printed
    assert "forward or backward" in printed


def test_one_clip_has_no_control(model_dir, capsys):
    assert evaluate.main([f"--checkpoint={model_dir}", "--clips=1"]) == 1
    assert "give --clips of 2 or more: the control `shuffled` is another clip's tokens" in capsys.readouterr().err


def test_phrases_are_the_events_of_the_world_and_utterances_elsewhere():
    (item,) = WorldSource(WORLD, 5, 1).items(0, 1)
    record = item.content
    phrases = phrases_of(record)
    assert [(phrase.kind, phrase.event_s) for phrase in phrases] == [(e.kind, e.t_s) for e in record.events]
    for phrase, event in zip(phrases, record.events):
        assert " ".join(phrase.words).startswith(event.subject)
        assert 0.3 < phrase.middle_s - event.t_s < 1.2
    said = [word.text for word in record.words]
    silent = phrases_of(type(record)(record.key, record.frames, record.clock, record.words))
    assert [word for phrase in silent for word in phrase.words] == said
    assert {phrase.kind for phrase in silent} == {None}


def test_a_duplex_begins_with_its_tokenizer(model_dir):
    config = quickstart.get_config()
    config.tokenizer = tiny_events.config().tokenizer
    config.frame_px = (32, 32)
    config.text.update(layers=1, width=32, hidden=32, heads=2, kv_heads=1, head_width=8)
    config.video_stream.update(width=32, hidden=32, heads=2, kv_heads=2, head_width=8)
    config.data.clip_s = 5.12
    config.init_from.tokenizer = str(model_dir)
    tokenizer = load_tokenizer(config)
    task = build_task(config, tokenizer)
    told: list[str] = []
    start = make_start(config, task, tokenizer, told.append)
    params = jax.tree.map(jnp.asarray, tiny.random_params(task.init))
    begun = start(nn.unbox(jax.eval_shape(task.init, jax.random.key(0))))(params)
    jax.tree.map(np.testing.assert_array_equal, begun["tokenizer"], load_trained(model_dir).params["tokenizer"])
    jax.tree.map(np.testing.assert_array_equal, begun["text"], params["text"])
    arrays = len(jax.tree.leaves(params["tokenizer"]))
    assert any("tokenizer: taken from" in line and line.endswith(f": tokenizer ({arrays})") for line in told)


@pytest.mark.parametrize("variant", ["", "from_clip"])
def test_the_full_size_is_what_it_says(variant):
    config = bflow_events_75m.get_config(variant)
    config.init_from.vision = "a training of configs/clip_s16.py"
    task = build_task(config, load_tokenizer(config))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert 70e6 < count(shapes["tokenizer"]) < 80e6
    assert ("teacher" in shapes) == (variant == "from_clip")
    if variant:
        # Positions of 384 px, seen at 224.
        assert shapes["teacher"]["tower"]["position"].value.shape == (24 * 24 + 1, 384)
        anchors = shapes["tokenizer"]["anchors"]["tower"]
        assert anchors["position"].value.shape == shapes["teacher"]["tower"]["position"].value.shape
