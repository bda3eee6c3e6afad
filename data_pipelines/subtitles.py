"""SubRip and WebVTT files as timed words.

With a reader of our own, because the libraries for these formats either drop the times of words inside a line, or skip
what is damaged without a word; and none names the line.
"""

import dataclasses
import html
import re
from collections.abc import Iterator, Sequence

from data_pipelines.schema import Word
from data_pipelines.word_times import spread

_TIME = r"(?:\d+:)?\d{1,2}:\d{1,2}[.,]\d{1,3}"
_TIMES = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?$")
_WORD_TIME = re.compile(rf"<({_TIME})>")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")  # <i>, <c.colour>, <v Speaker>, and {\an8} of SubRip
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff"))
_LANGUAGE = re.compile(r"Language:\s*(\S+)")
# Captions that roll up show each line again as the one above the next, and for an instant alone in between.
_INSTANT_S = 0.05
_ROLLING_SHARE = 1 / 3
# Here and there two words share a time ("[ __ ]" is three); that does not make lines of all the others.
_TIMED_SHARE = 0.9


class TranscriptError(ValueError):
    """A file that is not what its name says, or is damaged; the message names it and the place."""


@dataclasses.dataclass(frozen=True)
class Subtitles:
    """What is said.

    Attributes:
      words: in the order in which they start.
      timing: "word" where words have times of their own (nine of ten at least), else "line".
      language: as the file's header has it, else "".
    """

    words: tuple[Word, ...]
    timing: str
    language: str


@dataclasses.dataclass(frozen=True)
class _Cue:
    place: str  # file and line, for messages
    start_s: float
    end_s: float
    lines: tuple[str, ...]


def read_subtitles(name: str, text: str, is_vtt: bool) -> Subtitles:
    """Reads the text of a WebVTT or a SubRip file; TranscriptError with its name and the line if it is damaged."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    begin, language = 0, ""
    if is_vtt:
        if not re.match(r"WEBVTT(\s|$)", lines[0]):
            raise TranscriptError(f"{name}:1: a WebVTT file begins with WEBVTT, this one with {lines[0][:40]!r}")
        begin = next((i for i, line in enumerate(lines) if not line or "-->" in line), len(lines))
        language = next((found.group(1) for found in map(_LANGUAGE.match, lines[1:begin]) if found), "")
    cues = sorted(_cues(name, lines, begin, is_vtt), key=lambda cue: cue.start_s)
    words: list[Word] = []
    timed = 0
    for cue, new in zip(cues, _new_lines(cues)):
        for start_s, end_s, said in _pieces(cue, new):
            timed += len(said) == 1
            words += spread(said, start_s, end_s)
    words.sort(key=lambda word: word.start_s)
    return Subtitles(tuple(words), "word" if words and timed >= _TIMED_SHARE * len(words) else "line", language)


def _cues(name: str, lines: Sequence[str], begin: int, is_vtt: bool) -> list[_Cue]:
    """The cues from line index `begin` on; what is no cue, comment or style is an error."""
    cues: list[_Cue] = []
    for first, block in _blocks(lines, begin, is_vtt):
        arrows = [index for index, line in enumerate(block) if "-->" in line]
        if arrows and arrows[0] <= 1:
            if len(arrows) > 1:
                where = f"{name}:{first + arrows[1] + 1}"
                raise TranscriptError(f"{where}: a cue begins inside another, or an empty line before it is missing")
            place = f"{name}:{first + arrows[0] + 1}"
            cues.append(_Cue(place, *_times(place, block[arrows[0]]), tuple(block[arrows[0] + 1 :])))
        elif is_vtt and block[0].startswith(("NOTE", "STYLE", "REGION")):
            continue
        elif not is_vtt and cues and not arrows:
            # An empty line inside a cue is common in SubRip; what follows belongs to it still.
            cues[-1] = dataclasses.replace(cues[-1], lines=(*cues[-1].lines, *block))
        else:
            raise TranscriptError(f"{name}:{first + 1}: no times (00:00:01.000 --> 00:00:02.000) for {block[0][:60]!r}")
    return cues


def _blocks(lines: Sequence[str], begin: int, is_vtt: bool) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines between empty ones, each with the index of its first line."""
    block: list[str] = []
    for index in range(begin, len(lines)):
        # In WebVTT a line of spaces is part of the cue, and empty only to the eye.
        if lines[index] if is_vtt else lines[index].strip():
            block.append(lines[index])
        elif block:
            yield index - len(block), block
            block = []
    if block:
        yield len(lines) - len(block), block


def _times(place: str, line: str) -> tuple[float, float]:
    found = _TIMES.match(line)
    if found is None:
        raise TranscriptError(f"{place}: these are no times: {line[:60]!r} (00:00:01.000 --> 00:00:02.000 is expected)")
    start_s, end_s = (_time_s(place, text) for text in found.groups())
    if end_s < start_s:
        raise TranscriptError(f"{place}: ends before it starts: {line[:60]!r}")
    return start_s, end_s


def _time_s(place: str, text: str) -> float:
    *hours, minutes, seconds = re.split(r":", text.replace(",", "."))
    if int(minutes) > 59 or float(seconds) >= 60:
        raise TranscriptError(f"{place}: {text} is no time of day: minutes and seconds go to 59")
    return round(3600 * int(hours[0] if hours else 0) + 60 * int(minutes) + float(seconds), 3)


def _plain(line: str) -> str:
    """The line without tags, its words one space apart."""
    text = html.unescape(_TAG.sub("", _WORD_TIME.sub("", line)))
    return " ".join(text.translate(_INVISIBLE).split())


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


def _pieces(cue: _Cue, lines: Sequence[str]) -> Iterator[tuple[float, float, list[str]]]:
    """`(start_s, end_s, words)` of each stretch between two times."""
    texts = _WORD_TIME.split(" ".join(lines))  # text, time, text, time, ..., text
    starts_s = [cue.start_s, *(_time_s(cue.place, time) for time in texts[1::2])]
    ends_s = [*starts_s[1:], cue.end_s]
    for start_s, end_s, text in zip(starts_s, ends_s, texts[::2]):
        if end_s < start_s:
            raise TranscriptError(f"{cue.place}: a word's time {start_s:g} s is later than the next, {end_s:g} s")
        said = _plain(text).split()
        if said:
            yield start_s, end_s, said
