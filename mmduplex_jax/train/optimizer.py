"""AdamW with a linear warm-up, a cosine, clipping by global norm, and decay where it belongs."""

import re
from typing import Any

import flax.linen as nn
import jax
import optax

from mmduplex_jax.sharding import array_name, logical_names
from mmduplex_jax.typing import PyTree

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


def make_optimizer(train: Any, boxed: PyTree) -> optax.GradientTransformation:
    """The optimiser of `config.train` for parameters like `boxed` (abstract, with logical names)."""
    return optax.chain(
        optax.clip_by_global_norm(train.clip_norm),
        optax.scale_by_adam(b1=train.b1, b2=train.b2),
        optax.add_decayed_weights(train.weight_decay, mask=decay_mask(boxed)),
        optax.scale_by_learning_rate(make_schedule(train)),
    )
