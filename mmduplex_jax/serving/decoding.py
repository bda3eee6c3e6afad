"""Pictures of strangers are decoded in processes of their own, one a stream, which the kernel ends when they take long.

A small process, the *nursery*, has loaded the decoders and nothing of the model. It forks a process for every stream
that sends pictures; the two speak over a socket pair, and the stream's end of it closes the process. What a picture may
cost is bounded by timers of the kernel, whose signal ends the process: by the processor's time, so that a busy machine
ends nobody, and by a multiple of it on the clock on the wall. The server sees the socket end.
"""

import asyncio
import contextlib
import json
import math
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mmduplex_jax.serving.pictures import Intake, IntakeConfig, PictureRefused, Taken, Tick
from mmduplex_jax.serving.protocol import Frame

_REQUEST = struct.Struct(">I")
# Of an answer: bytes of JSON, bytes of frames.
_ANSWER = struct.Struct(">II")
_ANSWER_JSON_MAX = 64 << 10
# So many times the processor's time may pass on the wall: a machine may be that busy.
_WALL = 40.0
# The kernel's timers come first; this is for a process that was never begun.
_ANSWER_S = 5.0
# What a process may allocate over what it was forked with.
_DATA_BYTES = 512 << 20
# Decoding gives way to the model and to the loop that serves everybody.
_NICE = 5


class DecoderEnded(Exception):
    """A stream's decoder process is gone: a picture took too long, or broke it."""


class DecoderProcesses:
    """The nursery, and the decoders that it forks. `close` ends all of them."""

    def __init__(self, picture_cpu_s: float):
        """Starts the nursery, which loads its libraries meanwhile.

        Args:
          picture_cpu_s: of a processor's time for decoding one picture.
        """
        self.picture_cpu_s = picture_cpu_s
        self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        code = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
        code += "from mmduplex_jax.serving.decoding import nursery; nursery(int(sys.argv[2]), float(sys.argv[3]))"
        arguments = [json.dumps(sys.path), str(theirs.fileno()), str(self.picture_cpu_s)]
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is the server's to answer: streams that drain still need their decoders.
                start_new_session=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    def stream(self, config: IntakeConfig) -> "StreamDecoder":
        """A decoder for a stream; its process begins with the first picture."""
        return StreamDecoder(self, config)

    def fork(self) -> socket.socket:
        """A new decoder process's socket, not blocking."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            except OSError:
                # The nursery was ended by somebody; with it went its decoders, whose streams see their sockets end.
                self.close()
                self._start()
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        return ours

    def __enter__(self) -> "DecoderProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the nursery and every decoder."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)
        self._nursery.wait()


class StreamDecoder:
    """`Intake` in a process of its own. One task at a time may use it."""

    def __init__(self, processes: DecoderProcesses, config: IntakeConfig):
        self._processes, self._config = processes, config
        self._socket: socket.socket | None = None
        self._wall_s = _WALL * processes.picture_cpu_s

    async def take(self, picture: Frame) -> Taken:
        """`Intake.take`.

        Raises:
          PictureRefused: it does not decode or is too large; the stream may go on.
          DecoderEnded: it took too long or broke the decoder.
        """
        return await self._ask("take", picture)

    async def jump(self) -> None:
        """`Intake.jump`."""
        if self._socket is not None:
            await self._ask("jump")

    async def reset(self) -> None:
        """`Intake.reset`."""
        if self._socket is not None:
            await self._ask("reset")

    def close(self) -> None:
        """Ends the process; one that is busy ends within its bound."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _ask(self, method: str, *arguments: Any) -> Taken:
        try:
            async with asyncio.timeout(self._wall_s + _ANSWER_S):
                if self._socket is None:
                    self._socket = self._processes.fork()
                    await self._send(self._config)
                await self._send((method, arguments))
                json_bytes, frames_bytes = _ANSWER.unpack(await self._receive(_ANSWER.size))
                frame_bytes = 3 * math.prod(self._config.frame_px)
                # (What decodes strangers' bytes is not trusted: its answers are plain data, and bounded.)
                if json_bytes > _ANSWER_JSON_MAX or frames_bytes % frame_bytes:
                    raise EOFError
                answer = json.loads(await self._receive(json_bytes))
                frames = np.frombuffer(await self._receive(frames_bytes), np.uint8)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise DecoderEnded(
                f"took more than {self._processes.picture_cpu_s:g} s to decode, or broke the decoder"
            ) from error
        if answer["refused"] is not None:
            raise PictureRefused(answer["refused"])
        apart = list(frames.reshape(-1, *self._config.frame_px, 3))
        ticks = [Tick(t_s, apart[index], change) for t_s, index, change in answer["ticks"]]
        return Taken(ticks, answer["late"], answer["too_fast"], answer["set_back_s"], answer["gap_s"])

    async def _send(self, request: Any) -> None:
        assert self._socket is not None
        body = pickle.dumps(request)
        await asyncio.get_running_loop().sock_sendall(self._socket, _REQUEST.pack(len(body)) + body)

    async def _receive(self, size: int) -> bytearray:
        assert self._socket is not None
        received, loop = bytearray(size), asyncio.get_running_loop()
        at = 0
        while at < size:
            some = await loop.sock_recv_into(self._socket, memoryview(received)[at:])
            if not some:
                raise EOFError
            at += some
        return received


# In the processes.


def nursery(control_fd: int, picture_cpu_s: float) -> None:
    """Forks a decoder for every socket that comes over `control_fd`; ends all of them when it is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    cv2.setNumThreads(1)
    control = socket.socket(fileno=control_fd)
    while True:
        message, fds, *_ = socket.recv_fds(control, 1, 1)
        if not message:
            break
        with socket.socket(fileno=fds[0]) as stream:
            try:
                pid = os.fork()
            except OSError:
                continue  # the stream sees its socket closed
            if pid == 0:
                control.close()
                try:
                    _decode(stream, picture_cpu_s)
                finally:
                    os._exit(0)
    os.killpg(0, signal.SIGKILL)


def _decode(stream: socket.socket, picture_cpu_s: float) -> None:
    """A decoder process: answers requests until the stream is closed."""
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as statm:
            data_bytes = int(statm.read().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + _DATA_BYTES,) * 2)
    config = _receive(stream)
    if config is None:
        return
    intake = Intake(config)
    while (request := _receive(stream)) is not None:
        method, arguments = request
        answer: dict[str, Any] = {"refused": None, "ticks": [], "late": 0, "too_fast": 0}
        answer |= {"set_back_s": None, "gap_s": None}
        frames: list[np.ndarray] = []
        signal.setitimer(signal.ITIMER_PROF, picture_cpu_s)
        signal.setitimer(signal.ITIMER_REAL, _WALL * picture_cpu_s)
        try:
            taken = getattr(intake, method)(*arguments)
            if taken is not None:
                answer |= taken._asdict() | {"ticks": _without_repeats(taken.ticks, frames)}
        except PictureRefused as refused:
            answer["refused"] = str(refused)
        except MemoryError:
            answer["refused"] = "needs too much memory to decode"
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        head, body = json.dumps(answer).encode(), b"".join(frame.tobytes() for frame in frames)
        stream.sendall(_ANSWER.pack(len(head), len(body)) + head + body)


def _without_repeats(ticks: Sequence[Tick], frames: list[np.ndarray]) -> list[tuple[float, int, float]]:
    """Times, numbers among `frames`, and changes; a frame that is shown again is there once."""
    numbered = []
    for tick in ticks:
        if not frames or frames[-1] is not tick.frame:
            frames.append(tick.frame)
        numbered.append((tick.t_s, len(frames) - 1, tick.change))
    return numbered


def _receive(stream: socket.socket) -> Any:
    """The next request of the server; None when it has closed the stream."""
    head = _exactly(stream, _REQUEST.size)
    body = None if head is None else _exactly(stream, *_REQUEST.unpack(head))
    return None if body is None else pickle.loads(body)


def _exactly(stream: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        some = stream.recv(size - len(received))
        if not some:
            return None
        received += some
    return bytes(received)
