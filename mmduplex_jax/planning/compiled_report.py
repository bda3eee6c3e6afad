"""What a compiled program needs of a device, and whether the device has it."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.extend import core

from mmduplex_jax.planning.collectives import Collectives, collectives
from mmduplex_jax.planning.topologies import Topology, memory_in_message
from mmduplex_jax.train.step import Program
from mmduplex_jax.typing import PyTree

# Stages whose loss compares every row with every other: their batch cannot be gone through in parts.
_COMPARING_STAGES = ("clip", "bflow")


@dataclasses.dataclass(frozen=True)
class CompiledReport:
    """A program on a topology. All sizes are of one device.

    Attributes:
      fits: whether the program finds the memory that it needs.
      arguments_bytes: what it is given and keeps: parameters, optimiser, batch; streaming, the streams' state.
      temporaries_bytes: what it needs while it runs, activations among it.
      peak_bytes: all of it at once, results that replace no argument and the program's own code included.
      limit_bytes: what the compiler or JAX lets a program have.
      kinds_bytes: the arguments by kind, and of the temporaries the `activations` that the forward pass keeps for the
        backward pass, before the compiler fuses (what it makes of them is in `temporaries_bytes`).
      sent: collectives of one run; None where it does not fit and nothing was compiled.
      lower_s, compile_s: what tracing and compiling took.
      message: the compiler's, where it gave up.
    """

    fits: bool
    arguments_bytes: int
    temporaries_bytes: int
    peak_bytes: int
    limit_bytes: int
    kinds_bytes: Mapping[str, int]
    sent: Collectives | None
    lower_s: float
    compile_s: float
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        sent = None
        if self.sent is not None:
            sent = {kind: dataclasses.asdict(moved) for kind, moved in sorted(self.sent.traffic.items())}
        return {
            "fits": self.fits,
            "hbm_bytes": {
                "arguments": self.arguments_bytes,
                "temporaries": self.temporaries_bytes,
                "peak": self.peak_bytes,
                "limit": self.limit_bytes,
            },
            "hbm_bytes_by_kind": dict(self.kinds_bytes),
            "collectives": sent,
            "loops_counted_once": self.sent.open_loops if self.sent else 0,
            "lower_s": round(self.lower_s, 1),
            "compile_s": round(self.compile_s, 1),
            "message": self.message,
        }


def shard_bytes(tree: PyTree, shardings: PyTree) -> int:
    """Bytes that one device has of a tree of arrays (or `ShapeDtypeStruct`s), by a tree of shardings or one of all."""
    leaves = jax.tree.leaves(tree)
    if isinstance(shardings, jax.sharding.Sharding):
        placed = [shardings] * len(leaves)
    else:
        placed = jax.tree.leaves(shardings)
    return sum(math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, s in zip(leaves, placed))


def report(lowered: Any, topology: Topology, kinds_bytes: Mapping[str, int], lower_s: float) -> CompiledReport:
    """Compiles a program and says what it needs.

    Args:
      lowered: what `jax.jit(...).lower(...)` gave, for the topology's devices.
      topology: where it would run.
      kinds_bytes: see `CompiledReport`; all but `activations` are arguments.
      lower_s: what lowering took.

    Raises:
      jax.errors.JaxRuntimeError: the compiler failed otherwise than for want of memory.
    """
    began = time.perf_counter()
    known = sum(size for kind, size in kinds_bytes.items() if kind != "activations")
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = memory_in_message(str(error))
        if found is None:
            raise
        compile_s = time.perf_counter() - began
        needed = found[0]
        # The compiler gives up as soon as temporaries alone are too many, or tells the sum of everything.
        temporaries = needed if "HLO temporaries" in str(error) else max(0, needed - known)
        message = " ".join(str(error).split("\n\n")[0].split())
        peak = known + temporaries
        return CompiledReport(
            False, known, temporaries, peak, topology.limit_bytes, kinds_bytes, None, lower_s, compile_s, message
        )
    compile_s = time.perf_counter() - began
    memory = compiled.memory_analysis()
    given = memory.argument_size_in_bytes
    peak = given + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return CompiledReport(
        fits=peak <= topology.limit_bytes,
        arguments_bytes=given,
        temporaries_bytes=memory.temp_size_in_bytes,
        peak_bytes=peak,
        limit_bytes=topology.limit_bytes,
        kinds_bytes=kinds_bytes,
        sent=collectives(compiled.as_text()),
        lower_s=lower_s,
        compile_s=compile_s,
    )


def train_report(program: Program, topology: Topology, batch_size: int, grad_accum: int) -> CompiledReport:
    """The training step of a program whose mesh is made of the topology's devices."""
    began = time.perf_counter()
    lowered = program.lower()
    lower_s = time.perf_counter() - began
    ways = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    by_batch = jax.tree.leaves(program.example)
    kinds = {
        "parameters": shard_bytes(program.target.params, program.shardings.params),
        "optimiser": shard_bytes(program.target.opt_state, program.shardings.opt_state),
        "batch": sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in by_batch) // ways,
        "activations": activations_bytes(program, batch_size // grad_accum) // ways,
    }
    return report(lowered, topology, kinds, lower_s)


def activations_bytes(program: Program, batch_size: int) -> int:
    """What the forward pass of a batch keeps for the backward pass, on all devices together.

    Parameters, their slices and their copies in another type are not counted, nor is the batch.
    """
    batch = program.task.example_batch(batch_size)

    def kept(params: PyTree, batch: PyTree, key: Any) -> Any:
        # The pull-back is a pytree whose leaves are what it remembers.
        return jax.vjp(lambda trained: program.task.loss(trained, batch, key)[0], params)[1]

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = jax.make_jaxpr(kept)(program.target.params, batch, key).jaxpr
    # What the batch (or chance) has a part in; the rest are parameters, their slices and their copies in other types.
    drawn = set(jaxpr.invars[len(jax.tree.leaves(program.target.params)) :])
    given = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(var, core.Var) and var in drawn for var in equation.invars):
            drawn.update(equation.outvars)
    made: dict[core.Var, Any] = {
        var: var.aval for var in jaxpr.outvars if isinstance(var, core.Var) and var in drawn - given
    }
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in made.values())


def advice(found: CompiledReport, config: Any, mesh: Mapping[str, int], streams: int | None = None) -> list[str]:
    """What to change where a program does not fit, most effective first; empty where it fits.

    Args:
      found: the program's.
      config: resolved, of the experiment.
      mesh: sizes of its axes.
      streams: rows, of a streaming step; None of a training step.
    """
    if found.fits:
        return []
    room = found.limit_bytes - found.arguments_bytes
    if streams is not None:
        if room <= 0 or streams == 1:
            return ["one stream is too much for this device: take a smaller model or a device with more memory"]
        return [f"--streams={max(1, int(streams * max(room, 0) / found.peak_bytes))}: fewer streams on a device"]
    lines = []
    ways = mesh["data"] * mesh["fsdp"]
    state = found.kinds_bytes.get("parameters", 0) + found.kinds_bytes.get("optimiser", 0)
    if state > found.limit_bytes / 3 and mesh["data"] > 1:
        lines.append(
            f"--mesh.fsdp={mesh['data'] * mesh['fsdp']} --mesh.data=1: parameters and optimiser take "
            f"{gib(state)} of {gib(found.limit_bytes)}; split them over all devices"
        )
    elif state > found.limit_bytes / 3:
        lines.append(f"more devices for --mesh.fsdp: parameters and optimiser take {gib(state)} of each")
    off = [name for name, value in sorted(_fields(config)) if name.rpartition(".")[2] == "remat" and not value]
    if off:
        lines.append(" ".join(f"--config.{name}=True" for name in off) + ": compute activations again")
    rows = config.data.batch_size // (config.train.grad_accum * ways)
    wanted = math.ceil(found.temporaries_bytes / room) if room > 0 else rows
    parts = next((parts for parts in range(1, rows + 1) if rows % parts == 0 and parts >= wanted), rows)
    if config.stage in _COMPARING_STAGES:
        per_row = (found.temporaries_bytes + found.kinds_bytes.get("batch", 0)) / rows
        fit = max(1, int((found.limit_bytes - state) / per_row)) * ways
        lines.append(
            f"--config.data.batch_size={fit}, or {math.ceil(config.data.batch_size / fit)} times the devices: every "
            "row is compared with the whole batch, which therefore cannot be cut"
        )
    elif rows > 1 and parts > 1:
        lines.append(
            f"--config.train.grad_accum={config.train.grad_accum * parts}: {rows // parts} rows of a batch at a time "
            f"on a device, not {rows}; temporaries take {gib(found.temporaries_bytes)} and {gib(max(room, 0))} is left"
        )
    elif rows == 1:
        lines.append(f"a shorter clip (--config.data.clip_s, now {config.data.clip_s}): one row of a batch is too much")
    return lines


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of all fields of a config."""
    for name, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "items"):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / 2**30:.2f} GiB"
