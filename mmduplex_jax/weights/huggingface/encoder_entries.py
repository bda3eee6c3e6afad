"""Entries of the parts that all vision transformers share, under whatever names: patches, attention, norms, MLPs."""

import numpy as np

from mmduplex_jax.weights.huggingface.layout import Entry, reshaped, same, transposed

QUERY_KEY_VALUE = ("query", "key", "value")


def norm(ours: str, theirs: str) -> list[Entry]:
    """A LayerNorm."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    """A dense layer, with its bias."""
    kernel = transposed(f"{ours}/kernel", f"{theirs}.weight")
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")] if bias else [kernel]


def patch_convolution(ours: str, theirs: str, patch_px: int, channels: int) -> Entry:
    """Theirs `[D, C, patch_px, patch_px]`, a convolution; ours `[patch_px² · C, D]`, a dense layer over patches."""
    return Entry(
        f"{ours}/kernel",
        theirs,
        lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0]),
        lambda a: a.reshape(patch_px, patch_px, channels, a.shape[1]).transpose(3, 2, 0, 1),
    )


def vector(ours: str, theirs: str, their_shape: tuple[int, ...], rows: int = 0) -> Entry:
    """A table of vectors, ours `[rows, D]` (`[D]` for 0 rows), theirs with more axes of size 1."""
    return reshaped(ours, theirs, (rows, their_shape[-1]) if rows else their_shape[-1:], their_shape)


def fused_linear(
    ours: str, names: tuple[str, ...], weight: str, bias: str, *, turned_heads: int = 0
) -> tuple[Entry, Entry]:
    """Dense layers of ours that are one of theirs, which has their outputs one after the other.

    Args:
      ours: path up to the layers.
      names: our layers, in their order.
      weight: their tensor `[len(names) · D, D]`.
      bias: their tensor `[len(names) · D]`.
      turned_heads: number of heads where the outputs of "query" and "key" are turned by rotary angles, 0 where they
        are not. Their angles turn neighbours, ours the halves of a head: the outputs change places accordingly, which
        no product of a query and a key notices.
    """
    to_halves, to_pairs = _places(turned_heads)
    turned = [bool(turned_heads) and name in ("query", "key") for name in names]

    def cut(fused: np.ndarray) -> tuple[np.ndarray, ...]:
        parts = np.split(fused, len(names))
        return tuple(np.transpose(to_halves(part) if turn else part) for part, turn in zip(parts, turned))

    def join(*parts: np.ndarray) -> np.ndarray:
        theirs = (np.transpose(part) for part in parts)
        return np.concatenate([to_pairs(part) if turn else part for part, turn in zip(theirs, turned)])

    return (
        Entry(tuple(f"{ours}/{name}/kernel" for name in names), weight, cut, join),
        Entry(tuple(f"{ours}/{name}/bias" for name in names), bias, cut, join),
    )


def _places(heads: int):
    """Functions that move outputs (the first axis) from neighbours to halves of a head, and back."""

    def to_halves(a: np.ndarray) -> np.ndarray:
        return a.reshape(heads, -1, 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)

    def to_pairs(a: np.ndarray) -> np.ndarray:
        return a.reshape(heads, 2, -1, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)

    return to_halves, to_pairs
