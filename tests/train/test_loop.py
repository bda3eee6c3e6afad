"""A run as a whole: what it writes, and how it stops when something is wrong."""

import json

import numpy as np
import pytest

from mmduplex_jax.train.feed import DataError
from mmduplex_jax.train.loop import NonFiniteError, fit
from mmduplex_jax.weights.checkpoint import load_params
from tests.train.toy import PoisonedTask, ToyTask, make_data, record, toy_config


def poisoned(index: int) -> dict[str, np.ndarray]:
    item = record(index)
    if index == 17:
        item["frames"][0, 0, 0] = 255, 254, 253
    return item


def test_it_learns_and_writes_what_it_did(tmp_path):
    told: list[str] = []
    config = toy_config(train__steps=60, train__log_every=10)
    outcome = fit(ToyTask(), make_data(), config, tmp_path, tokenizer_json="{}", log=told.append)
    assert (outcome.step, outcome.preempted, outcome.exit_code) == (60, False, 0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]
    wanted = {"loss", "error", "grad_norm", "learning_rate", "tokens", "steps_per_s", "tokens_per_s", "video_s_per_s"}
    assert wanted | {"mfu", "data_wait", "eta_s"} <= set(rows[0])
    assert rows[0]["tokens"] == 40
    assert rows[0]["video_s_per_s"] == pytest.approx(rows[0]["steps_per_s"] * 8 * 0.8)
    assert list((tmp_path / "tensorboard").iterdir())
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(config.to_json())
    params, metadata = load_params(tmp_path)
    assert metadata["config"] == json.loads(config.to_json())
    assert metadata["tokenizer_json"] == "{}"
    assert metadata["parameters"] == sum(leaf.size for leaf in [*params["embed"].values()]) + 8192 + 2 + 64 + 32
    assert any("steps/s" in line and "mfu" in line and "eta" in line for line in told)
    assert any("total: 9,858 parameters" in line for line in told)


def test_a_batch_that_is_not_finite_is_named_and_never_saved(tmp_path):
    data = make_data(make_record=poisoned)
    order = [next(make_iterator)["index"] for make_iterator in [make_data(make_record=poisoned)] for _ in range(8)]
    bad_step = next(step for step, index in enumerate(order, start=1) if 17 in index)
    with pytest.raises(NonFiniteError) as error:
        fit(
            PoisonedTask(),
            data,
            toy_config(train__checkpoint_every=1),
            tmp_path,
            record_key=lambda index: f"clip-{index:03d}",
            log=lambda line: None,
        )
    assert f"step {bad_step}: loss nan" in str(error.value)
    assert "17 (clip-017)" in str(error.value)
    assert all(f"clip-{index:03d}" in str(error.value) for index in order[bad_step - 1])
    if bad_step > 1:
        assert load_params(tmp_path)[1]["step"] == bad_step - 1


def test_a_batch_of_another_shape_says_which(tmp_path):
    data = make_data(make_record=lambda index: {**record(index), "frames": np.zeros((9, 4, 4, 3), np.uint8)})
    with pytest.raises(DataError, match=r"batch\['frames'\] is uint8\[8, 9, 4, 4, 3\] and the task takes uint8\[8, 5"):
        fit(ToyTask(), data, toy_config(), tmp_path, log=lambda line: None)


def test_a_missing_array_says_which(tmp_path):
    data = make_data(make_record=lambda index: {"frames": record(index)["frames"]})
    with pytest.raises(DataError, match="the task takes 'slot_valid' and the loader gives only"):
        fit(ToyTask(), data, toy_config(), tmp_path, log=lambda line: None)


def test_data_that_end_say_so(tmp_path):
    import grain

    data = iter(grain.MapDataset.range(16).map(record).batch(8).to_iter_dataset())
    with pytest.raises(DataError, match="ended before the last step"):
        fit(ToyTask(), data, toy_config(), tmp_path, log=lambda line: None)


def test_an_error_of_the_loader_comes_through(tmp_path):
    def broken(index: int):
        raise OSError(f"shard 3, record {index} is corrupted")

    with pytest.raises(OSError, match="shard 3, record"):
        fit(ToyTask(), make_data(make_record=broken), toy_config(), tmp_path, log=lambda line: None)
