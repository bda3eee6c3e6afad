"""The mesh, and which of its axes each array axis is split over.

Parameters name their axes (`nn.with_logical_partitioning(init, ("embed", "mlp"))`); `RULES` says which mesh axes a name
is split over; `resolve` applies the rules and raises where Flax would replicate in silence. A name may say how many
neighbours belong together (`in_units`): `heads/64` are columns of heads of 64, and no mesh axis cuts through a head.

Mesh axes: `data` splits the batch only; `fsdp` splits the batch and the width of every parameter; `tensor` splits
heads, hidden widths and the vocabulary.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mmduplex_jax.typing import Array, PyTree

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
# Said, because the default (Explicit; of abstract meshes only in newer jax) has Linen's Embed and plain matmuls raise.
_AXIS_TYPES = (AxisType.Auto,) * len(MESH_AXES)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where an axis of this name goes.

    Attributes:
      mesh_axes: the mesh axes it is split over, the outermost first; empty: it is replicated.
      must_divide: whether a size that these mesh axes do not divide is an error. Otherwise that array axis is
        replicated and `replicated_axes` names it (printed when training starts): 5 key-value heads are what they are,
        and a vocabulary is as long as its tokenizer says.
    """

    mesh_axes: tuple[str, ...] = ()
    must_divide: bool = True


RULES: Mapping[str, Rule] = {
    "batch": Rule(BATCH_AXES),
    "embed": Rule(("fsdp",)),
    "mlp": Rule(("tensor",)),
    "heads": Rule(("tensor",), must_divide=False),
    "kv_heads": Rule(("tensor",), must_divide=False),
    "vocab": Rule(("tensor",), must_divide=False),
    "layers": Rule(),
    "patch": Rule(),
    "position": Rule(),
    "slots": Rule(),
    "feature": Rule(),
}


class ShardingError(ValueError):
    """An array that the rules cannot place on the mesh; the message names the array, the axis and what to change."""


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of axes `data, fsdp, tensor` over `devices` (all of them by default).

    Args:
      data: size of the axis; -1 takes the devices that the other two leave.
      fsdp: size of the axis.
      tensor: size of the axis.
      devices: what to build it from.

    Raises:
      ShardingError: when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(data, fsdp, tensor, len(devices))
    # Of a torus of chips, such as 8x8 for axes of 4 and 16, a physical axis may have to be split.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES, axis_types=_AXIS_TYPES)


def abstract_mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    """The sizes of a mesh whose devices are not there: programs are traced for it, and not compiled."""
    return AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=_AXIS_TYPES)


def mesh_sizes(data: int, fsdp: int, tensor: int, num_devices: int) -> tuple[int, int, int]:
    """The sizes of a mesh's axes over `num_devices` devices; see `make_mesh`.

    Raises:
      ShardingError: when the sizes do not multiply to the number of devices.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    wrong = {name: size for name, size in sizes.items() if size < 1 and (name, size) != ("data", -1)}
    if wrong:
        raise ShardingError(f"mesh sizes must be at least 1 (data may be -1: the rest), got {wrong}")
    if data == -1:
        sizes["data"] = max(1, num_devices // (fsdp * tensor))
    if math.prod(sizes.values()) != num_devices:
        asked = " x ".join(f"{name}={size}" for name, size in sizes.items())
        raise ShardingError(f"config.mesh asks for {asked} devices, and there are {num_devices}: change config.mesh")
    return sizes["data"], sizes["fsdp"], sizes["tensor"]


def in_units(name: str, size: int) -> str:
    """The logical name of an axis of which every `size` neighbours stay together, e.g. `kv_heads/64`.

    A kernel's columns may divide where its heads do not: 320 columns by 4, 5 heads not. Cut through its heads, an
    attention is put together again by sending activations, and that costs more than it saves.
    """
    return f"{name}/{size}"


def resolve(
    names: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh,
    *,
    where: str,
    rules: Mapping[str, Rule] = RULES,
) -> PartitionSpec:
    """The partition of one array, from the logical names of its axes.

    Args:
      names: one name an axis, with or without a unit (`in_units`); None is replicated.
      shape: the array's shape.
      mesh: a mesh with the axes that the rules name.
      where: the array's name, for messages.
      rules: name to rule.

    Raises:
      ShardingError: for an unknown name, a wrong number of names, two axes of the array on one mesh axis, or a size
        that the mesh does not divide (where the rule insists).
    """
    if len(names) != len(shape):
        raise ShardingError(f"{where}: {len(names)} logical names {tuple(names)} for shape {tuple(shape)}")
    spec: list[str | tuple[str, ...] | None] = []
    taken: dict[str, str] = {}
    for name, size in zip(names, shape):
        mesh_axes = _mesh_axes(name, size, mesh, where, rules)
        for axis in mesh_axes:
            if axis in taken:
                raise ShardingError(
                    f"{where}: axes {taken[axis]!r} and {name!r} of shape {tuple(shape)} are both split over mesh axis "
                    f"{axis!r}; name one of them None or another logical axis"
                )
            taken[axis] = str(name)
        spec.append(mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes or None)
    return PartitionSpec(*spec)


def _mesh_axes(name: str | None, size: int, mesh: Mesh, where: str, rules: Mapping[str, Rule]) -> tuple[str, ...]:
    if name is None:
        return ()
    name, unit = _name_and_unit(name)
    if name not in rules:
        raise ShardingError(f"{where}: unknown logical axis {name!r}; the rules know {sorted(rules)}")
    # A mesh axis of size 1 splits nothing; leaving it in keeps one partition for every mesh.
    ways = math.prod(mesh.shape[axis] for axis in rules[name].mesh_axes)
    if size % (unit * ways) == 0:
        return rules[name].mesh_axes
    if rules[name].must_divide:
        sizes = {axis: mesh.shape[axis] for axis in rules[name].mesh_axes}
        raise ShardingError(
            f"{where}: axis {name!r} of size {size} cannot be split over mesh axes {sizes}; "
            f"choose a mesh (config.mesh) that divides it"
        )
    return ()


def _name_and_unit(name: str | None) -> tuple[str, int]:
    base, _, unit = str(name).partition("/")
    return base, int(unit or 1)


def array_name(path: Sequence[Any]) -> str:
    """A tree path as `text/layers_0/kernel`, without the box that holds logical names."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    if names and names[-1] == "value":
        names.pop()
    return "/".join(names)


def logical_names(boxed: PyTree) -> dict[str, tuple[str | None, ...]]:
    """Logical axis names by array name, of a tree of `nn.LogicallyPartitioned` boxes.

    Raises:
      ShardingError: for an array without names (which Flax would replicate in silence).
    """
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    names = {}
    for path, leaf in leaves:
        if not isinstance(leaf, nn.Partitioned):
            raise ShardingError(f"{array_name(path)}: no logical axes; wrap its init in nn.with_logical_partitioning")
        names[array_name(path)] = tuple(leaf.names)
    return names


def tree_shardings(boxed: PyTree, mesh: Mesh, rules: Mapping[str, Rule] = RULES) -> PyTree:
    """Shardings of a tree of boxed arrays (or boxed `ShapeDtypeStruct`s), in the shape of the unboxed tree."""
    names = logical_names(boxed)

    def one(path: Sequence[Any], leaf: Any) -> NamedSharding:
        where = array_name(path)
        return NamedSharding(mesh, resolve(names[where], leaf.shape, mesh, where=where, rules=rules))

    return jax.tree_util.tree_map_with_path(one, nn.unbox(boxed))


def replicated_axes(boxed: PyTree, mesh: Mesh, rules: Mapping[str, Rule] = RULES) -> list[str]:
    """Which array axes stay whole though a rule would split them, one line each."""
    names, lines = logical_names(boxed), []
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(boxed)):
        where = array_name(path)
        for axis, (named, size) in enumerate(zip(names[where], leaf.shape)):
            name, unit = _name_and_unit(named)
            ways = math.prod(mesh.shape[mesh_axis] for mesh_axis in rules[name].mesh_axes) if named else 1
            if size % (unit * ways):
                number = f"size {size}" if unit == 1 else f"{size // unit} times {unit}"
                lines.append(f"{where}: axis {axis} ({name}, {number}) is not split {ways} ways: replicated")
    return lines


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits an array's first axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def constrain_batch_sharding(x: Array) -> Array:
    """`x [B, ...]` with its rows on the devices that have the batch's; `x` itself where no mesh is in use.

    `fsdp` splits the batch and the width of parameters. Left alone, the partitioner may choose to gather activations of
    the whole batch instead of a layer's parameters, which are far smaller.
    """
    ways = _batch_ways()
    if ways == 1 or x.shape[0] % ways:
        return x
    rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *rest))


def _batch_ways() -> int:
    """How many ways the mesh in use splits the batch; 1 where there is none, or a `shard_map` has split it already."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types))
    if mesh.empty or any(types.get(axis) != AxisType.Auto for axis in BATCH_AXES):
        return 1
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
