"""Builders of tfds: the same records as the source gives, read without TensorFlow, and what is rejected is counted."""

import dataclasses
import json
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.data import folder, livecc, pevideo, world
from data_pipelines.loader import make_loader
from data_pipelines.manifest import ShardError
from data_pipelines.schema import Record, Word
from data_pipelines.shards import ImageFormat, write_shards
from data_pipelines.sources import Item, causes
from data_pipelines.tfds_builders import SourceBuilder, SourceConfig, TfdsRecords, source_builder
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.data_pipelines.small_records import SmallSource, make_record
from tests.data_pipelines.sources.livecc_file import write_lines
from tests.data_pipelines.sources.tars import write_tar

CLIP_S = 5.0


def world_config(folder_of_input):
    config = world.get_config()
    config.clips, config.clip_s, config.frame_px = 3, CLIP_S, (32, 32)
    return config, {}


def folder_config(folder_of_input):
    config = folder.get_config()
    write_clip_files(folder_of_input, WorldConfig(clip_s=CLIP_S), 0, 0, size_px=64)
    write_clip_files(folder_of_input, WorldConfig(clip_s=CLIP_S), 0, 1, size_px=64, name="other").events.unlink()
    (folder_of_input / "broken.mp4").write_bytes(b"no video")
    (folder_of_input / "broken.txt").write_text("a caption")
    for path in folder_of_input.glob("*.json"):
        path.unlink()  # what happened is no transcript
    config.root, config.frame_px = str(folder_of_input), (32, 32)
    return config, {causes.CANNOT_DECODE: 1}


def livecc_config(folder_of_input):
    config = livecc.get_config()
    video = write_clip_files(folder_of_input, WorldConfig(clip_s=CLIP_S), 0, 0, size_px=64).video.name

    def sample(name, start_s):
        words = [[start_s + 0.5, start_s + 1.0, "red"], [start_s + 1.0, start_s + 1.5, "circle"]]
        clip = {"type": "video", "video": name, "video_start": start_s, "video_end": CLIP_S}
        return [{"content": [clip]}, {"content": [{"type": "text_stream", "text_stream": words}]}]

    lines = folder_of_input / "lines.jsonl"
    write_lines(lines, [sample(video, 0.0), sample("gone.mp4", 0.0), sample(video, 2.0)])
    config.annotations, config.root, config.frame_px = str(lines), str(folder_of_input), (32, 32)
    config.filters.duration_min_s, config.clip.shortest_s = None, 1.0
    return config, {causes.MISSING_VIDEO: 1}


def pevideo_config(folder_of_input):
    config = pevideo.get_config()
    data = write_clip_files(folder_of_input, WorldConfig(clip_s=CLIP_S), 0, 0, size_px=64).video.read_bytes()
    said, silent = (json.dumps({"human_caption": caption}).encode() for caption in ("A red circle enters", None))
    members = [("1.mp4", data), ("1.json", said), ("2.mp4", data), ("2.json", silent)]
    write_tar(folder_of_input / "train" / "0.tar", members)
    config.root, config.frame_px = str(folder_of_input), (32, 32)
    return config, {causes.NO_WORDS: 1}


CONFIGS = {"folder": folder_config, "livecc": livecc_config, "pevideo": pevideo_config, "world": world_config}


class Records:
    """Given records as a source."""

    clock = Clock()
    flip_safe = True

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def describe(self):
        return {"kind": "given"}

    def items(self, begin, end):
        for unit in range(begin, end):
            yield Item(unit, self.records[unit].key, self.records[unit])


def build_given(source, data_dir, image_format="png", frame_px=16, motion=None):
    """A dataset of a given source."""

    class Given(SourceBuilder, skip_registration=True):
        name = "world"

        def source(self, values):
            return source

    values = {"frame_px": frame_px, "image": {"format": image_format, "quality": 95}}
    builder = Given(data_dir=str(data_dir), config=SourceConfig(name="tiny", values=values, motion=motion))
    builder.download_and_prepare()
    return builder


def same(one: Record, other: Record):
    for field in dataclasses.fields(Record):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
            assert ours.dtype == theirs.dtype
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_builder_gives_what_its_source_gives(tmp_path, name):
    (tmp_path / "input").mkdir()
    config, rejected = CONFIGS[name](tmp_path / "input")
    config.image.format = "png"  # loses nothing, so that frames can be compared
    if "motion" in config:
        config.motion.keep = False
    values = config.to_dict()
    builder = source_builder(values, name="tiny", data_dir=tmp_path / "tfds")
    builder.download_and_prepare()

    assert (builder.name, builder.info.file_format.value) == (name, "array_record")
    source = builder.source(values)
    items = list(source.items(0, len(source)))
    expected = [item.content for item in items if isinstance(item.content, Record)]
    assert expected
    records = TfdsRecords(builder.data_path)
    assert len(records) == len(expected)
    for index, record in enumerate(expected):
        same(records.read(index), record)
        assert records.key(index) == record.key
    assert (records.clock, records.frame_px) == (source.clock, (32, 32))
    assert records.longest_ticks == max(record.num_ticks for record in expected)

    examples = tfds.data_source(f"{name}/tiny", split="train", data_dir=str(tmp_path / "tfds"), download=False)
    assert len(examples) == len(expected)
    assert examples[0]["frames"][0].shape == (32, 32, 3)
    assert [word.decode() for word in examples[0]["words"]["text"]] == [word.text for word in expected[0].words]

    assert records.rejected == rejected
    rows = [json.loads(row) for row in (builder.data_path / "rejected.jsonl").read_text().splitlines()]
    assert [row["cause"] for row in rows] == [cause for cause, count in rejected.items() for _ in range(count)]
    assert "tensorflow" not in sys.modules, "building or reading has imported TensorFlow"


def test_every_field_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    plain = make_record(0)
    rich = dataclasses.replace(
        make_record(1, num_ticks=9),
        words=(Word("Größe", 1 / 3, None), Word("日本", 0.7, 0.9)),
        timing="line",
        tick_times_s=rng.random(9),
        words_from_s=0.1,
        caption="Über alles",
        language="de",
        audio=rng.bytes(1000),
        motion=rng.integers(-128, 128, (9, 4, 4, 4), dtype=np.int8),
        provenance={"file": "a/ß.mp4", "start_s": 0.1, "list": [1, None]},
    )
    bare = Record(key="bare", frames=np.zeros((1, 16, 16, 3), np.uint8), clock=Clock(), timing="clip")
    builder = build_given(Records([plain, rich, bare]), tmp_path)
    records = TfdsRecords(builder.data_path)
    for index, record in enumerate((plain, rich, bare)):
        same(records.read(index), record)


def test_motion_is_added_where_it_is_asked_for(tmp_path):
    def brightness(frames):
        return (frames.mean(axis=(1, 2, 3)) / 2).astype(np.int8)[:, None, None, None]

    records = TfdsRecords(build_given(SmallSource(3), tmp_path, motion=brightness).data_path)
    for index in range(3):
        record = make_record(index)
        np.testing.assert_array_equal(records.read(index).motion, brightness(record.frames))


def test_jpeg_is_close(tmp_path):
    records = TfdsRecords(build_given(SmallSource(2), tmp_path, image_format="jpeg").data_path)
    # At quality 95 a smooth picture moves by a few grey levels.
    difference = records.read(1).frames.astype(int) - make_record(1).frames
    assert np.abs(difference).mean() < 3


def test_the_loader_reads_them_as_it_reads_shards(tmp_path):
    source = SmallSource(10, rejects=(4,))
    write_shards(source, tmp_path / "shards", config={}, units_per_shard=4, image=ImageFormat("png"))
    records = TfdsRecords(build_given(source, tmp_path / "tfds").data_path)
    tokenizer = TextTokenizer.word_level(["red", "circle", "left"])
    ours, theirs = (
        make_loader(data, tokenizer, batch_size=3, repeat=1, seed=5, num_ticks=4)
        for data in (pickle.loads(pickle.dumps(records)), tmp_path / "shards")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_only_the_frames_that_are_wanted_are_decoded(tmp_path):
    records = TfdsRecords(build_given(SmallSource(1), tmp_path).data_path)
    frames = records.read(0, lambda num_ticks: range(2, num_ticks - 1)).frames
    np.testing.assert_array_equal(frames[2:5], make_record(0).frames[2:5])
    assert not frames[[0, 1, 5]].any()


def test_a_changed_byte_is_found_and_its_record_named(tmp_path):
    builder = build_given(SmallSource(3), tmp_path)
    (path,) = builder.data_path.glob("*array_record*")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1  # within the first record or the second, which take some thousand bytes each
    path.write_bytes(data)
    records = TfdsRecords(builder.data_path)
    damaged, said = [], []
    for index in range(3):
        try:
            same(records.read(index), make_record(index))
        except ShardError as error:
            damaged.append(index)
            said.append(str(error))
    assert damaged in ([0], [1])
    assert f"record {damaged[0]} cannot be read" in said[0]
    with pytest.raises(IndexError, match="record 3 .* there are 3"):
        records.read(3)


def test_what_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(ShardError, match="holds no split 'train'"):
        TfdsRecords(tmp_path)
    builder = build_given(SmallSource(1), tmp_path)
    with pytest.raises(ShardError, match="holds no split 'test'"):
        TfdsRecords(builder.data_path, split="test")


def test_a_builder_asks_for_its_configuration(tmp_path):
    values, _ = world_config(tmp_path)
    with pytest.raises(ValueError, match=r"world needs config=SourceConfig"):
        type(source_builder(values.to_dict(), name="tiny", data_dir=tmp_path))(data_dir=str(tmp_path))
    values.motion = {"keep": True, "plane_px": 32, "search_radius": 3}
    with pytest.raises(ValueError, match=r"motion_of"):
        source_builder(values.to_dict(), name="tiny", data_dir=tmp_path)
    values.image.format, values.motion.keep = "webp", False
    with pytest.raises(ValueError, match=r"one of \('jpeg', 'png'\)"):
        source_builder(values.to_dict(), name="tiny", data_dir=tmp_path)
    values.source = "tape"
    with pytest.raises(ValueError, match=r"config.source 'tape' is unknown"):
        source_builder(values.to_dict(), name="tiny", data_dir=tmp_path)
