"""Rotary positions (Su et al., 2021) that stay exact for a stream that runs for days.

A position is an integer count of steps. In float32 the product `position · frequency` has lost the fraction of a turn
after some hours, so the angle is split, `position = (high · 4096 + middle) · 4096 + low`, and each part's cosines and
sines come from tables that NumPy computed in float64; the angle-sum identity joins them with a rounding of about 1e-7
at any position.

Frequencies may be stretched as Llama 3 does it, for contexts longer than those of pre-training (Grattafiori et al.,
2024; `rope_type` "llama3" in transformers).
"""

import functools

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.typing import Array, Float, Int32

_BITS = 12
_PART = 1 << _BITS
_HIGH = 128
MAX_STEPS = _HIGH * _PART * _PART  # all that an int32 counts: five years at 12.5 Hz


def stretched(frequency: np.ndarray, scaling: tuple[float, ...]) -> np.ndarray:
    """Llama 3's frequencies: slow ones divided by a factor, fast ones kept, those between interpolated.

    Args:
      frequency: float64 `[E/2]`, radians a step.
      scaling: `(factor, low_freq_factor, high_freq_factor, original_max_position_embeddings)`, or nothing.

    Raises:
      ValueError: for another number of values, or a band that is empty.
    """
    if not scaling:
        return frequency
    if len(scaling) != 4 or not 0 < scaling[1] < scaling[2]:
        raise ValueError(
            "rope_scaling is (factor, low_freq_factor, high_freq_factor, original_max_position_embeddings) with "
            f"0 < low_freq_factor < high_freq_factor, or empty; got {scaling}"
        )
    factor, low, high, original = scaling
    turns = original * frequency / (2 * np.pi)  # in the context of pre-training
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (kept + (1 - kept) / factor)


@functools.lru_cache(maxsize=8)
def _tables(head_width: int, base: float, scaling: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines and sines, float32 `[2, entries, E/2]`, of the low, the middle and the high part's angles."""
    frequency = stretched(base ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width), scaling)

    def table(entries: int, unit: int) -> np.ndarray:
        angle = (np.arange(entries, dtype=np.float64) * unit)[:, None] * frequency
        return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)

    return table(_PART, 1), table(_PART, _PART), table(_HIGH, _PART * _PART)


def phases(
    steps: Int32[Array, "..."], head_width: int, base: float, scaling: tuple[float, ...] = ()
) -> Float[Array, "2 ... E/2"]:
    """Cosines and sines of the rotary angles at integer `steps` in `[0, MAX_STEPS)`.

    Args:
      scaling: see `stretched`.

    Returns:
      float32 `[2, ..., E/2]`, cosines first.
    """
    low, middle, high = _tables(head_width, float(base), tuple(scaling))
    steps = jnp.asarray(steps)
    coarse = _joined(_entry(high, steps >> 2 * _BITS), _entry(middle, steps >> _BITS))
    return jnp.stack(_joined(coarse, _entry(low, steps)))


Angle = tuple[Float[Array, "... E/2"], Float[Array, "... E/2"]]  # its cosine and its sine


def _entry(table: np.ndarray, number: Int32[Array, "..."]) -> Angle:
    """The angles of `number`'s lowest digit, which is one of the table's entries: their number is a power of two."""
    number = number & table.shape[1] - 1
    # In bounds as it is: looking after indices that are not would be most of the operations here.
    cos, sin = (jnp.asarray(t).at[number].get(mode="promise_in_bounds", wrap_negative_indices=False) for t in table)
    return cos, sin


def _joined(a: Angle, b: Angle) -> Angle:
    """The sums of two angles."""
    return a[0] * b[0] - a[1] * b[1], a[1] * b[0] + a[0] * b[1]


def rotate(x: Float[Array, "B S Q E"], phase: Float[Array, "2 B S E/2"]) -> Float[Array, "B S Q E"]:
    """Rotates the halves of every head by its position's angle (the `rotate_half` layout of Llama in transformers)."""
    cos, sin = phase[0][:, :, None], phase[1][:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def phases_2d(
    row: Int32[Array, "..."], column: Int32[Array, "..."], head_width: int, base: float
) -> Float[Array, "2 ... E/2"]:
    """Positions in the plane (Heo et al., 2024): cosines and sines of the angles at places of a grid, for `rotate`.

    Args:
      row: rows, integers from 0.
      column: columns, of the same shape.
      head_width: E; a multiple of 4.

    Returns:
      float32 `[2, ..., E/2]`, cosines first; the first E/4 angles are of the column (Perception Encoder, Bolya et al.,
      2025).

    Raises:
      ValueError: E is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"rotary positions in the plane need heads of a multiple of 4 wide, not {head_width}")
    along = lambda place: phases(place, head_width // 2, base)
    return jnp.concatenate([along(column), along(row)], axis=-1)
