"""Files of convolutional towers through `launch.import_weights`: what is written, and what does not fit."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from launch import export_weights, import_weights
from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.yolox import YoloxConfig
from mmduplex_jax.weights.checkpoint import read_weights
from mmduplex_jax.weights.convolutional import files, yolox
from mmduplex_jax.weights.huggingface.reader import WeightsError
from mmduplex_jax.weights.huggingface.source import config_from_metadata, open_source
from tests.weights.convolutional.networks import YOLOX, lite_folded, lite_tensors, yolox_graph

LITE0 = EfficientNetLiteConfig()


@pytest.fixture(scope="module")
def tensors():
    """Of a network as large as Lite0."""
    return lite_folded(lite_tensors(LITE0, np.random.default_rng(0)))


def write(folder, tensors, name="lite0.npz"):
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **tensors)
    return folder / name


def run(source, to):
    return import_weights.main([f"--from={source}", f"--out={to}", f"--json={to}.json"])


def test_a_folder_with_a_file_becomes_imported_weights(tensors, tmp_path, capsys):
    write(tmp_path / "theirs", tensors)
    (tmp_path / "theirs" / "LICENSE").write_text("Free for all.")
    assert run(tmp_path / "theirs", tmp_path / "ours") == 0
    report = json.loads((tmp_path / "ours.json").read_text())
    assert (report["kind"], report["family"], report["parameters"]) == ("vision", "efficientnet_lite", 3_350_000)
    assert report["ignored"] == ["fc.W", "fc.b"]
    params, metadata = read_weights(tmp_path / "ours")
    assert config_from_metadata(metadata) == LITE0
    assert metadata["preprocessing"]["mean"] == list(LITE0.mean)
    written = (tmp_path / "theirs" / "lite0.npz").read_bytes()
    assert metadata["their_config"]["sha256"] == hashlib.sha256(written).hexdigest()
    expand = tensors["_blocks.3._expand_conv.W"]
    np.testing.assert_array_equal(params["block_3"]["expand"]["kernel"][0, 0], expand[:, :, 0, 0].T)
    notice = (tmp_path / "ours" / "NOTICE").read_text()
    assert "made of lite0.npz" in notice
    assert "LICENSE, which came with it:\n\nFree for all." in notice
    assert metadata["notice"] == notice
    # There is no library that it would go out to.
    assert export_weights.main([f"--weights={tmp_path / 'ours'}", f"--out={tmp_path / 'back'}"]) == 1
    assert "goes out to no library" in capsys.readouterr().err


def test_the_licence_of_a_python_package_is_its_dist_info(tensors, tmp_path):
    file = write(tmp_path / "lite_package", tensors)
    deeper = tmp_path / "lite_package" / "models"
    deeper.mkdir()
    shutil.move(file, deeper / file.name)
    licences = tmp_path / "lite_package-0.1.0.dist-info" / "licenses"
    licences.mkdir(parents=True)
    (licences / "LICENSE.txt").write_text("As you like it.")
    (tmp_path / "other-1.0.dist-info").mkdir()
    (tmp_path / "other-1.0.dist-info" / "LICENSE").write_text("Not this one.")
    notice = open_source(deeper).metadata()["notice"]
    assert "As you like it." in notice
    assert "Not this one." not in notice


def test_without_a_licence_the_notice_says_so(tensors, tmp_path):
    assert "No text of a licence came with it" in open_source(write(tmp_path, tensors)).metadata()["notice"]


def test_every_name_that_does_not_fit_is_told(tensors, tmp_path, capsys):
    wrong = dict(tensors)
    wrong["_blocks.2._project_conv.b"] = wrong["_blocks.2._project_conv.b"][:-1]
    del wrong["_conv_head.W"]
    wrong["_blocks.16._project_conv.W"] = np.zeros((4, 4, 1, 1))
    write(tmp_path / "theirs", wrong)
    assert run(tmp_path / "theirs", tmp_path / "ours") == 1
    said = capsys.readouterr().err
    assert "3 tensors do not fit" in said
    assert "missing: _conv_head.W [1280, 320, 1, 1]" in said
    assert "unexpected: _blocks.16._project_conv.W [4, 4, 1, 1]" in said
    assert "misshapen: _blocks.2._project_conv.b is [23], should be [24]" in said
    assert not (tmp_path / "ours").exists()


def test_other_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"has no _conv_stem\.W, it holds a, b: \.npz files that are read"):
        open_source(write(tmp_path / "npz", {"a": np.zeros(1), "b": np.zeros(1)}))
    (tmp_path / "npz" / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(WeightsError, match=r"has \['broken\.npz', 'lite0\.npz'\]: name one"):
        open_source(tmp_path / "npz")
    with pytest.raises(WeightsError, match="is no whole .npz file"):
        open_source(tmp_path / "npz" / "broken.npz")
    for suffix, package, extra in ((".pth", "torch", "parity"), (".onnx", "onnx", "onnx")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        (tmp_path / f"a{suffix}").write_bytes(b"")
        with pytest.raises(WeightsError, match=rf"needs {package}, which is not installed .*\[{extra}\]"):
            open_source(tmp_path / f"a{suffix}")


def test_a_graph_that_is_no_yolox_is_told_apart():
    graph = yolox_graph(YOLOX, np.random.default_rng(0))
    with pytest.raises(WeightsError, match=r"its first convolution is \[4, 8, 1, 1\], that of a YOLOX \[C, 12, 3, 3\]"):
        yolox.config_of(graph._replace(convolutions=graph.convolutions[3:]), "graph")
    strided = list(graph.convolutions)
    strided[5] = strided[5]._replace(stride=(2, 2))
    with pytest.raises(WeightsError, match=r"Conv_5 \(15\), here stage_2/bottleneck_0_narrow: stride \(2, 2\), not"):
        yolox.config_of(graph._replace(convolutions=tuple(strided)), "graph")
    with pytest.raises(WeightsError, match="missing: bottom_up_32/join"):
        yolox.config_of(graph._replace(convolutions=graph.convolutions[:-2]), "graph")


def test_an_onnx_file_is_read_as_it_runs(tmp_path):
    onnx = pytest.importorskip("onnx", reason="reading ONNX files needs the extra `onnx`")
    graph = yolox_graph(YOLOX, np.random.default_rng(0))
    make = onnx.helper.make_node
    nodes = [make("Resize", ["x", "", "factors"], ["doubled"], name="Resize_0")] + [
        make(
            "Conv", ["x", c.weight, c.bias], [f"out_{i}"], name=c.name, strides=c.stride, pads=c.padding, group=c.groups
        )
        for i, c in enumerate(graph.convolutions)
    ]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in graph.tensors.items()]
    made = onnx.helper.make_graph(
        nodes, "yolox", [], [], [*constants, onnx.numpy_helper.from_array(np.ones(2, int), "n")]
    )
    (tmp_path / "yolox").mkdir()
    onnx.save(onnx.helper.make_model(made), tmp_path / "yolox" / "yolox.onnx")
    found = files.read_onnx(tmp_path / "yolox" / "yolox.onnx")
    assert (found.convolutions, found.of_others) == (graph.convolutions, ("factors",))
    source = open_source(tmp_path / "yolox")
    assert isinstance(source.config, YoloxConfig)
    assert [name for name in source.files.names if source.layout.ignores(name)] == [*list(graph.tensors)[-3:]]
