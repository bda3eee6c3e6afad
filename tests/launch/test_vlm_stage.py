"""The stage `vlm` from the command to a checkpoint, through `launch.evaluate` and `launch.caption`."""

import json

import cv2
import jax
import numpy as np
import pytest

from configs import clip_quickstart, vlm_quickstart
from data_pipelines.shards import write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from launch import caption, evaluate, export_weights, import_weights
from launch.train import train
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.stages.vlm.captioner import Captioner, Decoding, pieces_of
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.checkpoint import load_params, read_weights
from mmduplex_jax.weights.trained import load_tokenizer, load_trained
from tests import tiny
from tests.data_pipelines.numbered_video import number_in, write_numbered

quiet = lambda line: None


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(WorldSource(WorldConfig(), 5, 8), folder, config={}, units_per_shard=4)
    return folder


def small(config, shards, **changes):
    config.data.update(dirs=str(shards), batch_size=4)
    config.vision.update(patch_px=16, width=32, layers=1, heads=2, hidden=32, projection=16)
    config.time.frames = 2
    config.train.update(steps=4, warmup_steps=1, log_every=1, checkpoint_every=2, **changes)
    return config


def small_config(shards, **changes):
    config = small(vlm_quickstart.get_config(), shards, **changes)
    config.projector.hidden = 32
    config.text.update(width=32, layers=1, heads=2, kv_heads=1, head_width=8, hidden=32)
    return config


@pytest.fixture(scope="module")
def clip_dir(shards, tmp_path_factory):
    """A model of stage `clip` with a tower, as `launch.export` would write it."""
    folder = tmp_path_factory.mktemp("clip")
    config = small(clip_quickstart.get_config(), shards)
    config.text.update(width=32, layers=1, heads=2, hidden=32, projection=16)
    config.time.update(layers=1, heads=2, hidden=32)
    tokenizer = load_tokenizer(config)
    params = tiny.random_params(build_task(config, tokenizer).init)
    metadata = dict(config=json.loads(config.to_json_best_effort()), tokenizer=json.loads(tokenizer.to_json()))
    portable.save(folder, params, metadata | dict(steps=1, data={}, scores={}), dtype="float32")
    return folder


@pytest.fixture(scope="module")
def workdir(shards, clip_dir, tmp_path_factory):
    """Of a run that begins with that tower and does not train it."""
    folder = tmp_path_factory.mktemp("vlm")
    config = small_config(shards)
    config.init_from.vision = str(clip_dir)
    config.train.groups.vision.start_step = -1
    assert train(config, folder, quiet) == 0
    return folder


def test_it_learns_and_says_so(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"accuracy", "captions", "tokens"} <= set(rows[0])


def test_it_is_evaluated_beside_its_controls(workdir, tmp_path, capsys):
    file = tmp_path / "report.json"
    flags = [f"--checkpoint={workdir}", "--clips=6", "--batch=4", f"--json={file}"]
    assert evaluate.main(flags) == 0
    report = json.loads(file.read_text())
    assert (report["stage"], report["steps"], report["decoding"]["how"]) == ("vlm", 4, "greedy")
    assert list(report["captions"]) == ["real", "shuffled", "blank", "most_frequent"]
    assert report["pairs"] == len(report["said"]) >= 4
    assert set(report["captions"]["real"]) == {"cider", "bleu_4", "rouge_l", "meteor_exact_stem", "exact"}
    assert 0 < report["captions"]["most_frequent"]["exact"] <= 1
    assert all(row["log_prob"] < 0 for row in report["said"])
    printed = capsys.readouterr().out
    assert "CIDEr" in printed
    assert report["said"][0]["reference"] in printed


def test_the_beam_is_evaluated_on_shards(shards, workdir, tmp_path):
    file = tmp_path / "report.json"
    flags = ["--decode=beam", "--beam_width=3", "--length_penalty=1", "--batch=4", f"--json={file}"]
    assert evaluate.main([f"--checkpoint={workdir}", f"--data={shards}", *flags]) == 0
    assert json.loads(file.read_text())["decoding"]["width"] == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--beam_width=8"], "--beam_width is of --decode=beam, and this is --decode=greedy"),
        (["--decode=beam", "--top_p=0.5"], "--top_p is of --decode=sample, and this is --decode=beam"),
        (["--decode=sample", "--temperature=0"], "temperature must be over 0"),
        (["--pad_bias=1"], "--pad_bias: not of models of stage 'vlm'"),
    ],
)
def test_flags_that_mean_nothing_are_refused(workdir, flags, said, capsys):
    assert evaluate.main([f"--checkpoint={workdir}", "--clips=2", *flags]) == 1
    assert said in capsys.readouterr().err


def test_the_tower_that_it_began_with_is_as_it_was(clip_dir, workdir):
    before, (after, _) = load_trained(clip_dir).params, load_params(workdir)
    bits = lambda tree: [np.asarray(leaf).view(np.int32) for leaf in jax.tree.leaves(tree["vision"])]
    for one, other in zip(bits(before), bits(after), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(after["projector"]["up"]["bias"]).max() > 0  # zeros at first


def test_its_language_model_goes_out_and_comes_in(workdir, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    assert export_weights.main([f"--weights={workdir}", "--part=text", "--leave_rest", f"--out={out}"]) == 0
    assert import_weights.main([f"--from={out}", f"--out={back}"]) == 0
    (imported, metadata), (trained, _) = read_weights(back), load_params(workdir)
    assert set(imported) == {"embedding", "text"}
    for name in imported:
        jax.tree.map(np.testing.assert_array_equal, imported[name], trained[name])
    assert metadata["tokenizer_json"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder with a picture, a video of 5 s, a file that is none, and a text."""
    folder = tmp_path_factory.mktemp("media")
    cv2.imwrite(str(folder / "b.png"), np.full((90, 120, 3), 60, np.uint8))
    write_numbered(folder / "c.mp4", count=50, rate=10)
    (folder / "a.jpg").write_bytes(b"no picture")
    (folder / "d.txt").write_text("a red circle")
    return folder


def test_a_folder_is_captioned(workdir, media, tmp_path, capsys):
    file = tmp_path / "captions.json"
    assert caption.main([f"--checkpoint={workdir}", f"--source={media}", "--batch=1", f"--json={file}"]) == 1
    printed = capsys.readouterr()
    report = json.loads(file.read_text())
    assert [error["source"] for error in report["errors"]] == [str(media / "a.jpg")]
    assert str(media / "a.jpg") in printed.err
    rows = [(row["source"][-5:], row["start_s"], row["end_s"]) for row in report["captions"]]
    # Pieces of 2.56 s are 16 ticks; of the 32 ticks of 5 s the last piece is the last 16.
    assert rows == [("b.png", 0, 0), ("c.mp4", 0, 2.56), ("c.mp4", 2.56, 5.12)]
    assert len(printed.out.splitlines()) == 4
    assert printed.out.startswith("b.png ")
    assert "c.mp4 [   2.56s -    5.12s]" in printed.out


def test_a_source_that_is_not_there_and_a_model_that_is_silent(workdir, media, portable_dir, capsys):
    assert caption.main([f"--checkpoint={workdir}", f"--source={media / 'x.mp4'}"]) == 1
    assert "x.mp4" in capsys.readouterr().err
    assert caption.main([f"--checkpoint={portable_dir}", f"--source={media / 'b.png'}"]) == 2
    assert "of stage 'duplex'; only `vlm` models caption" in capsys.readouterr().err
    assert caption.main([f"--checkpoint={workdir}", f"--source={media}", "--every_s=0"]) == 2
    assert "--every_s must be more than 0 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("every", "max_s", "wanted"),
    [
        (None, None, [(0, 10), (10, 20), (20, 30), (22, 32)]),
        (5, 3.0, [(0, 10), (5, 15), (9, 19)]),
        (14, None, [(0, 10), (14, 24), (22, 32)]),
        (25, None, [(0, 10), (22, 32)]),
        (40, None, [(0, 10)]),
        (3, 0.8, [(0, 5)]),
    ],
)
def test_a_video_is_cut_into_pieces(media, every, max_s, wanted):
    clock = Clock()
    fixed = dict(frames=2, num_ticks=10, frame_px=(64, 64), fit="crop")
    pieces = list(pieces_of(str(media / "c.mp4"), clock, **fixed, every_ticks=every, max_s=max_s))
    assert [(clock.tick_at(piece.start_s), clock.tick_at(piece.end_s)) for piece in pieces] == wanted
    # The two frames are those in the middles of both halves, as the number of the video's picture says.
    for (begin, end), piece in zip(wanted, pieces):
        ticks = [begin + (end - begin) // 4, begin + 3 * (end - begin) // 4]
        assert [number_in(frame) for frame in piece.frames] == [int(clock.tick_time_s(tick) * 10) for tick in ticks]


def test_a_captioner_wants_clips_of_its_shape_and_says_no_marks(workdir):
    trained = load_trained(workdir)
    captioner = Captioner(
        trained.task,
        trained.config,
        trained.tokenizer,
        Decoding("sample", temperature=5.0),
        batch_size=3,
        params=trained.params,
    )
    clips = list(np.random.default_rng(0).integers(0, 255, (5, 2, 64, 64, 3), np.uint8))
    said = captioner.captions(clips)
    assert len(said) == 5
    # What is said of a clip does not hang on how many are looked at at a time.
    again = captioner.captions(clips[3:], first=3)
    assert [one.text for one in again] == [one.text for one in said[3:]]
    words = {word for one in said for word in one.text.split()}
    assert len(words) > 10  # at this temperature every word comes
    assert all(trained.tokenizer.encode_word(word) for word in words)
    with pytest.raises(ValueError, match=r"clip 1 is \[3, 64, 64, 3\], the model was trained on \[2, 64, 64, 3\]"):
        captioner.captions([clips[0], np.zeros((3, 64, 64, 3), np.uint8)])
