"""The parameter table that is printed when training starts."""

import math
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from mmduplex_jax.sharding import array_name, logical_names, resolve
from mmduplex_jax.typing import PyTree

_HEADINGS = ("module", "arrays", "parameters", "dtype", "largest array", "axes -> mesh")

_NUMBERS = ("arrays", "parameters")


def count(tree: PyTree) -> int:
    """How many numbers a tree of arrays (boxed or not, abstract or not) holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(tree)))


def parameter_table(boxed: PyTree, mesh: Mesh, depth: int = 2) -> str:
    """Counts by module, collapsed to `depth` names of the path, with totals.

    Args:
      boxed: abstract parameters with logical names.
      mesh: shown is how each module's largest array lies on it.
      depth: path names that make a row.

    Returns:
      Lines of text: one a module, then the total in numbers and MiB.
    """
    names = logical_names(boxed)
    groups: dict[str, list[tuple[str, Any]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(boxed)):
        where = array_name(path)
        groups.setdefault("/".join(where.split("/")[:depth]), []).append((where, leaf))
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for group, leaves in groups.items():
        where, largest = max(leaves, key=lambda item: math.prod(item[1].shape))
        spec = resolve(names[where], largest.shape, mesh, where=where)
        rows.append(
            (
                group,
                str(len(leaves)),
                f"{sum(math.prod(leaf.shape) for _, leaf in leaves):,}",
                ",".join(sorted({str(leaf.dtype) for _, leaf in leaves})),
                "x".join(map(str, largest.shape)),
                " ".join(_axis(name, split) for name, split in zip(names[where], spec)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(_pad(*cell) for cell in zip(_HEADINGS, row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    size_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(nn.unbox(boxed)))
    lines += [lines[1], f"total: {count(boxed):,} parameters, {size_bytes / 2**20:,.1f} MiB"]
    return "\n".join(lines)


def _pad(heading: str, cell: str, width: int) -> str:
    return cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)


def _axis(name: str | None, split: Any) -> str:
    if name is None:
        return "-"
    if split is None:
        return name
    return f"{name}->{split if isinstance(split, str) else '+'.join(split)}"
