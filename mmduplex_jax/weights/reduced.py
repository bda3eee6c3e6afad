"""Parameters in fewer bits: weights alone, computing stays in what the model computes in.

float32    as they are
bfloat16   half the memory: numbers keep 8 binary digits, an error of at most 1/256 of each
int8       a quarter: each output channel of a kernel, and each row of an embedding table, has a scale of its own, and
           numbers an error of at most half of it, 1/254 of the channel's largest

Reduced are the kernels of dense layers and the tables of words (embedding, head) with at least `NUMBERS_MIN` numbers,
which are nearly all of a model. Norms, biases, learned positions and queries, convolutions and the small rest stay; so
does a codec.
"""

from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mmduplex_jax.layers.reduced import Reduced
from mmduplex_jax.typing import PyTree

KINDS = ("float32", "bfloat16", "int8")
NUMBERS_MIN = 4096
_TABLES = (("embedding",), ("head",))
# The least scale: 127 of it is a normal float32.
_SCALE_MIN = 2.0**-120


def check_kind(kind: str) -> str:
    """The kind; ValueError where it is none of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"--weights (in a program: weights=) is one of {', '.join(KINDS)}, not {kind!r}")
    return kind


def reduced(params: PyTree, kind: str, *, blocked: bool | None = None) -> PyTree:
    """The same parameters with `Reduced` tables in place of large ones; of float32, `params` itself.

    What was expanded from reduced parameters gives the same ones again, bit for bit.

    Args:
      params: nested dict of float32 arrays, unboxed; layers may be stacked.
      kind: of `KINDS`.
      blocked: see `Reduced`; None: as this machine should.

    Raises:
      ValueError: there is no such kind, or a table is not finite (an int8 would hide that).
    """
    if check_kind(kind) == "float32":
        return params
    blocked = jax.default_backend() == "cpu" if blocked is None else blocked
    make = _bfloat16 if kind == "bfloat16" else _int8
    flat = flatten_dict(params)
    return unflatten_dict(
        {path: make(path, leaf, blocked) if _is_large(path, leaf) else leaf for path, leaf in flat.items()}
    )


def expanded(params: PyTree) -> PyTree:
    """The inverse of `reduced` but for its error: float32 arrays everywhere."""
    of = lambda leaf: leaf.expanded() if isinstance(leaf, Reduced) else leaf
    return jax.tree.map(of, params, is_leaf=lambda leaf: isinstance(leaf, Reduced))


def rounded(params: PyTree, kind: str) -> PyTree:
    """Float32 parameters with the values that reduced ones of a kind have; of float32, `params` itself."""
    return params if check_kind(kind) == "float32" else jax.tree.map(np.asarray, expanded(reduced(params, kind)))


def _is_large(path: tuple[str, ...], leaf: Any) -> bool:
    # Stacked layers are the same to each layer: how large a table is does not depend on how many there are.
    axes = 3 if "groups" in path else 2
    table = path in _TABLES or (path[-1] == "kernel" and leaf.ndim == axes)
    return table and leaf.shape[-2] * leaf.shape[-1] >= NUMBERS_MIN


def _bfloat16(path: tuple[str, ...], leaf: Any, blocked: bool) -> Reduced:
    return Reduced(np.asarray(leaf, np.float32).astype(jax.numpy.bfloat16).view(np.uint16), None, blocked)


def _int8(path: tuple[str, ...], leaf: Any, blocked: bool) -> Reduced:
    values = np.asarray(leaf, np.float32)
    largest = np.abs(values).max(axis=-1 if path in _TABLES else -2, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError(f"parameter {'/'.join(path)} is not finite: this checkpoint's training has diverged")
    # Rounded up to 16 binary digits: products of it and int8 are exact then, and give the same scale again.
    fraction, exponent = np.frexp(np.maximum(largest.astype(np.float64) / 127, _SCALE_MIN))
    scale = np.ldexp(np.ceil(fraction * 2**16) / 2**16, exponent).astype(np.float32)
    return Reduced(np.rint(values / scale).astype(np.int8), scale, blocked)
