"""Commentary from files: subtitles, transcripts, what `launch.commentate` writes, and utterances as TRACE has them.

| file | what it holds |
|---|---|
| `.vtt`, `.srt` | subtitles; words between the times of a cue where they have none of their own |
| `.json` with `segments` | WhisperX and the like; the soccer commentary of TGLG |
| `.json` with `words` | a report of `launch.commentate --json`: each word when it was said |
| `.json`, a list | utterances: `start` in seconds, `text` (or `content`), and what else is known (see below) |

An utterance of a list may have `end`, its `words` (each with `text`, or `word`, `start` and `end`), a judge's `score`
from 1 to 5, and `eval`: false where TRACE leaves it out.

Words become utterances where a sentence ends (punctuation tells) and at pauses of half a second. Utterances of a list
stay as they are.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.schema import Word
from data_pipelines.sources import Noted
from data_pipelines.sources.causes import BROKEN_CUE
from data_pipelines.transcripts import TranscriptError, read_transcript
from data_pipelines.words import parse_json, split_words, with_sentence_ends
from mmduplex_jax.evals.timing.utterances import Commentary, Utterance, cut_words, emitted_words, utterance_at, words_of

SUFFIXES = (".json", ".vtt", ".srt")


class CommentaryError(ValueError):
    """A file that holds no timed commentary, or is damaged; says which file and where, and what to do."""


def read_commentary(path: Path) -> list[Utterance]:
    """What is said, in the order of time; a file in which nothing is said is an empty list.

    Raises:
      CommentaryError: it is another kind of file, or part of it cannot be read: nothing is left out, since what is
        left out would be scored as not said.
      OSError: it cannot be read.
    """
    content = _content(path)
    if isinstance(content, list):
        return utterances_of(content, str(path))
    words, notes = _timed_words(path, content, keep_marks=False)
    if broken := [note.detail for note in notes if note.cause == BROKEN_CUE]:
        raise CommentaryError(f"{broken[0]} (one of {len(broken)} places that cannot be read): mend or remove it")
    return cut_words(with_sentence_ends(words))


def read_words(path: Path, *, keep_marks: bool = False) -> tuple[Sequence[Word], Sequence[Noted]]:
    """Every word of such a file, in the order of time, and what of subtitles or a transcript was left out or mended.

    Args:
      path: the file.
      keep_marks: see `read_transcript`.

    Raises:
      CommentaryError: it is another kind of file, or is damaged as a whole.
      OSError: it cannot be read.
    """
    content = _content(path)
    if isinstance(content, list):
        return words_of(utterances_of(content, str(path))), ()
    return _timed_words(path, content, keep_marks)


def _content(path: Path) -> Any:
    """What a JSON file holds; None of subtitles."""
    if path.suffix.lower() not in SUFFIXES:
        raise CommentaryError(f"{path}: commentary is read from {', '.join(SUFFIXES)}")
    if path.suffix.lower() != ".json":
        return None
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise CommentaryError(f"{path}:{getattr(error, 'lineno', 1)}: is no JSON in UTF-8: {error}") from error


def _timed_words(path: Path, content: Any, keep_marks: bool) -> tuple[Sequence[Word], Sequence[Noted]]:
    if isinstance(content, dict) and isinstance(content.get("words"), list):
        return _emitted(content["words"], str(path)), ()
    try:
        transcript = read_transcript(path, keep_marks=keep_marks)
    except TranscriptError as error:
        raise CommentaryError(f"{error}") from error
    if transcript.caption:
        raise CommentaryError(f"{path}: holds a text without times; commentary in time needs them")
    return transcript.words, transcript.notes


def utterances_of(entries: Sequence[Any], place: str) -> list[Utterance]:
    """A list of utterances, as JSON values, in the order of time.

    Args:
      entries: each with `start`, and `text` or `content`; see the module's table.
      place: what messages call the list.

    Raises:
      CommentaryError: one of them has no text or no time; says which, from 0 on.
    """
    found = []
    for number, entry in enumerate(entries):
        where = f"{place}[{number}]"
        if not isinstance(entry, dict):
            raise CommentaryError(f"{where}: an utterance is an object with start and text, got {entry!r}")
        score = entry.get("score")
        if score is not None and (type(score) is not int or not 1 <= score <= 5):
            raise CommentaryError(f"{where}: a judge's score is a whole number from 1 to 5, got {score!r}")
        utterance = _with_words(entry, where) if entry.get("words") else _of_text(entry, where)
        if entry.get("eval", True) is not False:
            found.append(dataclasses.replace(utterance, judged=score))
    return sorted(found, key=lambda one: one.start_s)


def _of_text(entry: dict[str, Any], where: str) -> Utterance:
    text = entry.get("text", entry.get("content"))
    if not isinstance(text, str) or not split_words(text):
        raise CommentaryError(f"{where}: the field text (or content) should have words, got {text!r}")
    return utterance_at(text, *_span_s(entry, where))


def _with_words(entry: dict[str, Any], where: str) -> Utterance:
    words = entry["words"]
    if not isinstance(words, list):
        raise CommentaryError(f"{where}: the field words should be a list, got {words!r}")
    found = []
    for number, word in enumerate(words):
        text = word.get("text", word.get("word")) if isinstance(word, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise CommentaryError(f"{where}: words[{number}] should be an object with text and start, got {word!r}")
        found.append(Word(text, *_span_s(word, f"{where}: words[{number}]")))
    return Utterance(tuple(sorted(found, key=lambda word: word.start_s)))


def _span_s(entry: dict[str, Any], where: str) -> tuple[float, float | None]:
    """When it begins and ends, in seconds; None where the end is not known."""
    start_s = _seconds(entry, "start", where)
    if entry.get("end") is None:
        return start_s, None
    end_s = _seconds(entry, "end", where)
    if end_s < start_s:
        raise CommentaryError(f"{where}: ends at {end_s:g} s, before it starts at {start_s:g} s")
    return start_s, end_s


def entries_of(commentary: Commentary) -> list[dict[str, Any]]:
    """Utterances as JSON values that `utterances_of` reads."""
    return [
        {
            "start": one.start_s,
            "end": one.end_s,
            "text": one.text,
            "words": [{"text": word.text, "start": word.start_s, "end": word.end_s} for word in one.words],
        }
        | ({} if one.judged is None else {"score": one.judged})
        for one in commentary
    ]


def write_commentary(path: Path, commentary: Commentary) -> None:
    """Writes utterances as a JSON list."""
    path.write_text(json.dumps(entries_of(commentary), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def commentary_files(folder: Path) -> dict[str, Path]:
    """The commentary files of a folder, by their names without suffix, in order.

    Raises:
      CommentaryError: there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if path.stem in found:
                raise CommentaryError(f"{path} and {found[path.stem].name} are two commentaries of one name: keep one")
            found[path.stem] = path
    if not found:
        raise CommentaryError(f"{folder}: holds no commentary ({', '.join(SUFFIXES)})")
    return found


def _emitted(entries: Sequence[Any], place: str) -> list[Word]:
    """`emitted_words`, in the order of time; CommentaryError for what is none."""
    for number, entry in enumerate(entries):
        where = f"{place}: words[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str) or not entry["text"].strip():
            raise CommentaryError(f"{where}: a word is an object with text and t_emit_s, got {entry!r}")
        _seconds(entry, "t_emit_s", where)
    return sorted(emitted_words(entries), key=lambda word: word.start_s)


def _seconds(entry: dict[str, Any], name: str, where: str) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise CommentaryError(f"{where}: the field {name} should be seconds from 0 on, got {value!r}")
    return float(value)
