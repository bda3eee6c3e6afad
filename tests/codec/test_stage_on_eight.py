"""Codebooks are averages over the whole batch, on however many devices it lies."""

import numpy as np


def test_codebooks_move_alike_on_every_mesh(eight_devices):
    found = eight_devices.run("tests.codec.stage_on_eight")
    one = found.pop("one")
    assert one["moments"] == []  # no optimiser moves them
    assert one["books"]["semantic/initialized"] == [1.0]
    assert one["books"]["acoustic/initialized"] == [1.0, 1.0]
    for mesh, other in found.items():
        # Sums in another order; Adam's first steps make much of little.
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-3, err_msg=mesh)
        for name, values in one["books"].items():
            np.testing.assert_allclose(other["books"][name], values, atol=2e-3, err_msg=f"{mesh} {name}")
