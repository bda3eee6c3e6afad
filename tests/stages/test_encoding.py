"""Clips that are encoded once: trainings learn the same from them as from pixels, and are refused what does not fit."""

import dataclasses
import json
import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import clip_quickstart, quickstart
from data_pipelines.encoded import EncodedDataset, EncodedManifest, write_encoded
from data_pipelines.encoded_loader import make_encoded_loader
from data_pipelines.loader import make_loader
from data_pipelines.manifest import ShardError
from data_pipelines.schema import Record, Word
from data_pipelines.shards import ImageFormat, write_shards
from data_pipelines.sources import Item
from launch import encode as launch_encode
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages import encoding
from mmduplex_jax.stages.encoding import EncodingError, clip_starts, encode, encoded_task
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.stages.training import train
from mmduplex_jax.train.feed import DataError
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny

CLIP_S, TICKS = 1.28, 8
LITE = dict(kind="efficientnet_lite", stages=((1, 3, 1, 1, 4), (1, 3, 2, 2, 6)), stem=4, head=12)


class Squares:
    """Clips in which a square moves: six of the right length, a shorter and a longer one."""

    clock, flip_safe = Clock(), True
    ticks = (TICKS,) * 6 + (5, 20)

    def __init__(self, number=8):
        self.number = number

    def __len__(self):
        return self.number

    def describe(self):
        return {"kind": "squares"}

    def items(self, begin, end):
        words = (Word("red", 0.1), Word("left", 0.5))
        for number in range(begin, end):
            frames = tiny.clips(1, self.ticks[number], seed=number, busy=True)[0]
            yield Item(number, f"squares/{number}", Record(f"squares/{number}", frames, self.clock, words))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(Squares(), folder, config={}, units_per_shard=3, image=ImageFormat("png"))
    return folder


def small_config(**data):
    """A small duplex with frozen towers for anchors and crops."""
    c = quickstart.get_config()
    c.frame_px = (32, 32)
    c.data.update(clip_s=CLIP_S, batch_size=2, **data)
    c.loss.future_word_weight = 0.0
    stack = dict(width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=16)
    for part in (c.text, c.video_stream, c.tokenizer.event):
        part.update(stack)
    c.tokenizer.update(width=16)
    c.tokenizer.motion.update(plane_px=(16, 16), search_radius=2)
    c.tokenizer.budget.update(nms_radius_px=5, flow_token_levels=(0, 1, 2))
    c.tokenizer.anchor.update(tokens=2)
    c.tokenizer.anchor.tower.update(width=16, layers=1, heads=2, hidden=16)
    c.tokenizer.state.update(slots=2, heads=2)
    with c.unlocked():
        c.tokenizer.flow = dict(crop_px=8, crop_scales=(1, 2), width=16, tower=LITE)
        c.train.groups = dict(towers=dict(match="tokenizer/(anchors|crops)/tower/", start_step=-1))
    c.train.update(steps=2, warmup_steps=1, log_every=1, checkpoint_every=2)
    return c


def made(config):
    tokenizer = load_tokenizer(config)
    return config, build_task(config, tokenizer), tokenizer


@pytest.fixture(autouse=True, scope="module")
def encoders_are_compiled_once():
    """What an encoder draws and compiles is kept: the same model encodes again and again."""
    drawn, compiled = {}, {}
    make_encoder, compile_encoder = encoding.make_encoder, encoding.Encoder.compiled

    def make_kept(config, task, *given):
        encoder = make_encoder(config, task, *given)
        key = (task, config.train.seed)

        def draw():
            if key not in drawn:
                drawn[key] = encoder.make_params()
            return drawn[key]

        return dataclasses.replace(encoder, make_params=draw)

    def compile_kept(encoder, dtype):
        key = (encoder.config, encoder.num_ticks, encoder.towers, dtype, id(encoder.params))  # `drawn` keeps them
        if key not in compiled:
            compiled[key] = compile_encoder(encoder, dtype)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "make_encoder", make_kept)
        patch.setattr(encoding.Encoder, "compiled", compile_kept)
        yield


@pytest.fixture(scope="module")
def encoded(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded") / "clips"
    report = encode(*made(small_config()), shards, folder, mirrored=True, batch=3, log=lambda line: None)
    assert (len(report.written), report.kept) == (3, ())
    assert report.features == {"frames": True, "crops": True}
    return folder


def test_losses_are_those_of_pixels(shards, encoded):
    """Of records that are one clip, flipped and not, in the order of a training, with nested dropout."""
    config, task, tokenizer = made(small_config())
    learner = encoded_task(config, task, tokenizer, [encoded], lambda line: None)
    params = tiny.random_params(lambda key: nn.unbox(task.init(key)))
    # The towers' weights decide what is kept; they are those that the training begins with.
    drawn = jax.jit(lambda key: nn.unbox(task.init(key))["tokenizer"])(jax.random.key(config.train.seed))
    params["tokenizer"] |= drawn
    order = dict(batch_size=2, seed=0, flip=None)
    pixels = make_loader([shards], tokenizer, clip_s=CLIP_S, frame_px=(32, 32), **order)
    clips = make_encoded_loader([encoded], tokenizer, **order)
    losses = [tiny.jit(t.loss) for t in (task, learner)]
    compared = 0
    for step in range(8):
        one, other = next(pixels), next(clips)
        for name in ("index", "slots", "slot_valid"):
            if not (one["index"] == 7).any():
                np.testing.assert_array_equal(one[name], other[name])
        if (one["index"] == 7).any():
            continue  # of the longer record another piece is seen
        compared += 1
        found = []
        for loss, t, batch in zip(losses, (task, learner), (one, other)):
            example = t.example_batch(2)
            assert {name: (batch[name].shape, batch[name].dtype) for name in example} == {
                name: (leaf.shape, leaf.dtype) for name, leaf in example.items()
            }
            found.append(loss(params, {name: batch[name] for name in example}, jax.random.key(step)))
        (pixel_loss, pixel_metrics), (clip_loss, clip_metrics) = found
        assert float(pixel_metrics["video_tokens"]) > 4
        np.testing.assert_allclose(clip_loss, pixel_loss, atol=1e-5)
        for name, value in pixel_metrics.items():
            np.testing.assert_allclose(clip_metrics[name], value, atol=1e-5, err_msg=name)
    assert compared >= 5


def test_a_longer_record_gives_several_clips_and_a_shorter_one_is_filled_up(encoded):
    dataset = EncodedDataset(encoded)
    assert [dataset.pieces(index) for index in range(8)] == [1] * 7 + [3]
    assert dataset.manifest.num_clips == 10
    clips = [dataset.clip(7, piece, mirrored=False) for piece in range(3)]
    assert [clip.ticks for clip in clips] == [range(8), range(8, 16), range(12, 20)]
    assert clips[0].record.num_ticks == 20
    assert dataset.clip(7, 1, mirrored=True).record.words[1].text == "right"
    assert dataset.key(6) == "squares/6"
    assert clip_starts(20, 8, 5) == [0, 5, 10, 12]
    assert clip_starts(16, 8, 8) == [0, 8]
    assert clip_starts(5, 8, 8) == [0]


def test_it_goes_on_where_it_stopped_and_refuses_what_is_not_the_same(shards, encoded, tmp_path):
    class Stopped(Exception):
        pass

    done = []

    def stop_in_the_second_file(records):
        done.append(records)
        if len(done) == 5:
            raise Stopped

    config, task, tokenizer = made(small_config())
    given = dict(mirrored=True, batch=3, log=lambda line: None)
    with pytest.raises(Stopped):
        encode(config, task, tokenizer, shards, tmp_path, on_records=stop_in_the_second_file, **given)
    with pytest.raises(ShardError, match=r"is unfinished \(1 of 3 files\): run the same"):
        EncodedManifest.load(tmp_path)
    report = encode(config, task, tokenizer, shards, tmp_path, **given)
    assert (len(report.kept), len(report.written)) == (1, 2)
    assert (tmp_path / "encoded.json").read_text() == (encoded / "encoded.json").read_text()
    for shard in report.manifest.shards:
        assert (tmp_path / shard.name).read_bytes() == (encoded / shard.name).read_bytes()
    assert encode(config, task, tokenizer, shards, tmp_path, **given).written == ()
    other = small_config()
    other.tokenizer.budget.flow_threshold += 1
    other.train.seed = 7  # other weights of towers that begin at random
    with pytest.raises(ShardError, match="was begun with another tower, sight or data") as refused:
        encode(*made(other), shards, tmp_path, **given)
    assert "tokenizer.budget.flow_threshold was 300, is 301" in str(refused.value)
    assert "looks.crops.weights_sha256 was" in str(refused.value)
    with pytest.raises(ShardError, match=r"looks\.crops\.kept was 'float32', is 'float16'"):
        encode(config, task, tokenizer, shards, tmp_path, **given | dict(dtype="float16"))
    (tmp_path / report.manifest.shards[1].name).unlink()
    with pytest.raises(ShardError, match=r"is missing or has another length.*run the `python -m launch\.encode`"):
        EncodedDataset(tmp_path)


def test_a_damaged_file_is_named_and_its_sample_is_marked(encoded, shards, tmp_path):
    for file in ("encoded.json", *(path.name for path in encoded.glob("*.arrayrecord"))):
        (tmp_path / file).write_bytes((encoded / file).read_bytes())
    first = sorted(tmp_path.glob("*.arrayrecord"))[0]
    data = bytearray(first.read_bytes())
    at = data.find(b"squares/1")
    data[at : at + 9] = b"squares/X"
    first.write_bytes(data)
    with pytest.raises(ShardError, match=rf"{re.escape(str(first))}, record 1 of 3: .*launch\.encode"):
        EncodedDataset(tmp_path).read(1)
    loader = make_encoded_loader([tmp_path], load_tokenizer(small_config()), batch_size=8, flip=False)
    batch = next(loader)
    assert sorted(batch["index"].tolist()) == [-3, 0, 2, 3, 4, 5, 6, 7]
    broken = batch["index"] < 0
    assert not batch["slot_valid"][broken].any()
    assert not batch["sight_valid"][broken].any()


def test_a_damaged_part_is_named(encoded, tmp_path):
    plan = dataclasses.replace(EncodedManifest.load(encoded), shards=())
    part = tmp_path / "parts" / "encoded-00000-of-00003.json"
    part.parent.mkdir()
    for text in ("{", "{}", '{"pieces": [1], "length": 2}'):
        part.write_text(text)
        with pytest.raises(ShardError, match=rf"{re.escape(str(part))} is damaged .*delete that file"):
            write_encoded(tmp_path, plan, lambda number, write: ())


def test_a_training_is_refused_what_it_cannot_learn_from(encoded):
    def refused(change):
        config = small_config()
        with config.unlocked():
            change(config)
        with pytest.raises((EncodingError, ValueError)) as error:
            encoded_task(*made(config), [encoded], print)
        return str(error.value)

    said = refused(lambda c: c.tokenizer.motion.update(smoothness=13))
    assert "tokenizer.motion.smoothness was 12, is 13" in said
    assert "encode again with it: python -m launch.encode" in said
    assert "looks.crops.tower.head was 12, is 16" in refused(lambda c: c.tokenizer.flow.tower.update(head=16))
    assert "looks.frames.weights_sha256 was" in refused(lambda c: c.train.update(seed=3))
    assert "tokenizer.ticks was 8, is 16" in refused(lambda c: c.data.update(clip_s=2.56))
    thawed = refused(lambda c: c.train.groups.towers.update(match="tokenizer/anchors/tower/"))
    assert "crops: features of their tower are kept, and config.train.groups trains it" in thawed
    of_pairs = made(clip_quickstart.get_config())
    with pytest.raises(EncodingError, match="stage 'clip' does not learn from encoded clips"):
        encoded_task(*of_pairs, [encoded], print)


def test_flips_that_are_not_there_are_refused(encoded, tmp_path):
    manifest = json.loads((encoded / "encoded.json").read_text()) | {"mirrored": False}
    (tmp_path / "encoded.json").write_text(json.dumps(manifest))
    for path in encoded.glob("*.arrayrecord"):
        (tmp_path / path.name).hardlink_to(path)
    given = dict(tokenizer=load_tokenizer(small_config()), batch_size=2)
    for flip in (None, True):
        with pytest.raises(ValueError, match=r"needs their pixels: encode them with --mirrored, or .*flip=False"):
            make_encoded_loader([tmp_path], flip=flip, **given)
    make_encoded_loader([tmp_path], flip=False, **given)
    (tmp_path / "encoded.json").write_text(json.dumps(manifest | {"flip_safe": False}))
    make_encoded_loader([tmp_path], flip=None, **given)  # what must not be flipped is not
    with pytest.raises(ValueError, match="must not be flipped"):
        make_encoded_loader([tmp_path], flip=True, **given)


def test_a_training_of_towers_reads_their_pictures(shards, tmp_path, capsys):
    """Through the commands, with the tokenizer that compiles fastest; nothing is frozen, so that frames are kept."""
    config = small_config(encoded=str(tmp_path / "clips"), flip=False)
    with config.unlocked():
        config.train.groups = {}
        config.tokenizer.kind = "per_frame"
    file = tmp_path / "config.py"
    file.write_text(
        "import json\nfrom ml_collections import config_dict\n"
        f"def get_config():\n    return config_dict.ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    arguments = [f"--config={file}", f"--data={shards}", f"--out={tmp_path / 'clips'}", "--json=-"]
    assert launch_encode.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["features"] == {"frames": False}
    assert (report["clips"], report["files_written"]) == (10, 3)
    told: list[str] = []
    assert train(config, tmp_path / "run", told.append) == 0
    assert "learning from encoded clips: frames as pictures" in told
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    config.data.flip = True
    with pytest.raises(DataError, match="needs their pixels"):
        train(config, tmp_path / "other", told.append)
    assert launch_encode.main([*arguments[:1], "--data=nowhere", *arguments[2:3]]) == 1
    assert "encode: " in capsys.readouterr().err
