"""What strangers send is decoded in processes of their own, one a stream, in a cage, and ended when it takes long.

A small process, the *nursery*, has loaded the decoders and nothing of the model. It forks a process for every stream
that sends pictures or watches a source. Each locks itself in (`cage.py`) before it sees a stranger's byte. It and the
server speak over a socket pair; frames lie in memory that they share. What a picture may cost is bounded by timers of
the kernel, whose signal ends the process: by the processor's time, so that a busy machine ends nobody, and by a
multiple of it on the clock on the wall. The server sees the socket end, and kills a process that does not answer.

A process that is lost costs its stream the picture that it had, and what refers to it; the next picture begins another.
"""

import asyncio
import contextlib
import fcntl
import importlib
import json
import logging
import math
import mmap
import os
import pickle
import pkgutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn, TypeVar

import av
import cv2
import numpy as np

from data_pipelines.video_source import VideoError, redact, scheme_of
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.serving import cage
from mmduplex_jax.serving.pictures import Intake, IntakeConfig, IntakeState, PictureRefused, Taken, Tick
from mmduplex_jax.serving.protocol import Frame
from mmduplex_jax.serving.source_ticks import SourceConfig, SourceTicks

_log = logging.getLogger(__name__)
_REQUEST = struct.Struct(">I")
_READY = struct.Struct(">I")
_ANSWER = struct.Struct(">I")
_ANSWER_MAX, _TEXT_MAX = 64 << 10, 1000
# One message shows at most 17 pictures that differ: those that H.264 may hold back.
_FRAMES_MAX = 17
# So many times the processor's time may pass on the wall: a machine may be that busy.
_WALL = 40.0
# The kernel's timers come first; these are for a process that is stopped, or was never begun.
_ANSWER_S, _READY_S = 5.0, 30.0
# What a process may allocate over what it was forked with: for pictures of a limited size, and for any video.
_PICTURE_BYTES, _SOURCE_BYTES = 512 << 20, 2 << 30
# From one tick of a source to the next it may compute for so many pictures' time.
_SOURCE_PICTURES = 20
# A socket's buffers hold fewer pieces than this.
_UNREAD_MAX = 1000
# Times this close are one: they go as microseconds.
_SAME_S = 1e-5
# Decoding gives way to the model and to the loop that serves everybody.
_NICE = 5
_NEVER_LOADED = frozenset({"av.__main__", "av.datasets"})
# What the processes see of the environment: a token has no business there.
_ENVIRONMENT = ("PATH", "PYTHON", "LD_", "DYLD_", "LC_", "LANG", "TMPDIR", "SSL_CERT_", "http_proxy", "no_proxy")

Said = TypeVar("Said")
# A process answered with nonsense or not at all: it ended by itself or by the kernel's timers, or it was silent.
Loss = Literal["ended", "silent"]


class DecoderEnded(Exception):
    """A stream's decoder process is gone: something took too long, or broke it; the next picture begins another.

    Attributes:
      loss: how it was lost.
    """

    def __init__(self, loss: Loss, message: str):
        super().__init__(message)
        self.loss = loss


class SourceFailed(Exception):
    """A library failed at a source in a way that says nothing of the source.

    Attributes:
      kind: the error's type.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class DecoderProcesses:
    """The nursery, and the decoders that it forks. `close` ends all of them.

    Attributes:
      uncaged: why the decoders' system calls are not filtered on this machine; None where they are.
    """

    def __init__(self, picture_cpu_s: float, run: "Callable[[int, float], None] | None" = None):
        """Starts the nursery, which loads its libraries meanwhile.

        Args:
          picture_cpu_s: of a processor's time for decoding one picture.
          run: what it runs, by default `nursery`.
        """
        self.picture_cpu_s = picture_cpu_s
        self._run = run or nursery
        self.uncaged = cage.why_no_filter()
        if self.uncaged is not None:
            _log.warning(
                "strangers' pictures are decoded without a filter of system calls: whoever breaks a decoder has this "
                "account's rights",
                extra={"cause": self.uncaged},
            )
        self._start()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        code = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
        code += f"from {self._run.__module__} import {self._run.__qualname__} as run; "
        code += "run(int(sys.argv[2]), float(sys.argv[3]))"
        arguments = [json.dumps(sys.path), str(theirs.fileno()), str(self.picture_cpu_s)]
        environment = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is the server's to answer: streams that drain still need their decoders.
                start_new_session=True,
                env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    def stream(self, config: IntakeConfig, begun: IntakeState | None = None) -> "StreamDecoder":
        """A decoder for a stream that begins or, with `begun`, goes on; its process begins with the first picture."""
        return StreamDecoder(self, config, begun)

    def source(self, config: SourceConfig) -> "SourceDecoder":
        """A reader of a source; its process begins with the first tick that is asked for."""
        return SourceDecoder(self, config)

    def fork(self, *files: int) -> socket.socket:
        """A new decoder process's socket, not blocking. The process is handed these files."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            handed = [theirs.fileno(), *files]
            try:
                socket.send_fds(self._control, [b"+"], handed)
            except OSError:
                # The nursery was ended by somebody; with it went its decoders, whose streams see their sockets end.
                self.close()
                self._start()
                socket.send_fds(self._control, [b"+"], handed)
        return ours

    def __enter__(self) -> "DecoderProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the nursery and every decoder."""
        self._control.close()
        if self._nursery.returncode is not None:
            return  # its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)
        self._nursery.wait()


class StreamDecoder:
    """`Intake` in a process of its own. One task at a time may use it."""

    def __init__(self, processes: DecoderProcesses, config: IntakeConfig, begun: IntakeState | None = None):
        self._processes, self._config = processes, config
        self._process: _Process | None = None
        # What the next process begins with: frames are in it only where a stream has moved and none has begun yet.
        self._state = begun or IntakeState()
        # Its ticks must be later than the last one, and no later than the newest picture.
        self._tick_s = -math.inf if self._state.last_s is None else self._state.last_s
        self._newest_s = -math.inf
        self._wall_s = _WALL * processes.picture_cpu_s + _ANSWER_S

    async def take(self, picture: Frame) -> Taken:
        """`Intake.take`.

        Raises:
          PictureRefused: it does not decode or is too large; the stream may go on.
          DecoderEnded: it took too long or broke the decoder.
        """
        if self._process is None:
            await self._tried(self._begin(), _READY_S)
        self._newest_s = max(self._newest_s, picture.t_s)
        answer, frames = await self._ask("take", picture)
        if answer.refused is not None:
            raise PictureRefused(answer.refused)
        if answer.set_back_s is not None:
            self._tick_s = -math.inf
        for t_s, *_ in answer.ticks:
            if not self._tick_s < t_s <= self._newest_s + _SAME_S:
                self._lose()
                raise DecoderEnded("ended", "broke the decoder")
            self._tick_s = t_s
        ticks = [Tick(t_s, frames[index], change) for t_s, index, change in answer.ticks]
        return Taken(ticks, answer.state.late, answer.state.too_fast, answer.set_back_s, answer.gap_s)

    async def saved(self) -> IntakeState:
        """`Intake.saved`, of which the next decoder may be made, here or elsewhere; DecoderEnded."""
        if self._process is None:
            return self._state
        answer, frames = await self._ask("saved")
        shown, before = (None if index is None else frames[index] for index in (answer.shown, answer.before))
        return answer.state._replace(shown=shown, before=before)

    async def jump(self) -> None:
        """`Intake.jump`; DecoderEnded."""
        self._state = self._state._replace(shown=None)
        if self._process is not None:
            await self._ask("jump")

    async def reset(self) -> None:
        """`Intake.reset`; DecoderEnded."""
        self._state = IntakeState(late=self._state.late, too_fast=self._state.too_fast)
        self._tick_s = self._newest_s = -math.inf
        if self._process is not None:
            await self._ask("reset")

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.close()
            self._process = None

    async def _begin(self) -> None:
        self._process = _Process(self._processes, self._config.frame_px)
        await self._process.begin(self._config, self._state)

    async def _ask(self, method: str, *arguments: Any) -> "tuple[_Answer, list[np.ndarray]]":
        """What the process answers, with what the next one would begin with."""
        assert self._process is not None
        answer, frames = await self._tried(self._process.ask(method, *arguments))
        if answer.failed is not None:
            self._lose()
            _log.error("a decoder failed", extra={"error": "{}: {}".format(*answer.failed)})
            raise DecoderEnded("ended", "broke the decoder")
        self._state = answer.state
        return answer, frames

    async def _tried(self, asking: Coroutine[Any, Any, Said], wall_s: float | None = None) -> Said:
        """What the process says, in time; where it is lost, what it showed is lost with it."""
        wall_s = self._wall_s if wall_s is None else wall_s
        try:
            async with asyncio.timeout(wall_s):
                return await asking
        except TimeoutError as error:
            self._lose()
            raise DecoderEnded("silent", f"got no answer of its decoder within {wall_s:g} s") from error
        except (OSError, EOFError) as error:
            self._lose()
            message = f"took more than {self._processes.picture_cpu_s:g} s to decode, or broke the decoder"
            raise DecoderEnded("ended", message) from error

    def _lose(self) -> None:
        """Ends the process. The next one begins after a gap, also where this one was to go on with frames."""
        self.close()
        self._state = self._state._replace(shown=None, before=None)


class SourceDecoder:
    """`SourceTicks` in a process of its own. One task at a time may use it."""

    def __init__(self, processes: DecoderProcesses, config: SourceConfig):
        self._processes, self._config = processes, config
        self._process: _Process | None = None
        self._tick_s = -math.inf

    async def next(self) -> Tick | None:
        """`SourceTicks.next`; waits for as long as the source keeps it waiting.

        Raises:
          VideoError: what is wrong with the source.
          SourceFailed: a library failed at it.
          DecoderEnded: it took too long or broke the decoder.
        """
        try:
            if self._process is None:
                self._process = _Process(self._processes, self._config.frame_px)
                async with asyncio.timeout(_READY_S):
                    await self._process.begin(self._config, None)
            answer, frames = await self._process.ask("next")
        except TimeoutError as error:
            self.close()
            raise DecoderEnded("silent", f"its decoder did not begin within {_READY_S:g} s") from error
        except (OSError, EOFError) as error:
            self.close()
            raise DecoderEnded("ended", "it took too long to decode, or broke the decoder") from error
        if answer.refused is not None:
            raise VideoError(answer.refused)
        if answer.failed is not None:
            raise SourceFailed(*answer.failed)
        for t_s, index, change in answer.ticks[:1]:
            if t_s <= self._tick_s:
                self.close()
                raise DecoderEnded("ended", "it broke the decoder")
            self._tick_s = t_s
            return Tick(t_s, frames[index], change)
        return None

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.close()
            self._process = None


class _Answer(NamedTuple):
    """What a process said.

    Attributes:
      ticks: times, numbers of frames, and changes.
      state: what the next process needs, without frames.
      shown, before: the numbers of the state's frames, where it was asked for them and has them.
    """

    ticks: list[tuple[float, int, float]]
    state: IntakeState
    shown: int | None
    before: int | None
    set_back_s: float | None
    gap_s: float | None
    refused: str | None
    failed: tuple[str, str] | None


class _Process:
    """A decoder process as the server sees it. What comes of it is not trusted: it is plain data, and bounded.

    Whatever else it does is OSError or EOFError.
    """

    def __init__(self, processes: DecoderProcesses, frame_px: FrameSize):
        self._shape = (_FRAMES_MAX, *frame_px, 3)
        size = math.prod(self._shape)
        with _shared_file(size) as file:
            self._memory = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
            self._socket = processes.fork(file.fileno())
        self._pid = 0
        self._pidfd: int | None = None

    async def begin(self, config: IntakeConfig | SourceConfig, begun: IntakeState | None) -> None:
        """Hands it what to do; it locks itself in before it takes anything else."""
        await self._send((config, begun))
        head, fds = await self._receive_fds(_READY.size)
        (self._pid,) = _READY.unpack(head)
        self._pidfd = fds[0] if fds else None

    async def ask(self, method: str, *arguments: Any) -> tuple[_Answer, list[np.ndarray]]:
        """Has it call a method; the answer, and the frames, uint8 [H, W, 3]."""
        await self._send((method, arguments))
        (size,) = _ANSWER.unpack(await self._receive(_ANSWER.size))
        if size > _ANSWER_MAX:
            raise EOFError(f"an answer of {size} bytes")
        try:
            answer = _read_answer(await self._receive(size))
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
            raise EOFError("an answer that is none") from error
        numbers = [*(index for _, index, _ in answer.ticks), answer.shown, answer.before]
        count = 1 + max((index for index in numbers if index is not None), default=-1)
        frames = np.frombuffer(self._memory, np.uint8).reshape(self._shape)[:count]
        # (Copied: the process writes there again.)
        return answer, [frame.copy() for frame in frames]

    def close(self) -> None:
        """Kills it."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            elif self._pid and self._holds_its_socket():
                os.kill(self._pid, signal.SIGKILL)
        self._socket.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pidfd, self._pid = None, 0

    def _holds_its_socket(self) -> bool:
        """Whether the process has its end of the socket, which nobody else has: then it runs under its own number.

        (For systems without descriptors of processes: the number of one that has ended may be another's by now.)
        """
        try:
            for _ in range(_UNREAD_MAX):
                if not self._socket.recv(1 << 16):
                    return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True  # (so much does not lie in a socket: it goes on writing)

    async def _send(self, request: Any) -> None:
        body = pickle.dumps(request)
        await asyncio.get_running_loop().sock_sendall(self._socket, _REQUEST.pack(len(body)) + body)

    async def _receive(self, size: int) -> bytearray:
        received, loop = bytearray(size), asyncio.get_running_loop()
        at = 0
        while at < size:
            some = await loop.sock_recv_into(self._socket, memoryview(received)[at:])
            if not some:
                raise EOFError("the process has ended")
            at += some
        return received

    async def _receive_fds(self, size: int) -> tuple[bytes, list[int]]:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        data, fds, *_ = socket.recv_fds(self._socket, size, 1)
        if len(data) < size:
            raise EOFError("the process has ended")
        return data, list(fds)


def _shared_file(size: int) -> BinaryIO:
    """A file without a name, as memory to share. Nobody changes its size (Linux): whoever maps it may rely on it."""
    if not hasattr(os, "memfd_create"):
        file: Any = tempfile.TemporaryFile()  # noqa: SIM115  it is the caller's
        file.truncate(size)
        return file
    fd = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return os.fdopen(fd, "r+b")


def _read_answer(data: bytearray) -> _Answer:
    """An answer; ValueError, TypeError, LookupError, OverflowError or RecursionError for what is none."""
    said = json.loads(data)
    number = lambda value: None if value is None else _finite(value)
    text = lambda value: None if value is None else str(value)[:_TEXT_MAX]
    ticks = [(_finite(t_s), _frame_number(index), _finite(change)) for t_s, index, change in said["ticks"]]
    shown, before = (None if said[name] is None else _frame_number(said[name]) for name in ("shown", "before"))
    last_s, late, too_fast, still_set_back_s = said["state"]
    why = said["failed"]
    failed = None if why is None else (str(why[0])[:_TEXT_MAX], str(why[1])[:_TEXT_MAX])
    state = IntakeState(number(last_s), int(late), int(too_fast), number(still_set_back_s))
    set_back_s, gap_s = number(said["set_back_s"]), number(said["gap_s"])
    return _Answer(ticks, state, shown, before, set_back_s, gap_s, text(said["refused"]), failed)


def _frame_number(value: Any) -> int:
    if not 0 <= (number := int(value)) < _FRAMES_MAX:
        raise ValueError("no such frame")
    return number


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    return float(value)


# In the processes.


def nursery(control_fd: int, picture_cpu_s: float) -> None:
    """Forks a decoder for every socket that comes over `control_fd`; ends all of them when it is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # PyAV loads some of itself when it first meets a kind of stream; in the cage no file is opened.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in _NEVER_LOADED:
            importlib.import_module(module.name)
    control = socket.socket(fileno=control_fd)
    while True:
        message, fds, *_ = socket.recv_fds(control, 1, 2)
        if not message:
            break
        with contextlib.suppress(OSError):  # no process to be had: the stream sees its socket closed
            if os.fork() == 0:
                _run_decoder(fds[0], fds[1], picture_cpu_s)
        for fd in fds:
            os.close(fd)
    os.killpg(0, signal.SIGKILL)


def _run_decoder(stream_fd: int, memory_fd: int, picture_cpu_s: float) -> NoReturn:
    try:
        _decode(stream_fd, memory_fd, picture_cpu_s)
    finally:
        os._exit(0)


def _decode(stream_fd: int, memory_fd: int, picture_cpu_s: float) -> None:
    """A decoder process: answers requests until the stream is closed."""
    os.nice(_NICE)
    memory = np.frombuffer(mmap.mmap(memory_fd, os.fstat(memory_fd).st_size), np.uint8)
    stream = _keep_only(stream_fd)
    orders = _receive(stream)
    if orders is None:
        return
    config, begun = orders
    # (What it is handed until it is locked in is the server's own.)
    pidfds = _own_pidfd()
    socket.send_fds(stream, [_READY.pack(os.getpid())], pidfds)
    for fd in pidfds:
        os.close(fd)
    try:
        if isinstance(config, IntakeConfig):
            cage.lock_in(_PICTURE_BYTES)
            work = _picture_work(config, begun, picture_cpu_s)
        else:
            work = _source_work(config, _SOURCE_PICTURES * picture_cpu_s)
    except Exception as error:  # noqa: BLE001  whoever is not locked in decodes nothing; the server's log says why
        failed = (type(error).__name__, f"cannot begin: {error}")
        work = lambda frames, method, arguments: {"failed": failed}
    shape = (_FRAMES_MAX, *config.frame_px, 3)
    while (request := _receive(stream)) is not None:
        said: dict[str, Any] = {"refused": None, "failed": None, "ticks": [], "shown": None, "before": None}
        said |= {"state": _counts(IntakeState()), "set_back_s": None, "gap_s": None}
        frames: list[np.ndarray] = []
        said |= work(frames, *request)
        if len(frames) > _FRAMES_MAX:
            said |= {"ticks": [], "refused": f"shows more than {_FRAMES_MAX} pictures at once"}
        else:
            memory.reshape(shape)[: len(frames)] = frames or 0
        answer = json.dumps(said).encode()
        stream.sendall(_ANSWER.pack(len(answer)) + answer)


def _own_pidfd() -> list[int]:
    """A descriptor of this process, by which it is killed and no other; none where the kernel gives none."""
    try:
        return [os.pidfd_open(os.getpid())] if hasattr(os, "pidfd_open") else []
    except OSError:
        return []


# Calls a method, adds the frames that it gives to the list, and returns what is to be said of it.
_Work = Callable[[list[np.ndarray], str, tuple[Any, ...]], dict[str, Any]]


def _picture_work(config: IntakeConfig, begun: IntakeState, cpu_s: float) -> _Work:
    intake = Intake(config, begun)

    def work(frames: list[np.ndarray], method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        said: dict[str, Any] = {}
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, _WALL * cpu_s)
        try:
            taken = getattr(intake, method)(*arguments)
            if isinstance(taken, IntakeState):
                kept = {"shown": taken.shown, "before": taken.before}
                said = {name: _numbered(frame, frames) for name, frame in kept.items() if frame is not None}
            elif taken is not None:
                ticks = _without_repeats(taken.ticks, frames)
                said = {"ticks": ticks, "set_back_s": taken.set_back_s, "gap_s": taken.gap_s}
        except PictureRefused as refused:
            said = {"refused": str(refused)}
        except MemoryError:
            said = {"refused": "needs too much memory to decode"}
        except Exception as error:  # noqa: BLE001  the server's log has it, and another process goes on
            said = {"failed": (type(error).__name__, str(error))}
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        return said | {"state": _counts(intake.state)}

    return work


def _counts(state: IntakeState) -> tuple[float | None, int, int, float | None]:
    """A state without its frames, as JSON has it."""
    return state.last_s, state.late, state.too_fast, state.set_back_s


def _source_work(config: SourceConfig, cpu_s: float) -> _Work:
    """Opens a file and locks this process in. For an address it only bounds it: that needs network and certificates."""
    file: BinaryIO | None = None
    why_not: VideoError | None = None
    if scheme_of(config.source) is not None:
        cage.bound(_SOURCE_BYTES)
    else:
        try:
            file = _open(config.source)
        except VideoError as error:
            why_not = error
        cage.lock_in(_SOURCE_BYTES, threads=True)
    source: SourceTicks | None = None

    def work(frames: list[np.ndarray], method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        nonlocal source
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            if why_not is not None:
                raise why_not
            if source is None:
                source = SourceTicks(config, file)
            tick = getattr(source, method)(*arguments)
        except VideoError as error:
            return {"refused": redact(str(error))}
        except Exception as error:  # noqa: BLE001  whatever a library does, the stream is told and ends
            return {"failed": (type(error).__name__, redact(str(error)))}
        finally:
            # (Threads of a source may decode ahead for as long as nobody asks, as of one that is paused.)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        return {"ticks": [] if tick is None else _without_repeats([tick], frames)}

    return work


def _open(path: str) -> BinaryIO:
    """A regular file; VideoError for all else, of which a pipe would make its reader wait."""
    try:
        opener = lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        file = open(path, "rb", opener=opener)  # noqa: SIM115  it stays open
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened as a video: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise VideoError(f"{path}: cannot be opened as a video: it is no regular file")
    return file


def _keep_only(stream_fd: int) -> socket.socket:
    """The stream, as descriptor 3; all others are closed, and standard error, which is the server's, leads nowhere."""
    os.dup2(1, 2)
    os.dup2(stream_fd, 3)
    for fd in sorted(map(int, os.listdir("/dev/fd"))):
        if fd > 3:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(fd)
    return socket.socket(fileno=3)


def _without_repeats(ticks: Sequence[Tick], frames: list[np.ndarray]) -> list[tuple[float, int, float]]:
    """Times, numbers among `frames`, and changes."""
    return [(tick.t_s, _numbered(tick.frame, frames), tick.change) for tick in ticks]


def _numbered(frame: np.ndarray, frames: list[np.ndarray]) -> int:
    """A frame's number among `frames`, to which it is added; one that comes again is there once."""
    if not frames or frames[-1] is not frame:
        frames.append(frame)
    return len(frames) - 1


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
