"""A profile of some steps, `config.profile.steps`: what host and devices did, for TensorBoard and Perfetto."""

import re
from collections.abc import Callable
from pathlib import Path

import jax

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


def steps_of(text: str) -> range:
    """Steps of `"10..12"` (both included, counted from 1) or `"10"`; none of `""`.

    Raises:
      ValueError: the text says something else.
    """
    if not text:
        return range(0)
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(f"config.profile.steps is {text!r}: give the first and the last step, as in 10..12, from 1 on")
    return range(first, last + 1)


class Profile:
    """Records the steps that it is asked to, into `FOLDER/plugins/profile/`; a context that ends a recording.

    Args:
      folder: TensorBoard's; the `.trace.json.gz` in it opens in Perfetto (ui.perfetto.dev).
      steps: which; only these are waited for by themselves, the others overlap as ever.
      log: where it says what it wrote.
    """

    def __init__(self, folder: Path, steps: range, log: Callable[[str], None]):
        self._folder, self._steps, self._log = folder, steps, log
        self._recording, self._first = False, 0

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def before(self, step: int, settle: Callable[[], None]) -> None:
        """To be called before a step is begun; `settle` waits until what was begun is done."""
        if step in self._steps and not self._recording:
            settle()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call in Python would cost more than it tells
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._recording, self._first = True, step

    def after(self, step: int, settle: Callable[[], None]) -> None:
        """To be called when a step was begun; after the last of them it waits and writes."""
        if self._recording and step + 1 not in self._steps:
            settle()
            self._stop()
            self._log(f"profile of steps {self._first} to {step} in {self._folder}")

    def annotation(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Marks a step in the recording, by its number; costs nothing to speak of without one."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _stop(self) -> None:
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()
