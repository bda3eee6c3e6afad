"""What is said in a video, from the file beside it: WhisperX JSON, WebVTT, SubRip, or a caption as plain text.

With a reader of our own for subtitles, because the libraries for these formats either drop the times of words inside a
line, or skip what is damaged without a word. Here a cue or word that is damaged is left out and noted with its place,
and all others keep their times.
"""

import codecs
import dataclasses
import html
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.schema import Word
from data_pipelines.sources import Noted
from data_pipelines.sources.causes import (
    BROKEN_CUE,
    MARKS,
    OTHER_FORMAT,
    OUT_OF_ORDER,
    OVERLAP,
    SITE_ADVERTISEMENT,
)
from data_pipelines.words import (
    GIT_LFS_ADVICE,
    GIT_LFS_HEAD,
    fill_in,
    in_order,
    parse_json,
    split_words,
    spread,
    visible,
)

# By how well they know the times of words.
SUFFIXES = (".json", ".vtt", ".srt", ".txt")
_OTHER_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))
# Captions of a whole video in JSON files of data sets: video2dataset, PE-Video, the plain answer of a recogniser.
_CAPTION_FIELDS = ("caption", "human_caption", "model_caption", "description", "text")

_TIME = r"(?:\d+:)?\d{1,2}:\d{1,2}(?:[.,]\s?\d{1,9})?"
_TIMES = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?$")
_WORD_TIME = re.compile(rf"<({_TIME})>")
# A line that is meant to be times: two clock times with nothing but a mark between them, or one beside an arrow. At
# least one has hours or a fraction, so that "12:30 - 14:45" can be said.
_CLOCK = r"\d+\s?[:：]\s?\d{1,2}(?:\s?[:：]\s?\d{1,2})?(?:\s?[.,，．:]\s?\d+)?"
_FULL_CLOCK = r"\d+\s?[:：]\s?\d{1,2}(?:\s?[:：]\s?\d{1,2}(?:\s?[.,，．:]\s?\d+)?|\s?[.,，．]\s?\d+)"
_ARROW = r"(?:[-–—=]{1,9}\s?[>›»]{1,9}|[→➔➜])"
_MEANT_AS_TIMES = re.compile(
    rf"\W{{0,9}}(?:(?:{_FULL_CLOCK}\s*[^\w\s:：]{{0,9}}\s*[^\w\s:：]{{0,9}}\s*-?{_CLOCK}"
    rf"|{_CLOCK}\s*[^\w\s:：]{{1,9}}\s*-?{_FULL_CLOCK})(?=\s*$|\s+\w+:)|{_CLOCK}\s*{_ARROW}|{_ARROW}\s*-?{_CLOCK})"
)
_CLOCK_ANYWHERE = re.compile(r"\d\s?[:：]\s?\d")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")  # <i>, <c.colour>, <v Speaker>, and {\an8} of SubRip
_LANGUAGE = re.compile(r"Language:\s*(\S+)")
_TIME_MAP = re.compile(r"X-TIMESTAMP-MAP=(.*)")
_MPEGTS_HZ = 90_000
# Captions that roll up show each line again as the one above the next, and for an instant alone in between.
_INSTANT_S = 0.05
_ROLLING_SHARE = 1 / 3
# Here and there two words share a time ("[ __ ]" is three); that does not make lines of all the others.
_TIMED_SHARE = 0.9

# What subtitles show and nobody says. Between two words' times stands a zero byte, which no file may hold.
_SOUNDS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|（[^（）]*）|【[^【】]*】|［[^［］]*］")
_SPEAKER_TURNS = re.compile(r"(?<!\S)(?:>>+|[-–—‐#*~]{1,3}(?!\S))|^[^\S\n]*[-–—‐]{1,3}(?=[^\W\d_])", re.MULTILINE)
_SPEAKER = re.compile(r"^[\s\0]*((?:[^\W\d_]|[ .'’#0-9-]){2,30}):(?=\s|$)", re.MULTILINE)
_MUSIC = re.compile("[♩♪♫♬🎵🎶]+")
_DOMAIN = re.compile(r"(?:www\.|https?://)\S|\b[\w-]+\.(?:com|org|net|info|tv|io|me|cc|to|eu)\b", re.IGNORECASE)
_CREDIT = re.compile(
    r"\b(?:subtitles?|subs|captions?|captioned|subtitled|(?:re)?sync(?:ed|hroni[sz]ed)?|corrections|advertise|downloaded|"
    r"translated|ripped|encoded|VIP|support us)\b",
    re.IGNORECASE,
)
_CREDIT_LINE = re.compile(
    r"\W*(?:subtitles?|captions?|captioned|subtitled|(?:re)?sync(?:ed)?|corrections?|provided|uploaded|ripped|encoded)\b"
    r"(?:\W+\w+){0,3}\W+by\b",
    re.IGNORECASE,
)


class TranscriptError(ValueError):
    """A file that is not what its name says, or is damaged; the message names it and the place."""


class NoTranscriptError(TranscriptError):
    """A JSON file that is sound and about something else."""


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What is said in a video.

    Attributes:
      words: in the order in which they start; none for a caption.
      timing: "word" where words have times of their own (nine of ten at least), else "line"; "clip" for a caption.
      language: as the file says, else "".
      caption: the text of a caption, else "".
      notes: what of the file was left out or mended.
      mpegts_s: when the words' time 0 is by the clock of an MPEG transport stream; None where the file does not say.
    """

    words: tuple[Word, ...]
    timing: str
    language: str = ""
    caption: str = ""
    notes: tuple[Noted, ...] = ()
    mpegts_s: float | None = None


def read_transcript(path: Path, name: str = "", keep_marks: bool = False) -> Transcript:
    """Reads a `.json`, `.vtt`, `.srt` or `.txt` file; subtitles are known by what they hold, whatever their suffix.

    Args:
      path: the file.
      name: what messages call it; its path without one.
      keep_marks: take what subtitles show and nobody says ([Applause], (laughs), ♪, >>, speakers' names and dashes,
        credits of the makers of subtitles) for words too.

    Raises:
      NoTranscriptError: a JSON file without segments and without a caption.
      TranscriptError: it is damaged as a whole, or in another encoding than UTF-8; the message names file and place.
      OSError: it cannot be read.
    """
    suffix, name = path.suffix.lower(), name or str(path)
    if suffix not in SUFFIXES:
        raise TranscriptError(f"{name}: transcripts end in one of {SUFFIXES}")
    text = _text(path.read_bytes(), name)
    is_vtt = re.match(r"WEBVTT(\s|$)", text) is not None
    cued = is_vtt or suffix in (".vtt", ".srt") or any(map(_TIMES.match, text.splitlines()[:10]))
    if suffix == ".json" and not is_vtt:
        return _from_json(name, text)
    if not cued:
        return Transcript((), "clip", caption=visible(text))
    subtitles = _Subtitles(name, text, is_vtt, keep_marks).read()
    if is_vtt == (suffix == ".vtt") and suffix != ".txt":
        return subtitles
    detail = f"{name}: holds {'WebVTT' if is_vtt else 'cues of SubRip, no WEBVTT in its first line'}, read as that"
    return dataclasses.replace(subtitles, notes=(*subtitles.notes, Noted(OTHER_FORMAT, detail)))


def _text(data: bytes, name: str) -> str:
    if data.startswith(GIT_LFS_HEAD):
        raise TranscriptError(f"{name}: {GIT_LFS_ADVICE}")
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


class _Cue:
    """A cue as it stands in the file; `broken` says why it is none after all, and then its text is not said."""

    def __init__(self, place: str, start_s: float, end_s: float, broken: str = ""):
        self.place, self.start_s, self.end_s, self.broken = place, start_s, end_s, broken
        self.lines: list[str] = []


@dataclasses.dataclass
class _Stretch:
    """Words between two times; `timed` where the times are the words' own, inside a cue."""

    start_s: float
    end_s: float
    words: list[str]
    timed: bool


class _Subtitles:
    """One reading of a WebVTT or a SubRip file."""

    def __init__(self, name: str, text: str, is_vtt: bool, keep_marks: bool):
        self._name, self._is_vtt, self._keep_marks = name, is_vtt, keep_marks
        self._lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._cues: list[_Cue] = []
        self._notes: list[Noted] = []
        self._marks: list[str] = []  # that were left out, each with its place
        self._counter: int | None = None  # of the last cue, in a file that counts them

    def read(self) -> Transcript:
        """TranscriptError where there are cues and every one of them is broken."""
        begin, language, mpegts_s = self._header()
        self._parse(begin)
        broken = [Noted(BROKEN_CUE, f"{cue.place}: {cue.broken}") for cue in self._cues if cue.broken]
        self._notes = [*broken, *self._notes]
        cues = [cue for cue in self._cues if not cue.broken]
        if self._notes and not cues:
            raise TranscriptError(self._notes[0].detail)
        moved = sum(after.start_s < before.start_s for before, after in zip(cues, cues[1:]))
        if moved:
            self._notes.append(Noted(OUT_OF_ORDER, f"{self._name}: cues are put in the order of their times", moved))
        cues.sort(key=lambda cue: cue.start_s)
        stretches = [stretch for cue, new in zip(cues, _new_lines(cues)) for stretch in self._stretches(cue, new)]
        words: list[Word] = []
        for stretch in self._in_turn(stretches):
            words += spread(stretch.words, stretch.start_s, stretch.end_s)
        words.sort(key=lambda word: word.start_s)
        if self._marks:
            self._notes.append(Noted(MARKS, ", ".join(self._marks[:5]), len(self._marks)))
        timed = sum(len(stretch.words) == 1 for stretch in stretches)
        timing = "word" if words and timed >= _TIMED_SHARE * len(words) else "line"
        return Transcript(tuple(words), timing, language, notes=tuple(self._notes), mpegts_s=mpegts_s)

    def _header(self) -> tuple[int, str, float | None]:
        """Where the cues begin, the language, and `Transcript.mpegts_s`."""
        if not self._is_vtt:
            return 0, "", None
        lines = self._lines
        begin = next((i for i, line in enumerate(lines) if not line or "-->" in line), len(lines))
        language, mpegts_s = "", None
        for number, line in enumerate(lines[1:begin], 2):
            if found := _LANGUAGE.match(line):
                language = language or found.group(1)
            elif found := _TIME_MAP.match(line):
                fields = dict(field.partition(":")[::2] for field in found.group(1).replace(" ", "").split(","))
                local_s = _time_s(fields.get("LOCAL", ""))
                if not fields.get("MPEGTS", "").isdecimal() or local_s is None:
                    self._notes.append(Noted(BROKEN_CUE, f"{self._name}:{number}: no time map: {line[:60]!r}"))
                else:
                    mpegts_s = int(fields["MPEGTS"]) / _MPEGTS_HZ - local_s
        return begin, language, mpegts_s

    def _parse(self, begin: int) -> None:
        """Cues from line index `begin` on. A line of times begins one, with or without an empty line before it."""
        first, follows_times = begin, False
        block: list[str] = []
        for index in range(begin, len(self._lines) + 1):
            line = self._lines[index] if index < len(self._lines) else ""
            # In WebVTT a line of spaces is part of the cue, and empty only to the eye.
            if not (line if self._is_vtt else line.strip()):
                self._take(first, block, follows_times)
                first, block, follows_times = index + 1, [], False
            elif not _is_meant_as_times(line):
                block.append(line)
            else:
                self._take(first, self._before_cue(block, follows_times), follows_times)
                place = f"{self._name}:{index + 1}"
                self._cues.append(_cue_of(place, line))
                first, block, follows_times = index + 1, [], True

    def _before_cue(self, block: list[str], follows_times: bool) -> list[str]:
        """The lines before a line of times without the cue's number or name."""
        if block and block[-1].strip().isdecimal() and (not follows_times or self._counter is not None):
            self._counter = int(block[-1])
            return block[:-1]
        return [] if len(block) == 1 and not follows_times else block

    def _take(self, first: int, block: list[str], follows_times: bool) -> None:
        """Lines without times, from line index `first` on: text of the cue before them, a comment, or broken."""
        if not block:
            return
        cue = self._cues[-1] if self._cues else None
        is_text = follows_times and len(block) == 1
        if not is_text and self._counter is not None and block[-1].strip() == str(self._counter + 1):
            where = f"{self._name}:{first + len(block)}"
            self._notes.append(Noted(BROKEN_CUE, f"{where}: a cue's number, {block[-1].strip()}, and no cue"))
            block = block[:-1]
        if follows_times and cue is not None:
            cue.lines += block
        elif self._is_vtt and re.match(r"(NOTE|STYLE|REGION|WEBVTT)(\s|$)", block[0] if block else "NOTE"):
            return
        elif block:
            # An empty line inside a cue is common in SubRip, and one behind its times in both: what follows is its.
            numbered = self._counter is not None and block[0].strip() == str(self._counter + 1)
            is_text = cue is not None and not numbered and not (self._is_vtt and any(map(_plain, cue.lines)))
            if cue is not None and is_text and not _is_credit(" ".join(block)):
                cue.lines += block
            else:
                detail = f"no times (00:00:01.000 --> 00:00:02.000) for {block[0][:60]!r}"
                if numbered:
                    self._counter = int(block[0])
                self._notes.append(Noted(BROKEN_CUE, f"{self._name}:{first + 1}: {detail}"))

    def _stretches(self, cue: _Cue, lines: Sequence[str]) -> Iterator[_Stretch]:
        """What is said in a cue, between each two times that it has."""
        parts = _WORD_TIME.split("\n".join(lines))  # text, time, text, time, ..., text
        starts_s, texts = [cue.start_s], [parts[0]]
        for time, text in zip(parts[1::2], parts[2::2]):
            time_s = _time_s(time)
            if time_s is None or not starts_s[-1] <= time_s <= cue.end_s:
                self._notes.append(
                    Noted(BROKEN_CUE, f"{cue.place}: the time <{time}> of a word is not within its line")
                )
                texts[-1] += text
            else:
                starts_s.append(time_s)
                texts.append(text)
        texts = [html.unescape(_TAG.sub("", text)) for text in texts]
        if not self._keep_marks:
            texts = self._without_marks(cue, texts)
        for start_s, end_s, text in zip(starts_s, [*starts_s[1:], cue.end_s], texts):
            words = split_words(text)
            if words:
                yield _Stretch(start_s, end_s, words, timed=len(texts) > 1)

    def _without_marks(self, cue: _Cue, texts: list[str]) -> list[str]:
        """The same stretches of a cue without what nobody says."""
        text = " \0 ".join(texts)
        if _is_credit(text):
            self._notes.append(Noted(SITE_ADVERTISEMENT, f"{cue.place}: {visible(text)[:80]!r}"))
            return []

        def remove(match: re.Match[str]) -> str:
            self._marks.append(f"{cue.place}: {visible(match.group())[:40]!r}")
            return " \0 " * match.group().count("\0") or " "

        text = _MUSIC.sub(remove, _SOUNDS.sub(remove, text))
        text = _SPEAKER_TURNS.sub(remove, text)
        text = _SPEAKER.sub(lambda match: remove(match) if _is_name(match.group(1)) else match.group(), text)
        return text.split("\0")

    def _in_turn(self, stretches: list[_Stretch]) -> Iterator[_Stretch]:
        """Stretches of cues on the screen at once one after another, so that their words do not interleave."""
        overlaps = 0
        for number, stretch in enumerate(stretches):
            after = stretches[number + 1] if number + 1 < len(stretches) else None
            if after is None or stretch.timed or after.timed or after.start_s >= stretch.end_s:
                yield stretch
                continue
            overlaps += 1
            if after.start_s > stretch.start_s:
                yield dataclasses.replace(stretch, end_s=after.start_s)
            else:
                after.words, after.end_s = [*stretch.words, *after.words], max(stretch.end_s, after.end_s)
        if overlaps:
            self._notes.append(
                Noted(OVERLAP, f"{self._name}: cues that begin while another is on the screen", overlaps)
            )


def _is_meant_as_times(line: str) -> bool:
    if "-->" in line and _CLOCK_ANYWHERE.search(line):  # an arrow alone is text still
        return True
    if len(line) < 100 and not any(map(str.isalpha, line)):  # "00.00.04;000 => 00.00.06;000", which nobody says
        marks = sum(line.count(mark) for mark in ":：;→") + 2 * line.count(">")
        enough = marks >= 2 and sum(map(str.isdigit, line)) >= (8 if ">" in line else 10)
        return enough or (marks > 0 and _MEANT_AS_TIMES.match(line) is not None)
    return _MEANT_AS_TIMES.match(line) is not None


def _cue_of(place: str, line: str) -> _Cue:
    times = _TIMES.match(line)
    start_s, end_s = map(_time_s, times.groups()) if times else (None, None)
    if start_s is None or end_s is None:
        wanted = "00:00:01.000 --> 00:00:02.000 is expected, minutes and seconds go to 59"
        return _Cue(place, 0.0, 0.0, f"these are no times: {line.strip()[:60]!r} ({wanted})")
    broken = f"ends before it starts: {line.strip()[:60]!r}" if end_s < start_s else ""
    return _Cue(place, start_s, end_s, broken)


def _time_s(text: str) -> float | None:
    """The seconds of a time; None where it is none."""
    if not re.fullmatch(_TIME, text):
        return None
    *hours, minutes, seconds = re.sub(r"\s", "", text).replace(",", ".").split(":")
    if int(minutes) > 59 or float(seconds) >= 60:
        return None
    return round(3600 * int(hours[0] if hours else 0) + 60 * int(minutes) + float(seconds), 3)


def _plain(line: str) -> str:
    """The line without tags, its words one space apart."""
    return visible(html.unescape(_TAG.sub("", _WORD_TIME.sub("", line))))


def _is_credit(text: str) -> bool:
    return _CREDIT_LINE.match(text) is not None or (_DOMAIN.search(text) is not None and bool(_CREDIT.search(text)))


def _is_name(text: str) -> bool:
    """Whether what stands before a colon is a speaker's name, as subtitles write it: JOHN, MAN 2."""
    return text.isupper() and sum(letter.isalpha() for letter in text) > 1 and len(text.split()) <= 3


def _new_lines(cues: Sequence[_Cue]) -> Iterator[list[str]]:
    """For each cue the lines that are said in it: all, or in captions that roll up those that were not there before."""
    timed = any(_WORD_TIME.search(line) for cue in cues for line in cue.lines)
    instants = sum(cue.end_s - cue.start_s <= _INSTANT_S for cue in cues)
    rolling = timed or instants > _ROLLING_SHARE * len(cues)
    before: list[str] = []
    before_end_s = 0.0
    for cue in cues:
        lines = [line for line in cue.lines if _plain(line)]
        plain = [_plain(line) for line in lines]
        repeated = 0
        if rolling and cue.start_s - before_end_s <= _INSTANT_S:
            for count in range(1, min(len(before), len(lines)) + 1):
                if before[-count:] == plain[:count] and not any(map(_WORD_TIME.search, lines[:count])):
                    repeated = count
        yield lines[repeated:]
        before, before_end_s = plain, cue.end_s


class _EntryError(Exception):
    """A segment or a word of a JSON file that is left out; says where and why."""


def _from_json(name: str, text: str) -> Transcript:
    """Segments with words (WhisperX, `word_timestamps` of Whisper, vosk) or with text only; or a caption."""
    try:
        content = parse_json(text.encode("utf-8"))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise TranscriptError(f"{name}:{line}: is no JSON: {error}") from error
    segments, language = content, ""
    if isinstance(content, dict):
        segments = content.get("segments")
        language = content["language"] if isinstance(content.get("language"), str) else ""
        captions = (content[field] for field in _CAPTION_FIELDS if isinstance(content.get(field), str))
        caption = next(filter(None, map(visible, captions)), "")
        if segments is None and caption:
            return Transcript((), "clip", language, caption=caption)
    if not isinstance(segments, list):
        raise NoTranscriptError(f"{name}: a transcript has a list of segments or a caption; this JSON has neither")
    words: list[Word] = []
    notes: list[Noted] = []
    exact = True
    for number, segment in enumerate(segments):
        place = f"{name}: segments[{number}]"
        try:
            found, own = _segment_words(place, segment, notes)
        except _EntryError as error:
            notes.append(Noted(BROKEN_CUE, str(error)))
        else:
            words += found
            exact = exact and own
    if notes and not words:
        raise TranscriptError(notes[0].detail)
    ordered, moved = in_order(words)
    if moved:
        notes.append(Noted(OUT_OF_ORDER, f"{name}: words are put in the order of their times", moved))
    timing = "word" if exact and words else "line"
    return Transcript(ordered, timing, language, notes=tuple(notes))


def _segment_words(place: str, segment: Any, notes: list[Noted]) -> tuple[list[Word], bool]:
    """The words of a segment, and whether their times are their own; those without times between their neighbours.

    Raises:
      _EntryError: nothing of it can be used. Single words that cannot are added to `notes`.
    """
    if not isinstance(segment, dict):
        raise _EntryError(f"{place}: is no object with start, end and words or text")
    begin_s, stop_s = _time(place, segment, "start"), _time(place, segment, "end")
    entries = segment.get("words")
    if not entries:
        _check_order(place, begin_s, stop_s)
        said = split_words(_string(place, segment, "text"))
        if said and (begin_s is None or stop_s is None):
            raise _EntryError(f"{place}: has text, but no start or no end")
        return (spread(said, begin_s or 0.0, stop_s or 0.0) if said else []), len(said) <= 1
    if not isinstance(entries, list):
        raise _EntryError(f"{place}.words: is no list")
    timed: list[tuple[str, float | None, float | None]] = []
    for number, word in enumerate(entries):
        where = f"{place}.words[{number}]"
        try:
            if not isinstance(word, dict):
                raise _EntryError(f"{where}: is no object with word, start and end")
            said = visible(_string(where, word, "word")).split()
            start_s, end_s = _time(where, word, "start"), _time(where, word, "end")
            _check_order(where, start_s, end_s)
        except _EntryError as error:
            notes.append(Noted(BROKEN_CUE, str(error)))
            continue
        if len(said) > 1 and start_s is not None and end_s is not None:
            timed += [(part.text, part.start_s, part.end_s) for part in spread(said, start_s, end_s)]
        else:
            timed += [(text, start_s, end_s) for text in said]
    starts_s = [start_s for _, start_s, _ in timed if start_s is not None]
    ends_s = [end_s for _, _, end_s in timed if end_s is not None]
    if not timed:
        return [], True
    if begin_s is None or stop_s is None or stop_s < begin_s:
        begin_s, stop_s = min(starts_s, default=begin_s), max([*starts_s, *ends_s], default=stop_s)
    if begin_s is None or stop_s is None:
        raise _EntryError(f"{place}: neither it nor its words have a start and an end")
    _check_order(place, begin_s, stop_s)
    return fill_in(timed, begin_s, stop_s), True


def _string(place: str, fields: dict[str, Any], name: str) -> str:
    text = fields.get(name)
    if not isinstance(text, str):
        raise _EntryError(f"{place}.{name}: a text is expected, got {text!r}")
    return text


def _time(place: str, fields: dict[str, Any], name: str) -> float | None:
    """Seconds; None where there are none, for which some aligners write NaN."""
    time_s = fields.get(name)
    if time_s is None or (isinstance(time_s, float) and not math.isfinite(time_s)):
        return None
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or time_s < 0:
        raise _EntryError(f"{place}.{name}: seconds are expected, got {time_s!r}")
    return float(time_s)


def _check_order(place: str, start_s: float | None, end_s: float | None) -> None:
    if start_s is not None and end_s is not None and end_s < start_s:
        raise _EntryError(f"{place}: ends at {end_s:g} s, before it starts at {start_s:g} s")
