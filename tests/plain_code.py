"""How tests have their own programs compiled: code that is generated plainly is as right, and is there much sooner."""

import jax

# Of XLA, as `jax.jit` takes them for a program that runs once or twice: what compiling it quickly saves counts.
OPTIONS: dict[str, bool | int] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11):
    # The older generator of fused loops, which newer versions no longer have, takes half the newer one's time.
    OPTIONS["xla_cpu_use_fusion_emitters"] = False


def options() -> dict[str, bool | int] | None:
    """What a program is compiled with; None, as users have it, in tests that are marked `optimized` (conftest.py)."""
    return OPTIONS if jax.config.read("jax_disable_most_optimizations") else None
