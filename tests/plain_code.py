"""How tests have programs compiled: code that is generated plainly is as right, and is there much sooner.

Compiling is most of the tests' time. XLA's newer generator of fused loops takes three times as long as its older one,
which jaxlib no longer has from 0.11 on, and LLVM's dearer passes as much again. So tests and the programs that they
start do without both, but for tests that are marked `optimized` (`conftest.py`); with JAX_DISABLE_MOST_OPTIMIZATIONS=0
all are compiled as users have it. In 32 modules, for as many cores to compile, the same code takes a third more than in
one, which all tests therefore have.
"""

import functools
import importlib.metadata
import os
import sys

PLAIN_CODE = "JAX_DISABLE_MOST_OPTIMIZATIONS"
NEWER_LOOPS = "xla_cpu_use_fusion_emitters"
ONE_MODULE = "--xla_cpu_parallel_codegen_split_count=1"
HAS_OLDER_LOOPS = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11)

# Of XLA, as `jax.jit` takes them: for a program that runs once or twice, and as users' programs have it.
OPTIONS: dict[str, bool | int] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
OPTIMIZED: dict[str, bool | int] = {}
FLAG = ""
if HAS_OLDER_LOOPS:
    OPTIONS[NEWER_LOOPS], OPTIMIZED[NEWER_LOOPS] = False, True
    FLAG = f"--{NEWER_LOOPS}=false"


def options() -> dict[str, bool | int] | None:
    """What a program is compiled with; None, as users have it, in tests that are marked `optimized`."""
    import jax

    return OPTIONS if jax.config.read(PLAIN_CODE.lower()) else None


def begin() -> None:
    """Has this process compile plainly, and those that it starts, as far as XLA_FLAGS say it; before jax is used."""
    given = os.environ.get("XLA_FLAGS", "")
    missing = (flag for flag in (ONE_MODULE, FLAG) if flag not in given)  # a worker has them from who started it
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()


def choose(plain: bool) -> None:
    """Has what is compiled from now on compiled plainly, or as users have it, here and in programs that are started."""
    os.environ[PLAIN_CODE] = str(int(plain))
    if "jax" not in sys.modules and plain:
        return  # it reads the environment when it is imported
    import jax

    jax.config.update(PLAIN_CODE.lower(), plain)
    if FLAG and not plain:
        _have_flags_read()
        os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace(FLAG, "").strip()
        jax.jit = functools.partial(_jit(), compiler_options=OPTIMIZED)
    elif FLAG:
        begin()
        jax.jit = _jit()


@functools.cache
def _jit():
    """JAX's own `jit`."""
    import jax

    return jax.jit


@functools.cache
def _have_flags_read() -> None:
    """XLA reads XLA_FLAGS once, when it first compiles."""
    _jit()(lambda: 0)()
