"""What a training begins with instead of random numbers: `config.init_from.text` and `config.init_from.vision`.

Each names a folder that `launch.import_weights` wrote; `vision` may also be the workdir of a training of stage `clip`.
It is read where a run starts, not where it goes on. The log
says which parameters were taken, which were made anew and which of the folder were left. Strict by default: the folder
must be all that the model's part needs, compute the same, and speak the run's tokenizer; everything that does not fit
is named in one error. With `config.init_from.strict=False` what fits is taken and the rest is only told.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from launch.trained import load_trained
from mmduplex_jax.interop.huggingface import text
from mmduplex_jax.interop.huggingface.layout import Entry, Layout, theirs_expected
from mmduplex_jax.interop.huggingface.reader import WeightsError
from mmduplex_jax.interop.huggingface.source import boxed_shapes, config_from_metadata
from mmduplex_jax.interop.portable import flatten, unflatten
from mmduplex_jax.interop.text_tokenizer import TextTokenizer
from mmduplex_jax.models.clip import ClipTask
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.train.checkpoint import read_weights, read_weights_metadata
from mmduplex_jax.train.state import abstract_params
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree

PARTS = ("text", "vision")
VISION = "vision/"
# How a stack runs, not what it computes.
_STACK_FREE = ("cross_every", "cross_gate", "num_sinks", "window_steps", "scan", "remat", "dtype")
_TOWER_FREE = ("positions", "remat", "dtype")
_TABLES = ("embedding", "head")  # may have more rows than were imported

Fill = Callable[[PyTree], PyTree]


class InitFromError(ValueError):
    """Weights that a run was told to begin with, and cannot; the message names everything that does not fit."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """What becomes of one folder.

    Attributes:
      name: of the part.
      folder: where the weights are.
      entries: parameters of the run (`ours`) and imported ones (`theirs`) that they are made of.
      source: how imported parameters come by the names in `entries`.
      zeroed: parameters of the run that must be zero for the imported ones to compute what they did.
      left: imported parameters that are not taken, of `imported`.
      wrong: what does not fit, one line each.
      notes: what else to tell.
    """

    name: str
    folder: str
    entries: tuple[Entry, ...]
    source: Layout
    zeroed: tuple[str, ...]
    left: tuple[str, ...]
    imported: tuple[str, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]


def make_start(
    config: Any, task: Task, tokenizer: TextTokenizer, log: Callable[[str], None]
) -> Callable[[PyTree], Fill] | None:
    """What `train.loop.fit` takes as `start`; None where the config names no folder.

    Args:
      config: resolved; `init_from` has a folder, or nothing, for each of `PARTS`, and `strict`.
      task: what is trained.
      tokenizer: of the run.
      log: where lines for people go.

    Returns:
      A function of the abstract parameters that raises InitFromError or returns the function that replaces parameters.
    """
    folders = {part: config.init_from[part] for part in PARTS if config.init_from[part]}
    if not folders:
        return None

    def start(target: PyTree) -> Fill:
        shapes = flatten(target)
        plan = {"text": _text, "vision": _vision}
        try:
            parts = [plan[part](folder, task, tokenizer, shapes) for part, folder in folders.items()]
        except (FileNotFoundError, WeightsError) as error:
            raise InitFromError(f"config.init_from: {error}") from error
        wrong = [f"{part.name}: {line}" for part in parts for line in part.wrong]
        if wrong and config.init_from.strict:
            raise InitFromError(
                "config.init_from does not fit this run:\n  "
                + "\n  ".join(wrong)
                + "\n-> change the config, or take what fits with --config.init_from.strict=False"
            )
        for line in [*wrong, *_told(parts, shapes)]:
            log(f"init_from {line}")
        return lambda params: _filled(params, parts)

    return start


def _text(folder: str, task: Task, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> _Part:
    model = getattr(task, "config", None)
    if not isinstance(model, DualStreamConfig):
        raise InitFromError("config.init_from.text: this stage has no language model")
    metadata = read_weights_metadata(folder)
    config = config_from_metadata(metadata)
    if not isinstance(config, LanguageConfig):
        raise InitFromError(f"config.init_from.text: {folder} is of kind {metadata['kind']!r}, wanted is 'text'")
    wrong = _differences(config.text, model.text, _STACK_FREE, "config.text.")
    head = "tied" if model.tied else "own"
    if config.head != head:
        wrong.append(f"its head is {config.head!r}, the model's {head!r}: set config.text.tied accordingly")
    if metadata["tokenizer_json"] not in (None, tokenizer.to_json()):
        wrong.append(f"it speaks another tokenizer than the run: set config.text_tokenizer={folder}")
    source, target = text.layout(config), text.stream_layout(model.text, model.tied)
    have = theirs_expected(source, nn.unbox(boxed_shapes(config)))
    ours = {name: shapes[name] for entry in target.entries for name in entry.our_names}
    need = theirs_expected(target, ours)
    tables = {name for entry in target.entries if entry.ours in _TABLES for name in entry.their_names}
    fits = {
        name
        for name in need.keys() & have.keys()
        if have[name] == need[name]
        or (name in tables and have[name][1] == need[name][1] and have[name][0] <= need[name][0])
    }
    wrong += [f"it lacks what {_ours_of(target, name)} is made of" for name in need if name not in have]
    wrong += [
        f"its {_ours_of(source, name)} is {list(have[name])}, {_ours_of(target, name)} needs {list(need[name])}"
        for name in need
        if name in have and name not in fits
    ]
    wrong += [f"the model has no place for its {_ours_of(source, name)}" for name in have if name not in need]
    notes = []
    if metadata["tokenizer_json"] is None:
        notes.append("no tokenizer came with it: its ids are taken to be those of config.text_tokenizer")
    if model.fusion != "interleave" and model.text.cross_gate:
        notes.append(
            f"config.text.cross_gate is {model.text.cross_gate}: video is let in from the first step, and the language "
            "model computes something else than it did; 0.0 starts with the gates closed"
        )
    return _Part(
        "text",
        folder,
        tuple(entry for entry in target.entries if fits.issuperset(entry.their_names)),
        source,
        ("delays",),
        tuple(_ours_of(source, name) for name in have if name not in fits),
        tuple(_ours_of(source, name) for name in have),
        tuple(wrong),
        tuple(notes),
    )


def _vision(folder: str, task: Task, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> _Part:
    del tokenizer
    tower = getattr(getattr(task, "config", None), "vision", None)
    need = {name: leaf.shape for name, leaf in shapes.items() if name.startswith(VISION)}
    if not isinstance(tower, VisionConfig) or not need:
        raise InitFromError("config.init_from.vision: this stage has no vision tower")
    config, boxed = _towers(folder)
    pair = isinstance(config, ContrastiveConfig)
    found = config.vision if isinstance(config, ContrastiveConfig) else config
    imported = {name: tuple(leaf.shape) for name, leaf in flatten(nn.unbox(boxed)).items()}
    have = {(name if pair else VISION + name): shape for name, shape in imported.items()}
    wrong = _differences(found, tower, _TOWER_FREE, "config.vision.")
    wrong += [f"it lacks {name}" for name in need if name not in have]
    wrong += [
        f"its {name} is {list(have[name])}, the model's {list(need[name])}"
        for name in need
        if name in have and have[name] != need[name]
    ]
    in_tower = [name for name in have if name.startswith(VISION)]
    wrong += [f"the model has no place for its {name}" for name in in_tower if name not in need]
    fits = [name for name in need if have.get(name) == need[name]]
    return _Part(
        "vision",
        folder,
        tuple(Entry(name, name) for name in fits),
        Layout(tuple(Entry(name, name if pair else VISION + name) for name in imported)),
        (),
        tuple(name for name in have if name not in fits),
        tuple(have),
        tuple(wrong),
        (),
    )


def _towers(folder: str) -> tuple[VisionConfig | ContrastiveConfig, PyTree]:
    """The shape of imported towers, or of those of a training of stage `clip`; and their abstract, boxed parameters."""
    if not _is_training(folder):
        config = config_from_metadata(read_weights_metadata(folder))
        if isinstance(config, LanguageConfig):
            raise InitFromError(
                f"config.init_from.vision: {folder} is of kind 'text', wanted is 'vision' or 'contrastive'"
            )
        return config, boxed_shapes(config)
    trained = load_trained(folder)
    if not isinstance(trained.task, ClipTask):
        raise InitFromError(
            f"config.init_from.vision: {folder} is a training of stage {trained.config.stage!r}, wanted is one of "
            "stage 'clip', or imported weights"
        )
    return trained.task.config, abstract_params(trained.task)


def _is_training(folder: str) -> bool:
    return (Path(folder) / "checkpoints").is_dir()


def _arrays(folder: str) -> PyTree:
    """Parameters of a folder of either kind, as NumPy arrays."""
    if _is_training(folder):
        return jax.tree.map(np.asarray, load_trained(folder).params)
    return read_weights(folder)[0]


def _differences(imported: Any, model: Any, free: Collection[str], prefix: str) -> list[str]:
    """Fields of a shape that decide what is computed, and differ."""
    one, other = dataclasses.asdict(imported), dataclasses.asdict(model)
    return [
        f"{name} is {one[name]}, the model's is {other[name]}: set {prefix}{name}={one[name]}"
        for name in one
        if name not in free and one[name] != other[name]
    ]


def _ours_of(layout: Layout, theirs: str) -> str:
    """The parameter that a tensor is (a part of)."""
    return next(", ".join(entry.our_names) for entry in layout.entries if theirs in entry.their_names)


def _told(parts: Collection[_Part], shapes: Mapping[str, Any]) -> list[str]:
    """Lines on what is taken, made and left."""
    lines, taken = [], set()
    for part in parts:
        names = {name for entry in part.entries for name in entry.our_names}
        taken |= names
        lines += [f"{part.name}: {note}" for note in part.notes]
        lines.append(f"{part.name}: taken from {part.folder}: {_summary(names, shapes)}")
        if part.zeroed:
            lines.append(f"{part.name}: made zero, so that it computes what it did: {', '.join(part.zeroed)}")
            taken |= set(part.zeroed)
        lines.append(f"{part.name}: left: {_summary(part.left, part.imported) if part.left else 'nothing'}")
    made = [name for name in shapes if name not in taken]
    return [*lines, f"made anew: {_summary(made, shapes) if made else 'nothing'}"]


def _summary(chosen: Collection[str], every: Collection[str]) -> str:
    """Names by the highest module that was chosen as a whole, equal layers together, with their numbers of arrays."""
    picked, counts = set(chosen), dict[str, int]()
    for name in every:
        if name not in picked:
            continue
        path = name.split("/")
        heads = ["/".join(path[:depth]) for depth in range(1, len(path) + 1)]
        whole = next(h for h in heads if all(o in picked for o in every if o == h or o.startswith(h + "/")))
        pattern = re.sub(r"_\d+(?=/|$)", "_*", whole)
        counts[pattern] = counts.get(pattern, 0) + 1
    return ", ".join(f"{pattern} ({count})" for pattern, count in counts.items())


def _filled(params: PyTree, parts: Collection[_Part]) -> PyTree:
    """Parameters with what the parts bring, each where it lies already."""
    flat = flatten(params)
    for part in parts:
        imported = flatten(_arrays(part.folder))
        theirs: dict[str, np.ndarray] = {}
        for entry in part.source.entries:
            arrays = entry.to_theirs(*(imported.pop(name) for name in entry.our_names))
            theirs.update(zip(entry.their_names, arrays if isinstance(arrays, tuple) else (arrays,), strict=True))
        for entry in part.entries:
            made = entry.to_ours(*(theirs.pop(name) for name in entry.their_names))
            for name, array in zip(entry.our_names, made if isinstance(made, tuple) else (made,), strict=True):
                flat[name] = _placed(flat[name], array)
        for name in part.zeroed:
            flat[name] = _placed(flat[name], np.broadcast_to(np.float32(0), flat[name].shape))
    return unflatten(flat)


def _placed(old: jax.Array, new: np.ndarray) -> jax.Array:
    """`new` as `old` lies on the mesh; rows that `new` has not stay."""
    rows = len(new) if old.ndim else 0

    def block(shard: Any) -> jax.Array:
        if rows == (old.shape[0] if old.ndim else 0):
            return jax.device_put(np.asarray(new[shard.index], old.dtype), shard.device)
        data = np.array(shard.data)
        first = shard.index[0].start or 0
        mine = new[(slice(first, first + len(data)), *shard.index[1:])]
        data[: len(mine)] = mine
        return jax.device_put(data, shard.device)

    return jax.make_array_from_single_device_arrays(old.shape, old.sharding, list(map(block, old.addressable_shards)))
