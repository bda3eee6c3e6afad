"""Sample k is a function of (seed, k), whatever the processes, threads and workers; and its position is saved."""

import dataclasses
import importlib
import json
from pathlib import Path

import grain
import numpy as np
import pytest

from data_pipelines.flip import flip_record
from data_pipelines.loader import JoinedSource, make_loader
from data_pipelines.schema import Word
from data_pipelines.shards import open_dataset, write_shards
from data_pipelines.sources import Item
from mmduplex_jax.clock import Clock
from tests.data_pipelines.records_in_memory import Records
from tests.data_pipelines.small_records import SmallSource


def take(loader, count):
    return [next(loader) for _ in range(count)]


def assert_same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_batch_by_value(shards, tokenizer):
    batch = next(make_loader(shards, tokenizer, batch_size=2, shuffle=False))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "frames": ((2, 6, 16, 16, 3), "uint8"),
        "slots": ((2, 12), "int32"),
        "slot_valid": ((2, 12), "bool"),
        "index": ((2,), "int64"),
    }
    assert batch["index"].tolist() == [0, 1]
    pad, word = tokenizer.pad_id, tokenizer.word_id
    # "red" at step 0, "circle" at 0.1 s (step 1) queues behind it, "left" at 0.48 s is step 6.
    assert batch["slots"][0].tolist() == [word, 0, word, 1, pad, pad, word, 3, pad, pad, pad, pad]
    assert batch["slot_valid"].all()
    np.testing.assert_array_equal(batch["frames"][1], open_dataset(shards)[1].frames)


def test_every_epoch_has_every_record_once_in_another_order(shards, tokenizer):
    indices = np.concatenate(
        [batch["index"] for batch in take(make_loader(shards, tokenizer, batch_size=5, seed=3), 6)]
    )
    epochs = [indices[begin : begin + 10].tolist() for begin in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    other = np.concatenate([batch["index"] for batch in take(make_loader(shards, tokenizer, batch_size=5, seed=4), 2)])
    assert other.tolist() != epochs[0]


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_make_the_same_batches_together(shards, tokenizer, process_count):
    arguments = {"batch_size": 4, "seed": 1, "flip": True}
    alone = take(make_loader(shards, tokenizer, **arguments), 8)
    parts = [
        take(make_loader(shards, tokenizer, process_index=index, process_count=process_count, **arguments), 8)
        for index in range(process_count)
    ]
    together = [{name: np.concatenate([part[name] for part in batch]) for name in batch[0]} for batch in zip(*parts)]
    assert_same(alone, together)


def test_threads_do_not_matter(shards, tokenizer):
    arguments = {"batch_size": 4, "seed": 1, "flip": True}
    alone = take(make_loader(shards, tokenizer, threads=0, **arguments), 10)
    assert_same(alone, take(make_loader(shards, tokenizer, threads=8, prefetch=8, **arguments), 10))


def test_worker_processes_do_not_matter(shards, tokenizer):
    arguments = {"batch_size": 4, "seed": 1, "flip": True}
    alone = take(make_loader(shards, tokenizer, **arguments), 6)
    workers = make_loader(shards, tokenizer, worker_processes=2, **arguments)
    try:
        assert_same(alone[:3], take(workers, 3))
        state = workers.get_state()
        # One worker, or none, goes on where two were.
        fewer = make_loader(shards, tokenizer, **arguments)
        fewer.set_state(state)
        assert_same(alone[3:], take(fewer, 3))
        assert_same(alone[3:], take(workers, 3))
    finally:
        workers.close()


def test_goes_on_where_it_was(shards, tokenizer):
    def make():
        return make_loader(shards, tokenizer, batch_size=4, seed=1, flip=True)

    loader = make()
    take(loader, 5)
    state = json.loads(json.dumps(loader.get_state()))
    assert state["next_batch"] == 5
    following = take(loader, 5)
    loader.set_state(state)
    assert_same(following, take(loader, 5))
    fresh = make()
    fresh.set_state(state)
    assert_same(following, take(fresh, 5))


def test_reading_ahead_does_not_move_the_position(shards, tokenizer):
    loader = make_loader(shards, tokenizer, batch_size=2, prefetch=16)
    assert loader.get_state()["next_batch"] == 0
    next(loader)
    assert loader.get_state()["next_batch"] == 1


def test_grain_saves_and_restores_it(shards, tokenizer, tmp_path):
    """Through Grain's own checkpoint handler, as Orbax calls it."""
    from grain.checkpoint import CheckpointHandler

    loader = make_loader(shards, tokenizer, batch_size=4)
    assert isinstance(loader, grain.DatasetIterator)
    take(loader, 3)
    CheckpointHandler().save(tmp_path, item=loader)
    following = take(loader, 2)
    restored = CheckpointHandler().restore(tmp_path, item=make_loader(shards, tokenizer, batch_size=4))
    assert_same(following, take(restored, 2))


def test_other_number_of_processes_goes_on_with_the_same_batches(shards, tokenizer):
    loader = make_loader(shards, tokenizer, batch_size=4, seed=1)
    take(loader, 3)
    state = loader.get_state()
    following = take(loader, 3)
    halves = [make_loader(shards, tokenizer, batch_size=4, seed=1, process_index=i, process_count=2) for i in range(2)]
    for half in halves:
        half.set_state(state)
    for batch in following:
        np.testing.assert_array_equal(np.concatenate([next(half)["index"] for half in halves]), batch["index"])


def test_position_of_another_order_is_refused(shards, tokenizer):
    state = make_loader(shards, tokenizer, batch_size=4, seed=1).get_state()
    with pytest.raises(ValueError, match="batch_size was 4, is 5; seed was 1, is 2. Set them as they were"):
        make_loader(shards, tokenizer, batch_size=5, seed=2).set_state(state)


def test_flip_is_a_function_of_seed_and_position(shards, tokenizer):
    plain = take(make_loader(shards, tokenizer, batch_size=5, seed=9), 8)
    mixed = take(make_loader(shards, tokenizer, batch_size=5, seed=9, flip=True), 8)
    dataset = open_dataset(shards)
    flipped = 0
    for one, other in zip(plain, mixed):
        np.testing.assert_array_equal(one["index"], other["index"])
        for row, index in enumerate(one["index"].tolist()):
            seen = flip_record(dataset[index]).frames
            if np.array_equal(other["frames"][row], seen):
                flipped += 1
                swapped = np.where(one["slots"][row] == 3, 4, one["slots"][row])  # left is 3, right is 4
                np.testing.assert_array_equal(other["slots"][row], swapped)
            else:
                np.testing.assert_array_equal(other["frames"][row], one["frames"][row])
                np.testing.assert_array_equal(other["slots"][row], one["slots"][row])
    assert 10 <= flipped <= 30  # of 40


class RealSpeech(SmallSource):
    """Words of people, of which nobody knows what their "left" means."""

    flip_safe = False


def flipped_rows(batches, dataset):
    return sum(
        np.array_equal(frames, flip_record(dataset[index]).frames)
        for batch in batches
        for frames, index in zip(batch["frames"], batch["index"].tolist())
    )


def test_only_data_whose_manifest_says_so_is_flipped(shards, tokenizer, tmp_path):
    write_shards(RealSpeech(), tmp_path / "real", config={}, units_per_shard=5)
    real = take(make_loader(tmp_path / "real", tokenizer, batch_size=5, seed=9, flip=None), 8)
    plain = take(make_loader(tmp_path / "real", tokenizer, batch_size=5, seed=9, flip=False), 8)
    for one, other in zip(real, plain):
        assert_same([one], [other])
    with pytest.raises(ValueError, match="real must not be flipped.*he left.*manifest does not say flip_safe"):
        make_loader(tmp_path / "real", tokenizer, batch_size=5, flip=True)
    safe = take(make_loader(shards, tokenizer, batch_size=5, seed=9, flip=None), 8)
    assert 10 <= flipped_rows(safe, open_dataset(shards)) <= 30  # of 40


def test_mixed_data_is_flipped_where_it_may_be(shards, tokenizer, tmp_path):
    write_shards(RealSpeech(), tmp_path / "real", config={}, units_per_shard=5)
    both = [shards, tmp_path / "real"]
    with pytest.raises(ValueError, match="real must not be flipped"):
        make_loader(both, tokenizer, batch_size=5, flip=True)
    mixed = [take(make_loader(both, tokenizer, batch_size=5, seed=9, flip=flip), 8) for flip in (None, False)]
    changed = [
        index
        for one, other in zip(*mixed)
        for row, index in enumerate(one["index"].tolist())
        if not np.array_equal(one["frames"][row], other["frames"][row])
    ]
    assert changed
    assert max(changed) < 10


@pytest.mark.parametrize(
    ("kind", "flip_safe"), [("world", True), ("folder", False), ("livecc", False), ("small", False)]
)
def test_of_manifests_from_before_only_the_worlds_are_flipped(shards, kind, flip_safe):
    for path in (shards / "manifest.json", shards / "parts" / "plan.json"):
        fields = json.loads(path.read_text())
        del fields["flip_safe"]
        path.write_text(json.dumps(fields | {"source": {"kind": kind}}))
    assert open_dataset(shards).flip_safe(0) is flip_safe


def test_no_config_flips_by_itself_and_full_size_configs_load_in_processes():
    for path in sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py")):
        if path.stem in ("__init__", "chain_quickstart", "shared"):
            continue
        data = importlib.import_module(f"configs.{path.stem}").get_config().data
        # (A codec's config has nothing to flip; one of a model that speaks forbids it: a flip costs a clip its sound.)
        assert not data.get("flip"), path
        if "quickstart" not in path.stem and path.stem not in ("real", "world"):
            assert data.workers >= 4, path


def test_one_pass_leaves_out_nothing_unasked(shards, tokenizer):
    arguments = {"batch_size": 4, "shuffle": False, "repeat": 1}
    with pytest.raises(ValueError, match="10 samples do not fill batches of 4.*drop_remainder"):
        make_loader(shards, tokenizer, **arguments)
    dropped = list(make_loader(shards, tokenizer, drop_remainder=True, **arguments))
    assert [batch["index"].tolist() for batch in dropped] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    filled = list(make_loader(shards, tokenizer, drop_remainder=False, **arguments))
    assert [batch["index"].tolist() for batch in filled] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    assert filled[2]["slot_valid"].any(axis=1).tolist() == [True, True, False, False]
    assert not filled[2]["frames"][2:].any()
    assert (filled[2]["slots"][2:] == tokenizer.pad_id).all()
    assert len(list(make_loader(shards, tokenizer, batch_size=5, shuffle=False, repeat=1))) == 2
    assert len(make_loader(shards, tokenizer, batch_size=5, repeat=3)) == 6


def test_end_of_the_data_stays_the_end(shards, tokenizer):
    loader = make_loader(shards, tokenizer, batch_size=5, repeat=1)
    take(loader, 2)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loader)
    state = loader.get_state()
    loader.set_state(state | {"next_batch": 1})
    assert len(list(loader)) == 1
    loader.set_state(state)
    with pytest.raises(StopIteration):
        next(loader)


def test_short_records_are_filled_up_and_marked(record, tokenizer):
    source = Records([record(0, num_ticks=3), record(1, num_ticks=6)])
    batch = next(make_loader(source, tokenizer, batch_size=2, shuffle=False, clip_s=1.28))
    assert batch["frames"].shape[1] == 8
    assert batch["slot_valid"].sum(axis=1).tolist() == [6, 12]
    assert not batch["frames"][0, 3:].any()
    assert (batch["slots"][0, 6:] == tokenizer.pad_id).all()


def test_lag_is_reported(record, tokenizer):
    busy = dataclasses.replace(record(1), words=tuple(Word("red", 0.1) for _ in range(4)))
    batch = next(make_loader(Records([record(0), busy]), tokenizer, batch_size=2, shuffle=False, with_lag=True))
    # In record 0 "circle" waits one step; in the other the fourth word waits for three of two slots each.
    assert batch["max_lag_s"].tolist() == pytest.approx([0.08, 0.48])


def test_an_unknown_word_is_not_learned(record, tokenizer):
    source = Records([dataclasses.replace(record(0), words=(Word("blue", 0.0), Word("red", 0.2)))])
    batch = next(make_loader(source, tokenizer, batch_size=1))
    assert np.flatnonzero(~batch["slot_valid"][0]).tolist() == [0, 1]
    assert batch["slots"][0, 2:4].tolist() == [tokenizer.word_id, 0]


def test_directories_are_joined_or_mixed(tmp_path, shards, small_source, tokenizer):
    second = tmp_path / "second"
    write_shards(small_source(5), second, config={}, units_per_shard=5)
    joined = make_loader([shards, second], tokenizer, batch_size=5, repeat=1, shuffle=False)
    assert [batch["index"].tolist() for batch in joined][2] == [10, 11, 12, 13, 14]
    assert joined.source.key(12) == "small/000002"
    assert JoinedSource([open_dataset(shards), open_dataset(second)]).key(9) == "small/000009"
    mixed = take(make_loader([shards, second], tokenizer, batch_size=10, weights=[1, 3]), 20)
    drawn = np.concatenate([batch["index"] for batch in mixed])
    assert (drawn >= 10).sum() == 150
    assert set(drawn.tolist()) == set(range(15))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 3, "process_count": 2}, "3 does not divide among 2"),
        ({"batch_size": 0}, "a batch of 0"),
        ({"batch_size": 2, "process_index": 1}, r"0\.\.0, got 1"),
        ({"batch_size": 2, "num_ticks": 6, "clip_s": 1.0}, "not both"),
        ({"batch_size": 2, "weights": [1.0, 2.0]}, "1 directories need as many"),
        ({"batch_size": 2, "weights": [1.0], "repeat": 1}, "repeats for ever"),
        ({"batch_size": 11, "repeat": 1, "drop_remainder": True}, "make no batch of 11"),
    ],
)
def test_contradictions_are_refused(shards, tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_loader(shards, tokenizer, **arguments)


def test_different_clocks_are_not_mixed(tmp_path, shards, small_source, tokenizer, record):
    class Other(small_source):
        clock = Clock(12.5, 1)

        def items(self, begin, end):
            for number in range(begin, end):
                content = record(number, clock=self.clock)
                yield Item(number, content.key, content)

    write_shards(Other(2), tmp_path / "other", config={}, units_per_shard=5)
    with pytest.raises(ValueError, match="different clocks"):
        make_loader([shards, tmp_path / "other"], tokenizer, batch_size=2)


def test_larger_frames_are_shrunk_and_smaller_ones_refused(shards, tokenizer, tmp_path):
    stored = open_dataset(shards)[0].frames
    batch = next(make_loader(shards, tokenizer, batch_size=1, shuffle=False, frame_px=(8, 8)))
    assert batch["frames"].shape == (1, 6, 8, 8, 3)
    areas = stored.reshape(6, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(batch["frames"][0], areas, atol=1)
    with pytest.raises(ValueError, match=r"16x16 px are smaller than the 32x32 px .*--config.frame_px=32"):
        make_loader(shards, tokenizer, batch_size=1, frame_px=(32, 32))


def test_a_source_that_only_reads_gives_the_same_batches(shards, tokenizer):
    """Of frames that are cut, flipped and shrunk: decoded whole and copied, or where they are wanted."""
    dataset = open_dataset(shards)

    class Reads(Records):
        longest_ticks, frame_px = dataset.longest_ticks, dataset.frame_px

        def __init__(self):
            self.records = [dataset[index] for index in range(len(dataset))]

    given = {"batch_size": 5, "seed": 3, "num_ticks": 4, "flip": True, "frame_px": (8, 8)}
    assert_same(take(make_loader(shards, tokenizer, **given), 4), take(make_loader(Reads(), tokenizer, **given), 4))
