"""Live-CC-5M and Live-WhisperX-526K as a source: a unit is a line, a stretch of a video with every word in it timed.

Each of a line's words is taken exactly once. (The publishers' loader says the last one again in every later second.)

The files are JSON lines of which the last lists where each of the others begins, so that any is read by a seek. The
publishers' own loader takes an entry of that list for the byte at which a sample's line begins. A list of cumulative
lengths that counts each line in (it then ends where the list's own line begins) is read too.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from data_pipelines.clip_reader import probe
from data_pipelines.schema import TIMINGS, Record, Word
from data_pipelines.sources import Item, Noted, Rejected, causes, items_of_units
from data_pipelines.sources.video_clips import Annotation, Footage, clip_settings_of, clips_of, file_sha256
from data_pipelines.video_source import VideoError
from data_pipelines.words import GIT_LFS_ADVICE, GIT_LFS_HEAD, in_order, parse_json, visible

_FIRST_BLOCK_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"  # which some editors put before a file's first byte
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
        file.seek(0)
        if file.read(len(GIT_LFS_HEAD)) == GIT_LFS_HEAD:
            raise AnnotationError(f"{self.path}: {GIT_LFS_ADVICE}")
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
        file.seek(max(0, begin - len(_BOM)))
        before = file.read(min(begin, len(_BOM)))
        line = file.readline().removeprefix(_BOM if not begin else b"")
        begins = not begin or before == _BOM or before.endswith(b"\n")
        if not begins or line[:1] not in (b"[", b"{"):
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


@dataclasses.dataclass(frozen=True)
class LiveccSample:
    """A sample.

    Attributes:
      video: path below the folder of videos.
      begin_s, end_s: the clip in the video; None where the sample is about all of it.
      words: in the order of their starts, with times in the video.
      words_blank: entries without a visible character; they say nothing and are not among the words.
      notes: entries that are broken and left out, and how many were not in order.
      about: title, category and the text said before the clip, those that there are.
    """

    video: str
    begin_s: float | None
    end_s: float | None
    words: tuple[Word, ...]
    words_blank: int
    notes: tuple[Noted, ...]
    about: dict[str, str]

    @property
    def identity(self) -> bytes:
        """16 bytes that are the same for samples of the same stretch and the same words."""
        said = [word.text for word in self.words]
        facts = json.dumps([self.video, self.begin_s, self.end_s, said])
        return hashlib.blake2b(facts.encode(), digest_size=16).digest()


def parse_sample(sample: Any) -> LiveccSample:
    """A sample from the JSON of its line.

    Raises:
      AnnotationError: it is not in the format; says what is missing or wrong.
    """
    parts = [part for message in _list(sample, "the sample") for part in _list(_field(message, "content"), "content")]
    videos = [part for part in parts if _field(part, "type") == "video"]
    streams = [part for part in parts if _field(part, "type") == "text_stream"]
    if len(videos) != 1 or len(streams) != 1:
        raise AnnotationError(f"one video and one text_stream are expected, there are {len(videos)} and {len(streams)}")
    video = _field(videos[0], "video")
    if not isinstance(video, str) or not video:
        raise AnnotationError(f"video must be a path, got {video!r}")
    if PurePosixPath(video).is_absolute() or ".." in PurePosixPath(video).parts:
        raise AnnotationError(f"video must be a path below the folder of videos, got {video!r}")
    begin_s, end_s = (_optional_time(videos[0].get(name), name) for name in ("video_start", "video_end"))
    if begin_s is not None and begin_s < 0 or end_s is not None and end_s <= (begin_s or 0.0):
        raise AnnotationError(f"the clip is from {begin_s} to {end_s} s")
    found: list[Word] = []
    notes: list[Noted] = []
    words_blank = 0
    for number, entry in enumerate(_list(_field(streams[0], "text_stream"), "text_stream")):
        try:
            word = _word(entry, number)
        except AnnotationError as error:
            notes.append(Noted(causes.BROKEN_CUE, str(error)))
            continue
        if word.text:
            found.append(word)
        else:
            words_blank += 1
    if notes and not found:
        raise AnnotationError(notes[0].detail)
    words, moved = in_order(found)
    if moved:
        notes.append(Noted(causes.OUT_OF_ORDER, "words are put in the order of their times", moved))
    about = {
        name: part[name]
        for part in parts
        if part["type"] == "text"
        for name in ("title", "category", "previous")
        if isinstance(part.get(name), str) and part[name]
    }
    return LiveccSample(video, begin_s, end_s, words, words_blank, tuple(notes), about)


def _word(entry: Any, number: int) -> Word:
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], str):
        raise AnnotationError(f"word {number} must be [start, end, text], got {json.dumps(entry)[:80]}")
    # Some aligners write NaN where they know no time.
    times = [None if isinstance(time_s, float) and math.isnan(time_s) else time_s for time_s in entry[:2]]
    start_s = _optional_time(times[0], f"start of word {number}")
    end_s = _optional_time(times[1], f"end of word {number}")
    if start_s is None or (end_s is not None and end_s < start_s):
        raise AnnotationError(f"word {number} ({entry[2]!r}) is from {start_s} to {end_s} s")
    return Word(visible(entry[2]), start_s, end_s)


def _optional_time(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnnotationError(f"{name} must be a time in seconds, got {value!r}")
    return float(value)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnnotationError(f"{name} must be a list, got {json.dumps(value)[:80]}")
    return value


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise AnnotationError(f"{name!r} is missing in {json.dumps(value)[:80]}")
    return value[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveccSource(Footage):
    """The lines of a file, and the videos beside it.

    Which videos are there is seen when a line is asked for; a line whose video is not is rejected and counted.

    Attributes:
      lines: of the file.
      root: the folder below which the lines' videos are.
      timing: how well the words are timed: "line" in Live-CC-5M, "word" in Live-WhisperX-526K.
      duplicates: units that repeat an earlier one, with the number of that (`Footage` has the rest).
    """

    lines: LiveccLines
    root: Path
    timing: str
    duplicates: Mapping[int, int] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "livecc",
            "annotations": {
                "name": self.lines.path.name,
                "size_bytes": self.lines.size_bytes,
                "samples": len(self.lines),
                "index_sha256": self.lines.index_sha256(),
            },
            "timing": self.timing,
        } | self.describe_clips()

    def items(self, begin: int, end: int) -> Iterator[Item]:
        return items_of_units(begin, end, self._contents_of)

    def _contents_of(self, unit: int, notes: list[Noted]) -> Iterator[tuple[str, Record | Rejected]]:
        key = f"livecc/{self.lines.path.stem}/{unit:07d}"
        try:
            content = self.lines[unit]
        except AnnotationError as error:
            yield key, Rejected(causes.BROKEN_ANNOTATION, str(error))
            return
        try:
            sample = parse_sample(content)
        except AnnotationError as error:
            yield key, Rejected(causes.BROKEN_ANNOTATION, f"sample {unit}: {error}")
            return
        if self.duplicates is not None and unit in self.duplicates:
            yield key, Rejected(causes.DUPLICATE, f"sample {unit} says what sample {self.duplicates[unit]} says")
            return
        if not sample.words:
            yield key, Rejected(causes.NO_WORDS, f"sample {unit}: {sample.video}")
            return
        path = self.root / sample.video
        if not path.is_file():
            yield key, Rejected(causes.MISSING_VIDEO, f"sample {unit}: no file {sample.video}")
            return
        try:
            length = probe(path, name=sample.video)
        except VideoError as error:
            yield key, Rejected(causes.CANNOT_DECODE, f"sample {unit}: {error}")
            return
        notes += [dataclasses.replace(note, detail=f"sample {unit}: {note.detail}") for note in sample.notes]
        annotation = self._annotation(unit, key, sample, path)
        yield from clips_of(path, length, annotation, self.settings, f"sample {unit}, {sample.video}")

    def _annotation(self, unit: int, key: str, sample: LiveccSample, path: Path) -> Annotation:
        provenance: dict[str, Any] = {
            "source": "livecc",
            "file": sample.video,
            "sha256": file_sha256(path),
            "annotations": self.lines.path.name,
            "sample": unit,
        }
        if sample.words_blank:
            provenance["words_blank"] = sample.words_blank
        return Annotation(
            key=key,
            words=sample.words,
            timing=self.timing,
            language=self.language,
            begin_s=sample.begin_s,
            end_s=sample.end_s,
            provenance=provenance | sample.about,
        )


def livecc_source(config: Mapping[str, Any]) -> LiveccSource:
    """The source of `configs/data/livecc.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is missing or out of its range, or the file is not in its format.
      OSError: the file cannot be read.
    """
    if not config["annotations"]:
        raise ValueError("give the file of lines as --config.annotations=FILE.jsonl")
    if not config["root"] or not Path(config["root"]).is_dir():
        raise ValueError(f"config.root must be the folder of videos, got {config['root']!r}")
    if config["timing"] not in TIMINGS:
        raise ValueError(f"config.timing must be one of {TIMINGS}, got {config['timing']!r}")
    settings = clip_settings_of(config)
    lines = LiveccLines(config["annotations"], build_index=config["build_index"])
    return LiveccSource(
        lines=lines,
        root=Path(config["root"]),
        timing=config["timing"],
        language=config["language"],
        settings=settings,
        duplicates=find_duplicates(lines) if config["duplicates"] == "hash" else None,
    )


def find_duplicates(lines: LiveccLines) -> dict[int, int]:
    """Samples with the same words about the same stretch of a video as an earlier one, with the number of that.

    Reads every line once.
    """
    logging.warning("%s: all %d samples are read once to find duplicates", lines.path, len(lines))
    short = np.zeros(len(lines), np.uint64)
    sound = np.zeros(len(lines), bool)
    for number in range(len(lines)):
        identity = _identity(lines, number)
        if identity is not None:
            short[number], sound[number] = int.from_bytes(identity[:8], "little"), True
    numbers = np.flatnonzero(sound)
    in_order = numbers[np.argsort(short[numbers], kind="stable")]
    duplicates: dict[int, int] = {}
    # Few samples share even half of their identity; of those all of it is compared.
    for run in np.split(in_order, np.flatnonzero(np.diff(short[in_order])) + 1):
        first: dict[bytes | None, int] = {}
        for number in run.tolist() if len(run) > 1 else ():
            earlier = first.setdefault(_identity(lines, number), number)
            if earlier != number:
                duplicates[number] = earlier
    return duplicates


def _identity(lines: LiveccLines, number: int) -> bytes | None:
    """Of a sample; None of one that is broken, which is rejected for that when its turn comes."""
    try:
        return parse_sample(lines[number]).identity
    except AnnotationError:
        return None
