"""One sample of a Live-CC file: which stretch of which video, and every word in it with its times."""

import dataclasses
import hashlib
import json
import math
from pathlib import PurePosixPath
from typing import Any

from data_pipelines.schema import Word
from data_pipelines.sources.livecc_lines import AnnotationError


@dataclasses.dataclass(frozen=True)
class LiveccSample:
    """A sample.

    Attributes:
      video: path below the folder of videos.
      begin_s, end_s: the clip in the video; None where the sample is about all of it.
      words: in the order of their starts, with times in the video.
      words_blank: entries without a visible character; they say nothing and are not among the words.
      about: title, category and the text said before the clip, those that there are.
    """

    video: str
    begin_s: float | None
    end_s: float | None
    words: tuple[Word, ...]
    words_blank: int
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
    words, words_blank = [], 0
    for number, entry in enumerate(_list(_field(streams[0], "text_stream"), "text_stream")):
        word = _word(entry, number)
        if word.text:
            words.append(word)
        else:
            words_blank += 1
    words.sort(key=lambda word: word.start_s)
    about = {
        name: part[name]
        for part in parts
        if part["type"] == "text"
        for name in ("title", "category", "previous")
        if isinstance(part.get(name), str) and part[name]
    }
    return LiveccSample(video, begin_s, end_s, tuple(words), words_blank, about)


def _word(entry: Any, number: int) -> Word:
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], str):
        raise AnnotationError(f"word {number} must be [start, end, text], got {json.dumps(entry)[:80]}")
    start_s, end_s = (
        _optional_time(entry[0], f"start of word {number}"),
        _optional_time(entry[1], f"end of word {number}"),
    )
    if start_s is None or (end_s is not None and end_s < start_s):
        raise AnnotationError(f"word {number} ({entry[2]!r}) is from {start_s} to {end_s} s")
    return Word(entry[2].strip(), start_s, end_s)


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
