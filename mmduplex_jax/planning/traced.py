"""What a function costs, read off its jaxpr: matrix products and the memory that is alive. Nothing is compiled.

The jaxpr has every shape, every trip of a loop and everything that a remat policy computes again, so that this holds
for any model at any size. What it does not know is what a compiler fuses, reorders or splits over a mesh.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

# They rename or reshape what is there; compilers make no copy of it.
_VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "stop_gradient", "broadcast_in_dim", "iota", "transpose"})


class Traced(NamedTuple):
    """What a jaxpr costs.

    Attributes:
      flops: of its matrix products (a multiply-add is two), loops as often as they run; once where only running shows
        how often. Of branches the dearest counts.
      peak_bytes: the most bytes of values between its inputs and outputs that are needed at once, in the order of the
        jaxpr; inputs do not count, outputs do.
    """

    flops: float
    peak_bytes: int


def trace(function: Callable, *args: Any) -> Traced:
    """The cost of `function` of arguments that may be abstract.

    Raises:
      ValueError: it has a convolution, which this does not know.
    """
    closed = jax.make_jaxpr(function)(*args)
    return Traced(_flops(closed.jaxpr), _peak(closed.jaxpr))


def _flops(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        total += sum(trips * _flops(inner) for inner, trips in _inner(eqn))
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = _shape(eqn.invars[0])
            total += 2.0 * math.prod(_shape(eqn.outvars[0])) * math.prod(shape[axis] for axis in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            raise ValueError("this count knows no convolutions, and the models have none")
    return total


def _inner(eqn: core.JaxprEqn) -> list[tuple[core.Jaxpr, float]]:
    """The jaxprs that an equation runs, and how often."""
    name, params = eqn.primitive.name, eqn.params
    if name == "while":
        return [(params["body_jaxpr"].jaxpr, 1.0)]
    if name == "cond":
        return [(max((branch.jaxpr for branch in params["branches"]), key=_flops), 1.0)]
    trips = float(params["length"]) if name == "scan" else 1.0
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append((value.jaxpr, trips))
        elif isinstance(value, core.Jaxpr):
            found.append((value, trips))
    return found


def _shape(value: Any) -> tuple[int, ...]:
    return value.aval.shape


def _size(values: Sequence[Any]) -> int:
    return sum(
        math.prod(value.aval.shape) * value.aval.dtype.itemsize
        for value in values
        if hasattr(value.aval, "dtype") and hasattr(value.aval.dtype, "itemsize")
    )


def _peak(jaxpr: core.Jaxpr) -> int:
    """Bytes alive at the worst equation: what was made and is still needed, what it makes, and what it holds inside."""
    last: dict[Any, int] = {}
    roots: dict[Any, Any] = {}  # of a view, what it is a view of
    root = lambda value: roots.get(value, value)
    for number, eqn in enumerate(jaxpr.eqns):
        used = [value for value in eqn.invars if isinstance(value, core.Var)]
        if eqn.primitive.name in _VIEWS and len(eqn.outvars) == 1:
            roots[eqn.outvars[0]] = root(used[0]) if used else None
        for value in used:
            last[root(value)] = number
    for out in jaxpr.outvars:
        if isinstance(out, core.Var):
            last[root(out)] = len(jaxpr.eqns)
    ends: dict[int, list[Any]] = {}
    made = {value for eqn in jaxpr.eqns for value in eqn.outvars if value not in roots}
    for value, number in last.items():
        if value in made:
            ends.setdefault(number, []).append(value)
    alive = worst = 0
    for number, eqn in enumerate(jaxpr.eqns):
        new = [value for value in eqn.outvars if value in made]
        inside = max((_peak(inner) for inner, _ in _inner(eqn)), default=0)
        # What a nested jaxpr gives out is counted inside it, except what a scan stacks.
        outside = _size(new)
        if inside and eqn.primitive.name != "scan":
            worst = max(worst, alive + max(inside, outside))
        else:
            worst = max(worst, alive + inside + outside)
        alive += outside - _size([value for value in new if value not in last])
        alive -= _size(ends.get(number, []))
    return worst
