"""`config.init_from.crops`, and `.vision` with a convolutional tower: imported towers of any kind in a tokenizer."""

import dataclasses
import re

import numpy as np
import pytest

from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.weights.checkpoint import write_weights
from mmduplex_jax.weights.huggingface.source import LAYOUT_VERSION
from mmduplex_jax.weights.init_from import InitFromError
from tests.launch import imported
from tests.launch.conftest import small_config
from tests.launch.test_init_from import started

CROPS, ANCHORS = "tokenizer/crops/tower/", "tokenizer/anchors/tower/"
STAGES = ((1, 3, 1, 1, 4), (1, 3, 2, 2, 6))
LITE = EfficientNetLiteConfig(stages=STAGES, stem=4, head=8)


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """A folder of imported weights with a small convolutional tower, and its arrays."""
    folder, arrays = tmp_path_factory.mktemp("lite") / "weights", imported.random_arrays(LITE)
    metadata = {
        "layout_version": LAYOUT_VERSION,
        "kind": "vision",
        "family": LITE.kind,
        "architecture": dataclasses.asdict(LITE),
        "tokenizer_json": None,
        "preprocessing": dataclasses.asdict(Preprocessing(mean=LITE.mean, std=LITE.std, scale=1 / 255)),
    }
    write_weights(folder, arrays.items(), metadata)
    return folder, arrays


def lite_config(**tower):
    """A duplex whose crops have the small convolutional tower."""
    config = small_config()
    with config.unlocked():
        config.tokenizer.flow.tower = dict(kind="efficientnet_lite", stages=STAGES, stem=4, head=8, **tower)
        config.init_from.crops = ""
    return config


@pytest.mark.parametrize("output", ["head", "stage_1"])
def test_crops_are_looked_at_by_the_imported_tower(lite, output):
    """Of which layers behind the map that is asked for are left."""
    folder, arrays = lite
    config = lite_config(output=output)
    config.init_from.crops = str(folder)
    params, told = started(config)
    taken = {name: params[CROPS + name] for name in arrays if CROPS + name in params}
    assert len(taken) == len(arrays) if output == "head" else 0 < len(taken) < len(arrays)
    for name, value in taken.items():
        np.testing.assert_array_equal(value, arrays[name])
    assert (params[ANCHORS + "patch/kernel"] == 7.0).all()  # anchors began anew
    assert any(line.startswith(f"init_from crops: taken from {folder}") for line in told)


def test_each_tower_has_its_own_folder(lite, tmp_path):
    config = lite_config()
    config.tokenizer.anchor.tower.update(width=24, layers=2, heads=2, hidden=40)
    siglip = imported.import_tower(imported.siglip(), tmp_path)
    config.init_from.update(crops=str(lite[0]), vision=str(siglip))
    params, _ = started(config)
    np.testing.assert_array_equal(params[CROPS + "stem/kernel"], lite[1]["stem/kernel"])
    assert not (params[ANCHORS + "patch/kernel"] == 7.0).any()
    config.init_from.crops = ""  # one folder for all towers, of which it fits one only
    said = "its tower is of kind 'vit', that of tokenizer/crops/tower/ is 'efficientnet_lite'"
    with pytest.raises(InitFromError, match=re.escape(said)):
        started(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: delattr(c.tokenizer.flow, "tower"),
            "this stage has no tower for crops (config.tokenizer.flow.tower)",
        ),
        (lambda c: c.tokenizer.flow.tower.update(stem=6), "stem is 4, the model's is 6: set config.tokenizer.flow"),
        (lambda c: c.tokenizer.flow.update(mean=(0.0, 0.0, 0.0)), "mean of its pixels is (0.4980392"),
    ],
)
def test_what_does_not_fit_is_named(lite, change, said):
    config = lite_config()
    config.init_from.crops = str(lite[0])
    with config.unlocked():
        change(config)
    with pytest.raises(InitFromError, match=re.escape(said)):
        started(config)
