"""What a run begins with instead of random numbers (`fit`'s `start`)."""

import jax
import numpy as np
import pytest

from mmduplex_jax.train.loop import fit
from mmduplex_jax.weights.checkpoint import load_params
from tests.train.toy import ToyTask, make_data, toy_config


def test_it_replaces_the_first_parameters_and_is_not_asked_again(tmp_path):
    asked, given = [], []

    def start(target):
        asked.append({name: leaf.shape for name, leaf in target.items() if not isinstance(leaf, dict)})

        def replaced(params):
            given.append(jax.device_get(params))
            return {**params, "gate": jax.device_put(np.full((2, 1), 7.0, np.float32), params["gate"].sharding)}

        return replaced

    told: list[str] = []
    # The first step of a warm-up has a learning rate of 0: what is saved is what the run began with.
    config = toy_config(train__stop_at_step=1)
    fit(ToyTask(), make_data(), config, tmp_path, start=start, log=told.append)
    assert asked == [{"stack": (2, 32, 64), "down": (2, 64, 32), "gate": (2, 1)}]
    params, _ = load_params(tmp_path)
    np.testing.assert_array_equal(params["gate"], np.full((2, 1), 7.0))
    np.testing.assert_array_equal(params["stack"], given[0]["stack"])
    fit(ToyTask(), make_data(), toy_config(train__stop_at_step=2), tmp_path, start=start, log=print)
    assert len(asked) == len(given) == 1
    # Adam's steps are as long as the learning rate, a hundredth at most.
    np.testing.assert_allclose(load_params(tmp_path)[0]["gate"], np.full((2, 1), 7.0), atol=0.02)


def test_what_does_not_fit_is_told_before_anything_is_compiled(tmp_path):
    def start(target):
        raise ValueError("does not fit")

    told: list[str] = []
    with pytest.raises(ValueError, match="does not fit"):
        fit(ToyTask(), make_data(), toy_config(), tmp_path, start=start, log=told.append)
    assert not any("compiled" in line for line in told)
