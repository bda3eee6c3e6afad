"""Live-CC-5M and Live-WhisperX-526K as a source: a unit is a line, a stretch of a video with every word in it timed.

Each of a line's words is taken exactly once. (The publishers' loader says the last one again in every later second.)
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_pipelines.clip_reader import probe
from data_pipelines.schema import TIMINGS
from data_pipelines.sources import Item, Rejected, causes
from data_pipelines.sources.livecc_lines import AnnotationError, LiveccLines
from data_pipelines.sources.livecc_sample import LiveccSample, parse_sample
from data_pipelines.sources.video_clips import Annotation, Footage, clip_settings_of, clips_of, file_sha256
from data_pipelines.video_source import VideoError


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
        for unit in range(begin, end):
            key = f"livecc/{self.lines.path.stem}/{unit:07d}"
            for item_key, content in self._items_of(unit, key):
                yield Item(unit, item_key, content)

    def _items_of(self, unit: int, key: str) -> Iterator[tuple[str, Any]]:
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
