"""Which tensor of theirs is which parameter of ours: a list of entries, read and written by one piece of code.

An architecture is described once, as a `Layout`. From it come the import (`read_params`), the export (`write_params`)
and the check that a file fits: the shapes that a file should have are those that `to_theirs` gives for our parameters,
so they are stated nowhere.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mmduplex_jax.weights.huggingface.reader import CONFIG_FILE, SINGLE_FILE, Tensors, WeightsError
from mmduplex_jax.weights.portable import flatten, misfits, unflatten

_STORED_AS = {"float32": ("F32", np.float32), "bfloat16": ("BF16", ml_dtypes.bfloat16), "float16": ("F16", np.float16)}

Convert = Callable[..., Any]


def _identity(array: np.ndarray) -> np.ndarray:
    return array


@dataclasses.dataclass(frozen=True)
class Entry:
    """Parameters of ours that are made of tensors of theirs.

    Attributes:
      ours: path of a parameter, `a/b/kernel`, or several (a fused tensor of theirs is cut).
      theirs: name of a tensor, or several (layers that we stack).
      to_ours: pure NumPy; takes an array for each of `theirs`, returns one for each of `ours` (a tuple if several).
      to_theirs: its inverse; takes an array for each of `ours`, returns one for each of `theirs`. It must only move
        numbers (transpose, reshape, cut, join, stack), as shapes are found by running it on zeros.
      optional: the tensors may be absent, all of them; our parameters are then absent from what is read.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    to_ours: Convert = _identity
    to_theirs: Convert = _identity
    optional: bool = False

    @property
    def our_names(self) -> tuple[str, ...]:
        return _several(self.ours)

    @property
    def their_names(self) -> tuple[str, ...]:
        return _several(self.theirs)


def same(ours: str, theirs: str, *, optional: bool = False) -> Entry:
    """The same numbers in the same shape: norms, biases, embeddings."""
    return Entry(ours, theirs, optional=optional)


def transposed(ours: str, theirs: str, *, optional: bool = False) -> Entry:
    """A dense kernel: ours `[in, out]`, theirs `[out, in]`."""
    return Entry(ours, theirs, np.transpose, np.transpose, optional)


def reshaped(ours: str, theirs: str, our_shape: Sequence[int], their_shape: Sequence[int]) -> Entry:
    """The same numbers in the same order, in another shape."""
    return Entry(ours, theirs, lambda a: a.reshape(our_shape), lambda a: a.reshape(their_shape))


def stacked(entries: Sequence[Entry]) -> Entry:
    """One entry for layers that we stack: `entries` have the same one `ours`, and each its own one of `theirs`."""
    first = entries[0]
    if any(entry.ours != first.ours or isinstance(entry.theirs, tuple) for entry in entries):
        raise ValueError(f"stacked entries must share one parameter and have one tensor each, got {entries}")

    def to_ours(*arrays: np.ndarray) -> np.ndarray:
        return np.stack([entry.to_ours(array) for entry, array in zip(entries, arrays, strict=True)])

    def to_theirs(array: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(entry.to_theirs(layer) for entry, layer in zip(entries, array, strict=True))

    return Entry(first.ours, tuple(str(entry.theirs) for entry in entries), to_ours, to_theirs, first.optional)


# Of the parts that all vision transformers share, under whatever names.
QUERY_KEY_VALUE = ("query", "key", "value")


def norm(ours: str, theirs: str) -> list[Entry]:
    """A LayerNorm."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    """A dense layer, with its bias."""
    kernel = transposed(f"{ours}/kernel", f"{theirs}.weight")
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")] if bias else [kernel]


def patch_convolution(ours: str, theirs: str, patch_px: int, channels: int) -> Entry:
    """Theirs `[D, C, patch_px, patch_px]`, a convolution; ours `[patch_px² · C, D]`, a dense layer over patches."""
    return Entry(
        f"{ours}/kernel",
        theirs,
        lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0]),
        lambda a: a.reshape(patch_px, patch_px, channels, a.shape[1]).transpose(3, 2, 0, 1),
    )


def vector(ours: str, theirs: str, their_shape: tuple[int, ...], rows: int = 0) -> Entry:
    """A table of vectors, ours `[rows, D]` (`[D]` for 0 rows), theirs with more axes of size 1."""
    return reshaped(ours, theirs, (rows, their_shape[-1]) if rows else their_shape[-1:], their_shape)


def fused_linear(
    ours: str, names: tuple[str, ...], weight: str, bias: str, *, turned_heads: int = 0
) -> tuple[Entry, Entry]:
    """Dense layers of ours that are one of theirs, which has their outputs one after the other.

    Args:
      ours: path up to the layers.
      names: our layers, in their order.
      weight: their tensor `[len(names) · D, D]`.
      bias: their tensor `[len(names) · D]`.
      turned_heads: number of heads where the outputs of "query" and "key" are turned by rotary angles, 0 where they
        are not. Their angles turn neighbours, ours the halves of a head: the outputs change places accordingly, which
        no product of a query and a key notices.
    """
    to_halves, to_pairs = rotary_places(turned_heads)
    turned = [bool(turned_heads) and name in ("query", "key") for name in names]

    def cut(fused: np.ndarray) -> tuple[np.ndarray, ...]:
        parts = np.split(fused, len(names))
        return tuple(np.transpose(to_halves(part) if turn else part) for part, turn in zip(parts, turned))

    def join(*parts: np.ndarray) -> np.ndarray:
        theirs = (np.transpose(part) for part in parts)
        return np.concatenate([to_pairs(part) if turn else part for part, turn in zip(theirs, turned)])

    return (
        Entry(tuple(f"{ours}/{name}/kernel" for name in names), weight, cut, join),
        Entry(tuple(f"{ours}/{name}/bias" for name in names), bias, cut, join),
    )


def rotary_places(heads: int) -> tuple[Convert, Convert]:
    """Functions that move outputs (the first axis) from neighbours to halves of a head, and back.

    Rotary angles turn pairs of outputs: two neighbours in some libraries, one of each half of a head in ours.
    """

    def to_halves(a: np.ndarray) -> np.ndarray:
        return a.reshape(heads, -1, 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)

    def to_pairs(a: np.ndarray) -> np.ndarray:
        return a.reshape(heads, 2, -1, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)

    return to_halves, to_pairs


@dataclasses.dataclass(frozen=True)
class Layout:
    """All entries of an architecture.

    Attributes:
      entries: every parameter of ours once, every tensor of theirs once.
      ignored: patterns (of whole names) of tensors that may be there and hold nothing to import: buffers such as
        `position_ids`, a tower that is not asked for.
    """

    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()

    def prefixed(self, ours: str = "", theirs: str = "") -> "Layout":
        """The layout of the same thing as a part of something: names start with `ours` and `theirs` as they stand.

        `ignored` is prefixed too.
        """
        add = lambda prefix, names: tuple(prefix + n for n in names) if isinstance(names, tuple) else prefix + names
        entries = tuple(
            dataclasses.replace(entry, ours=add(ours, entry.ours), theirs=add(theirs, entry.theirs))
            for entry in self.entries
        )
        return Layout(entries, tuple(re.escape(theirs) + pattern for pattern in self.ignored))

    def __add__(self, other: "Layout") -> "Layout":
        return Layout(self.entries + other.entries, self.ignored + other.ignored)

    def ignores(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


def theirs_expected(layout: Layout, expected: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a file for our parameters has, the optional ones included.

    Args:
      expected: nested (or flat, "a/b") dict of our shapes, or of things that have a `shape`.

    Raises:
      ValueError: the layout and our parameters do not belong together (a mistake in the code, not in a file).
    """
    shapes = _our_shapes(expected)
    named = [name for entry in layout.entries for name in entry.our_names]
    optional = {name for entry in layout.entries if entry.optional for name in entry.our_names}
    wrong = [f"no entry for {name}" for name in shapes if name not in named]
    wrong += [f"an entry for {name}, which the model has not" for name in named if name not in {*shapes, *optional}]
    wrong += [f"{named.count(name)} entries for {name}" for name in dict.fromkeys(named) if named.count(name) > 1]
    if wrong:
        raise ValueError("the layout does not describe the model:\n  " + "\n  ".join(wrong))
    theirs: dict[str, tuple[int, ...]] = {}
    for entry in layout.entries:
        if not all(name in shapes for name in entry.our_names):
            continue  # optional, and this model is without it
        zeros = [np.broadcast_to(np.float32(0), shapes[name]) for name in entry.our_names]
        for name, array in zip(entry.their_names, _several(entry.to_theirs(*zeros)), strict=True):
            if name in theirs:
                raise ValueError(f"the layout has two entries for their tensor {name}")
            theirs[name] = array.shape
    return theirs


def check_fits(files: Tensors, layout: Layout, expected: Mapping[str, Any]) -> None:
    """Compares names and shapes, before any number is read.

    Raises:
      WeightsError: naming each missing, unexpected and misshapen tensor.
    """
    wanted = theirs_expected(layout, expected)
    may_lack: set[str] = set()
    for entry in layout.entries:
        if entry.optional and not any(name in files for name in entry.their_names):
            may_lack.update(entry.their_names)
    wrong = misfits({name: files.shape(name) for name in files.names}, wanted, may_lack, layout.ignores)
    wrong += [
        f"no weight: {name} is {files.dtype(name)}, should be floating-point"
        for name in wanted
        if name in files and not files.is_floating(name)
    ]
    if wrong:
        raise WeightsError(
            f"{files.path}: {len(wrong)} tensors do not fit the model\n  "
            + "\n  ".join(wrong)
            + f"\n-> are these the weights of its {CONFIG_FILE}, and is it an architecture that is read?"
        )


def iterate_params(files: Tensors, layout: Layout, expected: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters one after the other, `(path, float32 array)`; at most one entry's tensors are in memory.

    Args:
      expected: our shapes (see `theirs_expected`).

    Raises:
      WeightsError: before the first, if the file does not fit; at a tensor that holds NaN or infinity.
    """
    check_fits(files, layout, expected)
    shapes = _our_shapes(expected)
    for entry in layout.entries:
        if not all(name in files for name in entry.their_names):
            continue  # optional, or `check_fits` would have raised
        theirs = [files.read(name) for name in entry.their_names]
        for name, array in zip(entry.their_names, theirs, strict=True):
            # NaN passes through both; a mask of the whole tensor would cost a quarter of its memory.
            if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise WeightsError(
                    f"{files.path}: {array.size - int(np.isfinite(array).sum()):,} of the {array.size:,} numbers of "
                    f"{name} are NaN or infinite, so nothing that it computes would be a number: fetch it again, or "
                    "take another checkpoint of that training"
                )
        arrays = _several(entry.to_ours(*theirs))
        for name, array in zip(entry.our_names, arrays, strict=True):
            if array.shape != tuple(shapes[name]):
                raise ValueError(f"the layout makes {name} {array.shape}, the model has {shapes[name]}")
            yield name, array


def read_params(files: Tensors, layout: Layout, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Our parameters as a nested dict of float32 NumPy arrays; arguments and errors as of `iterate_params`."""
    return unflatten(dict(iterate_params(files, layout, expected)))


def write_params(
    params: Mapping[str, Any],
    layout: Layout,
    out_dir: str | Path,
    config_json: Mapping[str, Any],
    *,
    dtype: str = "float32",
) -> int:
    """Writes `config.json` and `model.safetensors`, as transformers loads them, one entry at a time.

    Args:
      params: nested (or flat, "a/b") dict of our parameters; those of optional entries may be absent.
      out_dir: made if it is not there; must not hold weights already.
      config_json: their config.
      dtype: how numbers are stored: "float32" (bit for bit), "bfloat16" or "float16" (rounded; weights that came from
        such a file come back bit for bit).

    Returns:
      Bytes of the tensors.

    Raises:
      WeightsError: there are weights already, or a number is too large for the dtype. What was there stays.
    """
    if dtype not in _STORED_AS:
        raise WeightsError(f"dtype is one of {', '.join(_STORED_AS)}, not {dtype!r}")
    folder = Path(out_dir)
    there = [name for name in (SINGLE_FILE, CONFIG_FILE) if (folder / name).exists()]
    if there:
        raise WeightsError(f"{folder} already has {there}: name another directory")
    ours = _flat(params)
    shapes = theirs_expected(layout, ours)
    header, offset = _header(shapes, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{SINGLE_FILE}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as stream:
            stream.write(header)
            for entry in layout.entries:
                if not all(name in ours for name in entry.our_names):
                    continue
                arrays = _several(entry.to_theirs(*(np.asarray(ours[name]) for name in entry.our_names)))
                for name, array in zip(entry.their_names, arrays, strict=True):
                    stream.write(_stored(name, array, dtype).data)
        # The config first: weights without one would be taken for a damaged directory, a config alone for none.
        (folder / CONFIG_FILE).write_text(json.dumps(dict(config_json), indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, folder / SINGLE_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return offset


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> tuple[bytes, int]:
    """The head of a safetensors file whose tensors lie in the order of `shapes`, and their bytes in all."""
    name, kind = _STORED_AS[dtype]
    # Libraries that load with PyTorch refuse a file that does not say that its layout is PyTorch's.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor, shape in shapes.items():
        end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        header[tensor] = {"dtype": name, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text, offset


def _stored(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes of a tensor, uint8 `[n]`."""
    kind = _STORED_AS[dtype][1]
    if dtype == "float16" and array.size and np.abs(array).max() > np.finfo(np.float16).max:
        raise WeightsError(f"{name} reaches {np.abs(array).max():.3g}, too large for float16: store bfloat16")
    return np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8)


def _our_shapes(expected: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", value)) for name, value in _flat(expected).items()}


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(tree) if any("/" in name for name in tree) else flatten(tree)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
