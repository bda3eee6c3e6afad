"""The portable checkpoint: weights and what is needed to use them, in two files that need no training stack to read.

    params.safetensors   every parameter under its path ("video_stream/layer_0/attention/query"), float16 or float32;
                         large tables of reduced weights as int8, their scales under the path and ".scale", or as
                         uint16, the bits of bfloat16 (`reduced.py`)
    metadata.json        layout_version, the config, the text tokenizer, steps, data, scores, and a list of the tensors

`metadata.json` holds the SHA-256 of the other file, so a half-written or mixed-up pair is found when it is loaded.
"""

import hashlib
import json
import os
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mmduplex_jax.layers.reduced import Reduced
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.reduced import KINDS, reduced

# Raise it whenever parameters or fields of the config are renamed, reshaped or come to mean something else.
# 2: what sees anchors is a vision tower, `tokenizer/anchors/tower`.
# 3: names are the field's (`_RENAMED_PARAMETERS`, `_RENAMED_FIELDS`); checkpoints of layout 2 are converted as they are
#    read.
# 4: as 3, with tables of reduced weights. Without any a file stays 3, so that code that knows none of them reads it.
LAYOUT_VERSION, REDUCED_VERSION = 3, 4
READABLE_VERSIONS = (2, LAYOUT_VERSION, REDUCED_VERSION)
PARAMS_FILE = "params.safetensors"
METADATA_FILE = "metadata.json"
MAX_BYTES = 10_000_000
REQUIRED = ("config", "tokenizer", "steps", "data", "scores")
_WRITTEN_HERE = ("layout_version", "dtype", "params_sha256", "tensors")
_WEIGHTS, _SCALE = "weights", ".scale"

# Beginnings of parameters' paths, and fields of configs, in layout 2 and what they are called since.
_RENAMED_PARAMETERS = {"ahead/": "future_word_head/", "tokenizer/flows/told/": "tokenizer/flows/features/"}
_RENAMED_FIELDS = {
    "counterfeits": "hard_negatives",
    "loss.ahead_s": "loss.future_word_horizon_s",
    "loss.ahead_weight": "loss.future_word_weight",
    "loss.drop_anchor_tail": "loss.nested_dropout",
    "prediction.ahead_s": "prediction.horizon_s",
    "tokenizer.budget.afterglow": "tokenizer.budget.saliency_decay",
    "tokenizer.budget.anchor_gap_s": "tokenizer.budget.anchor_interval_min_s",
    "tokenizer.budget.flow_ladder": "tokenizer.budget.flow_token_levels",
    "tokenizer.budget.refresh_s": "tokenizer.budget.anchor_interval_max_s",
    "tokenizer.budget.suppress_px": "tokenizer.budget.nms_radius_px",
    "tokenizer.budget.uncovered_share": "tokenizer.budget.disocclusion_threshold",
    "tokenizer.motion.uncovered_cost": "tokenizer.motion.disocclusion_cost",
}


class PortableError(ValueError):
    """A portable checkpoint that cannot be written or used; says which, why and what to do."""


def is_portable(folder: str | Path) -> bool:
    """Whether `folder` holds a portable checkpoint (rather than an Orbax one)."""
    return (Path(folder) / METADATA_FILE).is_file() and (Path(folder) / PARAMS_FILE).is_file()


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict to `{"a/b/c": leaf}`, sorted by name."""
    return dict(sorted(flatten_dict(params, sep="/").items()))


def unflatten(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return unflatten_dict(tensors, sep="/")


def with_tuples(value: Any) -> Any:
    """JSON knows lists only; configs and shapes hold tuples, which can be hashed."""
    if isinstance(value, Mapping):
        return {name: with_tuples(inner) for name, inner in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def converted_parameter(name: str) -> str:
    """What a parameter of layout 2 is called now."""
    for old, new in _RENAMED_PARAMETERS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def converted_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A training's config of layout 2 with the fields' names of today; one of today comes back as it is."""
    new = {}
    for name, value in config.items():
        path = _RENAMED_FIELDS.get(prefix + name, prefix + name)
        new[path.rpartition(".")[2]] = converted_config(value, f"{path}.") if isinstance(value, Mapping) else value
    return new


def save(
    folder: str | Path,
    params: PyTree,
    metadata: Mapping[str, Any],
    dtype: str = "float16",
    max_bytes: int = MAX_BYTES,
    weights: str = "float32",
) -> int:
    """Writes a portable checkpoint; an older one in the same folder is replaced.

    Args:
      folder: made if it is not there.
      params: nested dict of floating-point arrays, unboxed.
      metadata: JSON values; must have `config`, `tokenizer` (the parsed `tokenizer.json`), `steps`, `data`, `scores`.
      dtype: how numbers are stored, "float16" (half the size, about three digits) or "float32" (exact).
      max_bytes: the most that both files may take together.
      weights: how large tables are stored, of `reduced.KINDS`, and held by whoever loads them; "float32": as `dtype`
        says, as all others are.

    Returns:
      The size of both files in bytes.

    Raises:
      PortableError: something is missing, not finite, out of float16's range, or the files grow too large. Nothing is
        written then.
    """
    from safetensors.numpy import save as to_bytes

    if dtype not in ("float16", "float32"):
        raise PortableError(f"dtype must be 'float16' or 'float32', got {dtype!r}")
    missing = [key for key in REQUIRED if key not in metadata]
    taken = [key for key in (*_WRITTEN_HERE, _WEIGHTS) if key in metadata]
    if missing or taken:
        raise PortableError(f"metadata lacks {missing} and must not bring {taken}, which are written here")
    exact = unflatten({name: _stored(name, value, "float32") for name, value in flatten(params).items()})
    tensors: dict[str, np.ndarray] = {}
    for name, value in flatten(reduced(exact, weights)).items():
        if not isinstance(value, Reduced):
            tensors[name] = _stored(name, value, dtype)
            continue
        tensors[name] = np.asarray(value.values)
        if value.scale is not None:
            tensors[name + _SCALE] = np.asarray(value.scale)
    if not tensors:
        raise PortableError("there are no parameters to save")
    blob = to_bytes(tensors)
    text = json.dumps(
        {
            "layout_version": LAYOUT_VERSION if weights == "float32" else REDUCED_VERSION,
            "dtype": dtype,
            **({} if weights == "float32" else {_WEIGHTS: weights}),
            "params_sha256": hashlib.sha256(blob).hexdigest(),
            **metadata,
            "tensors": {name: list(value.shape) for name, value in tensors.items()},
        },
        indent=1,
        allow_nan=False,
    ).encode()
    size = len(blob) + len(text)
    if size > max_bytes:
        raise PortableError(
            f"the checkpoint takes {size:,} bytes ({dtype}), more than {max_bytes:,}: store float16, use a smaller "
            "config, or raise max_bytes for one that does not go into the repository"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / PARAMS_FILE, blob)
    _replace(folder / METADATA_FILE, text)
    return size


def _stored(name: str, value: Any, dtype: str) -> np.ndarray:
    array = np.asarray(value)
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
        raise PortableError(f"parameter {name} is {array.dtype}: only floating-point parameters are stored")
    array = array.astype(np.float32, order="C")  # `np.ascontiguousarray` would give scalars an axis
    if not np.isfinite(array).all():
        raise PortableError(f"parameter {name} is not finite: this checkpoint's training has diverged")
    if dtype == "float16" and array.size and np.abs(array).max() > np.finfo(np.float16).max:
        raise PortableError(f"parameter {name} reaches {np.abs(array).max():.3g}, too large for float16: store float32")
    return array.astype(dtype)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a portable checkpoint.

    Returns:
      The parameters as a nested dict of float32 NumPy arrays, and the metadata; both with the names of today. Where
      tables were stored reduced, their kind is its `weights`.

    Raises:
      PortableError: a file is missing or damaged, the two do not belong together, or the layout is another version's.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    folder = Path(folder)
    for name in (METADATA_FILE, PARAMS_FILE):
        if not (folder / name).is_file():
            raise PortableError(f"{folder} is no portable checkpoint: it has no {name}")
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise PortableError(f"{folder / METADATA_FILE} is not JSON ({error}): fetch or export it again") from error
    if not isinstance(metadata, dict):
        raise PortableError(f"{folder / METADATA_FILE} holds no JSON object: fetch or export it again")
    version = metadata.get("layout_version")
    if version not in READABLE_VERSIONS:
        raise PortableError(
            f"{folder} has layout version {version}, this code reads {' and '.join(map(str, READABLE_VERSIONS))}: use "
            "the code of its time (see `git log` of the folder), or train and export it again with "
            "`python -m launch.export`"
        )
    absent = [key for key in (*REQUIRED, *_WRITTEN_HERE) if key not in metadata]
    if absent:
        raise PortableError(f"{folder / METADATA_FILE} lacks {absent}: fetch or export it again")
    blob = (folder / PARAMS_FILE).read_bytes()
    if hashlib.sha256(blob).hexdigest() != metadata["params_sha256"]:
        raise PortableError(
            f"{folder / PARAMS_FILE} is damaged or belongs to another {METADATA_FILE} (its SHA-256 differs): "
            "fetch or export both again"
        )
    try:
        tensors = from_bytes(blob)
    except SafetensorError as error:
        raise PortableError(f"{folder / PARAMS_FILE} is not a safetensors file: {error}") from error
    check(unflatten(tensors), metadata["tensors"], f"{folder}: {PARAMS_FILE} against {METADATA_FILE}")
    if version < LAYOUT_VERSION:
        tensors = {converted_parameter(name): value for name, value in tensors.items()}
        metadata["tensors"] = {converted_parameter(name): shape for name, shape in metadata["tensors"].items()}
        metadata["config"] = converted_config(metadata["config"])
        metadata["layout_version"] = LAYOUT_VERSION
    if metadata.get(_WEIGHTS, "float32") not in KINDS:
        raise PortableError(
            f"{folder} has weights {metadata[_WEIGHTS]!r}, this code reads {', '.join(KINDS)}: use newer code, or "
            "export it again with `python -m launch.export`"
        )
    return unflatten(
        {name: _floats(name, tensors) for name in sorted(tensors) if not _is_scale(name, tensors)}
    ), metadata


def _is_scale(name: str, tensors: Mapping[str, np.ndarray]) -> bool:
    return name.endswith(_SCALE) and name.removesuffix(_SCALE) in tensors


def _floats(name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """A parameter in float32, however it is stored."""
    value = tensors[name]
    if value.dtype == np.int8:
        return np.asarray(Reduced(value, tensors[name + _SCALE]).expanded())
    if value.dtype == np.uint16:
        return np.asarray(Reduced(value, None).expanded())
    return value.astype(np.float32)


def check(params: PyTree, expected: Mapping[str, Any], what: str) -> None:
    """Compares parameters with what a model needs, and names everything that differs.

    Args:
      params: nested dict of arrays.
      expected: nested (or flat, "a/b/c") dict of shapes, or of things that have a `shape`.
      what: which checkpoint and which model, for the message.

    Raises:
      PortableError: naming each missing, unexpected and misshapen tensor.
    """
    have = {name: tuple(value.shape) for name, value in flatten(params).items()}
    if any("/" in name for name in expected):
        expected = unflatten(expected)
    need = {name: tuple(getattr(value, "shape", value)) for name, value in flatten(expected).items()}
    if wrong := misfits(have, need):
        raise PortableError(f"{what}: {len(wrong)} tensors do not fit\n  " + "\n  ".join(wrong))


def misfits(
    have: Mapping[str, tuple[int, ...]],
    need: Mapping[str, tuple[int, ...]],
    may_lack: Container[str] = (),
    ignored: Callable[[str], bool] = lambda name: False,
) -> list[str]:
    """A line on each tensor, by name and shape, that is missing, unexpected or misshapen."""
    lines = [f"missing: {name} {list(need[name])}" for name in need if name not in have and name not in may_lack]
    lines += [f"unexpected: {name} {list(have[name])}" for name in have if name not in need and not ignored(name)]
    return lines + [
        f"misshapen: {name} is {list(have[name])}, should be {list(shape)}"
        for name, shape in need.items()
        if name in have and have[name] != shape
    ]
