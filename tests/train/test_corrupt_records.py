"""Records that cannot be read in the middle of a run: named, counted, left out, and no more of them than allowed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.loader import make_loader
from data_pipelines.samples import CORRUPT
from data_pipelines.schema import Record
from data_pipelines.shards import ImageFormat, write_shards
from data_pipelines.sources import Item
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.loop import CorruptRecordsError, NonFiniteError, fit
from mmduplex_jax.weights.checkpoint import load_params
from tests import tiny
from tests.train.test_resume import assert_same_end, lines
from tests.train.test_step import one_step
from tests.train.toy import FRAMES, PoisonedTask, ToyTask, make_data, record, toy_config

BAD = 17  # one of the toy's 64 records: a batch of 8 meets it once in eight steps


def with_bad_record(index: int) -> dict[str, np.ndarray]:
    item = record(index)
    if index == BAD:
        item = {name: np.zeros_like(array) for name, array in item.items()} | {"index": np.int64(CORRUPT - BAD)}
    return item


def train(workdir, told=None, make_record=with_bad_record, **changes):
    config = toy_config(**changes)
    log = (lambda line: None) if told is None else told.append
    trouble = lambda index: f"shard 3, record {index} is damaged"
    return fit(ToyTask(), make_data(make_record=make_record), config, workdir, record_trouble=trouble, log=log)


def met_at() -> list[int]:
    """The steps, of 20, that meet the bad record."""
    data = make_data(make_record=with_bad_record)
    return [step for step in range(1, 21) if (next(data)["index"] <= CORRUPT).any()]


def test_it_is_named_counted_and_left_out(tmp_path):
    steps = met_at()
    assert len(steps) == 2
    told: list[str] = []
    assert train(tmp_path, told, train__log_every=1).step == 20
    assert [row["corrupt_records"] for row in lines(tmp_path)] == [
        sum(met <= step for met in steps) for step in range(1, 21)
    ]
    named = [line for line in told if "corrupt record" in line]
    assert named == [
        f"step {step}: left out a corrupt record ({number} of at most 2 so far): shard 3, record {BAD} is damaged"
        for number, step in enumerate(steps, start=1)
    ]


def test_too_many_are_a_stop_and_the_run_can_go_on(tmp_path):
    first, second = met_at()
    with pytest.raises(CorruptRecordsError) as error:
        train(tmp_path, data__corrupt_records_max=1, train__checkpoint_every=1)
    message = str(error.value)
    assert f"step {second}: 2 samples could not be read, config.data.corrupt_records_max allows 1" in message
    assert f"shard 3, record {BAD} is damaged" in message
    assert f"Newest checkpoint: step {second - 1}" in message
    assert load_params(tmp_path)[1]["step"] == second - 1
    # The same again stops again, at the same step: the count is in the checkpoint.
    with pytest.raises(CorruptRecordsError, match=f"step {second}: 2 samples"):
        train(tmp_path, data__corrupt_records_max=1, train__checkpoint_every=1)
    # The limit may be raised; or the record repaired, which ends with the count of what was left out before.
    assert train(tmp_path, make_record=record, data__corrupt_records_max=1).step == 20
    assert lines(tmp_path)[-1]["corrupt_records"] == 1
    assert first < second


def test_none_allowed_is_a_stop_at_the_first(tmp_path):
    with pytest.raises(CorruptRecordsError, match="1 samples could not be read"):
        train(tmp_path, data__corrupt_records_max=0)


def test_a_stopped_run_ends_like_one_that_never_was(tmp_path):
    train(tmp_path / "straight")
    for stop_at_step in (met_at()[0], met_at()[0] + 1, 0):
        train(tmp_path / "stopped", train__stop_at_step=stop_at_step)
    assert_same_end(tmp_path / "stopped", tmp_path / "straight", 20)


def test_corrupt_records_are_not_asked_for_their_names(tmp_path):
    def poisoned(index):
        item = with_bad_record(index)
        if index == BAD + 1:
            item["frames"][0, 0, 0] = 255, 254, 253
        return item

    def key(index):
        if index < 0:
            raise IndexError(index)
        return f"clip-{index:03d}"

    # 64 records in one batch: both of them are in it.
    data = make_data(batch_size=64, make_record=poisoned)
    with pytest.raises(NonFiniteError, match="clip-018"):
        fit(PoisonedTask(), data, toy_config(data__batch_size=64), tmp_path, record_key=key, log=lambda line: None)


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_a_batch_in_which_nothing_is_valid_is_worth_nothing(grad_accum):
    batch = next(make_data())
    batch = {name: np.zeros_like(array) for name, array in batch.items()}
    _, after, metrics = one_step(ToyTask(), batch, train__grad_accum=grad_accum)
    assert (metrics["loss"], metrics["grad_norm"], metrics["finite"]) == (0, 0, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_the_models_own_loss_of_nothing_is_nothing():
    # The tokenizer that compiles fastest; what is asked is what the loss does with slots of which none is valid.
    shallow = tiny.dual_stream(
        kind="per_frame",
        future_word_head=True,
        video=dataclasses.replace(tiny.dual_stream().video, layers=1),
        text=dataclasses.replace(tiny.dual_stream().text, layers=1, cross_every=1),
    )
    task = DuplexTask(shallow, 4, 0, 4, 0.3, 0.25, future_word_weight=0.3)
    params = tiny.random_params(task.init)
    example = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in task.example_batch(2).items()}
    example["slots"] += tiny.PAD
    (loss, metrics), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, example, jax.random.key(0))
    assert loss == 0
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads))


class Clips:
    """64 clips of the toy's shape."""

    clock = Clock(12.5, 1)
    flip_safe = True

    def __len__(self):
        return 64

    def describe(self):
        return {"kind": "toy"}

    def items(self, begin, end):
        for number in range(begin, end):
            frames = np.random.default_rng(number).integers(0, 250, FRAMES, np.uint8)
            yield Item(number, f"toy/{number:03d}", Record(f"toy/{number:03d}", frames, self.clock))


@pytest.mark.parametrize("worker_processes", [0, 2])
def test_a_damaged_shard(tmp_path, worker_processes):
    """All the way: bytes on disk change, the loader marks the record, the run names it and goes on."""
    shards = tmp_path / "shards"
    write_shards(Clips(), shards, config={}, units_per_shard=20, image=ImageFormat("png"))
    bad = shards / "shard-00000-of-00004.arrayrecord"
    blob = bytearray(bad.read_bytes())
    at = blob.index(b"toy/017") + 60
    blob[at] ^= 0x10
    bad.write_bytes(blob)
    data = make_loader(
        shards,
        TextTokenizer.word_level(["red"]),
        batch_size=8,
        seed=1,
        mark_corrupt=True,
        worker_processes=worker_processes,
    )
    told: list[str] = []
    try:
        fit(
            ToyTask(),
            data,
            toy_config(train__stop_at_step=8, train__log_every=8),
            tmp_path / "run",
            record_key=data.source.key,
            record_trouble=data.trouble,
            log=told.append,
        )
    finally:
        data.close()
    (named,) = [line for line in told if "corrupt record" in line]
    assert f"{bad}, record 17 of 20 (number 17 of the dataset)" in named
    assert "python -m launch.prepare" in named
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert row["corrupt_records"] == 1
    assert jnp.isfinite(row["loss"])
