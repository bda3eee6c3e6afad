"""A record that cannot be read is an error, or, where that is asked for, a sample in which nothing is valid."""

import numpy as np
import pytest

from data_pipelines import images
from data_pipelines.loader import make_loader
from data_pipelines.manifest import ShardError
from data_pipelines.samples import CORRUPT, corrupt_records, is_corrupt
from data_pipelines.shards import write_shards
from mmduplex_jax.evals.clips import shard_records
from tests.data_pipelines.small_records import SmallSource

BAD = 4


@pytest.fixture
def damaged(shards):
    """The directory of 10 records, with a flipped bit in number 4 and its shard's length as it was."""
    path = shards / "shard-00001-of-00004.arrayrecord"
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"small/000004") + 60] ^= 1
    path.write_bytes(blob)
    return shards


def test_it_is_an_error_unless_it_is_to_be_marked(damaged, tokenizer):
    loader = make_loader(damaged, tokenizer, batch_size=5, shuffle=False, repeat=1)
    with pytest.raises(ShardError, match=r"shard-00001-of-00004.arrayrecord, record 1 of 3 \(number 4 of the dataset"):
        list(loader)


def test_a_marked_one_says_nothing_and_replaces_nothing(shards, damaged, tokenizer):
    loader = make_loader(
        damaged, tokenizer, batch_size=5, shuffle=False, repeat=1, mark_corrupt=True, with_lag=True, flip=True
    )
    first, second = list(loader)
    assert first["index"].tolist() == [0, 1, 2, 3, CORRUPT - BAD]
    assert second["index"].tolist() == [5, 6, 7, 8, 9]
    assert is_corrupt(first["index"]).tolist() == [False, False, False, False, True]
    assert corrupt_records(first["index"]) == [BAD]
    assert corrupt_records(np.array([-1, 0, CORRUPT])) == [0]
    assert not first["slot_valid"][4].any()
    assert not first["frames"][4].any()
    assert (first["slots"][4] == tokenizer.pad_id).all()
    assert first["max_lag_s"][4] == 0
    assert first["slot_valid"][:4].all()


def test_it_is_counted_in_every_epoch_and_the_position_goes_on(damaged, tokenizer):
    loader = make_loader(damaged, tokenizer, batch_size=5, seed=2, mark_corrupt=True)
    indices = np.concatenate([next(loader)["index"] for _ in range(6)])
    assert corrupt_records(indices) == [BAD] * 3
    assert sorted(np.where(indices == CORRUPT - BAD, BAD, indices)[:10].tolist()) == list(range(10))


def test_the_first_record_may_be_the_bad_one(shards, tokenizer):
    """What fills the last batch needs no record to be like."""
    path = shards / "shard-00000-of-00004.arrayrecord"
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"small/000000") + 60] ^= 1
    path.write_bytes(blob)
    batches = list(
        make_loader(shards, tokenizer, batch_size=4, shuffle=False, repeat=1, mark_corrupt=True, drop_remainder=False)
    )
    assert batches[0]["index"].tolist() == [CORRUPT, 1, 2, 3]
    assert batches[2]["index"].tolist() == [8, 9, -1, -1]


def test_trouble_says_where(damaged, tokenizer):
    loader = make_loader(damaged, tokenizer, batch_size=5, mark_corrupt=True)
    assert "shard-00001-of-00004.arrayrecord, record 1 of 3 (number 4 of the dataset)" in loader.trouble(BAD)
    assert "record 5 (small/000005) could not be read, but can be now" in loader.trouble(5)


def test_an_evaluation_does_not_pass_over_it(damaged):
    number, records = shard_records(damaged, seed=0, clips=99)
    assert number == 10
    with pytest.raises(ShardError, match="record 1 of 3"):
        list(records)


def test_a_picture_in_a_whole_record_may_be_the_bad_one(tmp_path, tokenizer, monkeypatch):
    encode, written = images._encode_picture, []

    def encode_but_one(*arguments):
        written.append(encode(*arguments))
        return written[-1][: 40 if len(written) == BAD + 1 else None]

    monkeypatch.setattr(images, "_encode_picture", encode_but_one)
    write_shards(SmallSource(), tmp_path / "shards", config={}, units_per_shard=3)
    given = {"batch_size": 5, "shuffle": False, "repeat": 1}
    with pytest.raises(
        ShardError, match=r"record 1 of 3 \(number 4 of the dataset\): small/000004: sheet 0 \(40 bytes\)"
    ):
        list(make_loader(tmp_path / "shards", tokenizer, **given))
    first, second = list(make_loader(tmp_path / "shards", tokenizer, mark_corrupt=True, **given))
    assert first["index"].tolist() == [0, 1, 2, 3, CORRUPT - BAD]
    assert [bool(frames.any()) for frames in first["frames"]] == [True, True, True, True, False]
    assert not first["slot_valid"][4].any()
    assert second["frames"].any(axis=(1, 2, 3, 4)).all()
