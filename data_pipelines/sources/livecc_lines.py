"""Live-CC files: JSON lines of which the last lists where each of the others begins, so that any is read by a seek.

The publishers' own loader takes an entry of that list for the byte at which a sample's line begins. A list of
cumulative lengths that counts each line in (it then ends where the list's own line begins) is read too.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from data_pipelines.json_text import parse_json

_FIRST_BLOCK_BYTES = 1 << 16
_LARGEST_BLOCK_BYTES = 1 << 24
# Of 5 million offsets the last line has 63 MB. A file without a line break in this much is no file of lines.
_LONGEST_LINE_BYTES = 1 << 30
_OFFSETS = re.compile(rb"\[\s*(\d[\d\s,]*)?\]")
_SCAN_INSTEAD = "let one scan of the file find the lines instead with --config.build_index=True"


class AnnotationError(ValueError):
    """An annotation that is not in its format; the message says which, where, and what to do."""


class LiveccLines:
    """The samples of a Live-CC file by number, as parsed JSON.

    Opening reads the end of the file only, and a sample costs a seek and its own line. In another process the file is
    opened again when the first sample is asked for.

    Attributes:
      path: of the file.
      size_bytes: of the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, build_index: bool = False):
        """Opens the file.

        Args:
          path: of the file.
          build_index: find the lines by one scan of the whole file, whatever its last line says.

        Raises:
          AnnotationError: there is no line of offsets, or it does not fit the lines.
          OSError: the file cannot be read.
        """
        self.path = Path(path)
        self.size_bytes = self.path.stat().st_size
        self._build_index = build_index
        self._file: BinaryIO | None = None
        self._begins: np.ndarray | None = None
        file = self._opened()
        if build_index:
            logging.warning("%s: all %.2f GB are read once to find the lines", self.path, self.size_bytes / 1e9)
            self._begins = _scan(file)
        begins = self._index()
        if not len(begins):
            raise AnnotationError(f"{self.path}: holds no sample")
        for number in {0, len(begins) // 2, len(begins) - 1}:
            try:
                self.line(number)
            except AnnotationError as error:
                raise AnnotationError(
                    f"{self.path}, {error}; the offsets belong to another file: {_SCAN_INSTEAD}"
                ) from error

    def __len__(self) -> int:
        return len(self._index())

    def line(self, number: int) -> bytes:
        """The bytes of a sample's line, without its line break.

        Raises:
          AnnotationError: no line begins where the offset says; names the sample, but not where the file lies.
          IndexError: there is no such sample.
          ValueError: the file was changed since it was first opened.
        """
        begin = self.begin_bytes(number)
        file = self._opened()
        file.seek(max(0, begin - 1))
        before = file.read(1) if begin else b"\n"
        line = file.readline()
        if before != b"\n" or line[:1] not in (b"[", b"{"):
            raise AnnotationError(f"sample {number}: no line begins at byte {begin}")
        return line.rstrip(b"\r\n")

    def __getitem__(self, number: int) -> Any:
        """A sample; AnnotationError where its line is no JSON, other errors as `line` has them."""
        line = self.line(number)
        try:
            return parse_json(line)
        except ValueError as error:
            raise AnnotationError(f"sample {number}: its line is no JSON ({error})") from error

    def begin_bytes(self, number: int) -> int:
        """Where a sample's line begins in the file."""
        begins = self._index()
        if not 0 <= number < len(begins):
            raise IndexError(f"sample {number} of {self.path}: there are {len(begins)}")
        return int(begins[number])

    def index_sha256(self) -> str:
        """A hash over where the lines begin: another file of as many bytes has another."""
        return hashlib.sha256(self._index().astype("<i8").tobytes()).hexdigest()

    def _index(self) -> np.ndarray:
        """int64 [N], where the lines begin."""
        if self._begins is None:
            self._begins = _offsets(self._opened(), self.path, self.size_bytes)
        return self._begins

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = open_binary(self.path)
            size_bytes = self._file.seek(0, os.SEEK_END)
            if size_bytes != self.size_bytes:
                # No AnnotationError: it says nothing about a sample, and all of them would be rejected for it.
                raise ValueError(f"{self.path}: had {self.size_bytes} bytes, now {size_bytes}: it was changed")
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        # To read the offsets again takes another process less than to be sent them; a scan would take it too long.
        return self.__dict__ | {"_file": None, "_begins": self._begins if self._build_index else None}


def open_binary(path: Path) -> BinaryIO:
    """Opens a file for reading by seeks."""
    return open(path, "rb")


def _offsets(file: BinaryIO, path: Path, size_bytes: int) -> np.ndarray:
    """int64 [N], where the lines begin, from the last line."""
    tail_begin, tail = _last_line(file, path, size_bytes)
    if not _OFFSETS.fullmatch(tail):
        raise AnnotationError(
            f"{path}: its last line is no list of offsets (it begins with {tail[:40]!r}). Live-CC files end with one, "
            f"[0, bytes of line 1, bytes of lines 1 and 2, ...]; {_SCAN_INSTEAD}"
        )
    numbers = tail[1:-1]
    count = numbers.count(b",") + 1 if numbers.strip() else 0
    broken = f"{path}: the list of offsets in its last line is broken; {_SCAN_INSTEAD}"
    try:
        # NumPy reads 5 million numbers in 0.4 s, the json module in 1.0 s.
        offsets = np.fromstring(numbers, dtype=np.int64, sep=",") if count else np.empty(0, np.int64)
    except ValueError as error:
        raise AnnotationError(broken) from error
    if len(offsets) != count:  # where an older NumPy warns and stops
        raise AnnotationError(broken)
    if len(offsets) and offsets[-1] == tail_begin:  # lengths that count each line in: they say where lines end
        offsets = offsets[:-1] if offsets[0] == 0 else np.concatenate([[0], offsets[:-1]])
    if len(offsets) and offsets.max() >= tail_begin:
        wrong = int(offsets.argmax())
        raise AnnotationError(
            f"{path}: sample {wrong} is said to begin at byte {offsets[wrong]}, the lines end at {tail_begin}: "
            f"the file was cut or changed; get it anew, or {_SCAN_INSTEAD}"
        )
    return offsets


def _last_line(file: BinaryIO, path: Path, size_bytes: int) -> tuple[int, bytes]:
    """Where the last line that is not blank begins, and its bytes without blanks around; reads from the end."""
    blocks: list[bytes] = []
    position, block_bytes, seen_bytes = size_bytes, _FIRST_BLOCK_BYTES, 0
    while position:
        length = min(block_bytes, position)
        position -= length
        file.seek(position)
        block = file.read(length)
        if not blocks:
            block = block.rstrip()
        newline = block.rfind(b"\n")
        if newline >= 0:
            blocks.append(block[newline + 1 :])
            position += newline + 1
            break
        if block:
            blocks.append(block)
        seen_bytes += length
        if seen_bytes > _LONGEST_LINE_BYTES:
            raise AnnotationError(
                f"{path}: no line break in its last {seen_bytes >> 20} MiB; it is no file of JSON lines"
            )
        block_bytes = min(2 * block_bytes, _LARGEST_BLOCK_BYTES)
    return position, b"".join(reversed(blocks)).strip()


def _scan(file: BinaryIO) -> np.ndarray:
    """int64 [N], where the lines begin that are not blank and no list of offsets, from the whole file."""
    begins, position = [], 0
    file.seek(0)
    for line in file:
        if line.strip() and not _OFFSETS.fullmatch(line.strip()):
            begins.append(position)
        position += len(line)
    return np.array(begins, np.int64)
