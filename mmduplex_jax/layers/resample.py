"""Resizing as a product with a matrix an axis, in the two ways that towers were trained with.

A sample of the output is a weighted sum of samples of the input, and the weights are separable: `out = Wy @ in @ Wxᵀ`.
With antialiasing the kernel is stretched by the factor of shrinking and cut at the border (Pillow's `ImagingResample`,
PyTorch's `interpolate(antialias=True)`); without, it keeps its width and the border sample is repeated (PyTorch's
`interpolate`). Keys' cubic (1981) has a free parameter: -0.5 with antialiasing, -0.75 without, as in those libraries.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.typing import Array, Float, Int32


def _linear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# How far a kernel reaches, in samples of the coarser side, and the kernel.
_ANTIALIASED: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1, _linear),
    "bicubic": (2, functools.partial(_cubic, a=-0.5)),
}
_PLAIN: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1, _linear),
    "bicubic": (2, functools.partial(_cubic, a=-0.75)),
}
METHODS = tuple(_ANTIALIASED)


@functools.lru_cache(maxsize=64)
def resize_matrix(size: int, new_size: int, method: str, antialias: bool) -> np.ndarray:
    """Weights that resize one axis.

    Args:
      new_size: samples of the output.
      method: "bilinear" or "bicubic".
      antialias: whether shrinking averages over what it leaves out, as the module's docstring tells.

    Returns:
      float64 `[new_size, size]`, rows sum to 1; read-only.

    Raises:
      ValueError: an unknown method, or a size below 1.
    """
    if method not in METHODS:
        raise ValueError(f"resizing is one of {', '.join(METHODS)}, not {method!r}")
    if size < 1 or new_size < 1:
        raise ValueError(f"sizes must be at least 1, got {size} -> {new_size}")
    scale = size / new_size
    center = (np.arange(new_size) + 0.5) * scale
    if antialias:
        reach, kernel = _ANTIALIASED[method]
        stretch = max(scale, 1.0)
        low = np.maximum((center - reach * stretch + 0.5).astype(np.int64), 0)
        high = np.minimum((center + reach * stretch + 0.5).astype(np.int64), size)
        index = np.arange(size)
        weights = kernel((index + 0.5 - center[:, None]) / stretch)
        weights = np.where((index >= low[:, None]) & (index < high[:, None]), weights, 0)
        matrix = weights / weights.sum(axis=1, keepdims=True)
    else:
        reach, kernel = _PLAIN[method]
        if method == "bilinear":  # PyTorch holds the place itself inside the picture, for this kernel only
            center = np.maximum(center, 0.5)
        first = np.floor(center - 0.5).astype(np.int64) - reach + 1
        matrix = np.zeros((new_size, size))
        for tap in range(2 * reach):
            index = first + tap
            weight = kernel(index + 0.5 - center)
            np.add.at(matrix, (np.arange(new_size), np.clip(index, 0, size - 1)), weight)
    matrix.setflags(write=False)
    return matrix


def resize_grid(grid: Float[Array, "... Y X D"], rows: int, columns: int, method: str, antialias: bool) -> Array:
    """Resizes a grid of vectors, or a picture, to `[..., rows, columns, D]`, in float32."""
    down = jnp.asarray(resize_matrix(grid.shape[-3], rows, method, antialias), jnp.float32)
    across = jnp.asarray(resize_matrix(grid.shape[-2], columns, method, antialias), jnp.float32)
    return jnp.einsum("ri,cj,...ijd->...rcd", down, across, grid.astype(jnp.float32), precision="highest")


def linear_weights(place: Int32[Array, "..."], new_size: Int32[Array, "..."], size: int) -> Float[Array, "... size"]:
    """Rows of `resize_matrix(size, new_size, "bilinear", antialias=True)` where the new size is known at run time only.

    Args:
      place: which sample of the output.
      new_size: how many samples the output has.

    Returns:
      float32 `[..., size]`.
    """
    scale = size / new_size.astype(jnp.float32)
    center = (place.astype(jnp.float32) + 0.5) * scale
    offset = jnp.arange(size, dtype=jnp.float32) + 0.5 - center[..., None]
    weights = jnp.maximum(1 - jnp.abs(offset / jnp.maximum(scale, 1)[..., None]), 0)
    return weights / weights.sum(axis=-1, keepdims=True)
