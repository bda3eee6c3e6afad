"""Compiling a config's real steps for machines that are not here: what they need, and whether those have it.

TPU slices are compiled for by libtpu, GPUs by JAX's CUDA plugin. Neither needs its accelerator, nor CUDA:
`pip install mmduplex-jax[ahead]` brings both compilers.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.experimental import topologies
from jax.extend import core
from jax.sharding import SingleDeviceSharding

from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning.collectives import collectives
from mmduplex_jax.sharding import MESH_AXES, make_mesh, replicated, replicated_axes
from mmduplex_jax.stages.registry import build_task, find_stage
from mmduplex_jax.train.step import Program, abstract_params, make_program
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.trained import load_tokenizer

STEPS = ("train", "stream")

# What XLA asks of a card to compile for it: NVIDIA's H100 SXM5 80 GB (data sheet and CUDA's compute capability 9.0),
# with the CUDA and cuDNN of the plugin.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 minor: 0 patch: 0 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_CARDS = {"h100": _H100}
# The share of a card's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise (JAX's documentation,
# "GPU memory allocation").
_DEFAULT_FRACTION = 0.75
_GPU_NAME = re.compile(r"(\w+):(\d+)(?:x(\d+))?$")
_TPU_NAME = re.compile(r"(v4|v5e|v5p|v6e|tpu7x):\d+x\d+(x\d+)?$")
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# Before libtpu is loaded: no machine is asked what it is, and two processes may compile at once.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_HOST_BOUNDS": "1,1,1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class TopologyError(ValueError):
    """A topology that cannot be compiled for; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Machines that are not here.

    Attributes:
      name: as it was asked for.
      devices: what a mesh is made of.
      limit_bytes: memory of a device that a program may use.
      compiler: whose result it is, with its version.
    """

    name: str
    devices: Sequence[Any]
    limit_bytes: int
    compiler: str

    @property
    def device_kind(self) -> str:
        return str(self.devices[0].device_kind)


def get_topology(name: str) -> Topology:
    """The machines of a name: `v5e:4x4`, `v5p:4x4x4`, `v6e:16x16`; `h100:8` is a host of 8, `h100:8x4` four of them.

    Raises:
      TopologyError: there is no such topology, or the compiler for it is not installed.
    """
    gpu = _GPU_NAME.match(name)
    if gpu and gpu[1] in _CARDS:
        return _gpus(name, _CARDS[gpu[1]], per_host=int(gpu[2]), hosts=int(gpu[3] or 1))
    if not _TPU_NAME.match(name):
        raise TopologyError(
            f"--topology={name}: expected a TPU slice (v4, v5e, v5p, v6e or tpu7x, e.g. v5e:4x4 or v5p:4x4x4) or "
            f"{' or '.join(_CARDS)} with the number a host and of hosts (h100:8, h100:8x4)"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(f"--topology={name} needs libtpu: pip install 'mmduplex-jax[ahead]'")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, ValueError) as error:
        raise TopologyError(f"--topology={name}: {error}") from error
    return Topology(
        name, description.devices, _tpu_limit(description.devices[0]), f"libtpu {importlib.metadata.version('libtpu')}"
    )


def _gpus(name: str, card: str, per_host: int, hosts: int) -> Topology:
    find = importlib.util.find_spec
    if find("jax_plugins") is None or find("jax_plugins.xla_cuda13") is None:
        raise TopologyError(f"--topology={name} needs JAX's CUDA plugin: pip install 'mmduplex-jax[ahead]'")
    try:
        description = topologies.get_topology_desc(
            name.partition(":")[0], "cuda", target_config=card, topology=f"1x{hosts}x{per_host}"
        )
    except (RuntimeError, ValueError) as error:
        raise TopologyError(f"--topology={name}: {error}") from error
    memory = re.search(r"device_memory_size: (\d+)", card)
    if memory is None:
        raise TopologyError(f"--topology={name}: the card's facts lack device_memory_size")
    fraction = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", _DEFAULT_FRACTION))
    return Topology(name, description.devices, int(int(memory[1]) * fraction), f"jax-cuda13-plugin {jax.__version__}")


def _tpu_limit(device: Any) -> int:
    """What the compiler lets a program use: asked of it with a program that fits no TPU."""
    side = jax.ShapeDtypeStruct((1 << 20, 1 << 18), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda a: jnp.sin(a) @ a.T).lower(side).compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = memory_in_message(str(error))
        if sizes is None:
            raise TopologyError(f"the compiler's message does not say how much memory there is: {error}") from error
        return sizes[1]
    raise TopologyError("a product of five terabytes was compiled for one device: no limit is known")


def memory_in_message(message: str) -> tuple[int, int] | None:
    """What a program needs and what there is, in bytes, of a TPU compiler's out-of-memory message; None of others."""
    for pattern in (rf"Used {_SIZE} of {_SIZE} hbm", rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"):
        match = re.search(pattern, message)
        if match:
            return int(float(match[1]) * _SIZES[match[2]]), int(float(match[3]) * _SIZES[match[4]])
    return None


# Stages whose loss compares every row with every other: their batch cannot be gone through in parts.
_COMPARING_STAGES = ("clip", "bflow")


# A program on a topology; sizes are of one device. `fits`; `hbm_bytes`, of `arguments` (what it is given and keeps), of
# `temporaries` (what it needs while it runs, activations among it), at the `peak` (all at once, with results that
# replace no argument and its own code), and the `limit` of a program; `hbm_bytes_by_kind`, the arguments by kind, and
# of the temporaries the `activations` that the forward pass keeps for the backward pass, before the compiler fuses;
# `collectives` of one run, None where nothing was compiled, and `loops_counted_once` of them; `lower_s`, `compile_s`;
# the compiler's `message` where it gave up.
Report = dict[str, Any]


def shard_bytes(tree: PyTree, shardings: PyTree) -> int:
    """Bytes that one device has of a tree of arrays (or `ShapeDtypeStruct`s), by a tree of shardings or one of all."""
    leaves = jax.tree.leaves(tree)
    if isinstance(shardings, jax.sharding.Sharding):
        placed = [shardings] * len(leaves)
    else:
        placed = jax.tree.leaves(shardings)
    return sum(math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, s in zip(leaves, placed))


def compile_report(lowered: Any, topology: Topology, kinds_bytes: Mapping[str, int], lower_s: float) -> Report:
    """Compiles a program and reports what it needs.

    Args:
      lowered: what `jax.jit(...).lower(...)` gave, for the topology's devices.
      kinds_bytes: by kind; all but `activations` are arguments.
      lower_s: what lowering took.

    Raises:
      jax.errors.JaxRuntimeError: the compiler failed otherwise than for want of memory.
    """
    began = time.perf_counter()
    sent, message = None, ""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        compile_s, sizes = time.perf_counter() - began, memory_in_message(str(error))
        if sizes is None:
            raise
        given = sum(size for kind, size in kinds_bytes.items() if kind != "activations")
        # The compiler gives up as soon as temporaries alone are too many, or tells the sum of everything.
        temporaries = sizes[0] if "HLO temporaries" in str(error) else max(0, sizes[0] - given)
        message, peak = " ".join(str(error).split("\n\n")[0].split()), given + temporaries
    else:
        compile_s = time.perf_counter() - began
        memory, sent = compiled.memory_analysis(), collectives(compiled.as_text())
        given, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        peak = given + temporaries + memory.generated_code_size_in_bytes
        peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    limit = topology.limit_bytes
    return {
        "fits": sent is not None and peak <= limit,
        "hbm_bytes": {"arguments": given, "temporaries": temporaries, "peak": peak, "limit": limit},
        "hbm_bytes_by_kind": dict(kinds_bytes),
        "collectives": sent and {kind: dataclasses.asdict(moved) for kind, moved in sorted(sent.traffic.items())},
        "loops_counted_once": sent.open_loops if sent else 0,
        "lower_s": round(lower_s, 1),
        "compile_s": round(compile_s, 1),
        "message": message,
    }


def train_report(program: Program, topology: Topology, batch_size: int, grad_accum: int) -> Report:
    """The training step of a program whose mesh is made of the topology's devices."""
    began = time.perf_counter()
    lowered = program.trace().lower()
    lower_s = time.perf_counter() - began
    ways = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    by_batch = jax.tree.leaves(program.example)
    kinds = {
        "parameters": shard_bytes(program.target.params, program.shardings.params),
        "optimiser": shard_bytes(program.target.opt_state, program.shardings.opt_state),
        "batch": sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in by_batch) // ways,
        "activations": activations_bytes(program, batch_size // grad_accum) // ways,
    }
    return compile_report(lowered, topology, kinds, lower_s)


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


def advice(report: Mapping[str, Any], config: Any, mesh: Mapping[str, int], streams: int | None = None) -> list[str]:
    """What to change where a program does not fit, most effective first; empty where it fits.

    Args:
      streams: rows, of a streaming step; None of a training step.
    """
    if report["fits"]:
        return []
    hbm, kinds = report["hbm_bytes"], report["hbm_bytes_by_kind"]
    limit, temporaries, room = hbm["limit"], hbm["temporaries"], hbm["limit"] - hbm["arguments"]
    if streams is not None:
        if room <= 0 or streams == 1:
            return ["one stream is too much for this device: take a smaller model or a device with more memory"]
        return [f"--streams={max(1, int(streams * max(room, 0) / hbm['peak']))}: fewer streams on a device"]
    lines = []
    ways = mesh["data"] * mesh["fsdp"]
    state = kinds.get("parameters", 0) + kinds.get("optimiser", 0)
    if state > limit / 3 and mesh["data"] > 1:
        lines.append(
            f"--mesh.fsdp={mesh['data'] * mesh['fsdp']} --mesh.data=1: parameters and optimiser take "
            f"{gib(state)} of {gib(limit)}; split them over all devices"
        )
    elif state > limit / 3:
        lines.append(f"more devices for --mesh.fsdp: parameters and optimiser take {gib(state)} of each")
    off = [
        name
        for name, value in sorted(flatten_dict(config.to_dict(), sep=".").items())
        if name.rpartition(".")[2] == "remat" and not value
    ]
    if off:
        lines.append(" ".join(f"--config.{name}=True" for name in off) + ": compute activations again")
    rows = config.data.batch_size // (config.train.grad_accum * ways)
    wanted = math.ceil(temporaries / room) if room > 0 else rows
    parts = next((parts for parts in range(1, rows + 1) if rows % parts == 0 and parts >= wanted), rows)
    if config.stage in _COMPARING_STAGES:
        per_row = (temporaries + kinds.get("batch", 0)) / rows
        fit = max(1, int((limit - state) / per_row)) * ways
        lines.append(
            f"--config.data.batch_size={fit}, or {math.ceil(config.data.batch_size / fit)} times the devices: every "
            "row is compared with the whole batch, which therefore cannot be cut"
        )
    elif rows > 1 and parts > 1:
        lines.append(
            f"--config.train.grad_accum={config.train.grad_accum * parts}: {rows // parts} rows of a batch at a time "
            f"on a device, not {rows}; temporaries take {gib(temporaries)} and {gib(max(room, 0))} is left"
        )
    elif rows == 1:
        lines.append(f"a shorter clip (--config.data.clip_s, now {config.data.clip_s}): one row of a batch is too much")
    return lines


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / 2**30:.2f} GiB"


def compile_ahead(config: Any, topology: Topology, *, streams: int, steps: tuple[str, ...] = STEPS) -> dict[str, Any]:
    """Compiles what was asked for; returns what `launch.compile_ahead --json` writes.

    Args:
      config: resolved, its mesh sized for the topology.
      topology: where the steps would run.
      streams: rows of the streaming step.
      steps: of `STEPS`. A stage that does not stream has no streaming step.

    Raises:
      ShardingError, GroupsError, ValueError: config and mesh do not fit each other.
    """
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    task = build_task(config, load_tokenizer(config))
    sizes = {axis: int(mesh.shape[axis]) for axis in MESH_AXES}
    result: dict[str, Any] = {
        "topology": topology.name,
        "devices": len(topology.devices),
        "device_kind": topology.device_kind,
        "compiler": topology.compiler,
        "jax": jax.__version__,
        "stage": config.stage,
        "mesh": sizes,
        "batch_size": config.data.batch_size,
    }
    if "train" in steps:
        program = make_program(task, config, mesh)
        trained = train_report(program, topology, config.data.batch_size, config.train.grad_accum)
        result |= trained | {
            "advice": advice(trained, config, sizes),
            "replicated_axes": replicated_axes(program.boxed, mesh),
        }
    if "stream" in steps and find_stage(config.stage).OUTPUT == "commentary":
        streamed = stream_report(task, topology, streams)
        result["streaming"] = {"streams": streams} | streamed
        result["streaming"]["advice"] = advice(streamed, config, sizes, streams)
    return result


def stream_report(task: Any, topology: Topology, streams: int) -> Report:
    """The streaming step of some rows on the topology's first device, as the server compiles it."""
    live = LiveModel(task.config)
    whole = replicated(make_mesh(1, 1, 1, devices=topology.devices[:1]))
    began = time.perf_counter()
    params = nn.unbox(abstract_params(task))
    state = jax.eval_shape(lambda given: live.init_state(given, streams), params)
    row = lambda dtype, *shape: jax.ShapeDtypeStruct((streams, *shape), dtype)
    settings = (row(jnp.int32), row(jnp.float32), row(jnp.int32))
    inputs = (row(jnp.uint8, *task.config.tokenizer.frame_px, 3), row(jnp.bool_), *settings)

    def step(params: Any, state: Any, frame: Any, active: Any, delay: Any, pad_bias: Any, cap: Any) -> Any:
        return live.live_step(params, state, frame, active, delay, pad_bias, cap=cap)

    jitted = jax.jit(step, donate_argnums=1, in_shardings=whole, out_shardings=whole)
    lowered = jitted.lower(params, state, *inputs)
    kinds = {
        "parameters": shard_bytes(params, whole),
        "streams": shard_bytes(state, whole),
        "inputs": shard_bytes(inputs, whole),
    }
    return compile_report(lowered, topology, kinds, time.perf_counter() - began)
