"""What a program costs, read off its jaxpr: matrix products and the memory that is alive. Nothing is compiled.

The jaxpr has every shape, every trip of a loop and everything that a remat policy computes again, so that this holds
for any model at any size. What it does not know is what a compiler fuses, reorders or splits over a mesh.
"""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives

# They rename or reshape what is there; compilers make no copy of it.
_VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "stop_gradient", "broadcast_in_dim", "iota", "transpose"})
# The name scope that JAX gives to what `jax.checkpoint` computes again for the backward pass.
_RECOMPUTED = "rematted_computation"
_TRANSFORMS = frozenset({"jvp", "transpose", "vmap", "checkpoint", _RECOMPUTED})
_NAME = re.compile(r"[^/()]+")  # of `transpose(jvp(Model))/tokenizer/tokenizer.step`
# The name scope in which `layers/convolution.py` multiplies for a depthwise convolution.
_DEPTHWISE = "depthwise_products"
LOSS = "loss"
# cuDNN's attention (`layers/attention.attend_fused` on NVIDIA) is one equation forwards and one backwards. Of products
# as wide as queries, and as wide as values: the model's, and what the kernel, which keeps no logits, computes again.
_ATTENTION = {
    "dot_product_attention_fwd_wrapper": ((1, 1), (0, 0)),  # logits; what is read with their softmax
    "dot_product_attention_bwd_wrapper": ((2, 2), (1, 0)),  # gradients of queries and keys; of weights and values
}
# What JAX documents, without the loops and calls whose insides are counted; and what moves several arrays about.
_KNOWN = frozenset(value.name for value in vars(primitives).values() if isinstance(value, core.Primitive)) | {
    "optimization_barrier", "psum_invariant", "pvary", "reduce_scatter", "stack"
}  # fmt: skip


class Flops(NamedTuple):
    """Floating-point operations of matrix products and convolutions; a multiply-add is two.

    Attributes:
      by_scope: of the model, by name scope (`DualStream.token_nll/tokenizer/anchors`), of forward and backward passes
        together. What is computed again is not among them: this is what MFU counts (Chowdhery et al., 2022, app. B).
      recomputed: what `jax.checkpoint` computes a second time.
    """

    by_scope: Mapping[str, float]
    recomputed: float

    @property
    def model(self) -> float:
        return sum(self.by_scope.values())

    def by_module(self, modules: Container[str]) -> dict[str, float]:
        """The model's by module, the most first; what none of them computes (logits, comparing) is `loss`."""
        by_module: dict[str, float] = defaultdict(float)
        for scope, flops in self.by_scope.items():
            names = (name.partition(".")[0] for name in scope.split("/"))  # `tokenizer` of `tokenizer.step`
            by_module[next((name for name in names if name in modules), LOSS)] += flops
        return dict(sorted(by_module.items(), key=lambda module: -module[1]))


def count_flops(program: core.ClosedJaxpr) -> Flops:
    """The operations of a program (`jax.make_jaxpr(f)(*shapes)`, or `jax.jit(f).trace(*shapes).jaxpr`).

    A loop's body counts as often as it runs, once where only running shows how often; of branches the dearest counts;
    a `shard_map` counts on all devices that share its arguments. cuDNN's attention counts as its products, every query
    with every key and with the features that it is padded to: two forwards, four backwards, and one that is computed
    again. Of other kernels it cannot be told what they multiply: a warning names them.
    """
    by_scope, recomputed = _products(program.jaxpr)
    if kernels := sorted(_kernels(program.jaxpr)):
        warnings.warn(
            f"products of {', '.join(kernels)} are not counted, so that FLOPs and MFU are too low: a kernel's work "
            "cannot be read off a trace (mmduplex_jax/planning/traced.py counts those that it names)",
            stacklevel=2,
        )
    names: dict[str, float] = defaultdict(float)
    for scope, flops in by_scope.items():
        names["/".join(name for name in _NAME.findall(scope) if name not in _TRANSFORMS)] += flops
    return Flops(dict(names), recomputed)


def _products(jaxpr: core.Jaxpr) -> tuple[dict[str, float], float]:
    """FLOPs by raw scope without those that are computed again, and those."""
    by_scope: dict[str, float] = defaultdict(float)
    recomputed = 0.0
    for eqn in jaxpr.eqns:
        scope = str(eqn.source_info.name_stack)
        inner = [(*_products(body), trips) for body, trips in _inner(eqn)]
        if eqn.primitive.name == "cond":
            inner = [max(inner, key=lambda branch: sum(branch[0].values()) + branch[1])]
        for products, again, trips in inner:
            recomputed += trips * again
            for name, flops in products.items():
                by_scope[f"{scope}/{name}"] += trips * flops
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = _shape(eqn.invars[0])
            flops = 2.0 * math.prod(_shape(eqn.outvars[0])) * math.prod(shape[axis] for axis in contracted)
            by_scope[scope] += flops
        elif eqn.primitive.name == "mul" and _DEPTHWISE in _NAME.findall(scope):
            by_scope[scope] += 2.0 * math.prod(_shape(eqn.outvars[0]))  # each is added to a sum
        elif eqn.primitive.name == "conv_general_dilated":
            by_scope[scope] += _convolution(eqn)
        elif eqn.primitive.name in _ATTENTION:
            model, again = _attention(eqn)
            by_scope[scope] += model
            recomputed += again
    for scope in [scope for scope in by_scope if _RECOMPUTED in _NAME.findall(scope)]:
        recomputed += by_scope.pop(scope)
    return by_scope, recomputed


def _convolution(eqn: core.JaxprEqn) -> float:
    """FLOPs of a convolution of XLA's own: what lies under the kernel, for each result.

    Zeros between the samples of a dilated input, as in the gradient of a convolution with a stride, are not multiplied.
    """
    kernel, numbers = _shape(eqn.invars[1]), eqn.params["dimension_numbers"]
    under = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    return 2.0 * math.prod(_shape(eqn.outvars[0])) * under / math.prod(eqn.params["lhs_dilation"])


def _attention(eqn: core.JaxprEqn) -> tuple[float, float]:
    """FLOPs of cuDNN's attention: the model's, and what is computed again."""
    query, keys, values = (_shape(value) for value in eqn.invars[:3])
    # [B, T, N, E], or [B, N, T, E] where the layout is 1 (JAX's `AttentionLayout`).
    pairs = math.prod(query[:3]) * keys[1 + eqn.params["layout"]]
    of = lambda counts: 2.0 * pairs * (counts[0] * query[3] + counts[1] * values[3])
    model, again = _ATTENTION[eqn.primitive.name]
    return of(model), of(again)


def _kernels(jaxpr: core.Jaxpr) -> set[str]:
    """Primitives that may hold products and are not looked into: not JAX's documented ones, of two matrices or more."""
    found: set[str] = set()
    for eqn in jaxpr.eqns:
        name, inner = eqn.primitive.name, _inner(eqn)
        avals: list[Any] = [value.aval for value in eqn.invars if hasattr(value.aval, "dtype")]  # not of tokens
        matrices = [aval for aval in avals if len(aval.shape) > 1 and jnp.issubdtype(aval.dtype, jnp.inexact)]
        for body, _ in inner:
            found |= _kernels(body)
        # (A `pallas_call` has a body; how often it runs is its grid's.)
        if name == "pallas_call" or (not inner and len(matrices) > 1 and name not in _KNOWN | _ATTENTION.keys()):
            found.add(name)
    return found


def _inner(eqn: core.JaxprEqn) -> list[tuple[core.Jaxpr, float]]:
    """The jaxprs that an equation runs, and how often; all branches of a `cond`."""
    name, params = eqn.primitive.name, eqn.params
    if name == "while":
        return [(params["body_jaxpr"].jaxpr, 1.0)]
    if name == "cond":
        return [(branch.jaxpr, 1.0) for branch in params["branches"]]
    trips = float(params["length"]) if name == "scan" else 1.0
    if name == "shard_map":
        trips = float(_ways(params["mesh"], params["in_specs"]))
    inner = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            inner.append((value.jaxpr, trips))
        elif isinstance(value, core.Jaxpr):
            inner.append((value, trips))
    return inner


def _ways(mesh: Any, specs: Sequence[Any]) -> int:
    """On how many devices a `shard_map` computes different things; on the others it computes the same."""
    named = set()
    for spec in specs:
        for axes in spec:
            named |= set(axes if isinstance(axes, tuple) else [] if axes is None else [axes])
    return math.prod(mesh.shape[axis] for axis in named)


def _shape(value: Any) -> tuple[int, ...]:
    return value.aval.shape


def _size(values: Sequence[Any]) -> int:
    return sum(
        math.prod(value.aval.shape) * value.aval.dtype.itemsize
        for value in values
        if hasattr(value.aval, "dtype") and hasattr(value.aval.dtype, "itemsize")
    )


def peak_bytes(program: core.ClosedJaxpr) -> int:
    """The most bytes of values between a program's inputs and outputs that are needed at once, in the jaxpr's order.

    Inputs do not count, outputs do.
    """
    return _peak(program.jaxpr)


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
