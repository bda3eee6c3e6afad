"""Codebooks are averages over the whole batch, on however many devices it lies."""

import json
import os
import subprocess
import sys

import numpy as np


def test_codebooks_move_alike_on_every_mesh(repository):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.codec.stage_on_eight"]
    done = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    one = found.pop("one")
    assert one["moments"] == []  # no optimiser moves them
    assert one["books"]["semantic/initialized"] == [1.0]
    assert one["books"]["acoustic/initialized"] == [1.0, 1.0]
    for mesh, other in found.items():
        # Sums in another order; Adam's first steps make much of little.
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-3, err_msg=mesh)
        for name, values in one["books"].items():
            np.testing.assert_allclose(other["books"][name], values, atol=2e-3, err_msg=f"{mesh} {name}")
