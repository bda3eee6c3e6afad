"""`config.init_from`: what is named, what is told, and that parameters come to lie where the mesh has them."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights.checkpoint import read_weights
from mmduplex_jax.weights.init_from import InitFromError, make_start
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests.launch import imported
from tests.launch.conftest import small_config


def started(config, log=None):
    """What the run of a config begins with, of sevens; and what was told."""
    told: list[str] = []
    task = build_task(config, load_tokenizer(config))
    target = nn.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    fill = make_start(config, task, load_tokenizer(config), told.append)(target)
    blank = jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 7, np.float32)), target)
    return {name: np.asarray(leaf) for name, leaf in flatten(fill(blank)).items()}, told


def tower_config():
    """A duplex whose anchors have the tower of `imported.siglip()`."""
    config = small_config()
    config.tokenizer.anchor.tower.update(width=24, layers=2, heads=2, hidden=40)
    return config


def test_without_a_folder_a_run_begins_with_random_numbers():
    config = small_config()
    assert make_start(config, build_task(config, load_tokenizer(config)), load_tokenizer(config), print) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(text="", vision="", strict=True), r"lacks \['tokenizer'\] and has \[\]"),
        (
            dict(text="", vision="", tokenizer="", audio="", strict=True),
            r"lacks \[\] and has \['audio'\], which nobody",
        ),
    ],
)
def test_a_config_of_other_code_says_what_to_write(fields, said):
    config = small_config()
    config.init_from = fields
    with pytest.raises(InitFromError, match=said + r".*write c\.init_from = config_dict\.create\(text="):
        make_start(config, None, None, print)


def test_a_config_without_the_field_says_what_to_write():
    config = small_config()
    del config.init_from
    with pytest.raises(InitFromError, match=r"lacks \['strict', 'text', 'tokenizer', 'vision'\]"):
        make_start(config, None, None, print)


@pytest.mark.parametrize("part", ["text", "vision", "tokenizer"])
def test_a_folder_that_holds_nothing_is_told(part, tmp_path):
    config = small_config()
    config.init_from[part] = str(tmp_path)
    with pytest.raises(InitFromError, match="holds neither imported weights .* nor a training"):
        started(config)


def test_two_parts_and_what_they_leave_are_told(tmp_path, portable_dir):
    config = tower_config()
    config.init_from.update(
        text=str(portable_dir), vision=str(imported.import_tower(imported.siglip(), tmp_path / "tower"))
    )
    params, told = started(config)
    lines = "\n".join(told)
    assert re.search(r"text: taken from .*: embedding \(1\), text/group_\*/block_\*/attention ", lines)
    assert "text: made zero, so that it computes what it did: delays" in lines
    assert re.search(r"text: left: .*delays \(1\).*text/group_\*/block_\*/cross .*tokenizer \(\d+\)", lines)
    assert re.search(r"vision: taken from .*: tokenizer/anchors/tower \(\d+\)$", lines, re.MULTILINE)
    assert re.search(r"vision: left: pool \(\d+\)$", lines, re.MULTILINE)
    (made,) = [line for line in told if line.startswith("init_from made anew: ")]
    assert "embedding" not in made
    assert "tokenizer/anchors/tower" not in made
    for name in ("tokenizer/anchors/queries", "tokenizer/flows", "video", "text/group_*/block_*/cross"):
        assert name in made
    arrays = flatten(read_weights(config.init_from.vision)[0])
    np.testing.assert_array_equal(params["tokenizer/anchors/tower/position"], arrays["position"])
    assert (params["tokenizer/anchors/queries"] == 7).all()
    assert not params["delays"].any()


def test_what_does_not_fit_is_one_error_for_all_parts(tmp_path, portable_dir):
    config = tower_config()
    config.text.hidden = 96
    config.tokenizer.anchor.tower.layers = 1
    config.init_from.update(
        text=str(portable_dir), vision=str(imported.import_tower(imported.siglip(), tmp_path / "tower"))
    )
    with pytest.raises(InitFromError) as error:
        started(config)
    said = str(error.value)
    assert "text: hidden is 64, the model's is 96: set config.text.hidden=64" in said
    assert "vision: layers is 2, the model's is 1: set config.tokenizer.anchor.tower.layers=2" in said
    assert "vision: the model has no place for its encoder/block_1/mlp/up/kernel" in said
    config.init_from.strict = False
    params, told = started(config)
    assert any("text: hidden is 64" in line for line in told)
    assert (params["text/group_0/block_0/mlp/up/kernel"] == 7).all()  # misshapen: made
    assert not (params["text/group_0/block_0/attention/key/kernel"] == 7).all()
    assert not (params["tokenizer/anchors/tower/encoder/block_0/mlp/up/kernel"] == 7).all()


def test_one_folder_for_two_parts(portable_dir, untrained):
    config = small_config()
    config.init_from.update(text=str(portable_dir), tokenizer=str(portable_dir))
    params, _ = started(config)
    before = flatten(untrained[2])
    for name, value in params.items():
        if name.startswith(("tokenizer/", "embedding")) or (name.startswith("text/") and "/cross" not in name):
            np.testing.assert_array_equal(value, before[name])
        else:
            assert (value == (0 if name == "delays" else 7)).all(), name


def test_a_tower_is_not_brought_twice(tmp_path, portable_dir):
    config = tower_config()
    config.init_from.update(
        tokenizer=str(portable_dir), vision=str(imported.import_tower(imported.siglip(), tmp_path / "tower"))
    )
    with pytest.raises(InitFromError, match="is brought by config.init_from.tokenizer already: name one of them"):
        started(config)


def test_parameters_are_placed_as_the_mesh_has_them(eight_devices):
    assert eight_devices.run("tests.launch.placed_arrays") == 5 * 5
