"""Some steps of a run are recorded, where TensorBoard and Perfetto find them."""

import gzip
import json

import jax
import pytest

from mmduplex_jax.train.loop import fit
from mmduplex_jax.train.profile import steps_of
from tests.train.toy import ToyTask, make_data, toy_config


def test_which_steps():
    assert steps_of("10..12") == range(10, 13)
    assert steps_of("4") == range(4, 5)
    assert not steps_of("")
    for wrong in ("12..10", "0", "1-3", "a", "..4"):
        with pytest.raises(ValueError, match="config.profile.steps is"):
            steps_of(wrong)


def test_steps_are_recorded(tmp_path):
    told: list[str] = []
    config = toy_config()
    config.profile = {"steps": "5..7"}  # a checkpoint is written after 5
    assert fit(ToyTask(), make_data(), config, tmp_path, log=told.append).step == 20
    assert any("profile of steps 5 to 7 in" in line for line in told)
    folder = tmp_path / "tensorboard" / "plugins" / "profile"  # where TensorBoard's plugin looks
    (recorded,) = folder.glob("*/*.xplane.pb")
    numbers = set()
    for plane in jax.profiler.ProfileData.from_file(str(recorded)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == "train":
                    numbers |= {value for name, value in event.stats if name == "step_num"}
    assert numbers == {5, 6, 7}
    (for_perfetto,) = folder.glob("*/*.trace.json.gz")
    events = json.loads(gzip.decompress(for_perfetto.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "train" for event in events) == 3


def test_a_run_that_ends_before_is_recorded_as_far_as_it_goes(tmp_path):
    config = toy_config(train__stop_at_step=4)
    config.profile = {"steps": "3..9"}
    fit(ToyTask(), make_data(), config, tmp_path, log=lambda line: None)
    assert list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
    # Another recording can begin: this one has ended.
    jax.profiler.start_trace(str(tmp_path / "other"))
    jax.profiler.stop_trace()
