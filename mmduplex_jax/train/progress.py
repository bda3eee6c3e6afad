"""Speed of a run: steps, tokens and video seconds a second, MFU, data wait, time to go; and the line that shows it."""

import time
from collections.abc import Mapping

from mmduplex_jax.planning.devices import Peak, mfu


class Progress:
    """Measures between two lines.

    Args:
      end_step: where the run ends, for the time to go.
      video_s_per_step: seconds of video in a batch.
      flops_per_step: operations of a step.
      peak: of one device; None where it is not known.
      num_devices: devices that share the step.
    """

    def __init__(
        self, *, end_step: int, video_s_per_step: float, flops_per_step: float, peak: Peak | None, num_devices: int
    ):
        self._end_step, self._video_s = end_step, video_s_per_step
        self._flops, self._peak, self._num_devices = flops_per_step, peak, num_devices
        self._since, self._steps, self._wait_s = time.perf_counter(), 0, 0.0
        self._save_s = 0.0

    def add_wait(self, wait_s: float) -> None:
        """Counts time in which the loop had no batch to go on with."""
        self._wait_s += wait_s

    def add_save(self, save_s: float) -> None:
        """Counts time in which the loop stood still for a checkpoint."""
        self._save_s += save_s

    def add_step(self) -> None:
        """Counts a step that the devices have finished."""
        self._steps += 1

    def pop(self, step: int, tokens_per_step: float | None) -> tuple[dict[str, float | None], float]:
        """The speeds since the last call, at `step`, and the seconds since then that went into steps."""
        now = time.perf_counter()
        wall_s = max(now - self._since, 1e-9)
        steps_per_s = self._steps / wall_s
        speeds = {
            "steps_per_s": steps_per_s,
            "tokens_per_s": None if tokens_per_step is None else tokens_per_step * steps_per_s,
            "video_s_per_s": self._video_s * steps_per_s,
            "mfu": mfu(self._flops, steps_per_s, self._peak, self._num_devices),
            "data_wait": self._wait_s / wall_s,
            "eta_s": (self._end_step - step) / steps_per_s if self._steps else None,
        }
        steps_s = max(wall_s - self._wait_s - self._save_s, 0.0)
        self._since, self._steps, self._wait_s, self._save_s = now, 0, 0.0, 0.0
        return speeds, steps_s


def progress_line(step: int, end_step: int, means: Mapping[str, float], speeds: Mapping[str, float | None]) -> str:
    """One line for people."""
    tokens, share, eta_s = speeds["tokens_per_s"], speeds["mfu"], speeds["eta_s"]
    parts = [
        f"step {step:>{len(str(end_step))}}/{end_step}",
        f"loss {means['loss']:.4f}",
        f"grad {means['grad_norm']:.2f}",
        f"lr {means['learning_rate']:.2e}",
        f"{speeds['steps_per_s']:.2f} steps/s",
        "tokens/s n/a" if tokens is None else f"{tokens:,.0f} tokens/s",
        f"{speeds['video_s_per_s']:.1f} s video/s",
        "mfu n/a" if share is None else f"mfu {share:.1%}",
        f"data wait {speeds['data_wait']:.1%}",
        f"goodput {speeds['goodput']:.1%}",
        "eta n/a" if eta_s is None else f"eta {_duration(eta_s)}",
    ]
    return " | ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
