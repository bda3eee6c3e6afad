"""Machines that are not here, to compile for: TPU slices by libtpu, GPUs by JAX's CUDA plugin.

Neither needs its accelerator, nor CUDA: `pip install mmduplex-jax[ahead]` brings both compilers.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

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
    def is_gpu(self) -> bool:
        return self.devices[0].platform != "tpu"

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
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, ValueError) as error:
        raise TopologyError(f"--topology={name}: {error}") from error
    from importlib.metadata import version

    return Topology(name, found.devices, _tpu_limit(found.devices[0]), f"libtpu {version('libtpu')}")


def _gpus(name: str, card: str, per_host: int, hosts: int) -> Topology:
    if importlib.util.find_spec("jax_plugins") is None or not _has_cuda_plugin():
        raise TopologyError(f"--topology={name} needs JAX's CUDA plugin: pip install 'mmduplex-jax[ahead]'")
    try:
        found = topologies.get_topology_desc(
            name.partition(":")[0], "cuda", target_config=card, topology=f"1x{hosts}x{per_host}"
        )
    except (RuntimeError, ValueError) as error:
        raise TopologyError(f"--topology={name}: {error}") from error
    memory = re.search(r"device_memory_size: (\d+)", card)
    if memory is None:
        raise TopologyError(f"--topology={name}: the card's facts lack device_memory_size")
    fraction = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", _DEFAULT_FRACTION))
    return Topology(name, found.devices, int(int(memory[1]) * fraction), f"jax-cuda13-plugin {jax.__version__}")


def _has_cuda_plugin() -> bool:
    return importlib.util.find_spec("jax_plugins.xla_cuda13") is not None


def _tpu_limit(device: Any) -> int:
    """What the compiler lets a program use: asked of it with a program that fits no TPU."""
    side = jax.ShapeDtypeStruct((1 << 20, 1 << 18), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda a: jnp.sin(a) @ a.T).lower(side).compile()
    except jax.errors.JaxRuntimeError as error:
        found = memory_in_message(str(error))
        if found is None:
            raise TopologyError(f"the compiler's message does not say how much memory there is: {error}") from error
        return found[1]
    raise TopologyError("a product of five terabytes was compiled for one device: no limit is known")


def memory_in_message(message: str) -> tuple[int, int] | None:
    """What a program needs and what there is, in bytes, of a TPU compiler's out-of-memory message; None of others."""
    for pattern in (
        rf"Used {_SIZE} of {_SIZE} hbm",
        rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)",
    ):
        found = re.search(pattern, message)
        if found:
            return int(float(found[1]) * _SIZES[found[2]]), int(float(found[3]) * _SIZES[found[4]])
    return None
