"""The hours that the guide names are those that `launch.estimate` counts for the commands beside them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "train_it_yourself.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^python -m launch\.train (.*?)  # ([\d.]+) hours of (\w+:\d+)$", GUIDE, re.M)
# What is computed and where; not with which data and from what it begins.
COUNTED = re.compile(r"--config=\S+|--config\.(?:mesh|train|tokenizer|data\.batch_size)[\w.]*=\S+")


def test_every_training_names_its_hours():
    assert len(PROMISES) == GUIDE.count("python -m launch.train ") > 0


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "hours", "hardware"), PROMISES)
def test_the_hours_are_counted(flags, hours, hardware):
    command = [sys.executable, "-m", "launch.estimate", "--json=-", f"--hardware={hardware}", *COUNTED.findall(flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["fits"]
    assert f"{found['device_hours'] / int(hardware.split(':')[1]):.1f}" == hours
