"""One training at a time in a workdir."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

LOCK = "training.lock"
# A process on another machine shows that it lives by touching the lock; `flock` does not reach over every file system.
_TOUCH_S = 5.0
_LOST_S = 4 * _TOUCH_S


class WorkdirError(ValueError):
    """Another training is running in the workdir; the message names it."""


@contextlib.contextmanager
def hold_workdir(workdir: Path, *, touch_s: float = _TOUCH_S, lost_s: float = _LOST_S) -> Iterator[None]:
    """Holds a workdir while it is entered; makes it where there is none.

    The processes of one job are one training: the first of them holds the workdir for all. The system lets go of it
    when that process ends, however it ends, so a lock is never stale on one machine. A lock of another machine counts
    as stale when nobody touches it for `lost_s` seconds, for which this waits.

    Raises:
      WorkdirError: another training holds it.
    """
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(workdir, _holder(path)) from error
        holder = _holder(path)
        if holder.get("host") not in (None, socket.gethostname()) and _is_touched(path, touch_s, lost_s):
            raise _held(workdir, holder)
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
        _write(file, json.dumps(mine))
        done = threading.Event()
        thread = threading.Thread(target=_touch, args=(path, done, touch_s), name="workdir lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            _write(file, "")


def _write(file: Any, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _touch(path: Path, done: threading.Event, touch_s: float) -> None:
    while not done.wait(touch_s):
        with contextlib.suppress(FileNotFoundError):  # somebody removed the workdir; the next save says so
            os.utime(path)


def _is_touched(path: Path, touch_s: float, lost_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Whether somebody touches a lock, watching it for as long as that is in doubt."""
    first, until_s = path.stat().st_mtime_ns, clock() + lost_s
    while clock() < until_s:
        time.sleep(touch_s / 5)
        if path.stat().st_mtime_ns != first:
            return True
    return False


def _holder(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text(encoding="utf-8") or "{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _held(workdir: Path, holder: dict[str, Any]) -> WorkdirError:
    who = (
        f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
        if {"pid", "host", "started"} <= holder.keys()
        else "another process"
    )
    return WorkdirError(f"{workdir} is being trained in by {who}: wait for it, end it, or give another --workdir")
