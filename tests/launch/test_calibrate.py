"""`launch.calibrate`: a higher threshold spends less, the one it names keeps what was asked, misfits are named."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def shards(repository, tmp_path_factory):
    """Four clips of the plain world."""
    out = tmp_path_factory.mktemp("calibrate") / "world"
    command = [sys.executable, "-m", "launch.prepare", "--config=configs/data/world.py", f"--out={out}"]
    sizes = ["--config.clips=4", "--config.units_per_shard=4", "--config.clip_s=6.0", "--workers=1"]
    subprocess.run([*command, *sizes], cwd=repository, check=True, capture_output=True)
    return out


def calibrate(repository, *arguments):
    command = [sys.executable, "-m", "launch.calibrate", "--config=configs/quickstart.py", *map(str, arguments)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_thresholds_trade_tokens(repository, shards, tmp_path):
    done = calibrate(repository, f"--data={shards}", "--tokens_per_s=10", f"--json={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["choices"]
    thresholds, rates = [c["threshold"] for c in found], [c["flow_tokens_per_s"] for c in found]
    assert thresholds == sorted(thresholds)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    taken = next(line for line in done.stdout.splitlines() if "take this one" in line)
    assert float(taken.split()[2]) <= 10


def test_a_config_that_does_not_fit_the_data_is_named(repository, shards):
    done = calibrate(repository, f"--data={shards}", "--config.frame_px=128")
    assert done.returncode == 2
    assert "are not 128x128 px" in done.stderr
