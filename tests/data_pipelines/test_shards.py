"""Shards: what is written is read, a second run redoes nothing, damage is named."""

import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines.schema import encode_record
from data_pipelines.shards import Manifest, Progress, ShardError, open_dataset, write_shards
from data_pipelines.sources import Item, Rejected
from data_pipelines.sources.causes import TOO_SHORT
from tests.data_pipelines.small_records import SmallSource, make_record


def write(source, directory, config=None, per_shard=3, **options):
    return write_shards(source, directory, config=config or {"clips": 10}, units_per_shard=per_shard, **options)


def contents(directory):
    """Every file, those of parts too, but for the lock."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def identities(directory):
    stats = {path.name: path.stat() for path in directory.glob("*.arrayrecord")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def damage(path, edit):
    path.write_bytes(edit(path.read_bytes()))


def test_read_back_by_number(shards, record):
    dataset = open_dataset(shards, verify=True)
    assert len(dataset) == 10
    assert [dataset.key(number) for number in range(10)] == [f"small/{number:06d}" for number in range(10)]
    assert [dataset[number].provenance["number"] for number in (9, 0, 3, 2)] == [9, 0, 3, 2]
    assert encode_record(dataset[4], "png") != encode_record(dataset[5], "png")
    assert dataset[4].words == record(4).words
    for outside in (-1, 10):
        with pytest.raises(IndexError, match="there are 10"):
            dataset[outside]


def test_manifest(shards):
    manifest = Manifest.load(shards)
    assert [shard.records for shard in manifest.shards] == [3, 3, 3, 1]
    assert manifest.shards[0].name == "shard-00000-of-00004.arrayrecord"
    assert [shard.words for shard in manifest.shards] == [9, 9, 9, 3]
    assert (manifest.num_records, manifest.longest_ticks, manifest.frame_px) == (10, 6, (16, 16))
    assert manifest.duration_s == pytest.approx(9.6)
    fields = json.loads((shards / "manifest.json").read_text())
    assert fields["config"] == {"clips": 10}
    assert fields["clock"] == {"step_hz": 12.5, "video_stride": 2}
    assert fields["schema_version"] == 2


def test_threads_and_copies_read_the_same(shards):
    dataset = open_dataset(shards)
    copy = pickle.loads(pickle.dumps(dataset))
    order = np.random.default_rng(0).integers(0, 10, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [found.provenance["number"] for found in pool.map(dataset.__getitem__, order)] == order
    assert copy[3].key == "small/000003"


def test_second_run_redoes_nothing(shards, small_source):
    before, bytes_before = identities(shards), contents(shards)
    source = small_source()
    report = write(source, shards)
    assert (len(report.kept), report.written, report.damaged) == (4, (), ())
    assert source.asked == []
    assert identities(shards) == before
    assert contents(shards) == bytes_before


def test_goes_on_where_it_failed(tmp_path, shards, small_source):
    broken = tmp_path / "broken"
    with pytest.raises(OSError, match="no space left"):
        write(small_source(fails_at=7), broken)
    assert sorted(contents(broken)) == [
        "parts/plan.json",
        "parts/shard-00000-of-00004.json",
        "parts/shard-00001-of-00004.json",
        "shard-00000-of-00004.arrayrecord",
        "shard-00001-of-00004.arrayrecord",
    ]
    with pytest.raises(ShardError, match="unfinished.*2 of 4"):
        open_dataset(broken)
    source = small_source()
    report = write(source, broken)
    assert source.asked == [6, 7, 8, 9]
    assert len(report.kept) == 2
    assert contents(broken) == contents(shards)


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_kept_units_and_written_video(shards, small_source, workers):
    (shards / "shard-00001-of-00004.arrayrecord").unlink()
    (shards / "shard-00002-of-00004.arrayrecord").unlink()
    seen = []
    write(small_source(), shards, workers=workers, on_progress=seen.append)
    assert seen[0] == Progress(units=4, num_units=10, written_s=0)
    assert seen[-1] == Progress(units=10, num_units=10, written_s=pytest.approx(6 * 6 * 0.16))
    assert [one.units for one in seen] == sorted(one.units for one in seen)


def test_other_configuration_is_refused_by_name(shards, small_source):
    before = contents(shards)
    with pytest.raises(ShardError, match=r"(?s)another configuration.*config\.clips: 10 there, 11 asked for"):
        write(small_source(), shards, config={"clips": 11})
    with pytest.raises(ShardError, match=r'config\.look: nothing there, "rich" asked for'):
        write(small_source(), shards, config={"clips": 10, "look": "rich"})
    with pytest.raises(ShardError, match=r"num_shards: 4 there, 2 asked for"):
        write(small_source(), shards, per_shard=5)
    assert contents(shards) == before


def test_foreign_files_are_not_touched(tmp_path, small_source):
    (tmp_path / "precious.arrayrecord").write_bytes(b"mine")
    with pytest.raises(ShardError, match="choose another directory"):
        write(small_source(), tmp_path)
    assert (tmp_path / "precious.arrayrecord").read_bytes() == b"mine"


def test_two_writers_at_once_are_refused(shards, small_source):
    class Meanwhile(small_source):
        def items(self, begin, end):
            with pytest.raises(ShardError, match="another process is writing"):
                write(small_source(), shards)
            yield from super().items(begin, end)

    (shards / "shard-00000-of-00004.arrayrecord").unlink()
    assert write(Meanwhile(), shards).written == ("shard-00000-of-00004.arrayrecord",)


def test_rejected_items_are_counted_and_listed(tmp_path, small_source):
    report = write(small_source(rejects={1, 3, 4, 5}), tmp_path)
    assert report.manifest.rejected_by_cause() == {"cannot decode": 4}
    assert [shard.rejected for shard in report.manifest.shards] == [{"cannot decode": 1}, {"cannot decode": 3}, {}, {}]
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(line["key"], line["detail"]) for line in lines] == [
        (f"small/{number:06d}", f"unit {number}") for number in (1, 3, 4, 5)
    ]
    assert lines[1] == {
        "key": "small/000003",
        "cause": "cannot decode",
        "detail": "unit 3",
        "shard": "shard-00001-of-00004.arrayrecord",
    }
    assert "unit 3" not in (tmp_path / "manifest.json").read_text()  # millions of them would make it slow to open
    dataset = open_dataset(tmp_path, verify=True)
    numbers = [dataset[index].provenance["number"] for index in range(len(dataset))]
    assert numbers == [0, 2, 6, 7, 8, 9]  # the second shard holds nothing


def test_summary(tmp_path, small_source):
    write(small_source(rejects={1, 3, 4, 5}), tmp_path)
    size_bytes = sum(path.stat().st_size for path in tmp_path.glob("*.arrayrecord"))
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "samples": 6,
        "hours": pytest.approx(6 * 6 * 0.16 / 3600),
        "bytes": size_bytes,
        "words": 18,
        "bytes_an_hour": round(size_bytes / (6 * 6 * 0.16) * 3600),
        "words_a_second": pytest.approx(18 / (6 * 6 * 0.16)),
        "longest_s": 0.96,
        "frame_px": 16,
        "units": 10,
        "shards": 4,
        "rejected": {"cannot decode": 4},
        "rejected_samples": 4,
        "notes": {},
    }


def test_a_data_set_of_rejected_units_only(tmp_path, small_source):
    write(small_source(2, rejects={0, 1}), tmp_path)
    assert len(open_dataset(tmp_path)) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["samples"], summary["words_a_second"], summary["rejected"]) == (0, 0, {"cannot decode": 2})


class ManySource(SmallSource):
    """Unit n gives n % 4 records and, where that is none or even, a rejected item: windows of a video, say."""

    def items(self, begin, end):
        for unit in range(begin, end):
            for part in range(unit % 4):
                content = dataclasses.replace(make_record(unit), key=f"many/{unit}/{part}")
                yield Item(unit, content.key, content)
            if unit % 2 == 0:
                yield Item(unit, f"many/{unit}/rest", Rejected(TOO_SHORT, "0.2 s"))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_unit_gives_many_items(tmp_path, workers):
    seen = []
    report = write(ManySource(), tmp_path, workers=workers, on_progress=seen.append)
    assert [shard.records for shard in report.manifest.shards] == [0 + 1 + 2, 3 + 0 + 1, 2 + 3 + 0, 1]
    assert [shard.units for shard in report.manifest.shards] == [3, 3, 3, 1]
    assert report.manifest.rejected_by_cause() == {"shorter than a window": 5}
    assert seen[-1].units == 10
    dataset = open_dataset(tmp_path)
    assert [dataset.key(number) for number in (2, 3, 12)] == ["many/2/1", "many/3/0", "many/9/0"]


def half_speed(frames):
    """Motion of the right form, and a function of the frames."""
    return np.repeat(frames[:, :2, :2, :1] // 2, 4, axis=-1).astype(np.int8)


def test_motion_is_made_of_the_frames_before_they_are_encoded(tmp_path, small_source, record):
    write(small_source(), tmp_path / "alone", motion=half_speed)
    write(small_source(), tmp_path / "many", motion=half_speed, workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "many")
    np.testing.assert_array_equal(open_dataset(tmp_path / "alone")[4].motion, half_speed(record(4).frames))


@pytest.mark.parametrize("kept", [0, 1000, 70_000, -1])
def test_truncated_shard_is_named_and_rewritten(shards, small_source, kept):
    whole = contents(shards)
    path = shards / "shard-00001-of-00004.arrayrecord"
    damage(path, lambda data: data[:kept])
    with pytest.raises(
        ShardError, match=r"shard-00001-of-00004\.arrayrecord has \d+ bytes.*truncated.*launch\.prepare"
    ):
        open_dataset(shards)
    assert write(small_source(), shards).damaged == (path.name,)
    assert contents(shards) == whole


def test_missing_shard_is_named(shards):
    (shards / "shard-00003-of-00004.arrayrecord").unlink()
    with pytest.raises(ShardError, match=r"shard-00003-of-00004\.arrayrecord is missing"):
        open_dataset(shards)


def test_flipped_bit_is_found_when_read_and_by_verify(shards, small_source, record):
    whole = contents(shards)
    path = shards / "shard-00001-of-00004.arrayrecord"
    place = path.read_bytes().index(b"small/000004") + 400

    damage(path, lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    dataset = open_dataset(shards)
    assert dataset[3].key == "small/000003"
    with pytest.raises(
        ShardError, match=r"shard-00001-of-00004\.arrayrecord, record 1 of 3 \(number 4 .*launch\.prepare"
    ):
        dataset[4]
    with pytest.raises(ShardError, match=r"shard-00001.*sha256"):
        open_dataset(shards, verify=True)
    assert write(small_source(), shards).damaged == ()  # lengths agree
    assert write(small_source(), shards, verify=True).damaged == (path.name,)
    assert contents(shards) == whole


def test_wrong_record_with_right_hashes_of_the_container_is_found(tmp_path, shards):
    """Damage before the container's own checksum was made (a bad memory chip, say) is found by the record's."""
    from array_record.python import array_record_module

    path = shards / "shard-00003-of-00004.arrayrecord"
    reader = array_record_module.ArrayRecordReader(str(path))
    data = bytearray(reader.read([0])[0])
    data[len(data) // 2] ^= 1
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    writer.write(bytes(data))
    writer.close()
    with pytest.raises(ShardError, match=r"shard-00003.*record 0 of 1 \(number 9 .*checksum"):
        open_dataset(shards)[9]


def test_damaged_manifest_is_named(shards):
    (shards / "manifest.json").write_text('{"schema_version": 2')
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        open_dataset(shards)
    (shards / "manifest.json").write_text('{"schema_version": 7}')
    with pytest.raises(ShardError, match="schema version 7"):
        open_dataset(shards)


def test_directory_without_shards(tmp_path):
    with pytest.raises(ShardError, match=r"no manifest\.json.*launch\.prepare"):
        open_dataset(tmp_path)


class Breaking(SmallSource):
    """Gives the items of the units 0..2 changed by `change`."""

    def __init__(self, change):
        super().__init__(3)
        self.change = change

    def items(self, begin, end):
        return iter(self.change(list(super().items(begin, end))))


def other_size(items):
    return [item._replace(content=make_record(2, frame_px=24)) if item.unit == 2 else item for item in items]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: [item._replace(key=items[0].key, content=items[0].content) for item in items], "000000' twice"),
        (lambda items: items[:2], "gave no item of unit 2"),
        (lambda items: items[1:], "an item of unit 1 where unit 0 was due"),
        (lambda items: [items[0], items[2]], "an item of unit 2 where unit 1 was due"),
        (lambda items: [items[1], items[0], items[2]], "an item of unit 1 where unit 0 was due"),
        (lambda items: [*items, items[2]._replace(unit=3, key="more")], r"unit 3 where 0\.\.2 were asked for"),
        (lambda items: [*items[:2], items[2]._replace(key="other")], "'small/000002' came as item 'other'"),
        (other_size, "frames of 24x24 px, others of 16x16 px"),
    ],
)
def test_source_that_breaks_its_promise(tmp_path, change, message):
    with pytest.raises(ShardError, match=message):
        write(Breaking(change), tmp_path)
    assert sorted(contents(tmp_path)) == ["parts/plan.json"]


def test_shards_of_different_sizes_do_not_go_together(tmp_path):
    with pytest.raises(ShardError, match="frames of 16x16 px and 24x24 px"):
        write(Breaking(other_size), tmp_path, per_shard=2)


def test_an_unknown_cause_is_refused():
    with pytest.raises(ValueError, match="cause 'ugly' is unknown"):
        Rejected("ugly", "")


def test_bad_counts(tmp_path, small_source):
    with pytest.raises(ValueError, match="positive"):
        write(small_source(), tmp_path, per_shard=0)
    with pytest.raises(ValueError, match="no units"):
        write(small_source(0), tmp_path)
