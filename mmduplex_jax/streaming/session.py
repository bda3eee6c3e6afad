"""One stream over a live model: a tick's frame goes in, the words that it completes come out."""

import time
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.interop.text_tokenizer import TextTokenizer
from mmduplex_jax.streaming.captions import TimedWord, WordAssembler
from mmduplex_jax.typing import PyTree


class Live(Protocol):
    """What a session needs of a model: `mmduplex_jax.models.live.LiveModel` has it."""

    def init_state(self, params: PyTree, batch: int) -> PyTree:
        """The state before the first step."""

    def live_step(
        self, params: PyTree, state: PyTree, frame: Any, active: Any, delay: Any, pad_bias: Any
    ) -> tuple[PyTree, Any]:
        """One text step: the new state and a `StepOutput`."""


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


class TickResult(NamedTuple):
    """What a tick gave: words completed in its steps, its tokens, and the milliseconds of each step."""

    words: list[TimedWord]
    tokens: SpentTokens
    step_ms: list[float]


class Session:
    """A stream's state and its compiled step. Nothing is looked up ahead: one frame a tick, one slot a step."""

    def __init__(
        self,
        live: Live,
        params: PyTree,
        tokenizer: TextTokenizer,
        clock: Clock,
        frame_px: int,
        *,
        delay_steps: int,
        pad_bias: float = 0.0,
    ):
        """Compiles the step and runs it once on a state that is thrown away.

        Args:
          live: the model.
          params: its parameters.
          tokenizer: its words.
          clock: its clock.
          frame_px: side of its frames.
          delay_steps: how far the words run behind the picture.
          pad_bias: added to silence's logit; more is quieter.
        """
        self.clock, self.frame_px = clock, frame_px
        started_s = time.perf_counter()
        self._params = jax.device_put(params)
        # The delay, the bias and the mask of rows are on the device once, not sent with every step.
        self._settings = jax.device_put(
            (np.ones(1, bool), np.full(1, delay_steps, np.int32), np.full(1, pad_bias, np.float32))
        )
        init = jax.jit(lambda p: live.init_state(p, 1))
        frame = self._on_device(np.zeros((frame_px, frame_px, 3), np.uint8))
        step = jax.jit(live.live_step, donate_argnums=1)
        self._step = step.lower(self._params, init(self._params), frame, *self._settings).compile()
        jax.block_until_ready(self._step(self._params, init(self._params), frame, *self._settings))
        self.compile_s = time.perf_counter() - started_s
        self._init, self._tokenizer, self._delay_s = init, tokenizer, delay_steps * clock.step_s
        self.restart()

    def restart(self) -> None:
        """Begins another stream from nothing; what was being said is forgotten, nothing is compiled again."""
        self._state = self._init(self._params)
        self._words = WordAssembler(self._tokenizer, self._delay_s)

    def tick(self, t_s: float, frame: np.ndarray) -> TickResult:
        """Runs the steps of one tick.

        Args:
          t_s: the tick's time in the stream.
          frame: uint8 `[frame_px, frame_px, 3]`.
        """
        on_device = self._on_device(frame)
        words: list[TimedWord] = []
        step_ms: list[float] = []
        tokens = NO_TOKENS
        for i in range(self.clock.video_stride):
            started_s = time.perf_counter()
            self._state, output = self._step(self._params, self._state, on_device, *self._settings)
            slot, report = jax.device_get((output.token, output.report if i == 0 else None))
            step_ms.append((time.perf_counter() - started_s) * 1e3)
            if report is not None:
                tokens = _spent(report)
            word = self._words.push(int(slot[0]), t_s + self.clock.step_time_s(i))
            if word is not None:
                words.append(word)
        return TickResult(words, tokens, step_ms)

    def finish(self) -> list[TimedWord]:
        """The word that was being said when the stream ended, if any."""
        word = self._words.flush()
        return [] if word is None else [word]

    def _on_device(self, frame: np.ndarray) -> jax.Array:
        if frame.shape != (self.frame_px, self.frame_px, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"a frame must be uint8 [{self.frame_px}, {self.frame_px}, 3], got {frame.dtype} {list(frame.shape)}"
            )
        return jax.device_put(frame[None])


def _spent(report: Any) -> SpentTokens:
    """The first row of a `TokenReport`, without its empty slots."""
    valid = np.asarray(report.valid[0])
    return SpentTokens(
        int(report.n_tokens[0]),
        bool(report.is_anchor[0]),
        *(np.asarray(field[0])[valid] for field in (report.centre_px, report.size_px, report.kind)),
    )
