"""What a run computes, as its config decides it: the state and where it lies, one step, and both as a `Program`.

Making a program costs no memory on the devices, so that a model of any size can be examined, or compiled for machines
that are not there.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmduplex_jax.sharding import BATCH_AXES, array_name, batch_sharding, replicated, tree_shardings
from mmduplex_jax.train.optimizer import Groups, make_groups, make_learning_rates, make_optimizer
from mmduplex_jax.train.task import LOSS_WEIGHT, TOKENS, AveragingTask, Batch, MeshTask, Task, averaged_by
from mmduplex_jax.typing import PyTree

# What every step reports beside the task's metrics. `finite` is 1 when the update was applied, 0 when it was left out.
RESERVED = ("loss", "grad_norm", "learning_rate", "finite")


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


def make_step(
    task: Task,
    groups: Groups,
    optimizer: optax.GradientTransformationExtraArgs,
    learning_rates: Callable[[Any], dict[str, Any]],
    *,
    mesh: Mesh,
    seed: int,
    grad_accum: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """`(state, batch) -> (state, metrics)`, a pure function to jit.

    Randomness is `fold_in(seed, step)`, so a step is the same whenever it is done. When loss or gradient is not finite
    nothing of the state changes but `step`, and `metrics["finite"]` is 0.

    Args:
      task: the stage.
      groups: which parameters are trained, and from when.
      optimizer: its optimiser.
      learning_rates: by step, to report.
      mesh: where the batch is split.
      seed: of all randomness in the loss.
      grad_accum: microbatches a batch is cut into; one of them is on the devices at a time.
    """
    averaging = task if isinstance(task, AveragingTask) else None

    def gradients(params: PyTree, batch: Batch, rng: Any) -> tuple[PyTree, dict[str, Any], PyTree]:
        trained, kept = groups.split(params)

        def loss_of(trained: PyTree) -> tuple[Any, Any]:
            whole = groups.join(trained, kept)
            if averaging is None:
                loss, metrics = task.loss(whole, batch, rng)
                return loss, (metrics, ())
            loss, metrics, sums = averaging.loss_and_sums(whole, batch, rng)
            return loss, (metrics, sums)

        (loss, (metrics, sums)), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        taken = sorted(set(metrics) & set(RESERVED))
        if taken:
            raise ValueError(f"{type(task).__name__}.loss reports {taken}, names that the trainer uses itself")
        return grads, {"loss": loss, **metrics}, sums

    def accumulated(params: PyTree, batch: Batch, rng: Any) -> tuple[PyTree, dict[str, Any], PyTree]:
        micro = jax.tree.map(lambda array: _cut(array, grad_accum, mesh), dict(batch))
        first = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), micro)
        shapes = jax.eval_shape(gradients, params, first, rng)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (*shapes[:2], jnp.zeros(()), shapes[2]))

        def add(total: Any, item: Any) -> tuple[Any, None]:
            index, part = item
            grads, metrics, more = gradients(params, part, jax.random.fold_in(rng, index))
            weight = metrics.get(LOSS_WEIGHT, jnp.ones(()))
            weighed = {k: v if k in (TOKENS, LOSS_WEIGHT) else v * weight for k, v in metrics.items()}
            grads = jax.tree.map(lambda leaf: leaf * weight.astype(leaf.dtype), grads)
            *summed, sums = total
            sums = sums if averaging is None else averaging.add_sums(sums, more)
            return (*jax.tree.map(jnp.add, tuple(summed), (grads, weighed, weight)), sums), None

        (grads, metrics, weight, sums), _ = jax.lax.scan(add, zeros, (jnp.arange(grad_accum), micro))
        weight = jnp.where(weight > 0, weight, 1.0)  # a batch in which nothing is valid: all sums are 0 and stay 0
        grads = jax.tree.map(lambda leaf: leaf / weight.astype(leaf.dtype), grads)
        return grads, {k: v if k in (TOKENS, LOSS_WEIGHT) else v / weight for k, v in metrics.items()}, sums

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        # Where layers put their rows (`sharding.constrain_batch_sharding`).
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            if grad_accum == 1:
                grads, metrics, sums = gradients(state.params, batch, rng)
            else:
                grads, metrics, sums = accumulated(state.params, batch, rng)
        trained, kept = groups.split(state.params)
        grads = groups.zero_later(grads, state.step)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained, step=state.step)
        # The select fuses into the update. Poisoned values never reach the state, so none can reach a checkpoint.
        trained, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(trained, updates), opt_state),
            (trained, state.opt_state),
        )
        metrics = {
            **metrics,
            "grad_norm": grad_norm,
            **learning_rates(state.step),
            "finite": finite.astype(jnp.float32),
        }
        params = groups.join(trained, kept)
        if averaging is not None:
            moved = averaging.average(params, sums)
            params = jax.tree.map(lambda new, old: new if new is old else jnp.where(finite, new, old), moved, params)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def _cut(array: Any, parts: int, mesh: Mesh) -> Any:
    """`[B, ...] -> [parts, B / parts, ...]`, each device keeping the rows it has."""
    micro = array.reshape(array.shape[0] // parts, parts, *array.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(micro, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))


def check_batch_size(batch_size: int, grad_accum: int, mesh: Mesh) -> None:
    """Raises ValueError when a batch cannot be cut into microbatches that the mesh can split."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if grad_accum < 1 or batch_size % (grad_accum * ways):
        raise ValueError(
            f"config.data.batch_size ({batch_size}) must be a multiple of config.train.grad_accum ({grad_accum}) x "
            f"mesh data ({mesh.shape['data']}) x fsdp ({mesh.shape['fsdp']})"
        )


def trace_step(step: Callable, state: TrainState, shardings: TrainState, example: Mapping[str, Any], mesh: Mesh) -> Any:
    """Traces `step` for a state like `state` (abstract or not) and batches like `example`; the state is donated."""
    by_batch = {name: batch_sharding(mesh) for name in example}
    jitted = jax.jit(
        step,
        in_shardings=(shardings, by_batch),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return jitted.trace(state, dict(example))


@dataclasses.dataclass(frozen=True)
class Program:
    """A run's shapes, shardings and step.

    Attributes:
      task: what is trained.
      mesh: on what.
      boxed: abstract parameters with logical axis names.
      groups: which parameters are trained, and from when.
      optimizer: of `config.train`.
      shardings: of the whole state.
      target: abstract state with its shardings, to restore into.
      example: abstract batch of all processes.
      step: `(state, batch) -> (state, metrics)`, not yet compiled.
      seed: of initialisation and of every step's randomness.
    """

    task: Task
    mesh: Mesh
    boxed: PyTree
    groups: Groups
    optimizer: optax.GradientTransformationExtraArgs
    shardings: TrainState
    target: TrainState
    example: dict[str, jax.ShapeDtypeStruct]
    step: Callable
    seed: int

    def trace(self) -> Any:
        """The step as JAX sees it: its `jaxpr`, and `lower()` to what the compiler is given."""
        return trace_step(self.step, self.target, self.shardings, self.example, self.mesh)

    def compile(self) -> Any:
        """The step, compiled for the mesh; it takes the state over (donation)."""
        return self.trace().lower().compile()

    def init_state(self) -> TrainState:
        """The state at step 0, on the mesh."""
        return init_state(self.task, self.optimizer, self.shardings, self.seed)


def make_program(task: Task, config: Any, mesh: Mesh) -> Program:
    """The program of `config.train` and `config.data.batch_size` for a task.

    Raises:
      ShardingError: a parameter does not fit the mesh.
      GroupsError: `config.train.groups` does not fit the parameters.
      ValueError: the batch cannot be split, or the schedule makes no sense.
    """
    train, batch_size = config.train, config.data.batch_size
    if isinstance(task, MeshTask):
        task = task.on_mesh(mesh)
    check_batch_size(batch_size, train.grad_accum, mesh)
    boxed = abstract_params(task)
    groups = make_groups(train, boxed, averaged_by(task))
    optimizer = make_optimizer(train, boxed, groups)
    shardings = state_shardings(boxed, optimizer, mesh)
    step = make_step(
        task,
        groups,
        optimizer,
        make_learning_rates(train, groups),
        mesh=mesh,
        seed=train.seed,
        grad_accum=train.grad_accum,
    )
    return Program(
        task=task,
        mesh=mesh,
        boxed=boxed,
        groups=groups,
        optimizer=optimizer,
        shardings=shardings,
        target=abstract_state(task, optimizer, shardings),
        example=task.example_batch(batch_size),
        step=step,
        seed=train.seed,
    )
