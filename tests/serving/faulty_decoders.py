"""A nursery whose decoders meet faults on purpose: a JPEG's last bytes, or a source's name, say which."""

import atexit
import ctypes
import functools
import json
import mmap
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmduplex_jax.serving import decoding, source_ticks
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.pictures import Intake, PictureDecoder, PictureRefused

ABORT, LIE, RAISE, ESCAPE = b" abort", b" lie", b" raise", b" escape"
# Ticks that were there before, and that no picture has come for yet.
BACK, AHEAD = b" back", b" ahead"
# From 0.4 s on, ticks of sources of these names are so much earlier: there before, or the last one's again.
SOURCES_S = {"back.mp4": -0.48, "again.mp4": -0.16}
# What whoever has taken a decoder over would try.
ESCAPES: dict[str, Callable[[], Any]] = {
    "open a socket": lambda: socket.socket(),
    "write a file": lambda: os.open("escaped", os.O_WRONLY | os.O_CREAT),
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list a folder": lambda: os.listdir("/"),
    "remove a file": lambda: os.unlink("escaped"),
    "fork": os.fork,
    "start a program": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "signal the server": lambda: os.kill(os.getppid(), 0),
    "make memory code": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "lift a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
}


def tried(escape: Callable[[], Any]) -> str:
    """The name of the error with which it fails; "escaped" where it does not."""
    try:
        escape()
    except (OSError, ValueError) as error:
        return type(error).__name__
    return "escaped"


# Python says ValueError where the kernel refuses another limit.
REFUSED = dict.fromkeys(ESCAPES, "PermissionError") | {"lift a limit": "ValueError"}


@functools.cache
def faulty() -> decoding.DecoderProcesses:
    """Such decoders, shared by the tests of a process."""
    processes = decoding.DecoderProcesses(Limits.decode_s, nursery)
    atexit.register(processes.close)
    return processes


def nursery(control_fd: int, picture_cpu_s: float) -> None:
    """The nursery, with such decoders."""
    take = PictureDecoder.take

    @functools.wraps(take)
    def faulty(self, frame):
        if frame.data.endswith(ABORT):
            ctypes.string_at(0)  # as libraries do: a signal, and no exception
        if frame.data.endswith(LIE):
            os.write(3, b"\xff" * 64)
        if frame.data.endswith(RAISE):
            raise RuntimeError("a fault of ours")
        if frame.data.endswith(ESCAPE):
            raise PictureRefused(json.dumps({name: tried(escape) for name, escape in ESCAPES.items()}))
        return take(self, frame)

    PictureDecoder.take = faulty
    intake_take = Intake.take

    @functools.wraps(intake_take)
    def lying(self, picture):
        taken = intake_take(self, picture)
        later_s = {BACK: -0.48, AHEAD: 100.0}.get(picture.data[picture.data.rfind(b" ") :], 0.0)
        return taken._replace(ticks=[tick._replace(t_s=tick.t_s + later_s) for tick in taken.ticks])

    Intake.take = lying
    reader = source_ticks.VideoReader

    def faulty_reader(source, *arguments):
        for error in (AttributeError, MemoryError, KeyError, OSError):
            if isinstance(source, str) and error.__name__ in source:
                raise error(f"{source}: broken")
        return reader(source, *arguments)

    source_ticks.VideoReader = faulty_reader
    begin, next_tick = source_ticks.SourceTicks.__init__, source_ticks.SourceTicks.next

    @functools.wraps(begin)
    def named(self, config, file):
        begin(self, config, file)
        self.later_s = SOURCES_S.get(Path(config.source).name, 0.0)

    @functools.wraps(next_tick)
    def lying_source(self):
        tick = next_tick(self)
        return tick if tick is None or tick.t_s < 0.4 else tick._replace(t_s=tick.t_s + self.later_s)

    source_ticks.SourceTicks.__init__, source_ticks.SourceTicks.next = named, lying_source
    decoding.nursery(control_fd, picture_cpu_s)
