"""`python -m launch.train`, with the quick start's own config and shards of a second."""

import json
import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import quickstart
from data_pipelines.manifest import Manifest
from data_pipelines.schema import Record, Word
from data_pipelines.shards import write_shards
from data_pipelines.sources import Item
from launch.train import EXIT_MISFIT, main
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.stages.training import check_held_cameras, data_fingerprint, notes_on_data, train, weights_of
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.feed import DataError
from mmduplex_jax.weights.checkpoint import CheckpointMismatch, load_params
from mmduplex_jax.weights.huggingface import text
from mmduplex_jax.weights.huggingface.layout import write_params
from mmduplex_jax.weights.huggingface.source import boxed_shapes, open_source
from mmduplex_jax.weights.importing import import_weights
from mmduplex_jax.weights.init_from import InitFromError
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer

CLIP_S = 2.56
SPEEDS = {"steps_per_s", "tokens_per_s", "video_s_per_s", "mfu", "data_wait", "eta_s", "steps_s", "goodput"}
SPEEDS |= {"cpu_s_per_step"}


class NoisySource:
    """Eight clips of noise that move a little, with two words each."""

    clock = Clock()
    flip_safe = True

    def __init__(self, clip_s=CLIP_S, words=(("red", 0.1), ("circle", 0.5))):
        self.clip_s, self.words = clip_s, tuple(Word(*word) for word in words)

    def __len__(self):
        return 8

    def describe(self):
        return {"kind": "noise"}

    def items(self, begin, end):
        for number in range(begin, end):
            picture = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
            frames = np.stack([np.roll(picture, tick, axis=1) for tick in range(self.clock.ticks_in(self.clip_s))])
            key = f"noise/{number}"
            yield Item(number, key, Record(key=key, frames=frames, clock=self.clock, words=self.words))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(NoisySource(), folder, config={}, units_per_shard=4)
    return folder


def small_config(shards, **train_changes):
    config = quickstart.get_config()
    config.data.update(dirs=str(shards), clip_s=CLIP_S, batch_size=4)
    config.text.layers = 1
    config.tokenizer.anchor.tower.layers = 1
    # The tokenizer that compiles fastest: what is tested here is the way from a command to a checkpoint.
    config.tokenizer.kind = "per_frame"
    config.train.update(steps=4, warmup_steps=1, log_every=1, checkpoint_every=2, **train_changes)
    return config


def evaluated_config(shards, stop_at_step=0):
    """Scored on held-out data (the same here) every other step, with a metric of our own."""
    config = small_config(shards, stop_at_step=stop_at_step)
    config.evals.update(every=2, dirs=str(shards), clips=4, batch=4, best="words/word/f1")
    config.evals.metrics = "tests.evals.metrics:longest_silence"
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    """A training of four steps in one go."""
    workdir = tmp_path_factory.mktemp("straight")
    assert train(evaluated_config(shards), workdir, lambda line: None) == 0
    return workdir


def test_it_trains_stops_and_goes_on(shards, straight, tmp_path):
    """It ends as a run that never stopped, scores included."""
    told: list[str] = []
    assert train(evaluated_config(shards, stop_at_step=3), tmp_path, told.append) == 0
    assert load_params(tmp_path)[1]["step"] == 3
    assert train(evaluated_config(shards), tmp_path, told.append) == 0
    assert any("going on from step 3" in line for line in told)
    metadata = load_params(tmp_path)[1]
    assert metadata["step"] == 4
    assert TextTokenizer.from_json(metadata["tokenizer_json"]).encode_word("circle")
    rows = [row for row in lines(tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"loss", "word_nll", "pad_nll", "tokens", "steps_per_s"} <= set(rows[0])
    same = lambda workdir: [{name: row[name] for name in row.keys() - SPEEDS} for row in lines(workdir)]
    assert same(tmp_path) == same(straight)
    (one, _), (other, _) = load_params(straight), load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_another_model_is_another_run(shards, straight):
    other = evaluated_config(shards)
    other.fusion = "sum"
    with pytest.raises(CheckpointMismatch, match='config.fusion: saved with "cross", now "sum"'):
        train(other, straight, lambda line: None)


def test_held_out_data_are_scored_on_the_way(straight, shards):
    first, last = (row for row in lines(straight) if "loss" not in row)
    assert (first["step"], last["step"]) == (2, 4)
    name = f"eval/{shards.name}"
    assert first[f"{name}/words/word/controls/oracle/f1"] == 1
    assert first[f"{name}/metrics/longest_silence/clips"] == 4
    assert first[f"{name}/word_nll"] > last[f"{name}/word_nll"] > 0
    assert load_params(straight / "best")[1]["step"] in (2, 4)


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

    monkeypatch.setattr("mmduplex_jax.stages.training.fit", fit)
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


def test_data_of_cameras_that_are_held_back_are_refused(tmp_path):
    def data(name: str, source: dict) -> str:
        (tmp_path / name).mkdir()
        manifest = Manifest({}, source, Clock(), 0, 0)
        (tmp_path / name / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        return str(tmp_path / name)

    world = data("world", {"kind": "world", "world": {"look": "rich"}})
    yards = data("yards", {"kind": "narrated", "cameras": ["yard_a", "yard_b"]})
    unsaid = data("unsaid", {"kind": "folder"})
    look = data("look", {"kind": "world", "world": {"look": "real"}})
    check_held_cameras([world, yards, unsaid, look], "")
    check_held_cameras([world, yards], "street.*|yard")
    for directory, held, said in (
        (yards, "yard_[bc]", "shows yard_b, which"),
        (unsaid, "street", "does not say of which cameras"),
        (look, "street", "does not say of which cameras"),
        (yards, "(", "no regular expression"),
    ):
        with pytest.raises(DataError, match=re.escape(said)):
            check_held_cameras([world, directory], held)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.frame_px=100", "--config.frame_px=96 would fit"),
        ("--config.text_tokenizer=no/tokenizer.json", "there is no such file or folder; pass"),
        ("--config.stage=dulpex", "there are clip, bflow, vlm, duplex"),
        ("--config.train.stepz=3", "did you mean --config.train.steps?"),
        ("--process_id=1", "belong together"),
    ],
)
def test_mistakes_are_told_without_ceremony(repository, tmp_path, monkeypatch, capsys, flag, said):
    monkeypatch.chdir(repository)
    try:
        code = main(["--config=configs/quickstart.py", f"--workdir={tmp_path}", flag])
    except SystemExit as left:  # of the flags' parser
        code = left.code
    assert code == EXIT_MISFIT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_mistake_in_the_shell_is_one_line_and_an_exit_code(repository, tmp_path):
    flags = ["--config=configs/quickstart.py", f"--workdir={tmp_path}", "--config.data.dirs=nowhere"]
    command = [sys.executable, "-m", "launch.train", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == EXIT_MISFIT, done.stderr
    (line,) = done.stderr.splitlines()
    assert "error: there is no folder nowhere" in line


def written(source, folder):
    write_shards(source, folder, config={}, units_per_shard=4)
    return folder


def test_words_that_cannot_be_spelled_are_seen_before_anything_compiles(tmp_path):
    own = written(NoisySource(words=(("a", 0.1), ("zebra", 0.5))), tmp_path / "own")
    with pytest.raises(DataError, match=r"'world' cannot spell 16 of 16 words in 8 clips.*'a' \(8 times\)") as error:
        train(small_config(own), tmp_path / "run", lambda line: None)
    assert "--config.text_tokenizer=FILE" in str(error.value)
    assert f"python -m launch.make_tokenizer --data={own}" in str(error.value)
    assert not (tmp_path / "run").exists()
    config = small_config(own)
    config.data.unknown_words_max = 1.0
    (line,) = notes_on_data([str(own)], 8, config, load_tokenizer(config))[-1:]
    assert "2 different ones" in line
    assert "left out of what is learned" in line


def test_a_large_batch_and_short_clips_are_noted(shards):
    config = small_config(shards)
    config.data.update(batch_size=32, clip_s=12.0)
    batch, short = notes_on_data([str(shards)], 8, config, load_tokenizer(config))
    assert "a batch takes 32 clips and there are 8" in batch
    assert "--config.data.batch_size=8" in batch
    assert "8 of 8 sampled clips are shorter than config.data.clip_s=12 (the shortest: 2.56 s)" in short
    assert notes_on_data([str(shards)], 8, small_config(shards), load_tokenizer(config)) == []
    naming = small_config(shards)
    naming.loss.crop_name_weight = 0.5
    (line,) = notes_on_data([str(shards)], 8, naming, load_tokenizer(config))
    assert "8 of 8 clips do not say where things are" in line


def test_it_begins_with_imported_weights(shards, tmp_path):
    # The first step of a warm-up has a learning rate of 0: what is saved is what the run began with.
    config = small_config(shards, stop_at_step=1)
    config.init_from.text = str(tmp_path / "weights")
    tokenizer = load_tokenizer(config)
    model = build_task(config, tokenizer).config
    language = text.alone(model.text, tokenizer.vocab_size, "tied")
    shapes = flatten(nn.unbox(boxed_shapes(language)))
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(leaf.shape, np.float32) for name, leaf in shapes.items()}
    write_params(arrays, text.layout(language), tmp_path / "theirs", text.config_json(language))
    import_weights(open_source(tmp_path / "theirs"), tmp_path / "weights")
    told: list[str] = []
    assert train(config, tmp_path / "run", told.append) == 0
    assert any(line.startswith("init_from text: taken from") for line in told)
    params = flatten(load_params(tmp_path / "run")[0])
    np.testing.assert_array_equal(params["embedding"][: tokenizer.vocab_size], arrays["embedding"])
    np.testing.assert_array_equal(params["delays"], 0)
    for name, array in arrays.items():
        if name != "embedding":
            np.testing.assert_array_equal(params[name], array)
    # Where the run goes on the folder is not asked for.
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    config.train.stop_at_step = 2
    assert train(config, tmp_path / "run", told.append) == 0
    with pytest.raises(InitFromError, match="holds neither imported weights"):
        train(config, tmp_path / "another", told.append)


@pytest.mark.slow
def test_a_job_of_slurm_trains_as_one_process_does(repository, shards, tmp_path):
    """Two tasks of a job, told of it by SLURM's variables alone, with parameters split over both."""
    told: list[str] = []
    assert train(small_config(shards), tmp_path / "one", told.append) == 0
    flags = [
        f"--config.data.dirs={shards}",
        f"--config.data.clip_s={CLIP_S}",
        "--config.data.batch_size=4",
        "--config.text.layers=2",
        "--config.tokenizer.kind=per_frame",
        "--config.train.steps=4",
        "--config.train.warmup_steps=1",
        "--config.train.log_every=1",
        "--config.train.checkpoint_every=2",
        "--config.mesh.fsdp=2",
    ]
    command = [sys.executable, "-m", "launch.train", "--distributed", "--config=configs/quickstart.py", *flags]
    running = []
    for task in range(2):
        job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        job |= {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_STEP_NUM_NODES": "1"}
        environment = {**os.environ, **job, "JAX_PLATFORMS": "cpu"}
        pipe = subprocess.PIPE
        arguments = [*command, f"--workdir={tmp_path / 'two'}"]
        running.append(
            subprocess.Popen(arguments, cwd=repository, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    (first, trouble), (second, _) = [process.communicate(timeout=400) for process in running]
    assert [process.returncode for process in running] == [0, 0], trouble
    assert "done: 4 of 4 steps" in first
    assert "step" not in second
    rows = lambda name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows("two")] == [1, 2, 3, 4]
    # Sums in another order, through Adam.
    assert [row["loss"] for row in rows("two")] == pytest.approx([row["loss"] for row in rows("one")], rel=1e-4)
