"""A stream that moves: what a row of a batch is, taken off the device and put into a row of another one.

A row has a fixed size. Its layout (the names, types and shapes of its arrays) is that of the model, so that what was
taken of one batch fits any other of the same model, whatever the number of rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.streaming.programs import Compile
from mmduplex_jax.typing import PyTree
from mmduplex_jax.word_decoder import OpenWord


class ArrayLayout(NamedTuple):
    """An array of a row: its name in the state, its type's name, and its shape, of which one axis is the row's, 1."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class StreamState(NamedTuple):
    """All that a pool knows of a stream, between two ticks.

    Attributes:
      arrays: of its row, NumPy arrays as the pool's `row_layout` says.
      steps: of the model since the last reset.
      word: that is being said.
      last_t_s: the time of the last tick; minus infinity before the first.
      dropped: frames so far.
      cells: of its scene's last frame, where the stream begins anew at cuts (`CutDetector.before`).
      scene_s: when the scene that is being told began: the time of the last cut (`CutDetector.cut_s`).
    """

    arrays: Sequence[np.ndarray]
    steps: int
    word: OpenWord
    last_t_s: float
    dropped: int
    cells: np.ndarray | None = None
    scene_s: float | None = None


class _Live(Protocol):
    def init_state(self, params: PyTree, batch: int) -> PyTree: ...


class Rows:
    """Programs that take a row of a state and put one into it.

    Attributes:
      layout: of a row's arrays.
    """

    def __init__(self, live: _Live, params: PyTree, state: PyTree, compile: Compile, facts: tuple[Any, ...]):
        """Compiles them.

        Args:
          live: makes states of any number of rows.
          params: its parameters.
          state: of the shapes that there will be.
          compile, facts: as of `programs.Compile`.
        """
        # Where an array has the row's axis is what differs between states of two and of three rows.
        of = lambda batch: jax.tree.leaves(jax.eval_shape(lambda params: live.init_state(params, batch), params))
        one, (named, self._tree) = of(1), jax.tree_util.tree_flatten_with_path(state)
        axes = [
            _row_axis(jax.tree_util.keystr(path), two.shape, three.shape)
            for (path, _), two, three in zip(named, of(2), of(3))
        ]
        self.layout = tuple(
            ArrayLayout(jax.tree_util.keystr(path), str(np.dtype(leaf.dtype)), tuple(leaf.shape))
            for (path, _), leaf in zip(named, one)
        )

        def take_row(state: PyTree, row: Any) -> PyTree:
            return [
                jax.lax.dynamic_slice_in_dim(leaf, row, 1, axis) for leaf, axis in zip(jax.tree.leaves(state), axes)
            ]

        def put_row(state: PyTree, values: Any, row: Any) -> PyTree:
            leaves, tree = jax.tree.flatten(state)
            written = [
                jax.lax.dynamic_update_slice_in_dim(leaf, value, row, axis)
                for leaf, value, axis in zip(leaves, values, axes)
            ]
            return jax.tree.unflatten(tree, written)

        zeros = [jnp.zeros(shape, dtype) for _, dtype, shape in self.layout]
        self._take = compile(take_row, state, np.int32(0), facts=facts)
        self._put = compile(put_row, state, zeros, np.int32(0), facts=facts, donate=(0,))

    def take(self, state: PyTree, row: int) -> list[jax.Array]:
        """A copy of a row's arrays, on their way to the host."""
        arrays = self._take(state, np.int32(row))
        for array in arrays:
            array.copy_to_host_async()
        return arrays

    def put(self, state: PyTree, arrays: Sequence[np.ndarray], row: int) -> PyTree:
        """The state with a row that `take` gave; takes the state's memory."""
        return self._put(state, [jax.device_put(np.array(array)) for array in arrays], np.int32(row))

    def check(self, arrays: Sequence[np.ndarray]) -> None:
        """Raises ValueError for arrays that are no row of this model."""
        check_layout(self.layout, [(str(array.dtype), tuple(array.shape)) for array in arrays])


def check_layout(layout: Sequence[ArrayLayout], arrays: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Raises ValueError where arrays, each a type's name and a shape, are no row of this layout; says which is not."""
    if len(arrays) != len(layout):
        raise ValueError(f"a stream's state has {len(arrays)} arrays, this model's has {len(layout)}: another model")
    for (name, *ours), theirs in zip(layout, arrays):
        if tuple(ours) != theirs:
            raise ValueError(
                f"a stream's state is of another model: its {name} is {theirs[0]} {list(theirs[1])}, "
                f"here {ours[0]} {list(ours[1])}"
            )


def _row_axis(name: str, two: tuple[int, ...], three: tuple[int, ...]) -> int:
    for axis, (a, b) in enumerate(zip(two, three)):
        if a != b:
            return axis
    raise ValueError(f"the state's {name} is {list(two)} for any number of rows: of a stream that moves it has no row")
