"""Files with a convolutional network: NumPy's `.npz`, PyTorch's `.pth`, ONNX. They are small, and read as a whole."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmduplex_jax.weights.huggingface.reader import CONFIG_FILE, SINGLE_FILE, Tensors, WeightsError, import_optional

SUFFIXES = (".npz", ".pth", ".onnx")
_FLOATING = {"float64": "F64", "float32": "F32", "float16": "F16"}


class ArrayTensors(Tensors[np.ndarray]):
    """The named arrays of a file, in memory."""

    def dtype(self, name: str) -> str:
        """As safetensors would call it, e.g. "F32"; NumPy's name of what is no float."""
        kind = self._tensors[name].dtype.name
        return _FLOATING.get(kind, kind)

    def is_floating(self, name: str) -> bool:
        return self._tensors[name].dtype.name in _FLOATING

    def read(self, name: str) -> np.ndarray:
        """One tensor; floats of every width as float32."""
        array = self._tensors[name]
        return array.astype(np.float32) if self.is_floating(name) else array


class OnnxConvolution(NamedTuple):
    """A convolution of a graph.

    Attributes:
      name: of the node.
      weight: name of its tensor `[F, C / groups, kernel, kernel]`.
      bias: name of its tensor `[F]`; "" without one.
      stride, padding, groups: as the node has them.
    """

    name: str
    weight: str
    bias: str
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int


class OnnxGraph(NamedTuple):
    """A network in ONNX.

    Attributes:
      tensors: floating-point constants by their names.
      convolutions: in the order in which they run.
      of_others: names of constants that nodes other than convolutions take, e.g. factors of a `Resize`.
    """

    tensors: Mapping[str, np.ndarray]
    convolutions: tuple[OnnxConvolution, ...]
    of_others: tuple[str, ...]


def find_file(path: str | Path) -> Path | None:
    """The file of a convolutional network that a path means: itself, or the only one in a folder.

    Returns:
      None where the path is a Hugging Face directory, or holds no such file.

    Raises:
      WeightsError: the folder has several such files.
    """
    path = Path(path)
    if path.is_file():
        return path if path.suffix in SUFFIXES else None
    if not path.is_dir() or (path / CONFIG_FILE).exists() or (path / SINGLE_FILE).exists():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(files) > 1:
        raise WeightsError(f"{path} has {[file.name for file in files]}: name one of these files")
    return files[0] if files else None


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """Arrays by name.

    Raises:
      WeightsError: it is no such file, or holds pickled objects.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is no whole .npz file ({error}): fetch it again") from error


def read_pth(file: Path) -> dict[str, np.ndarray]:
    """A state dict's tensors by name; nothing but tensors is unpickled.

    Raises:
      WeightsError: PyTorch is not installed, or the file holds something else.
    """
    torch = import_optional("torch", "parity", f"reading {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise errors of many kinds
        raise WeightsError(f"{file} is no file of tensors that PyTorch reads without running code: {error}") from error
    if not isinstance(state, Mapping) or not all(torch.is_tensor(value) for value in state.values()):
        raise WeightsError(f"{file} holds no state dict, whose values are all tensors: save `model.state_dict()`")
    return {str(name): tensor.numpy() for name, tensor in state.items()}


def read_onnx(file: Path) -> OnnxGraph:
    """The constants and the convolutions of a graph.

    Raises:
      WeightsError: the package `onnx` is not installed, or the file is not of that format.
    """
    onnx = import_optional("onnx", "onnx", f"reading {file}")
    try:
        graph = onnx.load(file).graph
    except Exception as error:  # protobuf's DecodeError, and OSError for tensors in files that are not there
        raise WeightsError(f"{file} is no ONNX file that can be read ({error}): fetch it again") from error
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = [onnx.numpy_helper.to_array(value.t) for value in node.attribute if value.name == "value"]
            arrays |= dict(zip(node.output, values, strict=False))  # other kinds of constants hold no tensor
    convolutions, of_others = [], list[str]()
    for node in graph.node:
        if node.op_type == "Conv":
            given = {value.name: onnx.helper.get_attribute_value(value) for value in node.attribute}
            convolutions.append(
                OnnxConvolution(
                    name=node.name or node.output[0],
                    weight=node.input[1],
                    bias=node.input[2] if len(node.input) > 2 else "",
                    stride=tuple(given.get("strides", (1, 1))),
                    padding=tuple(given.get("pads", (0, 0, 0, 0))),
                    groups=given.get("group", 1),
                )
            )
        else:
            of_others += node.input
    return OnnxGraph(_floats(arrays), tuple(convolutions), tuple(name for name in of_others if name in arrays))


def _floats(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays without those that hold sizes and indices."""
    return {name: array for name, array in arrays.items() if array.dtype.name in _FLOATING}


def names_in(names: Iterable[str], most: int = 4) -> str:
    """Some of the names of a file, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "") if names else "nothing"
