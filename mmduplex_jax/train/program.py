"""Everything of a run that its config decides, before any number is computed: shapes, shardings, the step itself.

Making a program costs no memory on the devices, so that a model of any size can be looked at, or compiled for machines
that are not there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from mmduplex_jax.train.groups import Groups, make_groups
from mmduplex_jax.train.optimizer import make_learning_rates, make_optimizer
from mmduplex_jax.train.state import TrainState, abstract_params, abstract_state, init_state, state_shardings
from mmduplex_jax.train.step import check_batch_size, lower_step, make_step
from mmduplex_jax.train.task import MeshTask, Task
from mmduplex_jax.typing import PyTree


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

    def lower(self) -> Any:
        """The step as the compiler is given it; the compiled one takes the state over (donation)."""
        return lower_step(self.step, self.target, self.shardings, self.example, self.mesh)

    def compile(self) -> Any:
        """The step, compiled for the mesh; it takes the state over (donation)."""
        return self.lower().compile()

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
    groups = make_groups(train, boxed)
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
