"""What the server needs of the model: a pool of seats. `mmduplex_jax.streaming.pool` has it; tests script one."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.slot import StreamOutput


class Seat(Protocol):
    """One stream's place in the pool (see `streaming.slot.StreamHandle`). Nothing here waits for the model."""

    def offer(self, t_s: float, frame: np.ndarray) -> None:
        """A tick's frame; BufferError where the seat is not live and too many wait."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def reset(self) -> None: ...
    def configure(self, *, delay_steps: int | None = None, pad_bias: float | None = None) -> None: ...
    def leave(self, *, drain: bool = False) -> None: ...


class Statistics(Protocol):
    """The numbers of a pool (see `streaming.statistics.PoolStatistics`)."""

    @property
    def sessions(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def running(self) -> bool: ...
    @property
    def rung(self) -> int: ...
    @property
    def load(self) -> float: ...
    @property
    def lag_s(self) -> float: ...
    @property
    def tokens_per_s(self) -> float: ...
    @property
    def dropped_frames(self) -> int: ...
    @property
    def recompilations(self) -> int: ...
    @property
    def step_s_buckets(self) -> list[tuple[str, float]]: ...
    @property
    def step_s_sum(self) -> float: ...


class Pool(Protocol):
    """Many streams on one model (see `streaming.pool.StreamPool`)."""

    def join(
        self,
        *,
        delay_steps: int,
        pad_bias: float,
        live: bool,
        on_output: Callable[[StreamOutput], None],
        on_end: Callable[[], None],
    ) -> Seat:
        """A seat; PoolFull where there is none. The callbacks are called from the pool's own thread."""

    def statistics(self) -> Statistics:
        """As they are now; from any thread."""


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What clients are told of the model.

    Attributes:
      name: of the checkpoint.
      clock: its steps and ticks.
      frame_px: side of what it looks at.
      tokens_per_s_max: the cap on video tokens in any second.
      delay_min, delay_max: the delays that it was trained for, in steps.
      delay_steps: its own.
    """

    name: str
    clock: Clock
    frame_px: int
    tokens_per_s_max: int
    delay_min: int
    delay_max: int
    delay_steps: int
