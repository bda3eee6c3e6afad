"""Tables stored in fewer bits than a product is computed in, and products with them.

A compiler for CPUs makes a float32 copy of a whole table before it multiplies, which costs more than reading float32 in
the first place. So there a product takes some rows at a time, whose copies stay in the processor's caches; it is the
same but for the order in which products are added up.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import dtypes

from mmduplex_jax.typing import Array, Float, Int32

# Rows that are float32 at a time: some hundred kilobytes to a megabyte of the usual widths. More is slower where the
# caches do not hold them, fewer where the loop's own work counts (`benchmarks.streaming --weights`).
_KERNEL_ROWS, _TABLE_ROWS = 64, 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reduced:
    """A table of whose numbers only these are kept: `int8 · scale`, or the bits of bfloat16.

    It stands in a model's parameters where the float32 table would; leading axes (layers) may be stacked.

    Attributes:
      values: int8 or, of bfloat16, uint16 `[..., I, O]`. (Loops over bfloat16 are made into ones over float32, outside
        of which a compiler then makes the copy.) It is the first leaf, since Flax checks that one's shape.
      scale: float32, of int8: `[..., 1, O]` (a kernel's output channels) or `[..., I, 1]` (an embedding's rows).
      blocked: whether products take some rows at a time, as CPUs should.
    """

    values: Array | np.ndarray
    scale: Array | np.ndarray | None
    blocked: bool = dataclasses.field(default=False, metadata={"static": True})

    def expanded(self) -> Float[Array, "... I O"]:
        """All of it in float32."""
        return _floats(self.values) if self.scale is None else _floats(self.values) * self.scale

    def __getitem__(self, rows: Int32[Array, "..."]) -> Float[Array, "... O"]:
        """Rows of an embedding table in float32."""
        found = _floats(self.values[rows])
        return found if self.scale is None else found * self.scale[rows]


def _floats(values: Any) -> Array:
    if values.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(values.astype(jnp.uint32) << 16, jnp.float32)
    return values.astype(jnp.float32)


def multiplied(x: Float[Array, "... I"], kernel: Reduced) -> Float[Array, "... O"]:
    """`x · kernel` in `x`'s dtype; the kernel is no stack."""
    if not kernel.blocked:
        return x @ kernel.expanded().astype(x.dtype)
    inputs, outputs = kernel.values.shape
    rows = min(inputs, _KERNEL_ROWS)
    flat = x.reshape(-1, inputs).astype(jnp.float32)

    def add(i: Any, total: Array) -> Array:
        # The last rows begin sooner where they would not be as many; what was counted before is left out.
        begin = jnp.minimum(i * rows, inputs - rows)
        part = jnp.where(begin + jnp.arange(rows) >= i * rows, _slice(flat, begin, rows, 1), 0.0)
        return total + part @ _floats(_slice(kernel.values, begin, rows, 0))

    # All of it in the loop: rows outside would be copied before anything else is done, and stay until they are used.
    out = jax.lax.fori_loop(0, -(-inputs // rows), add, jnp.zeros((len(flat), outputs), jnp.float32))
    if kernel.scale is not None:
        out = out * kernel.scale
    return out.reshape(*x.shape[:-1], outputs).astype(x.dtype)


def scored(x: Float[Array, "B S D"], table: Float[Array, "V D"] | Reduced) -> Float[Array, "B S V"]:
    """float32 `x · tableᵀ`: how well each row of a table fits."""
    product = lambda x, table: jnp.einsum("bsd,vd->bsv", x, table, preferred_element_type=jnp.float32)
    if not isinstance(table, Reduced):
        return product(x, table.astype(x.dtype))
    if not table.blocked:
        return product(x, table.expanded().astype(x.dtype))
    count, width = table.values.shape
    rows = min(count, _TABLE_ROWS)
    flat = x.reshape(-1, width).astype(jnp.float32)

    def put(i: Any, out: Array) -> Array:
        begin = jnp.minimum(i * rows, count - rows)
        part = flat @ _floats(_slice(table.values, begin, rows, 0)).T
        return jax.lax.dynamic_update_slice_in_dim(out, part, begin, 1)

    out = jax.lax.fori_loop(0, -(-count // rows), put, jnp.zeros((len(flat), count), jnp.float32))
    if table.scale is not None:
        out = out * table.scale[:, 0]
    return out.reshape(*x.shape[:-1], count)


def _slice(array: Any, begin: Any, count: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, begin, count, axis)


def promote_dtype(inputs: Array, kernel: Any, bias: Array | None, *, dtype: Any) -> list[Any]:
    """`flax.linen.dtypes.promote_dtype` as a `nn.Dense` that may have a `Reduced` kernel needs it."""
    if not isinstance(kernel, Reduced):
        return dtypes.promote_dtype(inputs, kernel, bias, dtype=dtype)
    inputs, bias = dtypes.promote_dtype(inputs, bias, dtype=dtype)
    return [inputs, kernel, bias]


def dense_product(inputs: Array, kernel: Any, dims: Any, precision: Any = None) -> Array:
    """`jax.lax.dot_general` as a `nn.Dense` that may have a `Reduced` kernel needs it: the last axis by the first."""
    if isinstance(kernel, Reduced):
        return multiplied(inputs, kernel)
    return jax.lax.dot_general(inputs, kernel, dims, precision=precision)
