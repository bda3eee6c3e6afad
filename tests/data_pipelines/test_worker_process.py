"""Freed memory is kept: a second large array takes no new pages from the system."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from data_pipelines.worker_process import tune_malloc
if sys.argv[1] == "kept" and not tune_malloc():
    sys.exit(3)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.full(40_000_000, 1, np.uint8)
before = faults()
for _ in range(20):
    np.full(40_000_000, 1, np.uint8)
print(faults() - before)
"""


def faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_pages_of_freed_arrays_are_used_again():
    kept = faults("kept")
    assert kept < 100
    assert kept < faults("given back")
