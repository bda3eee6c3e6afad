"""Convolutional towers of others' tensors against what these compute by themselves; small ones, and the published."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from launch import import_weights
from mmduplex_jax.towers.yolox import Yolox
from mmduplex_jax.weights.convolutional import efficientnet_lite, yolox
from mmduplex_jax.weights.convolutional.files import ArrayTensors
from mmduplex_jax.weights.huggingface.layout import read_params
from tests.weights.convolutional.networks import (
    LITE,
    YOLOX,
    lite_folded,
    lite_map,
    lite_tensors,
    yolox_graph,
    yolox_maps,
)

PUBLISHED = Path(__file__).resolve().parents[3].parent / "shared" / "real" / "weights"


def shapes(config):
    return nn.unbox(jax.eval_shape(config.build().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))["params"]


@pytest.mark.parametrize("folded", [True, False])
def test_lite_is_what_its_tensors_say(folded):
    rng = np.random.default_rng(0)
    tensors = lite_tensors(LITE, rng)
    files = ArrayTensors(Path("lite"), lite_folded(tensors) if folded else tensors)
    params = read_params(files, efficientnet_lite.layout(LITE, folded), shapes(LITE))
    pictures = rng.uniform(-1, 1, (2, 33, 40, 3)).astype(np.float32)
    ours = jax.jit(LITE.build().apply)({"params": params}, pictures)
    theirs = jax.jit(functools.partial(lite_map, LITE, tensors))(pictures)
    assert np.ptp(theirs) > 1  # not all is at the bounds of ReLU6
    # float32 sums in another order, through 13 layers of numbers up to 6.
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("depthwise", [True, False])
def test_yolox_is_what_its_graph_says(depthwise):
    rng = np.random.default_rng(0)
    config = dataclasses.replace(YOLOX, depthwise=depthwise)
    graph = yolox_graph(config, rng)
    assert yolox.config_of(graph, "graph") == config
    files = ArrayTensors(Path("graph"), graph.tensors)
    params = read_params(files, yolox.layout(graph, config), shapes(config))
    pictures = rng.uniform(0, 2, (2, 64, 96, 3)).astype(np.float32)
    ours = jax.jit(lambda p, x: config.build().apply(p, x, method=Yolox.maps))({"params": params}, pictures)
    theirs = jax.jit(functools.partial(yolox_maps, config, graph))(pictures)
    for name, value in theirs.items():
        assert np.abs(value).max() > 0.1
        # float32 sums in another order, through 70 layers.
        np.testing.assert_allclose(ours[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("folder", "packages"),
    [("yolox_nano", ("onnx", "onnxruntime")), ("efficientnet_lite0", ("torch",))],
)
def test_published_towers_are_the_same_elsewhere(folder, packages, tmp_path, capsys):
    for package in packages:
        pytest.importorskip(package, reason=f"the reference of {folder} needs {package}")
    if not (PUBLISHED / folder).is_dir():
        pytest.skip(f"shared/real/weights/{folder} is not there: published weights are not kept with the code")
    flags = [f"--from={PUBLISHED / folder}", f"--out={tmp_path / 'weights'}", "--verify", "--tolerance=1e-4"]
    assert import_weights.main(flags) == 0
    assert "the same as" in capsys.readouterr().out
    assert "Apache" in (tmp_path / "weights" / "NOTICE").read_text()
