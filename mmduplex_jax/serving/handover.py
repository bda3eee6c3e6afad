"""Streams that go on at another replica: what a stream is as one file, and the folder in which replicas leave them.

A file is a magic number, the length of a header, the header (JSON), the arrays one after the other as the header lists
them, and an HMAC over all of it whose key comes of the servers' token. Nothing of a file is used before that is right.

Files of a stream are named `KEY.N.kept` (its replica lives, or was lost) and `KEY.N.left` (its replica has handed it
over). N grows by 1 with each move; the highest one counts. A hard link to the next name claims it, which only one
replica can make: a replica that lost a stream in this way sees so by the higher number.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import itertools
import json
import logging
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np

from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.serving.pictures import IntakeState
from mmduplex_jax.serving.protocol import StreamConfig, Word, parse_config
from mmduplex_jax.streaming.moving import ArrayLayout, StreamState, check_layout
from mmduplex_jax.word_decoder import OpenWord

_log = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# Of what is in a file. A change to it, or to what an array of the state means, is another number.
VERSION = 3
_MAGIC = b"mmduplex"
_HEAD = struct.Struct(">8sI")
_MAC_BYTES = 32
# Words, settings and counts: 4096 words of 64 letters are less than half of it.
_HEADER_BYTES_MAX = 2 << 20
_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})\.(\d{1,9})\.(kept|left)")
SESSION_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
REPLICA = re.compile(r"[A-Za-z0-9_-]{1,63}")
# How a header begins, up to the name of the replica that wrote it.
_WRITTEN_BY = re.compile(rb'\{"version": \d+, "model": "[0-9a-f]{64}", "replica": "([A-Za-z0-9_-]{1,63})", ')
_WRITTEN_BY_BYTES = 256
# A folder that hangs must hold up nothing but streams that move.
_THREADS = 4
_WANTED = ".wanted"
# A stream whose client comes to another replica is asked for; a replica that lives hands it over sooner than this.
OWNER_S = 2.0


class CannotGoOn(ValueError):
    """What was left of a stream is damaged, of another model or of another version; the message says which."""


@dataclasses.dataclass(frozen=True)
class SavedStream:
    """All that a session is between two pictures.

    Attributes:
      key: names it, on whichever replica.
      token_sha256: of the secret with which its client comes back, in hexadecimal digits.
      config: how it began.
      delay_steps, pad_bias: as they are now.
      paused: it stands still.
      seq: the number of the last word.
      replay_seq: words up to this number are said again, which the client has.
      words: the last of them.
      received_s, now_s: the times of the last picture that came in, and of the last tick that was answered.
      saved_s: when this was, in seconds since 1970.
      dropped: pictures that never reached the model.
      second: tokens of the last ticks.
      resets: how many its client ordered and were carried out.
      predicted: its pictures refer to earlier ones, so that it goes on with a keyframe.
      stream: what the pool knows of it.
      intake: what its decoder knows.
    """

    key: str
    token_sha256: str
    config: StreamConfig
    delay_steps: int
    pad_bias: float
    paused: bool
    seq: int
    replay_seq: int
    words: Sequence[Word]
    received_s: float | None
    now_s: float
    saved_s: float
    dropped: int
    second: Sequence[int]
    resets: int
    predicted: bool
    stream: StreamState
    intake: IntakeState


class Found(NamedTuple):
    """The newest file of a stream."""

    path: Path
    generation: int
    left: bool


def token_sha256(token: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(token.encode()).hexdigest()


class Handover:
    """A folder that all replicas of a model share.

    Attributes:
      replica: the name of this one.
      snapshot_s: what streams are is written so often, for the case that this replica is lost; 0: never.
      notice_s: from the moment at which it takes no new streams to that at which it hands over those that run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        replica: str,
        facts: ModelFacts,
        layout: Sequence[ArrayLayout],
        *,
        token: str | None,
        snapshot_s: float,
        notice_s: float,
    ):
        """Tries the folder.

        Args:
          folder: that all replicas see, on a file system that has hard links.
          facts, layout: of the model.
          token: of the servers; what others write is refused.

        Raises:
          OSError: it cannot be written to, or has no hard links.
        """
        self._folder, self.replica, self.snapshot_s, self.notice_s = Path(folder), replica, snapshot_s, notice_s
        self._numbers = itertools.count()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="handover")
        self._layout, self._frame_shape = layout, (*facts.frame_px, 3)
        self._secret = hashlib.sha256(b"mmduplex handover " + (token or "").encode()).digest()
        described = [facts.fingerprint, facts.clock, facts.frame_px, facts.fit, facts.tokens_per_s_max, layout]
        self._model = hashlib.sha256(repr(described).encode()).hexdigest()
        arrays_bytes = sum(math.prod(one.shape) * jnp.dtype(one.dtype).itemsize for one in layout)
        self.bytes_max = _HEADER_BYTES_MAX + arrays_bytes + 2 * math.prod(self._frame_shape) + 64
        self._folder.mkdir(parents=True, exist_ok=True)
        self._try()

    def _try(self) -> None:
        probe, linked = (self._folder / f".{self.replica}.{name}" for name in ("probe", "linked"))
        try:
            probe.write_bytes(b"")
            linked.unlink(missing_ok=True)
            os.link(probe, linked)
        except OSError as error:
            raise OSError(
                f"--handover_dir={self._folder}: a file and a hard link cannot be made there ({error.strerror}); "
                "give a folder of a local disk, NFS or another file system with hard links"
            ) from error
        finally:
            probe.unlink(missing_ok=True)
            linked.unlink(missing_ok=True)

    async def run(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Calls one of its functions in a thread of its own."""
        call = functools.partial(function, *args, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Ends its threads; waits for none."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # Files.

    def find(self, key: str) -> Found | None:
        """The newest file of a stream; None where there is none."""
        found = [one for one in self._files() if one.path.name.startswith(f"{key}.")]
        return max(found, key=lambda one: (one.generation, one.left), default=None)

    def _files(self) -> Iterator[Found]:
        for entry in os.scandir(self._folder):
            match = _NAME.fullmatch(entry.name)
            if match:
                yield Found(Path(entry.path), int(match[2]), match[3] == "left")

    def write(self, saved: SavedStream, generation: int, *, left: bool) -> bool:
        """Writes what a stream is.

        Returns:
          False where another replica has taken the stream meanwhile; nothing is written then.
        """
        newest = self.find(saved.key)
        if newest is not None and newest.generation > generation:
            return False
        kept, given = (self._folder / f"{saved.key}.{generation}.{kind}" for kind in ("kept", "left"))
        new = self._folder / f".{self.replica}.{saved.key}.{next(self._numbers)}.new"
        try:
            with open(new, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                for piece in self._pieces(saved):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, given if left else kept)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if left:
            kept.unlink(missing_ok=True)
        return True

    def read(self, found: Found) -> SavedStream:
        """What is in a file.

        Raises:
          CannotGoOn: see there.
          FileNotFoundError: it has been claimed meanwhile.
        """
        with open(found.path, "rb") as file:
            data = file.read(self.bytes_max + 1)
        try:
            saved = self.unpack(data)
            if saved.key != _key_of(found):
                raise CannotGoOn("is another stream's")
        except CannotGoOn as error:
            raise CannotGoOn(f"what was left of this stream {error}") from error
        return saved

    def owner(self, found: Found) -> str | None:
        """The replica that says to have a stream; None where it waits for one, or its file is none.

        (Anybody may ask: of the file little is read, and nothing is checked.)
        """
        if found.left:
            return None
        try:
            with open(found.path, "rb") as file:
                written_by = _WRITTEN_BY.match(file.read(_WRITTEN_BY_BYTES), _HEAD.size)
        except FileNotFoundError:
            return None
        return None if written_by is None else written_by[1].decode()

    def claim(self, found: Found) -> bool:
        """Makes a stream this replica's, of the next generation; False where another one was sooner."""
        key = _key_of(found)
        try:
            os.link(found.path, self._folder / f"{key}.{found.generation + 1}.kept")
        except (FileExistsError, FileNotFoundError):
            return False
        found.path.unlink(missing_ok=True)
        (self._folder / f"{key}{_WANTED}").unlink(missing_ok=True)
        return True

    def forget(self, key: str, generation: int) -> None:
        """Lets go of a stream that has ended here."""
        (self._folder / f"{key}.{generation}.kept").unlink(missing_ok=True)

    def touch(self, streams: Iterable[tuple[str, int]]) -> None:
        """Says that these streams, each a key and a generation, are still here: nobody sweeps what is kept of them."""
        for key, generation in streams:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._folder / f"{key}.{generation}.kept")

    def want(self, key: str) -> None:
        """Asks the replica that has a stream to hand it over."""
        (self._folder / f"{key}{_WANTED}").touch()

    def wanted(self) -> list[str]:
        """The streams that somebody asks for."""
        names = [entry.name for entry in os.scandir(self._folder)]
        return [name.removesuffix(_WANTED) for name in names if name.endswith(_WANTED)]

    def sweep(self, age_max_s: float) -> None:
        """Removes what nobody comes for any more: what was not written for so long, by the folder's own clock."""
        probe = self._folder / f".{self.replica}.now"
        probe.write_bytes(b"")
        now_s = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
        for entry in os.scandir(self._folder):
            ours = _NAME.fullmatch(entry.name) or entry.name.endswith((_WANTED, ".new", ".now"))
            try:
                if ours and now_s - entry.stat(follow_symlinks=False).st_mtime > age_max_s:
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue  # claimed, or swept by another replica

    # Bytes.

    def pack(self, saved: SavedStream) -> bytes:
        """A stream as the bytes of a file; the oldest words are left out where there are too many for it."""
        return b"".join(self._pieces(saved))

    def _pieces(self, saved: SavedStream) -> Iterator[bytes | memoryview]:
        intake = saved.intake
        kept = {"shown": intake.shown, "before": intake.before}
        frames = {name: frame for name, frame in kept.items() if frame is not None}
        fields = dataclasses.asdict(dataclasses.replace(saved, stream=None, intake=None))  # type: ignore[arg-type]
        cells = saved.stream.cells
        stream = saved.stream._asdict() | {
            "last_t_s": _finite(saved.stream.last_t_s),
            "cells": None if cells is None else [cells.shape, cells.tobytes().hex()],
        }
        del stream["arrays"]
        words = [list(word) for word in saved.words]
        header = {
            "version": VERSION,
            "model": self._model,
            "replica": self.replica,
            "stream": fields | {"words": words, "stream": stream},
            "intake": [intake.last_s, intake.late, intake.too_fast, intake.set_back_s, sorted(frames)],
            "layout": [[name, str(a.dtype), a.shape] for (name, *_), a in zip(self._layout, saved.stream.arrays)],
        }
        while len(head := json.dumps(header, allow_nan=False).encode()) > _HEADER_BYTES_MAX and words:
            del words[: -(-len(words) // 8)]
        mac = hmac.new(self._secret, digestmod="sha256")
        arrays = (*saved.stream.arrays, *(frames[name] for name in sorted(frames)))
        pieces: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, len(head)), head, *map(_bytes_of, arrays)]
        for piece in pieces:
            mac.update(piece)
            yield piece
        yield mac.digest()

    def _parts(self, data: bytes) -> tuple[dict[str, Any], bytes, int]:
        """A file's header, the file without its HMAC, and where its arrays begin; CannotGoOn."""
        if len(data) > self.bytes_max:
            raise CannotGoOn(f"is larger than the {self.bytes_max} bytes that this model's streams have at most")
        if len(data) < _HEAD.size + _MAC_BYTES or not data.startswith(_MAGIC):
            raise CannotGoOn("is no file of a stream, or is cut short")
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not hmac.compare_digest(hmac.digest(self._secret, body, "sha256"), mac):
            raise CannotGoOn("is damaged, cut short, or of a server with another token")
        # From here on it is what a server with our token wrote.
        (_, head_bytes), at = _HEAD.unpack_from(body), _HEAD.size
        return json.loads(body[at : at + head_bytes]), body, at + head_bytes

    def unpack(self, data: bytes) -> SavedStream:
        """The stream in the bytes of a file; CannotGoOn."""
        header, body, at = self._parts(data)
        if header["version"] != VERSION:
            raise CannotGoOn(f"has version {header['version']}; this server reads {VERSION}: begin a new stream")
        layout = [(dtype, tuple(shape)) for _, dtype, shape in header["layout"]]
        try:
            check_layout(self._layout, layout)
        except ValueError as error:
            raise CannotGoOn(f"cannot go on: {error}; begin a new stream") from error
        if header["model"] != self._model:
            raise CannotGoOn("is of another checkpoint, other --weights, or other settings of it: begin a new stream")

        def taken(dtype: str, shape: Sequence[int]) -> np.ndarray:
            nonlocal at
            count = math.prod(shape)
            array = np.frombuffer(body, jnp.dtype(dtype), count, at).reshape(shape)
            at += array.nbytes
            return array

        arrays = [taken(*one) for one in layout]
        fields, (last_s, late, too_fast, set_back_s, names) = header["stream"], header["intake"]
        frames = {name: taken("uint8", self._frame_shape) for name in names}
        intake = IntakeState(last_s, late, too_fast, set_back_s, frames.get("shown"), frames.get("before"))
        stream = fields["stream"]
        token_ids, *rest = stream["word"]
        last_t_s = -math.inf if stream["last_t_s"] is None else stream["last_t_s"]
        cells = None
        if stream["cells"] is not None:
            shape, numbers = stream["cells"]
            cells = np.frombuffer(bytes.fromhex(numbers), np.uint8).reshape(shape)
        word = OpenWord(tuple(token_ids), *rest)
        known = (last_t_s, stream["dropped"], cells, stream["scene_s"])
        state = StreamState(arrays, stream["steps"], word, *known)
        words = [Word(*word) for word in fields["words"]]
        config = parse_config(fields["config"])
        return SavedStream(**fields | {"config": config, "words": words, "stream": state, "intake": intake})


def _key_of(found: Found) -> str:
    return found.path.name.partition(".")[0]


def _bytes_of(array: np.ndarray) -> memoryview:
    # (Types that NumPy has from elsewhere, as bfloat16, give no buffer of their own.)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
