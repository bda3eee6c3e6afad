import json
from pathlib import Path

import numpy as np
import pytest

from configs.data import narrated
from data_pipelines.shards import write_shards
from data_pipelines.sources import Item
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from launch import evaluate
from mmduplex_jax.evals.clips import shard_records, world_records
from mmduplex_jax.weights.trained import DEFAULT
from tests.data_pipelines.narrator.red_car import needs_norfair, write_drive

KEYS = {
    "f1", "precision", "recall", "latency_p50_s", "latency_p95_s", "false_alarms_per_quiet_minute", "word_nll",
    "tokens_per_s", "controls", "tokens_per_s_by_motion_quartile", "f1_by_kind", "clips", "seed", "look", "spread",
}  # fmt: skip


def run(tmp_path, *flags):
    """The report of a run that ends well."""
    file = tmp_path / "report.json"
    assert evaluate.main([*flags, f"--json={file}"]) == 0
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(WorldSource(WorldConfig(), 5, 4), folder, config={}, units_per_shard=2)
    return folder


def test_a_model_on_the_world(portable_dir, tmp_path, capsys):
    report = run(tmp_path, f"--checkpoint={portable_dir}", "--clips=5", "--batch=2", "--look=rich")
    assert report.keys() >= KEYS
    assert (report["clips"], report["look"], report["seed"], report["steps"]) == (5, "rich", evaluate.UNSEEN_SEED, 7)
    assert report["delay_steps"] == 4
    assert report["word_nll"] > 1
    assert 0 < report["tokens_per_s"] <= 32
    controls = report["controls"]
    assert controls["oracle"]["f1"] > 0.9 > 0.1 > report["f1"]
    assert controls["oracle_late_3s"]["f1"] < 0.5  # so few clips leave room for luck; test_controls has many
    assert controls["always_silent"]["f1"] == 0
    printed = capsys.readouterr().out
    assert "oracle_late_3s" in printed
    assert f"all numbers: {tmp_path / 'report.json'}" in printed


def test_a_model_on_shards(portable_dir, shards, tmp_path):
    flags = (f"--checkpoint={portable_dir}", f"--data={shards}", "--batch=2")
    report = run(tmp_path, *flags, "--tokenizer_control=zeroed")
    assert report["clips"] == 4  # all that there are
    assert report["look"] is None
    assert report["controls"]["oracle"]["f1"] > 0.9
    real = run(tmp_path, *flags)
    # What the tokens hold reaches the words; how many there are does not depend on it.
    assert real["word_nll"] != report["word_nll"]
    assert real["tokens_per_s"] == report["tokens_per_s"]


def test_a_pad_bias_silences(portable_dir, shards, tmp_path):
    report = run(
        tmp_path, f"--checkpoint={portable_dir}", f"--data={shards}", "--pad_bias=1e4", "--delay=0", "--batch=2"
    )
    assert report["phrases"] == 0
    assert report["latency_p50_s"] is None
    assert report["delay_steps"] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--clips=0"], "--clips and --batch must be at least 1"),
        (["--tokenizer_control=shuffled", "--batch=1"], "must be at least 2"),
        (["--delay=5"], "trained for delays of 0 to 4 steps"),
        (["--data={tmp}"], "holds no shards"),
        (["--checkpoint={tmp}"], "no checkpoint in"),
        (["--teacher=x.onnx"], "--teacher is of --data=real"),
        (["--save_captions=x"], "--save_captions is of --data=real"),
        (["--data=real", "--root={tmp}", "--metrics=a:b"], "--metrics=a:b is of clips of the world"),
        (["--data=real", "--root={tmp}", "--teacher=configs/quickstart.py"], "has no 'detector'"),
    ],
)
def test_what_does_not_fit_is_said(portable_dir, tmp_path, capsys, flags, said):
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    assert evaluate.main([f"--checkpoint={portable_dir}", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("evaluate: ")
    assert said in error


def test_a_model_on_labelled_videos(portable_dir, tmp_path, capsys):
    clip = write_clip_files(tmp_path, WorldConfig(clip_s=5.0), seed=5, index=0)
    label = {"t_s": 1.0, "kind": "enters", "class": "person", "side": None}
    line = {"file": Path(clip.video).name, "camera": "a", "view": "top", "checked": True, "events": [label]}
    (tmp_path / "clips.jsonl").write_text(json.dumps(line), encoding="utf-8")
    flags = (f"--checkpoint={portable_dir}", "--data=real", f"--root={tmp_path}", "--pad_bias=-2")
    report = run(
        tmp_path, *flags, f"--page={tmp_path / 'page.html'}", "--cameras=a", f"--save_captions={tmp_path / 'said'}"
    )
    assert report.keys() >= {"f1", "f1_kind", "false_alarms_per_quiet_minute", "latency_p50_s", "classes", "controls"}
    assert (report["events"], report["split"], report["pad_bias"], report["steps"]) == (1, "all", -2.0, 7)
    assert report["watching"]["model"]["gflop_per_s"] > 0
    printed = capsys.readouterr().out
    assert "another camera's words" in printed
    assert "GFLOP" in printed
    assert "person enters" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "captions: a folder each in" in printed
    assert len(list((tmp_path / "said").glob(f"*/{Path(clip.video).stem}.json"))) == 3
    for flag, said in (("--split=held", "held_cameras"), ("--cameras=b", "leaves none"), ("--root=", "--root")):
        assert evaluate.main([*flags, flag]) == 1
        assert said in capsys.readouterr().err


def test_a_teacher_runs_beside_the_model(portable_dir, tmp_path):
    needs_norfair()
    write_drive(tmp_path / "drive.mp4")
    labels = [{"t_s": 1.3, "kind": "enters", "class": "car", "side": "left", "colour": "red"}]
    line = {"file": "drive.mp4", "checked": True, "events": labels}
    (tmp_path / "clips.jsonl").write_text(json.dumps(line), encoding="utf-8")
    config = (
        Path(narrated.__file__)
        .read_text(encoding="utf-8")
        .replace("data_pipelines.narrator.detector:yolox", "tests.data_pipelines.narrator.red_car:red_detector")
    )
    (tmp_path / "teacher.py").write_text(config, encoding="utf-8")
    flags = (f"--checkpoint={portable_dir}", "--data=real", f"--root={tmp_path}", "--pad_bias=1e4")
    report = run(tmp_path, *flags, f"--teacher={tmp_path / 'teacher.py'}")
    assert (report["f1"], report["phrases"]) == (0.0, 0)
    teacher = report["controls"]["teacher, live"]
    assert teacher["recall"] == 1
    assert 0 < teacher["latency_p50_s"] < 2
    assert report["watching"]["teacher, live"]["gflop_per_s"] == pytest.approx(2.0 * 6.25, rel=0.1)


def test_a_teacher_that_is_not_there_is_said(portable_dir, tmp_path, capsys):
    pytest.importorskip("norfair", reason="the teacher's tracker: pip install 'mmduplex-jax[teacher]'")
    flags = (f"--checkpoint={portable_dir}", "--data=real", f"--root={tmp_path}", "--teacher=gone.onnx")
    assert evaluate.main(list(flags)) == 1
    assert "gone.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "model"),
    [((), "world"), (("--data=shards",), "world"), (("--data=real", "--root=labelled"), "real")],
)
def test_without_a_checkpoint_what_is_watched_chooses_the_model(flags, model, monkeypatch, capsys):
    def load(checkpoint, weights):
        raise FileNotFoundError(f"asked for {checkpoint or DEFAULT}")

    monkeypatch.setattr(evaluate, "load_trained", load)
    assert evaluate.main(list(flags)) == 1
    assert f"asked for {model}\n" in capsys.readouterr().err


def test_another_clock_is_refused(portable_dir, tmp_path, capsys):
    write_shards(WorldSource(WorldConfig(video_stride=1), 5, 2), tmp_path / "x", config={}, units_per_shard=2)
    assert evaluate.main([f"--checkpoint={portable_dir}", f"--data={tmp_path / 'x'}"]) == 1
    assert "prepared with the model's clock" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "How it is scored" in text
    assert "--tokenizer_control" in text


def test_unknown_flags_are_refused():
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--no_such_flag"])
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--only_check_args"])
    assert left.value.code == 0


def test_clips_made_ahead_are_those_of_the_source():
    made = list(world_records(WorldConfig(), 3, 70))
    assert len(made) == 70
    for index in (0, 69):
        (item,) = WorldSource(WorldConfig(), 3, 70).items(index, index + 1)
        record = item.content
        assert made[index].key == item.key
        np.testing.assert_array_equal(made[index].frames, record.frames)
        assert (made[index].words, made[index].events) == (record.words, record.events)


def test_clips_that_nobody_wants_are_not_made(monkeypatch):
    made = []
    clip = next(world_records(WorldConfig(), 3, 1))
    monkeypatch.setattr(WorldSource, "items", lambda self, a, b: iter([Item(a, made.append(a) or "", clip)]))
    records = world_records(WorldConfig(), 3, 10_000)
    assert next(records) is clip
    records.close()
    assert len(made) < 100


def test_shards_are_sampled_by_seed(shards):
    number, records = shard_records(shards, seed=0, clips=2)
    keys = [record.key for record in records]
    assert number == len(keys) == len(set(keys)) == 2
    assert keys == sorted(keys) == [record.key for record in shard_records(shards, seed=0, clips=2)[1]]
    assert shard_records(shards, seed=0, clips=99)[0] == 4
