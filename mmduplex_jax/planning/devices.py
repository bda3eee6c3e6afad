"""How busy the devices are, as model FLOPs over peak FLOPs (MFU); and what devices there are, as their makers say."""

import dataclasses
import time

import jax
import jax.numpy as jnp

_GB, _GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Price:
    """What an hour of one device costs.

    Attributes:
      dollars_per_hour: on demand.
      source: whose price, and of when.
    """

    dollars_per_hour: float
    source: str


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator as JAX shows it.

    Attributes:
      kind: a part of JAX's `device_kind`.
      flops_per_s: dense bfloat16 (float16 where there is none), float32 sums, without sparsity.
      memory_bytes: its own memory; not all of it is a program's (drivers and compilers keep about a tenth).
      bytes_per_s: from that memory.
      source: who says so.
      name: what `launch.estimate --hardware` calls it; empty where it does not.
      price: None where none was looked up.
    """

    kind: str
    flops_per_s: float
    memory_bytes: int
    bytes_per_s: float
    source: str
    name: str = ""
    price: Price | None = None


_H100_PRICE = Price(2.95, "median of 37 providers, aimultiple.com/gpu-index, 2026-05-20")
_H200_PRICE = Price(4.00, "middle of $3.50 to 4.50 at GPU clouds, mercatus-ai.com/blog/cloud-gpu-pricing, May 2026")
_4090_PRICE = Price(0.69, "RunPod by usagepricing.com, read 2026-11-23")
_5090_PRICE = Price(0.76, "Spheron, spheron.network/blog/rtx-5090-vs-h100-vs-b200, 2026-03-08")
_TPU_LIST = "Google Cloud's list price in US regions in 2025, not looked up again"
_V5E_PRICE, _V5P_PRICE, _V6E_PRICE = Price(1.2, _TPU_LIST), Price(4.2, _TPU_LIST), Price(2.7, _TPU_LIST)

# The first entry whose kind is in `device_kind` counts, so the longer stands before the shorter.
DEVICES: tuple[Device, ...] = (
    Device("TPU v4", 275e12, 32 * _GIB, 1228e9, "Google Cloud, TPU v4: 275 TFLOPS a chip"),
    Device("TPU v5 lite", 197e12, 16 * _GIB, 819e9, "Google Cloud, TPU v5e: 197 TFLOPS a chip", "v5e", _V5E_PRICE),
    Device("TPU v5e", 197e12, 16 * _GIB, 819e9, "Google Cloud, TPU v5e: 197 TFLOPS a chip"),
    Device("TPU v5", 459e12, 95 * _GIB, 2765e9, "Google Cloud, TPU v5p: 459 TFLOPS a chip", "v5p", _V5P_PRICE),
    Device("TPU v6", 918e12, 32 * _GIB, 1640e9, "Google Cloud, TPU v6e: 918 TFLOPS a chip", "v6e", _V6E_PRICE),
    Device(
        "TPU7x", 1153.5e12, 96 * _GIB, 3690e9, "Google Cloud, TPU7x: 2307 TFLOPS a chip, which JAX shows as two devices"
    ),
    Device("B200", 2250e12, 180 * _GB, 8e12, "NVIDIA Blackwell datasheet, HGX B200: 2.25 PFLOPS dense", "b200"),
    Device("H200", 989e12, 141 * _GB, 4.8e12, "NVIDIA H200 datasheet, SXM: 989 TFLOPS dense", "h200", _H200_PRICE),
    Device("H100 PCIe", 756e12, 80 * _GB, 2.0e12, "NVIDIA H100 datasheet, PCIe: 756 TFLOPS dense"),
    Device("H100 NVL", 835e12, 94 * _GB, 3.9e12, "NVIDIA H100 datasheet, NVL: 835 TFLOPS dense"),
    Device("H100", 989e12, 80 * _GB, 3.35e12, "NVIDIA H100 datasheet, SXM: 989 TFLOPS dense", "h100", _H100_PRICE),
    Device("A100", 312e12, 80 * _GB, 2.039e12, "NVIDIA A100 datasheet: 312 TFLOPS dense, of 80 GB", "a100"),
    Device("RTX 5090", 209.5e12, 32 * _GB, 1.792e12, "NVIDIA Blackwell: 209.5 TFLOPS dense", "5090", _5090_PRICE),
    Device("RTX 4090", 165.2e12, 24 * _GB, 1.008e12, "NVIDIA Ada: 165.2 TFLOPS dense", "4090", _4090_PRICE),
    Device("L40S", 362e12, 48 * _GB, 864e9, "NVIDIA L40S datasheet: 362 TFLOPS dense"),
    Device("L4", 121e12, 24 * _GB, 300e9, "NVIDIA L4 datasheet: 121 TFLOPS dense"),
    Device("A10G", 70e12, 24 * _GB, 600e9, "NVIDIA A10G: 70 TFLOPS dense"),
    Device("V100", 125e12, 16 * _GB, 900e9, "NVIDIA V100 datasheet: 125 TFLOPS float16, of 16 GB"),
    Device("T4", 65e12, 16 * _GB, 320e9, "NVIDIA T4 datasheet: 65 TFLOPS float16"),
)


def named(name: str) -> Device:
    """The device that `launch.estimate --hardware` calls so (ValueError: there is none)."""
    for device in DEVICES:
        if device.name and device.name == name:
            return device
    raise ValueError(f"no hardware {name!r}; there are {', '.join(sorted(d.name for d in DEVICES if d.name))}")


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most one device can do.

    Attributes:
      source: where the number comes from.
    """

    flops_per_s: float
    source: str


def device_peak(device: jax.Device) -> Peak | None:
    """The stated peak of a TPU or GPU, the measured one of a CPU, or None for a device that the table lacks."""
    for known in DEVICES:
        if known.kind in device.device_kind:
            return Peak(known.flops_per_s, known.source)
    if device.platform == "cpu":
        return _measured_peak(device)
    return None


def _measured_peak(device: jax.Device, size: int = 1024, times: int = 4) -> Peak:
    """What a float32 matrix product reaches. Fake CPU devices share the cores, so each has its part of it."""
    matrix = jax.device_put(jnp.ones((size, size), jnp.float32), device)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best_s = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best_s = min(best_s, time.perf_counter() - start)
    whole = 2 * size**3 / best_s
    return Peak(whole / jax.local_device_count(), f"a float32 matrix product, measured: {whole / 1e9:.0f} GFLOP/s")


def mfu(flops_per_step: float, steps_per_s: float, peak: Peak | None, num_devices: int) -> float | None:
    """The share of the devices' peak that the model's own operations take; None where the peak is not known."""
    if peak is None:
        return None
    return flops_per_step * steps_per_s / (peak.flops_per_s * num_devices)
