"""Training programs that are compiled once for all tests of a process that train the same: `fit` asks for them here."""

import dataclasses
import functools
import json
from typing import Any

import jax

from mmduplex_jax.train import step as train_step
from mmduplex_jax.train.step import Program, TrainState, make_init

# Of `config.train`: what decides how long a run is and what it keeps, and nothing of what is computed.
NOT_COMPILED = {"stop_at_step", "log_every", "checkpoint_every", "keep"}


@dataclasses.dataclass(frozen=True)
class CompiledOnce(Program):
    """A program that keeps what it has traced and compiled."""

    @functools.cached_property
    def _traced(self) -> "_Traced":
        return _Traced(super().trace())

    @functools.cached_property
    def _init(self) -> Any:
        return jax.jit(make_init(self.task, self.optimizer, self.seed), out_shardings=self.shardings)

    def trace(self) -> "_Traced":
        return self._traced

    def init_state(self) -> TrainState:
        return self._init()


class _Traced:
    """A step as JAX sees it: its `jaxpr`, and what `lower().compile()` gave the first time."""

    def __init__(self, traced: Any):
        self._traced, self.jaxpr = traced, traced.jaxpr

    def lower(self) -> "_Traced":
        return self

    @functools.cached_property
    def _compiled(self) -> Any:
        return self._traced.lower().compile()

    def compile(self) -> Any:
        return self._compiled


@functools.lru_cache(maxsize=16)
def _shared(task: Any, key: str, mesh: Any, config: "Unhashed") -> CompiledOnce:
    made = train_step.make_program(task, config.value, mesh)
    return CompiledOnce(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})


@dataclasses.dataclass(frozen=True)
class Unhashed:
    """A value that is equal to every other: what it says is in the key beside it."""

    value: Any = dataclasses.field(compare=False)


def make_program(task: Any, config: Any, mesh: Any) -> CompiledOnce:
    """As `mmduplex_jax.train.step.make_program`; the same one for the same task, config and mesh."""
    decides = {name: value for name, value in json.loads(config.train.to_json()).items() if name not in NOT_COMPILED}
    plain_code = jax.config.read("jax_disable_most_optimizations")
    key = json.dumps([decides, config.data.batch_size, plain_code], sort_keys=True)
    return _shared(task, key, mesh, Unhashed(config.copy_and_resolve_references()))
