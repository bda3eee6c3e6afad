"""AdamW with a linear warm-up, a cosine, clipping by global norm, and decay where it belongs; by groups if asked."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mmduplex_jax.sharding import array_name, logical_names
from mmduplex_jax.train.groups import REST, Group, Groups
from mmduplex_jax.typing import Array, PyTree

# Leaves that are never decayed, whatever their rank. A gated MLP's `gate/kernel` is a matrix like any other.
_UNDECAYED_LEAF = re.compile(r"(^|_)(bias|scale|gate)$")
_UNDECAYED_MODULE = re.compile(r"(^|_)norm(_|\d|$)")


def make_schedule(train: Any) -> optax.Schedule:
    """Learning rate by step: from 0 to `learning_rate` in `warmup_steps`, then a cosine to `end_lr_ratio` of it.

    A run of no more steps than its warm-up (two steps of a large config, to see that they work) ends inside it.

    Raises:
      ValueError: for no steps, or a warm-up of fewer than none.
    """
    if train.steps < 1 or train.warmup_steps < 0:
        raise ValueError(
            f"config.train.steps ({train.steps}) must be at least 1 and config.train.warmup_steps "
            f"({train.warmup_steps}) at least 0"
        )
    if train.steps <= train.warmup_steps:
        return optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if train.warmup_steps else train.learning_rate,
        peak_value=train.learning_rate,
        warmup_steps=train.warmup_steps,
        decay_steps=train.steps,
        end_value=train.learning_rate * train.end_lr_ratio,
    )


def group_schedule(train: Any, group: Group) -> optax.Schedule:
    """Learning rate of a group by the steps that it was trained for: the run's, with a warm-up from its own start."""
    whole, start_step, warmup_steps = make_schedule(train), group.start_step, train.warmup_steps
    if start_step == 0:
        return lambda step: group.lr * whole(step)

    def schedule(step: Any) -> Any:
        warm = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
        return group.lr * warm * whole(jnp.maximum(step + start_step, warmup_steps))

    return schedule


def make_learning_rates(train: Any, groups: Groups) -> Callable[[Array], dict[str, Array]]:
    """A function from the run's step to what to report: `learning_rate`, and `learning_rate/NAME` of a group."""
    whole = make_schedule(train)
    later = {group: group_schedule(train, group) for group in groups.learning if group is not REST}

    def rates(step: Array) -> dict[str, Array]:
        found = {"learning_rate": whole(step)}
        for group, schedule in later.items():
            trained_for = jnp.maximum(step - group.start_step, 0)
            found[f"learning_rate/{group.name}"] = jnp.where(step >= group.start_step, schedule(trained_for), 0.0)
        return {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}

    return rates


def decay_mask(boxed: PyTree) -> PyTree:
    """True for arrays that weight decay pulls: not norms, biases, gates, nor anything of one axis.

    Args:
      boxed: abstract parameters with logical names. An axis named `layers` is a stack of arrays and does not count.
    """
    names = logical_names(boxed)

    def decayed(path: Any, leaf: Any) -> bool:
        where = array_name(path)
        *modules, name = where.split("/")
        axes = sum(axis != "layers" for axis in names[where])
        return axes > 1 and not _UNDECAYED_LEAF.search(name) and not any(map(_UNDECAYED_MODULE.search, modules))

    return jax.tree_util.tree_map_with_path(decayed, nn.unbox(boxed))


def make_optimizer(train: Any, boxed: PyTree, groups: Groups) -> optax.GradientTransformationExtraArgs:
    """The optimiser of `config.train`.

    `init` takes all parameters and makes moments of those that are trained at some time; `update` takes the gradients
    of these, zero where they are not trained yet, and `step`, the run's.

    Args:
      train: `config.train`.
      boxed: abstract parameters with logical names.
      groups: of `train.groups`.
    """
    clip = optax.clip_by_global_norm(train.clip_norm)
    if groups.groups:
        names = jax.tree_util.tree_leaves_with_path(decay_mask(boxed))
        decayed = {array_name(path): is_decayed for path, is_decayed in names}
        # A function, as the optimiser of a group is shown that group's parameters alone.
        mask = lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: decayed[array_name(path)], tree)
        of_group = {
            group.name: _from_step(group.start_step, optax.chain(*_adamw(train, mask, group_schedule(train, group))))
            for group in groups.learning
        }
        inner = optax.chain(clip, optax.multi_transform(of_group, groups.labels))
    else:
        inner = optax.with_extra_args_support(
            optax.chain(clip, *_adamw(train, decay_mask(boxed), make_schedule(train)))
        )
    return optax.GradientTransformationExtraArgs(lambda params: inner.init(groups.split(params)[0]), inner.update)


def _adamw(train: Any, mask: Any, schedule: optax.Schedule) -> tuple[optax.GradientTransformation, ...]:
    return (
        optax.scale_by_adam(b1=train.b1, b2=train.b2),
        optax.add_decayed_weights(train.weight_decay, mask=mask),
        optax.scale_by_learning_rate(schedule),
    )


def _from_step(
    start_step: int, inner: optax.GradientTransformation
) -> optax.GradientTransformation | optax.GradientTransformationExtraArgs:
    """`inner`, whose state stays as it was made until `start_step`."""
    if start_step == 0:
        return inner

    def update(updates: PyTree, state: PyTree, params: PyTree = None, *, step: Any, **more: Any) -> Any:
        del more
        updates, new = inner.update(updates, state, params)
        return updates, jax.tree.map(lambda a, b: jnp.where(step >= start_step, a, b), new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)
