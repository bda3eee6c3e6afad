"""In the process that `benchmarks.start` starts: runs a command and notes when it comes through its phases."""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Phases:
    """Seconds of phases that follow one another, on the wall and of the processors, and of parts in between."""

    def __init__(self, report: Path, began_s: float):
        self._report, self._began_s = report, began_s
        self._before = (began_s, 0.0)
        self.found: dict[str, dict[str, float]] = {}

    def end(self, name: str) -> None:
        """The phase of that name is over; a second time nothing is noted."""
        if name not in self.found:
            now = (time.time(), time.process_time())
            self.found[name] = {"wall_s": now[0] - self._before[0], "cpu_s": now[1] - self._before[1]}
            self._before = now

    def add(self, part: str, wall_s: float) -> None:
        """So much more of a part."""
        self.found.setdefault(part, {"wall_s": 0.0})["wall_s"] += wall_s

    def total(self, name: str) -> None:
        """Notes what it took until now."""
        self.found[f"until {name}"] = {"wall_s": time.time() - self._began_s, "cpu_s": time.process_time()}

    def leave(self) -> NoReturn:
        """Writes them and ends the process."""
        self._report.write_text(json.dumps(self.found))
        os._exit(0)


def watch(report: str, began: str, command: str, *flags: str) -> None:
    """Runs `command`, which ends here when the last phase is through.

    Args:
      report: the file that gets the phases.
      began: when the process was started, by `time.time()`.
      command: `launch.commentate` or `launch.serve`.
      flags: of it.
    """
    phases = Phases(Path(report), float(began))
    module = importlib.import_module(command)
    phases.end("imports")
    _note_parts(phases)
    if command == "launch.serve":
        _watch_server(module, phases)
    else:
        _watch_commentary(module, phases)
    sys.exit(module.main(flags))


def _note_parts(phases: Phases) -> None:
    """Notes what JAX says of its own work, which is on the wall."""
    import jax.monitoring

    from benchmarks.start import PARTS

    def note(name: str, seconds: float, **_: Any) -> None:
        if part := PARTS.get(name.rpartition("/")[2]):
            phases.add(part, seconds)

    jax.monitoring.register_event_duration_secs_listener(note)


def _after(owner: Any, name: str, then: Callable[[Any], None]) -> None:
    """Has `then` called with what a function returns."""
    function = getattr(owner, name)

    def followed(*args: Any, **settings: Any) -> Any:
        result = function(*args, **settings)
        then(result)
        return result

    setattr(owner, name, followed)


def _watch_commentary(module: Any, phases: Phases) -> None:
    from mmduplex_jax.commentator import Commentator
    from mmduplex_jax.streaming.pool import Session

    def looked(result: Any) -> None:
        if "until picture" not in phases.found:
            phases.end("picture")
            phases.total("picture")
        if result.words:
            phases.end("word")
            phases.total("word")
            phases.leave()

    _after(module, "load_model", lambda _: phases.end("load"))
    _after(Commentator, "session", lambda _: phases.end("prepare"))
    _after(Session, "tick", looked)


def _watch_server(module: Any, phases: Phases) -> None:
    from mmduplex_jax.serving import listen

    def opened(_: Any) -> None:
        phases.end("listen")
        phases.total("listening")
        phases.leave()

    _after(module, "load", lambda _: phases.end("load"))
    _after(listen, "pool_of", lambda _: phases.end("prepare"))
    _after(listen, "shown_address", opened)
