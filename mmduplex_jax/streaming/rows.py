"""The rows of a batch, each a stream of its own: their state on the device, the compiled step, the results' way back.

Nothing here waits but `Step.read`: frames are sent and steps dispatched while the device still works on those before.
"""

import time
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mmduplex_jax.typing import PyTree

# No smaller cap than the model's own.
UNCAPPED = 1 << 30


class Live(Protocol):
    """What is needed of a model: `mmduplex_jax.models.live.LiveModel` has it."""

    def init_state(self, params: PyTree, batch: int) -> PyTree:
        """The state before the first step."""

    def live_step(
        self, params: PyTree, state: PyTree, frame: Any, active: Any, delay: Any, pad_bias: Any, *, cap: Any
    ) -> tuple[PyTree, Any]:
        """One text step: the new state and a `StepOutput`."""

    def reset_row(self, params: PyTree, state: PyTree, row: Any) -> PyTree:
        """The state with a row (int32) as `init_state` makes it."""


class SpentTokens(NamedTuple):
    """What a tick's tokens were, on the host; the arrays hold the valid tokens only.

    Attributes:
      number: how many.
      is_anchor: the frame was tokenized whole.
      centre_px: int32 `[number, 2]`, (row, column) in the model's frame.
      size_px: int32 `[number]`.
      kind: int32 `[number]`.
    """

    number: int
    is_anchor: bool
    centre_px: np.ndarray
    size_px: np.ndarray
    kind: np.ndarray


NO_TOKENS = SpentTokens(0, False, np.zeros((0, 2), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))


class Reading(NamedTuple):
    """A step's results on the host.

    Attributes:
      slots: int32 `[B]`, the slot that each row said.
      report: a `TokenReport` of NumPy arrays; None where it was not asked for.
    """

    slots: np.ndarray
    report: Any

    def tokens(self, row: int) -> SpentTokens:
        """What a row's tick spent."""
        report = self.report
        if report is None or not report.n_tokens[row]:
            return NO_TOKENS
        valid = report.valid[row]
        return SpentTokens(
            int(report.n_tokens[row]),
            bool(report.is_anchor[row]),
            *(field[row][valid] for field in (report.centre_px, report.size_px, report.kind)),
        )


class Step:
    """A step that was dispatched; its results are on their way to the host.

    Attributes:
      output: the model's `StepOutput`, on the device.
    """

    def __init__(self, output: Any, with_report: bool):
        self.output = output
        self._wanted = (output.token, output.report if with_report else None)
        for array in jax.tree.leaves(self._wanted):
            array.copy_to_host_async()

    @property
    def ready(self) -> bool:
        """Whether reading it would not wait."""
        return all(array.is_ready() for array in jax.tree.leaves(self._wanted))

    def read(self) -> Reading:
        """The results; waits for the device where it has to."""
        return Reading(*jax.tree.map(np.asarray, self._wanted))


class Rows:
    """`B` rows over one compiled step.

    Attributes:
      count: B.
      frame_px: side of the frames.
      compile_s: what compiling and a first run took.
    """

    def __init__(self, live: Live, params: PyTree, frame_px: int, *, count: int, resets: bool = True):
        """Compiles everything that will ever run, and runs it once on a state that is thrown away.

        Args:
          live: the model.
          params: its parameters.
          frame_px: side of its frames.
          count: B.
          resets: whether `reset` will be wanted.
        """
        self.count, self.frame_px = count, frame_px
        started_s = time.perf_counter()
        self._params = jax.device_put(params)
        mask = np.zeros(count, bool)
        self._masks: dict[bytes, jax.Array] = {}
        # The settings are on the device once, not sent with every step.
        self.configure(np.zeros(count, np.int32), np.zeros(count, np.float32), np.full(count, UNCAPPED, np.int32))
        frames = jax.device_put(np.zeros((count, frame_px, frame_px, 3), np.uint8))
        self._init = jax.jit(lambda p: live.init_state(p, count)).lower(self._params).compile()

        def step(params: PyTree, state: PyTree, frame: Any, active: Any, delay: Any, pad_bias: Any, cap: Any) -> Any:
            return live.live_step(params, state, frame, active, delay, pad_bias, cap=cap)

        given = (self._params, self._init(self._params))
        compiled = jax.jit(step, donate_argnums=1)
        self._step = compiled.lower(*given, frames, self._on_device(mask), *self._settings).compile()
        self._reset = None
        if resets:
            self._reset = jax.jit(live.reset_row, donate_argnums=1).lower(*given, np.int32(0)).compile()
        self.restart()
        self.step(frames, mask).read()
        if resets:
            self.reset(~mask)
        self.restart()
        jax.block_until_ready(self.state)
        self.compile_s = time.perf_counter() - started_s

    @property
    def state(self) -> PyTree:
        """The rows' state, on the device; the next step or reset takes its memory."""
        return self._state

    def restart(self) -> None:
        """Begins every row anew."""
        self._state = self._init(self._params)

    def configure(self, delay_steps: np.ndarray, pad_bias: np.ndarray, cap: np.ndarray) -> None:
        """Sets, from the next step on, every row's delay (int32), bias (float32) and tokens a second (int32), `[B]`."""
        # Copied, since a CPU device reads NumPy's own memory.
        self._settings = tuple(
            jax.device_put(np.array(values, dtype))
            for values, dtype in ((delay_steps, np.int32), (pad_bias, np.float32), (cap, np.int32))
        )

    def send(self, frames: np.ndarray) -> jax.Array:
        """Starts frames, uint8 `[B, H, W, 3]`, on their way to the device; they must not be written to afterwards."""
        return jax.device_put(frames)

    def step(self, frames: jax.Array, active: np.ndarray, *, with_report: bool = True) -> Step:
        """Dispatches one step of the rows that are active, bool `[B]`.

        Args:
          frames: from `send`; rows whose step begins no tick, and those that are not active, ignore theirs.
          active: which rows take part; the others' state does not change by a bit.
          with_report: whether what the tick spent will be read.
        """
        on_device = self._on_device(active)
        self._state, output = self._step(self._params, self._state, frames, on_device, *self._settings)
        return Step(output, with_report)

    def reset(self, mask: np.ndarray) -> None:
        """Begins the rows of `mask`, bool `[B]`, anew, after the steps dispatched so far."""
        if self._reset is None:
            raise ValueError("these rows were made with resets=False")
        for row in np.flatnonzero(mask):
            self._state = self._reset(self._params, self._state, np.int32(row))

    def _on_device(self, mask: np.ndarray) -> jax.Array:
        """A mask of rows on the device; the last few are kept, since most steps have the one of the step before."""
        key = np.asarray(mask, bool).tobytes()
        found = self._masks.get(key)
        if found is None:
            if len(self._masks) >= 8:
                self._masks.pop(next(iter(self._masks)))
            found = self._masks[key] = jax.device_put(np.array(mask, bool))
        return found


def check_frame(frame: np.ndarray, frame_px: int) -> None:
    """Raises ValueError for a frame that is not uint8 `[frame_px, frame_px, 3]`."""
    if frame.shape != (frame_px, frame_px, 3) or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be uint8 [{frame_px}, {frame_px}, 3], got {frame.dtype} {list(frame.shape)}")
