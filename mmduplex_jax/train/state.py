"""What a step carries to the next, and where it lies on the mesh."""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from mmduplex_jax.sharding import array_name, replicated, tree_shardings
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes; also, in the same shape, its `ShapeDtypeStruct`s and its shardings.

    Attributes:
      step: int32 scalar, steps done.
      params: unboxed parameters.
      opt_state: the optimiser's state, of the parameters that are trained at some time.
    """

    step: Any
    params: PyTree
    opt_state: PyTree


def abstract_params(task: Task) -> PyTree:
    """Boxed `ShapeDtypeStruct`s of a task's parameters; computes nothing."""
    return jax.eval_shape(task.init, jax.random.key(0))


def state_shardings(boxed: PyTree, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shardings of a whole state: the optimiser's moments lie where their parameters lie.

    Raises:
      ShardingError: see `mmduplex_jax.sharding.resolve`.
    """
    params = tree_shardings(boxed, mesh)
    placed = {array_name(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(params)}

    def moment(path: Sequence[Any], _: Any) -> NamedSharding:
        # A moment stands in a field of the optimiser's state under its parameter's path; nothing else has one.
        keys = itertools.takewhile(lambda key: isinstance(key, jax.tree_util.DictKey), reversed(path))
        return placed.get(array_name([*keys][::-1]), replicated(mesh))

    shapes = jax.eval_shape(optimizer.init, nn.unbox(boxed))
    return TrainState(replicated(mesh), params, jax.tree_util.tree_map_with_path(moment, shapes))


def make_init(task: Task, optimizer: optax.GradientTransformation, seed: int) -> Any:
    """A function of no argument that makes the state at step 0; jit it with `out_shardings`."""

    def init() -> TrainState:
        params = nn.unbox(task.init(jax.random.key(seed)))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return init


def abstract_state(task: Task, optimizer: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """`ShapeDtypeStruct`s of a state with its shardings: what a checkpoint is restored into."""
    shapes = jax.eval_shape(make_init(task, optimizer, seed=0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def init_state(task: Task, optimizer: optax.GradientTransformation, shardings: TrainState, seed: int) -> TrainState:
    """The state at step 0, made where it will lie: no device ever holds what is not its own."""
    return jax.jit(make_init(task, optimizer, seed), out_shardings=shardings)()
