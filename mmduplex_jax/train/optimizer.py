"""The optimiser of `config.train` (AdamW, clipped by global norm, a learning rate by step), and groups of parameters.

Groups are trained from a step on, at a rate of their own, or never: `config.train.groups`.

    c.train.groups = config_dict.create(
        text=dict(match="text/(?!.*/cross/)", start_step=2000, lr=0.3),
        tower=dict(match="tokenizer/anchors/tower/", start_step=-1),
    )

`match` is a regular expression for the beginning of a parameter's path; `start_step` the step that trains it first, -1
for never; `lr` what its learning rate is of the run's. What no group matches is trained from the first step.

"Just the projector first" (LLaVA, Liu et al., 2023) keeps what others have learned from the noise of what is new. What
is not trained is not touched: not a bit of it changes, it has no part in the gradient's norm, and its moments are those
of a beginning when it starts. What is never trained, or would be after the run's last step, has no gradient and no
moments at all; of what starts later the gradient is computed from the beginning, and thrown away.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mmduplex_jax.sharding import array_name, logical_names
from mmduplex_jax.train.parameters import count
from mmduplex_jax.typing import Array, Int32, PyTree

# Leaves that are never decayed, whatever their rank. A gated MLP's `gate/kernel` is a matrix like any other.
_UNDECAYED_LEAF = re.compile(r"(^|_)(bias|scale|gate)$")
_UNDECAYED_MODULE = re.compile(r"(^|_)norm(_|\d|$)")
NEVER = -1


class GroupsError(ValueError):
    """`config.train.groups` and the model do not belong together; says which group, and what to change."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
      name: in the config.
      match: regular expression of the beginning of their paths.
      start_step: the step that trains them first; NEVER.
      lr: their learning rate over the run's.
    """

    name: str
    match: str
    start_step: int = 0
    lr: float = 1.0

    def __post_init__(self):
        where = f"config.train.groups.{self.name}"
        if not isinstance(self.start_step, int) or self.start_step < NEVER:
            raise GroupsError(f"{where}.start_step is a step from 0 on, or {NEVER} for never, not {self.start_step!r}")
        if not self.lr > 0:
            raise GroupsError(f"{where}.lr must be above 0, got {self.lr}: what is not to be trained has start_step=-1")
        try:
            re.compile(self.match)
        except (re.error, TypeError) as error:
            raise GroupsError(f"{where}.match is {self.match!r}, no regular expression: {error}") from error


REST = Group("rest", "")  # what no group of the config matches
AVERAGED = "averaged"  # the group of what a task averages itself


@dataclasses.dataclass(frozen=True)
class Groups:
    """Which parameters a run trains, and from when.

    Attributes:
      groups: those of the config.
      of: the group of every parameter, by its path; that of a group which starts after the run's end is never trained.
    """

    groups: tuple[Group, ...]
    of: Mapping[str, Group]

    def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """Cuts a nested dict in two: what is trained at some time, and what never is."""
        return self._part(params, "", trained=True), self._part(params, "", trained=False)

    def _part(self, node: Mapping[str, Any], prefix: str, *, trained: bool) -> dict[str, Any]:
        part: dict[str, Any] = {}
        for name, value in node.items():
            where = prefix + name
            if isinstance(value, Mapping):
                below = self._part(value, f"{where}/", trained=trained)
                part |= {name: below} if below else {}
            elif (self.of[where].start_step != NEVER) == trained:
                part[name] = value
        return part

    def join(self, trained: PyTree, kept: PyTree) -> PyTree:
        """The inverse of `split`."""
        joined = dict(trained)
        for name, value in kept.items():
            joined[name] = self.join(joined[name], value) if name in joined else value
        return joined

    def zero_later(self, grads: PyTree, step: Int32[Array, ""]) -> PyTree:
        """Gradients with zeros for what is not trained at `step`."""

        def one(path: Any, grad: Array) -> Array:
            start_step = self.of[array_name(path)].start_step
            return grad if start_step == 0 else jnp.where(step >= start_step, grad, 0)

        return jax.tree_util.tree_map_with_path(one, grads)

    def labels(self, trained: PyTree) -> PyTree:
        """The name of every array's group."""
        return jax.tree_util.tree_map_with_path(lambda path, _: self.of[array_name(path)].name, trained)

    @property
    def learning(self) -> list[Group]:
        """Groups that are trained at some time, `REST` among them where there is any."""
        found = {group.name: group for group in self.of.values() if group.start_step != NEVER}
        return [found[name] for name in sorted(found)]

    def lines(self, boxed: PyTree, steps: int) -> list[str]:
        """A line on each group of the config, for people.

        Args:
          boxed: abstract parameters with logical names.
          steps: of the run.
        """
        lines = []
        for group in self.groups:
            sizes = [
                count(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(boxed))
                if self.of[array_name(path)].name == group.name
            ]
            when = f"from step {group.start_step} at {group.lr:g} of the learning rate"
            if group.name == AVERAGED:
                when = "moving averages, trained by no gradient"
            elif group.start_step == NEVER:
                when = "never trained"
            elif group.start_step >= steps:
                when = f"from step {group.start_step}: not in this run of {steps}"
            lines.append(f"group {group.name}: {sum(sizes):,} parameters in {len(sizes)} arrays, {when}")
        return lines


def make_groups(train: Any, boxed: PyTree, averaged: str = "") -> Groups:
    """The groups of `config.train.groups`, where there are any.

    Args:
      train: `config.train`.
      boxed: abstract parameters with logical names, nested dicts.
      averaged: beginning of the paths of what the task averages itself, so that no gradient trains it; "" for none.

    Raises:
      GroupsError: a group says what cannot be, matches nothing, or what another matches too; or nothing is trained.
    """
    groups = [Group(AVERAGED, averaged, start_step=NEVER)] if averaged else []
    for name, values in sorted((train.get("groups") or {}).items()):
        if name in (REST.name, AVERAGED):
            raise GroupsError(f"config.train.groups.{name}: this is what everything else is called, name it otherwise")
        known = {field.name for field in dataclasses.fields(Group)} - {"name"}
        if "match" not in values or set(values) - known:
            raise GroupsError(
                f"config.train.groups.{name} has the fields {sorted(values)}: needed is match, possible are start_step "
                "and lr"
            )
        groups.append(Group(name, **values))
    paths = [array_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(nn.unbox(boxed))]
    of = {}
    for where in paths:
        matching = [group for group in groups if re.match(group.match, where)]
        if len(matching) > 1:
            names = " and ".join(group.name for group in matching)
            raise GroupsError(f"config.train.groups.{names} both match {where}: make one of them narrower")
        of[where] = matching[0] if matching else REST
    for group in groups:
        if group not in of.values():
            raise GroupsError(
                f"config.train.groups.{group.name}.match is {group.match!r}, which no parameter begins with; there are "
                f"{', '.join(sorted({where.split('/')[0] for where in paths}))}"
            )
    too_late = {
        group: dataclasses.replace(group, start_step=NEVER) for group in groups if group.start_step >= train.steps
    }
    of = {where: too_late.get(group, group) for where, group in of.items()}
    if all(group.start_step == NEVER for group in of.values()):
        raise GroupsError(f"config.train.groups leaves nothing to be trained in {train.steps} steps")
    return Groups(tuple(groups), of)


def make_schedule(train: Any) -> optax.Schedule:
    """Learning rate by step: from 0 to `learning_rate` in `warmup_steps`, then down to `end_lr_ratio` of it.

    Without `decay_steps`, a field that a config may lack, it goes down by a cosine over the whole run. With them it is
    constant until that many steps before the end, and goes down by a line (warm-up, stable, decay: MiniCPM, Hu et al.,
    2024, arXiv 2404.06395; Hägele et al., 2024, arXiv 2405.18392). So how long a run is need not be known before its
    decay begins, and until then runs of any length are the same run.

    A run of no more steps than its warm-up (two steps of a large config, to see that they work) ends inside it.

    Raises:
      ValueError: for no steps, a warm-up of fewer than none, or a decay that does not fit behind the warm-up.
    """
    decay_steps = train.get("decay_steps") or 0
    if train.steps < 1 or train.warmup_steps < 0:
        raise ValueError(
            f"config.train.steps ({train.steps}) must be at least 1 and config.train.warmup_steps "
            f"({train.warmup_steps}) at least 0"
        )
    if train.steps <= train.warmup_steps:
        return optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps)
    if decay_steps:
        stable_steps = train.steps - train.warmup_steps - decay_steps
        if decay_steps < 0 or stable_steps < 0:
            raise ValueError(
                f"config.train.decay_steps ({decay_steps}) must be at least 0 and leave room for the warm-up: "
                f"config.train.steps is {train.steps}, config.train.warmup_steps {train.warmup_steps}"
            )
        begin = optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps)
        end = optax.linear_schedule(train.learning_rate, train.learning_rate * train.end_lr_ratio, decay_steps)
        stable = optax.constant_schedule(train.learning_rate)
        parts, ends = ([begin, stable, end], [train.warmup_steps]) if train.warmup_steps else ([stable, end], [])
        return optax.join_schedules(parts, [*ends, train.steps - decay_steps])
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


def _from_step(start_step: int, inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`inner` from `start_step` on. Before, its state stays as it was made, and parameters keep every bit."""
    if start_step == 0:
        return optax.with_extra_args_support(inner)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, *, step: Any, **more: Any) -> Any:
        del more
        new_updates, new_state = inner.update(updates, state, params)
        # Not 0.0: a parameter of -0.0 would lose its sign.
        updates = jax.tree.map(lambda new: jnp.where(step >= start_step, new, -0.0), new_updates)
        return updates, jax.tree.map(lambda new, old: jnp.where(step >= start_step, new, old), new_state, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)
