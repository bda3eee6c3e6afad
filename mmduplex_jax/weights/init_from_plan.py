"""What becomes of the weights that a run begins with: which of its parameters are made of which of theirs.

Each part of `config.init_from` makes a `Plan` (`init_from_text.py` and its neighbours); `init_from.py` puts them
together.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmduplex_jax.train.checkpoint import is_weights, read_weights, read_weights_metadata
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.huggingface.layout import Entry, Layout
from mmduplex_jax.weights.huggingface.source import Config, config_from_metadata
from mmduplex_jax.weights.portable import flatten, is_portable, unflatten
from mmduplex_jax.weights.trained import Trained, load_trained


class InitFromError(ValueError):
    """Weights that a run was told to begin with, and cannot; the message names everything that does not fit."""


class Imported:
    """Weights that `launch.import_weights` wrote; the numbers are read when they are asked for.

    Attributes:
      path: the folder.
      config: their shape.
      metadata: whatever else came with them.
    """

    def __init__(self, path: str):
        self.path = path
        self.metadata: Mapping[str, Any] = read_weights_metadata(path)
        self.config: Config = config_from_metadata(self.metadata)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every parameter by its path."""
        return flatten(read_weights(self.path)[0])


class Learned:
    """What a training has learned, from its workdir or exported.

    Attributes:
      path: the folder.
      trained: all of it.
      shapes: of every parameter by its path.
    """

    def __init__(self, path: str):
        self.path = path
        self.trained: Trained = load_trained(path)
        self.shapes = {name: tuple(leaf.shape) for name, leaf in flatten(self.trained.params).items()}

    @property
    def stage(self) -> str:
        return self.trained.config.stage

    def arrays(self) -> dict[str, np.ndarray]:
        """Every parameter by its path."""
        return {name: np.asarray(leaf) for name, leaf in flatten(self.trained.params).items()}


Folder = Imported | Learned


def open_folder(path: str) -> Folder:
    """What a folder holds.

    Raises:
      FileNotFoundError: neither imported weights nor a training.
      ValueError: of another layout, or damaged.
    """
    if is_weights(path):
        return Imported(path)
    folder = Path(path)
    one_step = folder.parent.name == "checkpoints" and folder.name.isdigit()
    if is_portable(folder) or one_step or (folder / "checkpoints").is_dir():
        return Learned(path)
    raise FileNotFoundError(
        f"{path} holds neither imported weights (of `python -m launch.import_weights`) nor a training (a workdir of "
        "`python -m launch.train`, or what `python -m launch.export` wrote)"
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of one folder in one place of the model.

    Attributes:
      part: of `config.init_from` that names the folder.
      folder: where the weights are.
      entries: parameters of the run (`ours`) and those of the folder (`theirs`) that they are made of.
      source: how the folder's parameters come by the names in `entries`.
      left: parameters of the folder that are not taken, of `every` one in it.
      every: parameters of the folder, of which `left` are some.
      wrong: what does not fit, one line each.
      notes: what else to tell.
      zeroed: parameters of the run that must be zero for those of the folder to compute what they did.
    """

    part: str
    folder: Folder
    entries: tuple[Entry, ...]
    source: Layout
    left: tuple[str, ...]
    every: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()

    @property
    def taken(self) -> set[str]:
        """Parameters of the run that the folder brings."""
        return {name for entry in self.entries for name in entry.our_names}


def identity_plan(
    part: str,
    folder: Folder,
    need: Mapping[str, tuple[int, ...]],
    have: Mapping[str, tuple[int, ...]],
    ours: str,
    theirs: str,
    unused: Collection[str] = (),
    **told: Any,
) -> Plan:
    """A plan for parameters that have the same names in both, after what their names start with.

    Args:
      part: of `config.init_from`.
      folder: where the weights are.
      need: shapes of the run's parameters by path; those that start with `ours` are wanted.
      have: shapes of the folder's parameters by path.
      ours, theirs: what names start with.
      unused: what names of the folder's parameters start with, after `theirs`, that the model has no use for.
      told: `wrong` and `notes`, which come before what is found here.
    """
    wanted = {name.removeprefix(ours): shape for name, shape in need.items() if name.startswith(ours)}
    found = {name.removeprefix(theirs): shape for name, shape in have.items() if name.startswith(theirs)}
    wrong = [f"it lacks {ours}{name}" for name in wanted if name not in found]
    wrong += [
        f"its {theirs}{name} is {list(found[name])}, {ours}{name} needs {list(wanted[name])}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    wrong += [
        f"the model has no place for its {theirs}{name}"
        for name in found
        if name not in wanted and not name.startswith(tuple(unused))
    ]
    fits = [name for name in wanted if found.get(name) == wanted[name]]
    kept = {theirs + name for name in fits}
    return Plan(
        part,
        folder,
        tuple(Entry(ours + name, name) for name in fits),
        Layout(tuple(Entry(theirs + name, name) for name in found)),
        tuple(name for name in have if name not in kept),
        tuple(have),
        (*told.get("wrong", ()), *wrong),
        tuple(told.get("notes", ())),
    )


def differences(found: Any, wanted: Any, free: Collection[str], prefix: str) -> list[str]:
    """Fields of two dataclasses of one kind that decide what is computed, and differ; with what to set.

    Args:
      found: what the folder's weights are of.
      wanted: what the run makes.
      free: fields that may differ.
      prefix: of the flags that set the run's.
    """
    return [
        f"{field.name} is {getattr(found, field.name)}, the model's is {getattr(wanted, field.name)}: set "
        f"{prefix}{field.name}={getattr(found, field.name)}"
        for field in dataclasses.fields(found)
        if field.name not in free and getattr(found, field.name) != getattr(wanted, field.name)
    ]


def filled(params: PyTree, plans: Iterable[Plan]) -> PyTree:
    """Parameters with what the plans bring, each where it lies already."""
    flat = flatten(params)
    for plan in plans:
        arrays = plan.folder.arrays()
        theirs: dict[str, np.ndarray] = {}
        for entry in plan.source.entries:
            made = entry.to_theirs(*(arrays.pop(name) for name in entry.our_names))
            theirs.update(zip(entry.their_names, made if isinstance(made, tuple) else (made,), strict=True))
        for entry in plan.entries:
            made = entry.to_ours(*(theirs.pop(name) for name in entry.their_names))
            for name, array in zip(entry.our_names, made if isinstance(made, tuple) else (made,), strict=True):
                flat[name] = placed(flat[name], array)
        for name in plan.zeroed:
            flat[name] = placed(flat[name], np.broadcast_to(np.float32(0), flat[name].shape))
    return unflatten(flat)


def placed(old: jax.Array, new: np.ndarray) -> jax.Array:
    """`new` as `old` lies on the mesh; rows that `new` has not stay, rows that `old` has not are left out."""
    new = new[: old.shape[0]] if old.ndim else new
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
