"""Tensors of a directory: what is read, what is refused, and what is said then."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mmduplex_jax.weights.huggingface.reader import INDEX_FILE, SINGLE_FILE, TensorFiles, WeightsError, read_config

RNG = np.random.default_rng(0)


def tensors():
    wide = RNG.standard_normal((3, 5)).astype(np.float32)
    return {
        "wide": wide,
        "double": wide.astype(np.float64),
        "half": wide.astype(np.float16),
        "brain": wide.astype(ml_dtypes.bfloat16),
        "ids": np.arange(7),
        "scalar": np.array(2.5, np.float32),
        "nothing": np.zeros((0, 4), np.float32),
    }


def test_every_dtype_is_read_and_floats_are_widened(tmp_path):
    wanted = tensors()
    save_file(wanted, tmp_path / SINGLE_FILE)
    files = TensorFiles(tmp_path)
    assert sorted(files.names) == sorted(wanted)
    assert files.num_bytes == sum(array.nbytes for array in wanted.values())
    for name, array in wanted.items():
        found = files.read(name)
        assert name in files
        assert files.shape(name) == array.shape
        assert found.shape == array.shape
        assert found.dtype == (np.float32 if files.is_floating(name) else array.dtype)
        np.testing.assert_array_equal(found, array.astype(found.dtype))
    assert not files.is_floating("ids")
    assert files.dtype("brain") == "BF16"


def test_shards_are_read_by_their_index(tmp_path):
    names = ["a", "b", "c"]
    arrays = {name: RNG.standard_normal((2, 2)).astype(np.float32) for name in names}
    for number, name in enumerate(names):
        save_file({name: arrays[name], "stray": arrays[name]}, tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(names)}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    files = TensorFiles(tmp_path)
    assert files.names == ("a", "b", "c")  # what the index does not name is not of the model
    for name in names:
        np.testing.assert_array_equal(files.read(name), arrays[name])
    assert not files.are_equal("a", "b")
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lacks \['model-1.safetensors'\]"):
        TensorFiles(tmp_path)
    save_file({"other": arrays["a"]}, tmp_path / "model-1.safetensors")
    with pytest.raises(WeightsError, match=r"lacks \['b'\]"):
        TensorFiles(tmp_path)


def test_a_file_or_the_only_one_of_a_directory_will_do(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "open_clip_model.safetensors")
    assert TensorFiles(tmp_path).names == TensorFiles(tmp_path / "open_clip_model.safetensors").names == ("a",)


def test_equality_is_of_all_bytes(tmp_path):
    array = np.arange(1000, dtype=np.float32)
    last = array.copy()
    last[-1] += 1
    half = array.astype(np.float16)
    save_file({"a": array, "b": array, "last": last, "half": half}, tmp_path / SINGLE_FILE)
    files = TensorFiles(tmp_path)
    assert files.are_equal("a", "b", piece_bytes=7)
    assert not files.are_equal("a", "last", piece_bytes=7)
    assert not files.are_equal("a", "half")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda d: None, "neither model.safetensors nor"),
        (lambda d: (d / "pytorch_model.bin").touch(), "(?s)only .'pytorch_model.bin'..*weights_only=True.*save_file"),
        (lambda d: (d / "PE-Core-S16-384.pt").touch(), "(?s)only .'PE-Core-S16-384.pt'.*save_file"),
        (lambda d: [(d / name).touch() for name in ("a.safetensors", "b.safetensors")], "name one of these"),
        (lambda d: [(d / name).touch() for name in (SINGLE_FILE, INDEX_FILE)], "remove the one that is not meant"),
        (lambda d: (d / SINGLE_FILE).write_bytes(b"123"), "no whole safetensors file"),
        (lambda d: (d / SINGLE_FILE).write_bytes(b"\xff" * 64), "no whole safetensors file"),
        (lambda d: (d / SINGLE_FILE).write_bytes(b"\x04" + b"\0" * 7 + b"oops"), "header that is not of"),
        (lambda d: (d / SINGLE_FILE).write_bytes(b"\x02" + b"\0" * 7 + b"{}"), "holds no tensor"),
        (lambda d: (d / INDEX_FILE).write_text("{}"), "no `weight_map`"),
        (lambda d: (d / INDEX_FILE).write_text("{"), "is not JSON"),
    ],
)
def test_what_cannot_be_read_is_said(make, said, tmp_path):
    make(tmp_path)
    with pytest.raises(WeightsError, match=said):
        TensorFiles(tmp_path)


def test_a_cut_file_is_found_before_it_is_read(tmp_path):
    save_file(tensors(), tmp_path / SINGLE_FILE)
    whole = (tmp_path / SINGLE_FILE).read_bytes()
    (tmp_path / SINGLE_FILE).write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match="cut short or damaged"):
        TensorFiles(tmp_path)
    (tmp_path / SINGLE_FILE).write_bytes(whole.replace(b'"F16"', b'"F8X"'))
    with pytest.raises(WeightsError, match="tensor half is F8X"):
        TensorFiles(tmp_path)


def test_other_paths_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match="there is no directory"):
        TensorFiles(tmp_path / "nowhere")
    (tmp_path / "x.bin").touch()
    with pytest.raises(WeightsError, match=r"is no .safetensors file"):
        TensorFiles(tmp_path / "x.bin")
    with pytest.raises(WeightsError, match="has no config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="holds no JSON object"):
        read_config(tmp_path)
