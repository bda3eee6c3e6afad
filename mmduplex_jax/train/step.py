"""One training step: gradients (accumulated over microbatches), update, metrics; jitted over a mesh."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmduplex_jax.sharding import BATCH_AXES, batch_sharding, replicated
from mmduplex_jax.train.groups import Groups, where_started, without_later
from mmduplex_jax.train.state import TrainState
from mmduplex_jax.train.task import LOSS_WEIGHT, TOKENS, Batch, Task
from mmduplex_jax.typing import PyTree

# What every step reports beside the task's metrics. `finite` is 1 when the update was applied, 0 when it was left out.
RESERVED = ("loss", "grad_norm", "learning_rate", "finite")


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

    def gradients(params: PyTree, batch: Batch, rng: Any) -> tuple[PyTree, dict[str, Any]]:
        trained, kept = groups.split(params)
        loss_of = lambda trained: task.loss(groups.join(trained, kept), batch, rng)
        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        taken = sorted(set(metrics) & set(RESERVED))
        if taken:
            raise ValueError(f"{type(task).__name__}.loss reports {taken}, names that the trainer uses itself")
        return grads, {"loss": loss, **metrics}

    def accumulated(params: PyTree, batch: Batch, rng: Any) -> tuple[PyTree, dict[str, Any]]:
        micro = jax.tree.map(lambda array: _cut(array, grad_accum, mesh), dict(batch))
        first = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), micro)
        shapes = jax.eval_shape(gradients, params, first, rng)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (*shapes, jnp.zeros(())))

        def add(total: Any, item: Any) -> tuple[Any, None]:
            index, part = item
            grads, metrics = gradients(params, part, jax.random.fold_in(rng, index))
            weight = metrics.get(LOSS_WEIGHT, jnp.ones(()))
            weighed = {k: v if k in (TOKENS, LOSS_WEIGHT) else v * weight for k, v in metrics.items()}
            grads = jax.tree.map(lambda leaf: leaf * weight.astype(leaf.dtype), grads)
            return jax.tree.map(jnp.add, total, (grads, weighed, weight)), None

        (grads, metrics, weight), _ = jax.lax.scan(add, zeros, (jnp.arange(grad_accum), micro))
        weight = jnp.where(weight > 0, weight, 1.0)  # a batch in which nothing is valid: all sums are 0 and stay 0
        grads = jax.tree.map(lambda leaf: leaf / weight.astype(leaf.dtype), grads)
        return grads, {k: v if k in (TOKENS, LOSS_WEIGHT) else v / weight for k, v in metrics.items()}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        # Where layers put their rows (`sharding.constrain_batch_sharding`).
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            if grad_accum == 1:
                grads, metrics = gradients(state.params, batch, rng)
            else:
                grads, metrics = accumulated(state.params, batch, rng)
        trained, kept = groups.split(state.params)
        started = groups.started(trained, state.step)
        grads = without_later(started, grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained, step=state.step)
        # The select fuses into the update. Poisoned values never reach the state, so none can reach a checkpoint.
        trained = where_started(started, finite, optax.apply_updates(trained, updates), trained)
        opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), opt_state, state.opt_state)
        metrics = {
            **metrics,
            "grad_norm": grad_norm,
            **learning_rates(state.step),
            "finite": finite.astype(jnp.float32),
        }
        return TrainState(state.step + 1, groups.join(trained, kept), opt_state), metrics

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


def lower_step(step: Callable, state: TrainState, shardings: TrainState, example: Mapping[str, Any], mesh: Mesh) -> Any:
    """Lowers `step` for a state like `state` (abstract or not) and batches like `example`; the state is donated."""
    by_batch = {name: batch_sharding(mesh) for name in example}
    jitted = jax.jit(
        step,
        in_shardings=(shardings, by_batch),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return jitted.lower(state, dict(example))
