"""The numbers of a run: speed, step times, tokens in any second, how long words took."""

from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.word_decoder import TimedWord


class Statistics:
    """Counts what a stream does, a few bytes a step, and makes its report."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._step_ms, self._tick_ms = array("f"), array("f")
        self._second: deque[int] = deque(maxlen=clock.ticks_in_a_second)
        self._tokens = 0
        self.tokens_max = 0
        self.ticks = 0
        self.lag_max_s = 0.0
        self.words: list[TimedWord] = []

    @property
    def tokens_in_last_second(self) -> int:
        return sum(self._second)

    def add(self, words: Sequence[TimedWord], n_tokens: int, step_ms: Sequence[float], lag_s: float) -> None:
        """Counts one tick."""
        self.ticks += 1
        self._tokens += n_tokens
        self._second.append(n_tokens)
        self.tokens_max = max(self.tokens_max, self.tokens_in_last_second)
        self._step_ms.extend(step_ms)
        self._tick_ms.append(sum(step_ms))
        self.lag_max_s = max(self.lag_max_s, lag_s)
        self.words.extend(words)

    def report(self, *, duration_s: float, wall_s: float, compile_s: float, dropped_frames: int) -> dict[str, Any]:
        """The report as JSON values; a number that a run was too short for is None.

        Args:
          duration_s: seconds of video.
          wall_s: from the first tick to the last word, compilation not counted.
          compile_s: what compilation took before that.
          dropped_frames: ticks whose frame an overloaded real-time run left out.
        """
        lags = [word.t_emit_s - word.t_video_s for word in self.words]
        return {
            "duration_s": round(duration_s, 4),
            "wall_s": round(wall_s, 4),
            "real_time_factor": round(duration_s / wall_s, 3) if wall_s else None,
            "ticks": self.ticks,
            "tokens_per_s_mean": round(self._tokens / duration_s, 3) if duration_s else None,
            "tokens_in_any_second_max": self.tokens_max,
            **_percentiles("step_ms", self._step_ms),
            **_percentiles("tick_ms", self._tick_ms),
            "word_lag_p50_s": round(float(np.median(lags)), 4) if lags else None,
            "compile_s": round(compile_s, 3),
            "dropped_frames": dropped_frames,
            "lag_max_s": round(self.lag_max_s, 4),
            "words": [
                {"text": w.text, "t_video_s": round(w.t_video_s, 4), "t_emit_s": round(w.t_emit_s, 4)}
                for w in self.words
            ],
        }


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not len(values):
        return {f"{name}_p{p}": None for p in (50, 95, 99)}
    return {f"{name}_p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 95, 99)}
