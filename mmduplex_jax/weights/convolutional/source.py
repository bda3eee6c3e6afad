"""What a file of a convolutional network holds: which tower of ours, and which tensor is which parameter."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.manifest import sha256_of
from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.towers.yolox import YoloxConfig
from mmduplex_jax.weights.convolutional import efficientnet_lite, yolox
from mmduplex_jax.weights.convolutional.files import ArrayTensors, names_in, read_npz, read_onnx, read_pth
from mmduplex_jax.weights.huggingface.layout import Layout
from mmduplex_jax.weights.huggingface.reader import WeightsError

ConvolutionalConfig = EfficientNetLiteConfig | YoloxConfig
CONFIGS: Mapping[str, type[ConvolutionalConfig]] = {
    efficientnet_lite.FAMILY: EfficientNetLiteConfig,
    yolox.FAMILY: YoloxConfig,
}


@dataclasses.dataclass(frozen=True)
class ConvolutionalFile:
    """A file with a tower.

    Attributes:
      files: its tensors.
      family: one of `CONFIGS`.
      config: our shape, with all layers.
      layout: which tensor is which parameter.
      preprocessing: of pictures.
      about: JSON: the file's name and SHA-256.
    """

    files: ArrayTensors
    family: str
    config: ConvolutionalConfig
    layout: Layout
    preprocessing: Preprocessing
    about: Mapping[str, Any]


def open_file(file: Path) -> ConvolutionalFile:
    """Reads a `.npz`, `.pth` or `.onnx` file.

    Raises:
      WeightsError: it holds no tower that is read, or what reads it is not installed.
    """
    about = {"file": file.name, "sha256": sha256_of(file)}
    if file.suffix == ".onnx":
        graph = read_onnx(file)
        config = yolox.config_of(graph, file)
        files = ArrayTensors(file, graph.tensors)
        return ConvolutionalFile(files, yolox.FAMILY, config, yolox.layout(graph, config), yolox.PREPROCESSING, about)
    folded = file.suffix == ".npz"
    arrays = read_npz(file) if folded else read_pth(file)
    stem = f"{efficientnet_lite.STEM}.{'W' if folded else 'weight'}"
    if stem not in arrays:
        raise WeightsError(
            f"{file} has no {stem}, it holds {names_in(arrays)}: {file.suffix} files that are read are those of "
            "EfficientNet-Lite0; other networks are read from a Hugging Face directory"
        )
    lite = EfficientNetLiteConfig()
    return ConvolutionalFile(
        ArrayTensors(file, arrays),
        efficientnet_lite.FAMILY,
        lite,
        efficientnet_lite.layout(lite, folded),
        efficientnet_lite.PREPROCESSING,
        about,
    )
