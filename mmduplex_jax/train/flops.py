"""How busy the devices are: model FLOPs over peak FLOPs (MFU)."""

import dataclasses
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 (float16 where there is none) FLOP/s of one JAX device, as its maker states it, without sparsity.
# The first entry whose key is in `device_kind` counts, so the longer name stands before the shorter.
PEAK_FLOPS: tuple[tuple[str, float, str], ...] = (
    ("TPU v4", 275e12, "Google Cloud, TPU v4: 275 TFLOPS a chip"),
    ("TPU v5 lite", 197e12, "Google Cloud, TPU v5e: 197 TFLOPS a chip"),
    ("TPU v5e", 197e12, "Google Cloud, TPU v5e: 197 TFLOPS a chip"),
    ("TPU v5", 459e12, "Google Cloud, TPU v5p: 459 TFLOPS a chip"),
    ("TPU v6", 918e12, "Google Cloud, TPU v6e: 918 TFLOPS a chip"),
    ("TPU7x", 1153.5e12, "Google Cloud, TPU7x: 2307 TFLOPS a chip, which JAX shows as two devices"),
    ("B200", 2250e12, "NVIDIA Blackwell datasheet, HGX B200: 2.25 PFLOPS dense"),
    ("H200", 989e12, "NVIDIA H200 datasheet, SXM: 989 TFLOPS dense"),
    ("H100 PCIe", 756e12, "NVIDIA H100 datasheet, PCIe: 756 TFLOPS dense"),
    ("H100 NVL", 835e12, "NVIDIA H100 datasheet, NVL: 835 TFLOPS dense"),
    ("H100", 989e12, "NVIDIA H100 datasheet, SXM: 989 TFLOPS dense"),
    ("A100", 312e12, "NVIDIA A100 datasheet: 312 TFLOPS dense"),
    ("L40S", 362e12, "NVIDIA L40S datasheet: 362 TFLOPS dense"),
    ("L4", 121e12, "NVIDIA L4 datasheet: 121 TFLOPS dense"),
    ("A10G", 70e12, "NVIDIA A10G: 70 TFLOPS dense"),
    ("V100", 125e12, "NVIDIA V100 datasheet: 125 TFLOPS float16"),
    ("T4", 65e12, "NVIDIA T4 datasheet: 65 TFLOPS float16"),
)


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most one device can do.

    Attributes:
      flops_per_s: floating-point operations a second.
      source: where the number comes from.
    """

    flops_per_s: float
    source: str


def device_peak(device: jax.Device) -> Peak | None:
    """The stated peak of a TPU or GPU, the measured one of a CPU, or None for a device that the table lacks."""
    for name, flops_per_s, source in PEAK_FLOPS:
        if name in device.device_kind:
            return Peak(flops_per_s, source)
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
