"""What is said in a video, from the file beside it: WhisperX JSON, WebVTT, SubRip, or a caption as plain text."""

import codecs
import dataclasses
import math
from pathlib import Path
from typing import Any

from data_pipelines.json_text import parse_json
from data_pipelines.schema import Word
from data_pipelines.subtitles import TranscriptError, read_subtitles
from data_pipelines.word_times import fill_in, spread

__all__ = ["SUFFIXES", "Transcript", "TranscriptError", "read_transcript"]

# By how well they know the times of words.
SUFFIXES = (".json", ".vtt", ".srt", ".txt")
_OTHER_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What is said in a video.

    Attributes:
      words: in the order in which they start; none for a caption.
      timing: "word", "line", or "clip" for a caption.
      language: as the file says, else "".
      caption: the text of a caption, else "".
    """

    words: tuple[Word, ...]
    timing: str
    language: str = ""
    caption: str = ""


def read_transcript(path: Path, name: str = "") -> Transcript:
    """Reads a `.json`, `.vtt`, `.srt` or `.txt` file.

    Args:
      path: the file.
      name: what messages call it; its path without one.

    Raises:
      TranscriptError: it is damaged, or in another encoding than UTF-8; the message names the file and the place.
      OSError: it cannot be read.
    """
    suffix, name = path.suffix.lower(), name or str(path)
    if suffix not in SUFFIXES:
        raise TranscriptError(f"{name}: transcripts end in one of {SUFFIXES}")
    text = _text(path.read_bytes(), name)
    if suffix == ".txt":
        return Transcript((), "clip", caption=" ".join(text.split()))
    if suffix == ".json":
        return _from_json(name, text)
    subtitles = read_subtitles(name, text, is_vtt=suffix == ".vtt")
    return Transcript(subtitles.words, subtitles.timing, subtitles.language)


def _text(data: bytes, name: str) -> str:
    for mark, encoding in _OTHER_MARKS:
        if data.startswith(mark):
            raise TranscriptError(f"{name}:1: is in {encoding}; write it anew in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise TranscriptError(
            f"{name}:{line}: is not in UTF-8 (byte 0x{byte:02x}), perhaps in Latin-1; write it anew in UTF-8"
        ) from error
    if "\0" in text:
        raise TranscriptError(f"{name}:{text[: text.index(chr(0))].count(chr(10)) + 1}: holds a zero byte, is no text")
    return text


def _from_json(name: str, text: str) -> Transcript:
    """Segments with words (WhisperX, `word_timestamps` of Whisper, vosk), or with text only."""
    try:
        content = parse_json(text.encode("utf-8"))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise TranscriptError(f"{name}:{line}: is no JSON: {error}") from error
    segments, language = content, ""
    if isinstance(content, dict):
        segments, language = content.get("segments"), content.get("language") or ""
    if not isinstance(segments, list) or not isinstance(language, str):
        raise TranscriptError(f"{name}: a transcript has a list of segments; this JSON has none")
    words: list[Word] = []
    exact = True
    for number, segment in enumerate(segments):
        place = f"{name}: segments[{number}]"
        if not isinstance(segment, dict):
            raise TranscriptError(f"{place}: is no object with start, end and words or text")
        found = segment.get("words")
        if found:
            words += _segment_words(place, segment, found)
        else:
            said = _string(place, segment, "text").split()
            start_s, end_s = _time(place, segment, "start"), _time(place, segment, "end")
            if said and (start_s is None or end_s is None):
                raise TranscriptError(f"{place}: has text, but no start or no end")
            if said and start_s is not None and end_s is not None:
                exact = exact and len(said) == 1
                words += spread(said, start_s, _not_before(place, end_s, start_s))
    words.sort(key=lambda word: word.start_s)
    return Transcript(tuple(words), "word" if exact and words else "line", language)


def _segment_words(place: str, segment: dict[str, Any], found: Any) -> list[Word]:
    """The words of a segment, those without times between their neighbours."""
    if not isinstance(found, list):
        raise TranscriptError(f"{place}.words: is no list")
    timed: list[tuple[str, float | None, float | None]] = []
    for number, word in enumerate(found):
        where = f"{place}.words[{number}]"
        if not isinstance(word, dict):
            raise TranscriptError(f"{where}: is no object with word, start and end")
        start_s, end_s = _time(where, word, "start"), _time(where, word, "end")
        if start_s is not None and end_s is not None:
            _not_before(where, end_s, start_s)
        said = _string(where, word, "word").split()
        if len(said) > 1 and start_s is not None and end_s is not None:
            timed += [(part.text, part.start_s, part.end_s) for part in spread(said, start_s, end_s)]
        else:
            timed += [(text, start_s, end_s) for text in said]
    starts_s = [start_s for _, start_s, _ in timed if start_s is not None]
    ends_s = [end_s for _, _, end_s in timed if end_s is not None]
    begin_s, stop_s = _time(place, segment, "start"), _time(place, segment, "end")
    begin_s = min(starts_s, default=None) if begin_s is None else begin_s
    stop_s = max([*starts_s, *ends_s], default=None) if stop_s is None else stop_s
    if timed and (begin_s is None or stop_s is None):
        raise TranscriptError(f"{place}: neither it nor its words have a start and an end")
    if begin_s is None or stop_s is None:
        return []
    return fill_in(timed, begin_s, _not_before(place, stop_s, begin_s))


def _string(place: str, fields: dict[str, Any], name: str) -> str:
    text = fields.get(name)
    if not isinstance(text, str):
        raise TranscriptError(f"{place}.{name}: a text is expected, got {text!r}")
    return text


def _time(place: str, fields: dict[str, Any], name: str) -> float | None:
    time_s = fields.get(name)
    if time_s is None:
        return None
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not math.isfinite(time_s) or time_s < 0:
        raise TranscriptError(f"{place}.{name}: seconds are expected, got {time_s!r}")
    return float(time_s)


def _not_before(place: str, end_s: float, start_s: float) -> float:
    if end_s < start_s:
        raise TranscriptError(f"{place}: ends at {end_s:g} s, before it starts at {start_s:g} s")
    return end_s
