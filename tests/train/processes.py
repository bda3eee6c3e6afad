"""The toy in several processes of one run, over loopback or between network namespaces."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """Processes 0 to `count - 1` of a run of `tests/train/toy.py` (or `module`); `missing` ones are not started.

    Args:
      workdir: of the run; logs of the processes lie beside it.
      count: how many processes, each with `devices` fake devices.
      arguments: steps, steps between checkpoints, `field=value`s.
      step_s: what the data of a step take.
      join_timeout_s, peer_timeout_s: see `mmduplex_jax.train.distributed.Job`.
      coordinator: HOST:PORT; a free port of this machine if not given.
      breaks_in: the process whose disk is gone after some steps.
      within: a command before that of each process, such as `ip netns exec NAME`.
    """

    def __init__(
        self,
        workdir: Path,
        count: int,
        *arguments: object,
        devices: int = 2,
        step_s: float = 0.0,
        join_timeout_s: int = 60,
        peer_timeout_s: int = 20,
        breaks_in: int = -1,
        coordinator: str = "",
        within: Sequence[Sequence[str]] = (),
        missing: Sequence[int] = (),
        module: str = "tests.train.toy",
    ):
        coordinator = coordinator or f"127.0.0.1:{free_port()}"
        self.logs = [workdir.parent / f"{workdir.name}.{i}.log" for i in range(count)]
        self.running: dict[int, subprocess.Popen] = {}
        for i in set(range(count)) - set(missing):
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "TOY_JOB": f"{coordinator} {count} {i} {join_timeout_s} {peer_timeout_s}",
                "TOY_STEP_S": str(step_s),
                "TOY_BREAKS_IN": str(breaks_in),
                "TOY_EVALS": "5",
            }
            command = [sys.executable, "-u", "-m", module, str(workdir), *map(str, arguments)]
            with self.logs[i].open("w") as log:
                self.running[i] = subprocess.Popen(
                    [*(within[i] if within else ()), *command], cwd=ROOT, env=environment, stdout=log, stderr=log
                )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    def log(self, i: int) -> str:
        return self.logs[i].read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, i: int = 0) -> None:
        """Until process `i` has said `text`."""
        end = time.monotonic() + TIMEOUT_S
        while text not in self.log(i):
            assert time.monotonic() < end, self.log(i)
            assert self.running[i].poll() is None, self.log(i)
            time.sleep(0.05)

    def send(self, number: signal.Signals, i: int) -> None:
        self.running[i].send_signal(number)

    def exit_codes(self, timeout_s: float = TIMEOUT_S) -> list[int]:
        """Of all, in order; fails where they do not end in time."""
        end = time.monotonic() + timeout_s
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for _, process in sorted(self.running.items())]
        except subprocess.TimeoutExpired as error:
            raise AssertionError("\n".join(f"--- {i}\n{self.log(i)}" for i in self.running)) from error
