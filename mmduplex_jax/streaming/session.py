"""One stream over a live model: a tick's frame goes in, the words that it completes come out."""

import time
from typing import NamedTuple

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.rows import UNCAPPED, Live, Rows, SpentTokens, check_frame
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree
from mmduplex_jax.word_decoder import TimedWord, WordDecoder


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
        self._rows = Rows(live, params, frame_px, count=1, resets=False)
        self._rows.configure(np.array([delay_steps]), np.array([pad_bias]), np.array([UNCAPPED]))
        self._tokenizer, self._delay_s = tokenizer, delay_steps * clock.step_s
        self.restart()

    @property
    def compile_s(self) -> float:
        return self._rows.compile_s

    def restart(self) -> None:
        """Begins another stream from nothing; what was being said is forgotten, nothing is compiled again."""
        self._rows.restart()
        self._words = WordDecoder(self._tokenizer, self._delay_s)

    def tick(self, t_s: float, frame: np.ndarray) -> TickResult:
        """Runs the steps of one tick.

        Args:
          t_s: the tick's time in the stream.
          frame: uint8 `[frame_px, frame_px, 3]`.
        """
        check_frame(frame, self.frame_px)
        done_s = time.perf_counter()
        frames = self._rows.send(frame[None])
        active = np.ones(1, bool)
        # All are dispatched before the first is read; a step's time is from the one before it.
        steps = [self._rows.step(frames, active, with_report=i == 0) for i in range(self.clock.video_stride)]
        words: list[TimedWord] = []
        step_ms: list[float] = []
        readings = []
        for i, step in enumerate(steps):
            readings.append(step.read())
            before_s, done_s = done_s, time.perf_counter()
            step_ms.append((done_s - before_s) * 1e3)
            word = self._words.push(int(readings[i].slots[0]), t_s + self.clock.step_time_s(i))
            if word is not None:
                words.append(word)
        return TickResult(words, readings[0].tokens(0), step_ms)

    def finish(self) -> list[TimedWord]:
        """The word that was being said when the stream ended, if any."""
        word = self._words.flush()
        return [] if word is None else [word]
