"""Costs by hand, from the command line, and the sheet in the docs."""

import json
import math
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import clip_quickstart, quickstart
from launch import estimate
from mmduplex_jax.planning import cost, sheets
from mmduplex_jax.planning.devices import DEVICES, named
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.trained import load_tokenizer

SHEET = Path("docs/cost.md")


def task_of(config):
    """The task of a config."""
    return build_task(config, load_tokenizer(config))


@pytest.fixture(scope="module")
def pairs() -> dict:
    """The report of the small CLIP on a 4090."""
    return estimate.report(clip_quickstart.get_config(), "4090:2", 0.5, 1.5)


def test_time_and_money_by_hand(pairs: dict):
    c = clip_quickstart.get_config()
    flops = pairs["flops_per_step"]
    assert flops == sum(pairs["flops_by_module"].values()) > 0
    assert set(pairs["flops_by_module"]) == {"vision", "text", "time_pool", "loss"}
    step_s = flops / (0.5 * 165.2e12 * 2)
    assert pairs["days"] == pytest.approx(c.train.steps * step_s / 86_400)
    assert pairs["device_hours"] == pytest.approx(2 * c.train.steps * step_s / 3600)
    assert pairs["cost"] == pytest.approx(1.5 * pairs["device_hours"])
    assert pairs["price_source"] == "--price"


def test_memory_by_hand(pairs: dict):
    memory, parameters = pairs["memory_bytes_per_device"], pairs["parameters"]
    assert memory["parameters"] == memory["gradients"] == 4 * parameters  # float32
    # Two moments, and the steps that the optimiser and its schedule count.
    assert memory["optimizer"] == 8 * parameters + 2 * 4
    c = clip_quickstart.get_config()
    rows = c.data.batch_size // 2
    assert memory["batch"] == rows * (c.time.frames * math.prod(c.frame_px) * 3 + c.text.length * 5)
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    assert pairs["checkpoint_bytes"] == memory["parameters"] + memory["optimizer"] + 4
    assert pairs["fits"] is True


def test_data_by_hand(pairs: dict):
    c, data = clip_quickstart.get_config(), pairs["data"]
    assert data["samples"] == c.train.steps * c.data.batch_size
    assert data["video_hours"] == pytest.approx(data["samples"] * c.data.clip_s / 3600)
    assert data["prepare_core_hours"] == pytest.approx(data["video_hours"] * 4 / 78)
    assert data["stored_bytes"] == pytest.approx(data["video_hours"] * 382e6 / 16)  # 64 px of 256
    assert data["text_tokens"] == data["samples"] * c.text.length


def pictures() -> ConfigDict:
    """The small CLIP without its transformer over time, which takes long to trace."""
    c = clip_quickstart.get_config()
    c.time.pool = "mean"
    return c


def test_fsdp_spreads_parameters_and_moments_and_fewer_rows_need_less():
    c = pictures()
    task = task_of(c)
    whole = cost.memory(task, c, 1)
    c.mesh.fsdp = 4
    spread = cost.memory(task, c, 4)
    # What is not split: norms, gates, tables of positions.
    assert 0.25 <= spread.parameters / whole.parameters < 0.3
    assert 0.25 <= spread.optimizer / whole.optimizer < 0.3
    assert spread.batch == whole.batch // 4
    assert spread.activations < 0.5 * whole.activations


def test_remat_takes_less_memory():
    c = pictures()
    c.vision.layers = 4
    deep = cost.memory(task_of(c), c, 1)
    c.vision.remat = True
    assert cost.memory(task_of(c), c, 1).activations < 0.6 * deep.activations


def test_rows_in_a_device_grow_with_its_memory():
    line = cost.RowCost(fixed_bytes=1e9, row_bytes=0.5e9)
    assert line.rows_in(named("4090")) == 41  # 0.9 x 24 GB, less 1, halves of a GB
    assert cost.RowCost(fixed_bytes=30e9, row_bytes=1e9).rows_in(named("4090")) == 0


def test_every_price_says_whose_and_of_when():
    priced = [device for device in DEVICES if device.price]
    assert {device.name for device in priced} >= {"h100", "h200", "4090", "5090", "v5e", "v6e"}
    for device in priced:
        assert device.price is not None
        assert re.search(r"20\d\d", device.price.source), device.name


@pytest.mark.parametrize(
    ("hardware", "mfu", "said"),
    [
        ("h100:none", 0.4, "behind the colon"),
        ("abacus", 0.4, "no hardware 'abacus'; there are 4090, 5090"),
        ("h100", 0.0, "mfu is a share"),
        ("h100:5", 0.4, "must be a multiple"),
    ],
)
def test_what_does_not_fit_is_named(hardware: str, mfu: float, said: str):
    with pytest.raises(ValueError, match=said):
        estimate.report(clip_quickstart.get_config(), hardware, mfu, None)


def test_the_command_prints_a_table_and_json(repository: Path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    flags = ["--config=configs/clip_quickstart.py", "--hardware=v5e:4"]
    assert estimate.main([*flags, "--config.mesh.fsdp=4", "--config.data.batch_size=32", "--json=-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"flops_per_step", "mfu", "device_hours", "days", "cost", "memory_bytes_per_device"} <= found.keys()
    assert found["hardware"] == "v5e:4"
    lines = sheets.run_table(found)
    assert "device-hours" in lines
    assert "fits" in lines


def test_a_duplex_says_what_a_stream_costs():
    c = quickstart.get_config()
    task = task_of(c)
    found = cost.stream_cost(task, c)
    assert found is not None
    assert found.step_s_least(named("h100")) == pytest.approx(4 * count(abstract_params(task)) / 3.35e12)
    # At the budget's most: an anchor every two seconds, 6.25 ticks and 12.5 steps a second.
    parts = cost.live_step_flops(task)
    by_hand = parts["anchor"] / 2.08 + 6.25 * parts["tick"] + 12.5 * parts["text"]
    assert found.flops_per_s == pytest.approx(by_hand)


@pytest.fixture(scope="module")
def stages() -> list[sheets.Stage]:
    """The full-size chain, traced."""
    return sheets.chain({name: load_config(f"configs/{name}.py") for name in estimate.CHAIN})


def test_the_sheet_s_data_and_prices_are_up_to_date(repository: Path):
    page = (repository / SHEET).read_text(encoding="utf-8")
    for part in (sheets.data(), sheets.sources()):
        assert part in page, f"write {SHEET} anew: python -m launch.estimate --sheet={SHEET}"


@pytest.mark.slow
def test_all_the_sheet_s_counts_are_up_to_date(repository: Path, stages: list[sheets.Stage]):
    page = (repository / SHEET).read_text(encoding="utf-8")
    for part in sheets.counted(stages):
        assert part in page, f"write {SHEET} anew: python -m launch.estimate --sheet={SHEET}"


@pytest.mark.slow
def test_the_sheet_s_voice_is_up_to_date(repository: Path):
    (speaking,) = sheets.chain({estimate.SPEAKING: load_config(f"configs/{estimate.SPEAKING}.py")})
    page = (repository / SHEET).read_text(encoding="utf-8")
    assert sheets.voice(speaking) in page, f"write {SHEET} anew: python -m launch.estimate --sheet={SHEET}"


@pytest.mark.slow
def test_the_sheet_s_memory_is_up_to_date(repository: Path, stages: list[sheets.Stage]):
    page = (repository / SHEET).read_text(encoding="utf-8")
    number = re.compile(r"\d[\d,]*")
    made = sheets.memory(stages)
    kept = page[page.index("## Memory") :].partition("\n\n")[2].rstrip("\n")
    assert number.sub("#", kept) == number.sub("#", made), "write the sheet anew"
    values = [[int(value.replace(",", "")) for value in number.findall(text)] for text in (kept, made)]
    # Versions of jax trace a little differently, and figures are rounded.
    assert values[0] == pytest.approx(values[1], rel=0.05, abs=1)


def test_stored_bytes_follow_the_pixels():
    assert cost.stored_bytes(2.0, 128) == pytest.approx(2 * 382e6 / 4)
