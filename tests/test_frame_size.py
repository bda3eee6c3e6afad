"""One integer is a square wherever a size is read, and a pair is (height, width)."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from mmduplex_jax.frame_size import fit_of, frame_size, size_flag, size_text, whole_factor
from mmduplex_jax.stages.config_file import override


@pytest.mark.parametrize(
    ("said", "size"),
    [(64, (64, 64)), ((96,), (96, 96)), ((144, 256), (144, 256)), ([144, 256], (144, 256)), (np.int64(8), (8, 8))],
)
def test_what_a_config_a_flag_or_a_file_says(said, size):
    assert frame_size(said) == size
    assert all(type(side) is int for side in frame_size(said))


@pytest.mark.parametrize("said", ["64", 64.0, (1, 2, 3), (), True, (32, 0), -1, None])
def test_what_is_no_size_is_refused_by_name(said):
    with pytest.raises(ValueError, match=r"motion\.plane_px"):
        frame_size(said, "motion.plane_px")


@pytest.mark.parametrize("size", [(64, 64), (144, 256)])
def test_a_flag_gives_back_the_size_that_a_message_names(size):
    config = ConfigDict({"frame_px": (32, 32)})
    override(config, "frame_px", size_flag(size).strip("'"))
    assert frame_size(config.frame_px) == size


def test_people_read_the_width_first():
    assert size_text((144, 256)) == "256x144 px"


def test_a_factor_is_one_integer_in_both_directions():
    assert whole_factor((144, 256), (36, 64)) == 4
    assert whole_factor((64, 64), (64, 64)) == 1
    assert whole_factor((144, 256), (36, 32)) is None
    assert whole_factor((144, 256), (32, 64)) is None
    assert whole_factor((16, 16), (32, 32)) is None


def test_configs_that_do_not_say_their_fit_were_trained_on_crops():
    assert fit_of(ConfigDict({})) == "crop"
    assert fit_of(ConfigDict({"fit": "pad"})) == "pad"
    with pytest.raises(ValueError, match="crop, pad"):
        fit_of(ConfigDict({"fit": "stretch"}))
