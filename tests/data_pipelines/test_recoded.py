"""Shards again with codes: the same records but for their sound, resumed, and refused where something else is asked."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from data_pipelines.manifest import ShardError
from data_pipelines.recoded import write_recoded
from data_pipelines.schema import Codes, RecordError, decode_record, encode_record, with_codes
from data_pipelines.shards import write_shards
from tests.data_pipelines.small_records import SmallSource, make_record

FACTS = {"codec": "tiny"}


def codes_of(record):
    """As many as there are steps; nobody hears the third record."""
    number, steps = int(record.key[-6:]), record.clock.step_of_tick(record.num_ticks)
    return None if number == 2 else Codes(np.full((steps, 2), number, np.int16), "tiny")


class Loud(SmallSource):
    """Small records with sound."""

    def items(self, begin, end):
        for item in super().items(begin, end):
            is_record = hasattr(item.content, "audio")
            yield item._replace(content=dataclasses.replace(item.content, audio=b"loud")) if is_record else item


@pytest.fixture
def data(tmp_path):
    write_shards(Loud(10, rejects={4}), tmp_path / "data", config={"fit": "pad"}, units_per_shard=4)
    return tmp_path / "data"


def recode(data, out, facts=FACTS):
    asked = []

    def make(records):
        asked.append(len(records))
        return [codes_of(record) for record in records]

    counted = []
    report = write_recoded(data, out, facts, make, batch=3, on_records=counted.append)
    return report, asked, sum(counted)


def test_records_are_the_same_but_for_their_sound(data, tmp_path):
    report, asked, counted = recode(data, tmp_path / "out")
    assert (asked, counted) == ([3, 1, 3, 2], 9)
    assert report.manifest.rejected_by_cause() == {"cannot decode": 1}
    assert report.manifest.config["fit"] == "pad"
    assert report.manifest.config["codes"]["codec"] == "tiny"
    before, after = open_dataset(data), open_dataset(tmp_path / "out", verify=True)
    for index in range(9):
        one, other = before.read(index), after.read(index)
        expected = codes_of(one)
        assert np.array_equal(one.frames, other.frames)
        assert (one.key, one.words, one.events) == (other.key, other.words, other.events)
        assert one.provenance == other.provenance
        assert (one.audio, other.audio) == (b"loud", None)
        assert (other.codes is None) == (expected is None)
        if expected is not None:
            assert other.codes.codec == "tiny"
            assert np.array_equal(other.codes.values, expected.values)
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text()
    assert rejected == (data / "rejected.jsonl").read_text()


def test_a_stopped_run_goes_on_with_the_same_bytes(data, tmp_path):
    recode(data, tmp_path / "through")
    recode(data, tmp_path / "stopped")
    name = "shard-00001-of-00003"
    (tmp_path / "stopped" / "manifest.json").unlink()
    (tmp_path / "stopped" / f"{name}.arrayrecord").unlink()
    (tmp_path / "stopped" / "parts" / f"{name}.json").unlink()
    report, asked, counted = recode(data, tmp_path / "stopped")
    assert report.written == (f"{name}.arrayrecord",)
    assert (len(report.kept), asked, counted) == (2, [3], 9)
    for file in (tmp_path / "through").glob("*.*"):
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes()


def test_other_codes_other_data_and_the_data_itself_are_refused(data, tmp_path):
    recode(data, tmp_path / "out")
    with pytest.raises(ShardError, match=r"config\.codes\.codec"):
        recode(data, tmp_path / "out", {"codec": "another"})
    write_shards(Loud(6), tmp_path / "more", config={"fit": "pad"}, units_per_shard=4)
    with pytest.raises(ShardError, match=r"config\.codes\.data_sha256"):
        recode(tmp_path / "more", tmp_path / "out")
    with pytest.raises(ShardError, match="another directory"):
        recode(data, data)


def test_codes_take_the_place_of_sound_in_bytes():
    record = dataclasses.replace(make_record(3), audio=b"loud")
    codes = Codes(np.zeros((12, 2), np.int16), "tiny")
    silent = dataclasses.replace(record, audio=None)
    assert with_codes(encode_record(record), codes) == encode_record(dataclasses.replace(silent, codes=codes))
    assert with_codes(with_codes(encode_record(record), codes), None) == encode_record(silent)
    assert decode_record(with_codes(encode_record(record), codes)).codes.codec == "tiny"
    with pytest.raises(RecordError, match="11 rows of codes for 12 steps"):
        with_codes(encode_record(record), Codes(np.zeros((11, 2), np.int16), "tiny"))
