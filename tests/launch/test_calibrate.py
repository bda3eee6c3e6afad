"""`launch.calibrate`: a higher threshold spends less, the one it names keeps what was asked, misfits are named."""

import json

import pytest

from data_pipelines.shards import write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from launch.calibrate import main

CONFIG = "--config=configs/quickstart.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four clips of the plain world."""
    folder = tmp_path_factory.mktemp("calibrate")
    write_shards(WorldSource(WorldConfig(clip_s=6.0), 0, 4), folder, config={}, units_per_shard=4)
    return folder


def test_thresholds_trade_tokens(repository, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main([CONFIG, f"--data={shards}", "--tokens_per_s=10", f"--json={tmp_path / 'out.json'}"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["choices"]
    thresholds, rates = [c["threshold"] for c in found], [c["flow_tokens_per_s"] for c in found]
    assert thresholds == sorted(thresholds)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    taken = next(line for line in capsys.readouterr().out.splitlines() if "take this one" in line)
    assert float(taken.split()[2]) <= 10


def test_a_config_that_does_not_fit_the_data_is_named(repository, shards, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main([CONFIG, f"--data={shards}", "--config.frame_px=128"]) == 2
    assert "are not 128x128 px" in capsys.readouterr().err
