"""Texts from elsewhere as words: what is visible in them, where one ends, and times for those that have none."""

import dataclasses
import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from data_pipelines.schema import Word

# How long a word takes where its source does not say; an unhurried speaker says three a second.
_WORD_S = 0.3

GIT_LFS_HEAD = b"version https://git-lfs"
GIT_LFS_ADVICE = "is a Git-LFS pointer, not the file itself: fetch it with `git lfs pull`"

# The escape of half a character: sliced captions of films and chats hold some, which no file in UTF-8 can.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
# Characters that only steer how others are shown: soft hyphens, directions and their ends, joiners of words, marks of
# byte order. (U+200C and U+200D change what is read in Persian and in emoji, and stay.)
_STEERING = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
_INVISIBLE = re.compile(f"[{_STEERING}]")
# Scripts that are written without spaces: Thai, Lao, Myanmar, Khmer, kana, Chinese characters.
_UNSPACED = (
    "\u0e01-\u0e2f\u0e81-\u0eae\u1000-\u1049\u1780-\u17b3\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff6f\uff71-\uff9d\U00020000-\U0003ffff"
)
_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4"  # vowels of Thai and Lao that are written before their consonant
# Vowels behind theirs, small kana and the mark of a long vowel, none of which stands alone.
_BEHIND = "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー\uff67-\uff70"
_UNSPACED_WORD = re.compile(
    rf"[^\w\s]*[{_BEFORE}]?[{_UNSPACED}](?:[{_BEHIND}]|[^\w\s{_BEFORE}])*|[^\s{_UNSPACED}{_BEFORE}]+|\S"
)

# What ends a sentence, with the quotes and brackets that close with it.
_CLOSED = re.compile(r"""([.?!…。？！｡])["'”’»)\]]*$""")
_INITIALS = re.compile(r"""["'“‘(]?(\w\.)+""")
_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "vs.", "etc.", "no.", "sr.", "jr.", "approx."})
# The silence that ends a sentence where nothing else does, and how long a word is of which only the begin is known.
_PAUSE_S, _WORD_S = 1.0, 0.3


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8, with or without a mark of byte order.

    Raises:
      ValueError: it is no JSON, no UTF-8, nested too deeply, or a text in it holds half a character (a surrogate
        without its partner).
    """
    if data.startswith(GIT_LFS_HEAD):
        raise ValueError(f"it {GIT_LFS_ADVICE}")
    try:
        value = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply in it") from error
    if _HALF.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"a text in it holds half a character, \\u{ord(half):04x} without its partner") from error
    return value


def visible(text: str) -> str:
    """The text without characters that only steer how others are shown, its words one space apart."""
    return " ".join(_INVISIBLE.sub("", text).split())


def split_words(text: str) -> list[str]:
    """The words of a text; in scripts without spaces each character, with its marks and the punctuation at it."""
    words: list[str] = []
    for run in visible(text).split():
        words += _UNSPACED_WORD.findall(run) if re.search(f"[{_UNSPACED}]", run) else [run]
    return words


def spread(texts: Sequence[str], start_s: float, end_s: float) -> list[Word]:
    """Words one after another from `start_s` to `end_s`, each as long as its characters and a space are of all."""
    weights = [len(text) + 1 for text in texts]
    total, before, words = sum(weights), 0, []
    for text, weight in zip(texts, weights):
        after = before + weight
        begin_s = start_s + (end_s - start_s) * before / total
        words.append(Word(text, round(begin_s, 6), round(start_s + (end_s - start_s) * after / total, 6)))
        before = after
    return words


def fill_in(words: Sequence[tuple[str, float | None, float | None]], start_s: float, end_s: float) -> list[Word]:
    """Words of `[start_s, end_s]`, of which some have no start; these are spread between their neighbours.

    Args:
      words: `(text, start_s, end_s)` in order; an end without a start does not count.
    """
    done: list[Word] = []
    untimed: list[str] = []
    free_from_s = start_s
    for text, begin_s, stop_s in words:
        if begin_s is None:
            untimed.append(text)
            continue
        done += spread(untimed, free_from_s, max(free_from_s, begin_s))
        untimed = []
        done.append(Word(text, begin_s, stop_s))
        free_from_s = begin_s if stop_s is None else stop_s
    return done + spread(untimed, free_from_s, max(free_from_s, end_s))


def with_sentence_ends(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words, with `ends_sentence` where one ends.

    Punctuation tells, unless it is an abbreviation's or the next word goes on in lower case (and not all words are in
    it). Where a transcript has none (recognised speech, many subtitles), a silence of a second does, and so does its
    end. Words of a source that says where sentences end stay as they are.

    Args:
      words: of a whole transcript, in order.
    """
    if any(word.ends_sentence for word in words):
        return tuple(words)
    cased = any(word.text[:1].isupper() for word in words)
    ends = [_closes(word.text, after.text if after else "", cased) for word, after in zip_longest(words, words[1:])]
    if not any(ends):
        ends = [after is None or _silence_s(word, after) >= _PAUSE_S for word, after in zip_longest(words, words[1:])]
    return tuple(dataclasses.replace(word, ends_sentence=end) for word, end in zip(words, ends))


def _closes(text: str, after: str, cased: bool) -> bool:
    """Whether the punctuation of a word ends a sentence; `after` is the next one, `cased`: sentences have capitals."""
    found = _CLOSED.search(text)
    if found is None:
        return False
    if found[1] == "." and (_INITIALS.fullmatch(text) or text.lower() in _ABBREVIATIONS):
        return not after
    first = next((letter for letter in after if letter.isalpha()), "")
    return not (cased and first.islower())


def _silence_s(word: Word, after: Word) -> float:
    return after.start_s - (word.start_s + _WORD_S if word.end_s is None else word.end_s)


def in_order(words: Sequence[Word]) -> tuple[tuple[Word, ...], int]:
    """The words in the order of their starts, and how many began before one that stood earlier."""
    moved, latest_s = 0, float("-inf")
    for word in words:
        moved += word.start_s < latest_s
        latest_s = max(latest_s, word.start_s)
    return tuple(sorted(words, key=lambda word: word.start_s)), moved


def utterances(words: Sequence[Word], pause_s: float, from_s: float = 0.0) -> list[range]:
    """Cuts words where nobody speaks.

    Args:
      words: in the order in which they are spoken.
      pause_s: the shortest silence that ends an utterance.
      from_s: what is said before is not known (`Record.words_from_s`). Where it is not 0, an utterance that begins
        less than a pause after it may be the end of another, and is left out.

    Returns:
      Of each utterance, which of the words are its own.
    """
    found: list[range] = []
    first = 0
    for number in range(1, len(words) + 1):
        if number < len(words) and words[number].start_s - _end_s(words[number - 1]) < pause_s:
            continue
        if not from_s or words[first].start_s >= from_s + pause_s:
            found.append(range(first, number))
        first = number
    return found


def _end_s(word: Word) -> float:
    return word.start_s + _WORD_S if word.end_s is None else word.end_s
