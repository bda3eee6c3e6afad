"""What the trainer knows of a stage: a `Task`.

The trainer owns the optimiser, the mesh, checkpoints and metrics; a task owns the model and its loss. A new stage
(`clip`, `vlm`, `bflow`) is a class with these three methods and a line in the table of `stages/registry.py`.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from mmduplex_jax.typing import Array, Float, PyTree

Batch = Mapping[str, Array]

# Metrics that the trainer gives a meaning. Over microbatches `TOKENS` is summed; everything else is averaged with
# the weights `LOSS_WEIGHT`.
TOKENS = "tokens"
LOSS_WEIGHT = "loss_weight"


class Task(Protocol):
    """A stage of training: pure functions of parameters, batch and key."""

    def init(self, rng: Array) -> PyTree:
        """Parameters, each boxed with the logical names of its axes (`nn.with_logical_partitioning`)."""

    def loss(self, params: PyTree, batch: Batch, rng: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss that is minimised (float32 scalar) and what else to log (float32 scalars).

        `params` are unboxed; `batch` has the arrays of `example_batch`. `tokens` among the metrics counts the text
        slots and video tokens of the batch, for the speed. `loss_weight`, if given, is what the loss was divided by
        (say, the summed weight of valid slots): with it, accumulated gradients are those of the whole batch, without
        it all microbatches count the same.
        """

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a batch that go to the devices, each with the batch first. What else is loaded stays behind."""


@runtime_checkable
class AveragingTask(Task, Protocol):
    """A task some of whose parameters are moving averages of what passes by, and learned by no gradient.

    They are parameters like all others: they have a sharding, lie in checkpoints, and go out with the rest. What they
    average is summed over the whole batch, however it is split over devices and cut into microbatches.

    Attributes:
      averaged: regular expression of the beginning of their paths.
    """

    averaged: str

    def loss_and_sums(self, params: PyTree, batch: Batch, rng: Array) -> tuple[Array, dict[str, Array], PyTree]:
        """What `loss` gives, and the sums of what passed by; no gradient goes through these."""

    def add_sums(self, sums: PyTree, more: PyTree) -> PyTree:
        """The sums of two microbatches, the later one last; zeros before it change nothing."""

    def average(self, params: PyTree, sums: PyTree) -> PyTree:
        """All parameters, the averaged ones moved by the sums of a batch."""


def averaged_by(task: Task) -> str:
    """Regular expression of the paths of what a task averages itself; "" for none."""
    return task.averaged if isinstance(task, AveragingTask) else ""


@runtime_checkable
class MeshTask(Task, Protocol):
    """A task whose loss compares the rows of a batch, and so must know how they are spread."""

    def on_mesh(self, mesh: Mesh) -> Task:
        """The same task for batches that are split over the batch axes of `mesh`."""
