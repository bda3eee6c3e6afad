"""Rotary positions in the plane: half of a head's angles turn with the column, half with the row (Heo et al., 2024)."""

import jax.numpy as jnp

from mmduplex_jax.layers import rotary
from mmduplex_jax.typing import Array, Float, Int32


def phases_2d(
    row: Int32[Array, "..."], column: Int32[Array, "..."], head_width: int, base: float
) -> Float[Array, "2 ... E/2"]:
    """Cosines and sines of the angles at places of a grid, for `rotary.rotate`.

    Args:
      row: rows, integers from 0.
      column: columns, of the same shape.
      head_width: E; a multiple of 4.
      base: base of the frequencies.

    Returns:
      float32 `[2, ..., E/2]`, cosines first; the first E/4 angles are of the column (Perception Encoder, Bolya et al.,
      2025).

    Raises:
      ValueError: E is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"rotary positions in the plane need heads of a multiple of 4 wide, not {head_width}")
    along = lambda place: rotary.phases(place, head_width // 2, base)
    return jnp.concatenate([along(column), along(row)], axis=-1)
