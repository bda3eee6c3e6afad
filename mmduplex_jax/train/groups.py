"""Groups of parameters that are trained from a step on, at a rate of their own, or never: `config.train.groups`.

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
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.sharding import array_name
from mmduplex_jax.train.parameters import count
from mmduplex_jax.typing import Array, Bool, Int32, PyTree

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

    def started(self, trained: PyTree, step: Int32[Array, ""]) -> PyTree:
        """For every array that is trained at some time, whether it is at `step`: True, or a bool array."""

        def one(path: Any, leaf: Any) -> bool | Bool[Array, ""]:
            start_step = self.of[array_name(path)].start_step
            return True if start_step == 0 else step >= start_step

        return jax.tree_util.tree_map_with_path(one, trained)

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
            if group.start_step == NEVER:
                when = "never trained"
            elif group.start_step >= steps:
                when = f"from step {group.start_step}: not in this run of {steps}"
            lines.append(f"group {group.name}: {sum(sizes):,} parameters in {len(sizes)} arrays, {when}")
        return lines


def make_groups(train: Any, boxed: PyTree) -> Groups:
    """The groups of `config.train.groups`, where there are any.

    Args:
      train: `config.train`.
      boxed: abstract parameters with logical names, nested dicts.

    Raises:
      GroupsError: a group says what cannot be, matches nothing, or what another matches too; or nothing is trained.
    """
    groups = []
    for name, values in sorted((train.get("groups") or {}).items()):
        if name == REST.name:
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


def where_started(started: PyTree, finite: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where an array is trained and the step was `finite`; else `old`, to the bit."""
    choose = lambda on, a, b: jnp.where(finite if on is True else finite & on, a, b)
    return jax.tree.map(choose, started, new, old)


def without_later(started: PyTree, grads: PyTree) -> PyTree:
    """Gradients with zeros for what is not trained yet."""
    return jax.tree.map(lambda on, grad: grad if on is True else jnp.where(on, grad, 0), started, grads)
