"""When a run stops: on a signal, or with the other processes of its job; joining them, and leaving when one is lost.

A process that is lost leaves the others in a collective that nobody completes. What ends them: the operating system,
where it tells them that the connection is closed (in a second); else JAX's coordination service, to which every process
reports, after `peer_timeout_s`. The first ends with EXIT_PREEMPTED, the second aborts the process (SIGABRT, 134 in a
shell): on both a scheduler starts all of them again.
"""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmduplex_jax.sharding import replicated

EXIT_FAILED, EXIT_MISFIT = 1, 2
# sysexits.h EX_TEMPFAIL: nothing is wrong, start the same command again.
EXIT_PREEMPTED = 75
# What shells report for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130
# How much longer than ours JAX's own time for joining is, after which it aborts without a message for people.
_LATER_S = 60

# How errors of collectives and of the coordination service speak of a peer or a network that is gone. All other errors
# (out of memory, say) come again when the same command is started again.
_PEER_LOST = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Cc]onnection (?:closed|reset|refused)|[Gg]loo|[Hh]eartbeat|"
    r"[Bb]roken pipe|[Tt]imed? ?out|NCCL|coordination (?:service|agent)"
)


class StopSignal:
    """Notes SIGTERM (a scheduler wants the machine) and SIGINT (Ctrl-C) while it is entered.

    The first signal only sets `received`; the handlers that were there before are put back at once, so a second one
    ends the program as it would have without this.

    Attributes:
      received: the signal's number; None until one comes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What the program should exit with after it has saved."""
        return EXIT_INTERRUPTED if self.received == signal.SIGINT else EXIT_PREEMPTED


class PeerError(RuntimeError):
    """Processes did not find each other, or one was lost; the message says what is known. Starting again may help."""


class JoinError(ValueError):
    """What should be joined is not known; the message says which flags to give."""


@dataclass(frozen=True)
class Job:
    """Which run to join, as which of its processes.

    Attributes:
      coordinator: HOST:PORT of process 0; "" and the next two -1: as the environment says (SLURM, Open MPI, Cloud TPU).
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      join_timeout_s: how long to wait for all of them.
      peer_timeout_s: after how long a process that does not report is taken for lost.
    """

    coordinator: str = ""
    num_processes: int = -1
    process_id: int = -1
    join_timeout_s: int = 300
    peer_timeout_s: int = 100

    def __post_init__(self):
        given = (bool(self.coordinator), self.num_processes != -1, self.process_id != -1)
        if any(given) and not all(given):
            raise JoinError(
                "--coordinator, --num_processes and --process_id belong together: give all three, or none where "
                "SLURM, Open MPI or Cloud TPU tell them"
            )
        if all(given) and not 0 <= self.process_id < self.num_processes:
            raise JoinError(f"--process_id is from 0 to {self.num_processes - 1}, not {self.process_id}")
        if all(given) and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise JoinError(f"--coordinator is HOST:PORT of process 0, not {self.coordinator!r}")
        if min(self.join_timeout_s, self.peer_timeout_s) < 1:
            raise JoinError("--join_timeout_s and --peer_timeout_s are a second at least")


def join(job: Job) -> None:
    """Joins a run; before anything else of JAX is used.

    If not all processes come in time, it says so and ends this one, with the code of `EXIT_PREEMPTED`.

    Raises:
      JoinError: the environment does not say what to join.
      PeerError: joining failed.
    """
    # Signals are ours (`StopSignal`); JAX's service would have its own handler beside.
    jax.config.update("jax_enable_preemption_service", False)
    who = f"process {job.process_id} of {job.num_processes}" if job.coordinator else "this process"
    where = f" at {job.coordinator}" if job.coordinator else ""
    # JAX aborts when its own time is over; ours is over first, with a message and a code.
    alarm = threading.Timer(job.join_timeout_s, _give_up, [f"{who} waited {job.join_timeout_s} s{where}"])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            job.coordinator or None,
            job.num_processes if job.coordinator else None,
            job.process_id if job.coordinator else None,
            initialization_timeout=job.join_timeout_s + _LATER_S,
            heartbeat_timeout_seconds=job.peer_timeout_s,
            # A process that is done waits so long for the others, which are at the same step.
            shutdown_timeout_seconds=job.peer_timeout_s,
            # Where the three are given, nothing else is: every process has all devices of its host.
            cluster_detection_method="deactivate" if job.coordinator else None,
        )
    except ValueError as error:
        raise JoinError(
            f"--distributed, and the environment does not say with whom ({error}): give --coordinator=HOST:PORT, "
            "--num_processes=N and --process_id=I"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise PeerError(f"{who} could not join{where}: {_first_line(error)}") from error
    finally:
        alarm.cancel()


def _give_up(waited: str) -> None:
    print(
        f"error: {waited} and not all processes came: look whether each was started, reaches that address and port, "
        "and was given the same number of processes",
        file=sys.stderr,
        flush=True,
    )
    # From a thread, with the main one in JAX's hands: there is nothing to return to.
    os._exit(EXIT_PREEMPTED)


def peer_error(error: BaseException) -> PeerError | None:
    """What an error says of other processes; None where it is about something else."""
    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if not _PEER_LOST.search(str(error)) or "RESOURCE_EXHAUSTED" in str(error):
        return None
    return PeerError(
        f"process {jax.process_index()} of {jax.process_count()} lost another, or the network to it: look there for "
        f"the cause, and start all of them again; they go on from the newest checkpoint ({_first_line(error)})"
    )


def take_part(job: Job, run: Callable[[], int]) -> NoReturn:
    """Joins, runs, and ends this process with the code that `run` returns, so that the others learn of it.

    Args:
      job: what to join.
      run: of 0 and the codes of `StopSignal` all processes return the same, at the same step; any other code, or an
        exception, is of this process alone, and nobody waits for it.
    """
    code, together = EXIT_FAILED, False
    try:
        join(job)
        code = run()
        together = code in (0, EXIT_PREEMPTED, EXIT_INTERRUPTED)
    except JoinError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_MISFIT
    except PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_PREEMPTED
    except Exception as error:  # noqa: BLE001 - it is printed whole, unless it is known
        if lost := peer_error(error):
            print(f"error: {lost}", file=sys.stderr)
            code = EXIT_PREEMPTED
        else:
            traceback.print_exc()
    leave(code, together=together)


def voices(say: Callable[[str], None]) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What `fit` calls `log` and `warn`: process 0 alone logs; each warns of what it alone knows, by its number."""
    me = jax.process_index()
    log = say if me == 0 else lambda line: None
    return log, lambda line: say(f"[process {me}] {line}")


def leave(code: int, *, together: bool) -> NoReturn:
    """Ends this process with an exit code.

    Args:
      code: for the scheduler.
      together: all processes come here and may wait for each other. If not, the others must not wait for this one: it
        ends at once, and its closed connections tell them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if together:
        try:
            jax.distributed.shutdown()
        except jax.errors.JaxRuntimeError as error:
            print(
                f"warning: everything is saved, but another process did not end: {_first_line(error)}", file=sys.stderr
            )
            sys.stderr.flush()
    # Not `sys.exit`: what waits for the others at exit would wait in vain.
    os._exit(code)


def any_process(mesh: Mesh) -> Callable[[bool], jax.Array]:
    """`(flag of this process) -> bool on all devices`: whether any process says so; a collective that all must call."""
    spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    found = jax.jit(lambda flags: flags.any(), out_shardings=replicated(mesh))

    def ask(flag: bool) -> jax.Array:
        one = lambda index: np.full((1,), flag)
        return found(jax.make_array_from_callback((mesh.size,), spread, one))

    return ask


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
