"""What a run costs before it is run: memory, time, money, data; from its config and what a device is said to do.

Operations are counted from shapes (`stages/flops.py`), memory is read off the traced gradient (`traced.py`), and time
is operations over a share of the device's peak (MFU), which is a guess until it is measured. Where a guess stands, it
is an argument.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh

from mmduplex_jax.planning.devices import Device
from mmduplex_jax.planning.traced import Traced, trace
from mmduplex_jax.sharding import MESH_AXES, mesh_sizes
from mmduplex_jax.stages.flops import Flops
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.step import Program, TrainState, make_program
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree

# Assumed until measured: what well-made trainings of this size reach on one such device, rounded down.
ASSUMED_MFU = 0.4
# Of a device's memory, what drivers, the compiler's own buffers and fragments leave to a program.
USABLE_MEMORY = 0.9


@runtime_checkable
class CountedTask(Task, Protocol):
    """A task that says which of its parts costs what."""

    def flops_parts(self, batch_size: int) -> Mapping[str, Flops]:
        """Operations of a step by part."""


def counted(task: Task) -> CountedTask:
    """The task, if it says which of its parts costs what.

    Raises:
      TypeError: it does not.
    """
    if not isinstance(task, CountedTask):
        raise TypeError(f"{type(task).__name__} does not say what its parts cost: it lacks flops_parts")
    return task


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      parameters, optimizer, gradients: what of them lies there.
      activations: the most that the step needs beside them, in the order of its jaxpr. Compilers fuse, so this is
        rather too much; a mesh axis `tensor` splits some of it, which is not counted.
      batch: its rows.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        return sum(self)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
      parameters: how many numbers are in the model.
      flops: operations of a step by part.
      steps, batch_size: of the run.
      device, num_devices: on what.
      mfu: share of the devices' peak that the operations take.
      checkpoint_bytes: a whole state on disk, before compression.
      weights_bytes: the parameters alone.
      dollars_per_hour: of one device; None where no price is known.
    """

    parameters: int
    flops: Mapping[str, Flops]
    steps: int
    batch_size: int
    device: Device
    num_devices: int
    mfu: float
    checkpoint_bytes: int
    weights_bytes: int
    dollars_per_hour: float | None

    @property
    def flops_per_step(self) -> float:
        return sum(part.total for part in self.flops.values())

    @property
    def step_s(self) -> float:
        return self.flops_per_step / (self.mfu * self.device.flops_per_s * self.num_devices)

    @property
    def days(self) -> float:
        return self.steps * self.step_s / 86_400

    @property
    def device_hours(self) -> float:
        return 24 * self.days * self.num_devices

    @property
    def dollars(self) -> float | None:
        return None if self.dollars_per_hour is None else self.device_hours * self.dollars_per_hour

    def fits(self, memory: Memory) -> bool:
        return memory.total <= USABLE_MEMORY * self.device.memory_bytes


def estimate(
    task: CountedTask,
    config: Any,
    device: Device,
    num_devices: int,
    *,
    mfu: float = ASSUMED_MFU,
    dollars_per_hour: float | None = None,
) -> Cost:
    """The cost of the run of a config.

    Args:
      task: of the config.
      config: of the experiment; `mesh`, `data.batch_size` and `train` are used.
      device: what it runs on.
      num_devices: how many of them.
      mfu: the share of their peak that is reached.
      dollars_per_hour: of one device; the table's price where None.

    Raises:
      ShardingError: the mesh and the devices, or the parameters, do not fit each other.
      ValueError: the batch cannot be split over the mesh, or `mfu` is no share.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is a share of the peak, over 0 and at most 1; got {mfu}")
    program = program_for(task, config, num_devices)
    if dollars_per_hour is None and device.price is not None:
        dollars_per_hour = device.price.dollars_per_hour
    return Cost(
        parameters=count(program.boxed),
        flops=task.flops_parts(config.data.batch_size),
        steps=config.train.steps,
        batch_size=config.data.batch_size,
        device=device,
        num_devices=num_devices,
        mfu=mfu,
        checkpoint_bytes=_bytes(program.target),
        weights_bytes=_bytes(program.target.params),
        dollars_per_hour=dollars_per_hour,
    )


def program_for(task: Task, config: Any, num_devices: int) -> Program:
    """The program of a config for a mesh of devices that are not there.

    Raises:
      ShardingError: the mesh and the devices, or the parameters, do not fit each other.
      ValueError: the batch cannot be split over the mesh.
    """
    sizes = mesh_sizes(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, num_devices)
    mesh: Any = AbstractMesh(sizes, MESH_AXES)  # a program asks its mesh for sizes only, until it is compiled
    return make_program(task, config, mesh)


class Footprint(NamedTuple):
    """What tracing a step shows, beside what its shapes do.

    Attributes:
      memory: on one device.
      recomputed: operations that remat does a second time, as a share of those that count.
    """

    memory: Memory
    recomputed: float


def footprint(task: CountedTask, config: Any, num_devices: int) -> Footprint:
    """The memory and the recomputation of a config's step; takes seconds, up to a minute for a large model unrolled.

    Raises:
      ValueError: as `program_for`.
    """
    program = program_for(task, config, num_devices)
    grad_accum, mesh = config.train.grad_accum, program.mesh
    rows = config.data.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"] * grad_accum)
    traced = traced_gradient(task, program, rows)
    counted = sum(part.total for part in task.flops_parts(rows).values())
    return Footprint(memory(program, traced, rows, grad_accum), max(0.0, traced.flops / counted - 1))


def traced_gradient(task: Task, program: Program, rows: int) -> Traced:
    """The trace of the gradient of `rows` rows on one device, less what its results (the gradients) take themselves."""
    trained, kept = program.groups.split(nn.unbox(program.boxed))

    def gradient(trained: PyTree, kept: PyTree, batch: Any, rng: Any) -> PyTree:
        loss = lambda trained: task.loss(program.groups.join(trained, kept), batch, rng)
        return jax.value_and_grad(loss, has_aux=True)(trained)

    found = trace(gradient, trained, kept, task.example_batch(rows), jax.random.key(0))
    return found._replace(peak_bytes=max(0, found.peak_bytes - _bytes(trained)))


def memory(program: Program, traced: Traced, rows: int, grad_accum: int) -> Memory:
    """What a device of the program's mesh holds.

    Args:
      program: with its shardings.
      traced: of `rows` rows (`traced_gradient`).
      rows: that are on a device at a time.
      grad_accum: microbatches; from two on, gradients are summed beside the new ones.
    """
    target: TrainState = program.target
    trained, _ = program.groups.split(target.params)
    example = program.task.example_batch(rows * grad_accum)
    return Memory(
        parameters=_bytes_here(target.params),
        optimizer=_bytes_here(target.opt_state),
        gradients=_bytes_here(trained) * (2 if grad_accum > 1 else 1),
        activations=traced.peak_bytes,
        batch=_bytes(example),
    )


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_here(tree: PyTree) -> int:
    sizes = (math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return sum(sizes)


@dataclasses.dataclass(frozen=True)
class RowCost:
    """What rows cost one device, from two traces: activations grow with the rows as a line.

    Attributes:
      fixed_bytes: parameters, moments and gradients, and what activations take without any row.
      row_bytes: of a row more.
    """

    fixed_bytes: float
    row_bytes: float

    def rows_in(self, device: Device) -> int:
        """The rows that fit one device by itself; 0 where none does."""
        left = USABLE_MEMORY * device.memory_bytes - self.fixed_bytes
        return max(0, math.floor(left / self.row_bytes))


def row_cost(task: Task, config: Any) -> RowCost:
    """The memory of a config's step on one device by the rows of its batch; traced at the whole batch and at half."""
    config = config.copy_and_resolve_references()
    config.mesh.update(data=1, fsdp=1, tensor=1)
    config.train.grad_accum = 1
    rows = (config.data.batch_size // 2, config.data.batch_size)
    totals = []
    for number in rows:
        config.data.batch_size = number
        program = program_for(task, config, 1)
        totals.append(memory(program, traced_gradient(task, program, number), number, 1).total)
    row_bytes = (totals[1] - totals[0]) / (rows[1] - rows[0])
    return RowCost(totals[0] - rows[0] * row_bytes, row_bytes)
