"""StreamLAAL: how far words lag behind what they are about, sentence by sentence (Papi et al., 2024, StreamAtt).

What was said is one stream, so it is first cut where the reference's sentences end: at the alignment with the fewest
errors, as mWERSegmenter does (mjpost/mweralign 4dedad3, src/mwerAlign.cc). Then each sentence has its length-adaptive
average lag. As hlt-mt/simulstream 86e0f1e computes it (simulstream/metrics/scorers/latency/stream_laal.py), whose log
format is read here too.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mmduplex_jax.evals.timing.utterances import Commentary, plain, words_of
from mmduplex_jax.typing import UInt8

UNITS = ("word", "char")
# SentencePiece's sign for the space before a word.
_SPACE = "\u2581"
_LATIN_1 = 0xFF
_DELETION, _INSERTION, _SUBSTITUTION = 0, 1, 2


class LogError(ValueError):
    """A simulstream log that cannot be read; says which line, and what is wrong."""


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence of the reference, and when what it is about is to be seen or heard, in seconds of the recording."""

    text: str
    start_s: float
    duration_s: float


@dataclasses.dataclass(frozen=True)
class DelayedText:
    """What was said in the end, and when each of its units was.

    Attributes:
      text: all of it.
      ideal_s: of each unit (word or character), how much of the recording had been taken in.
      computed_s: the same with the time that computing took.
    """

    text: str
    ideal_s: tuple[float, ...]
    computed_s: tuple[float, ...]


def laal(delays_s: Sequence[float], source_s: float, target_length: int) -> float:
    """Length-adaptive average lag of a sentence, in seconds (Papi et al., 2022, arXiv:2206.05807).

    Args:
      delays_s: of each unit that was said, when it was, from the sentence's begin on; at least one.
      source_s: how long the sentence takes, more than 0.
      target_length: units of the reference.

    Raises:
      ValueError: nothing was said, or the sentence takes no time.
    """
    if not delays_s or source_s <= 0:
        raise ValueError(f"a lag needs words and time: {len(delays_s)} words were said of {source_s:g} s")
    if delays_s[0] > source_s:
        return delays_s[0]
    pace_hz = max(len(delays_s), target_length) / source_s
    lags_s: list[float] = []
    for number, delay_s in enumerate(delays_s):
        lags_s.append(delay_s - number / pace_hz)
        if delay_s >= source_s:
            break
    return sum(lags_s) / len(lags_s)


def units_of(text: str, unit: str) -> list[str]:
    """The text in the units that are timed: words between spaces, or characters, spaces among them.

    Raises:
      ValueError: no such unit.
    """
    if unit not in UNITS:
        raise ValueError(f"delays are of a {' or of a '.join(UNITS)}, not of a {unit!r}")
    return list(text) if unit == "char" else [word for word in text.split(" ") if word]


def _aligned_pieces(text: str, unit: str) -> list[str]:
    """What alignment compares: words; of characters those beyond Latin-1 one by one, and the others in runs."""
    if unit == "word":
        return units_of(text, unit)
    pieces: list[str] = []
    run = False
    for character in text:
        latin = ord(character) <= _LATIN_1
        if latin and run:
            pieces[-1] += character
        else:
            pieces.append(character)
        run = latin
    return pieces


def cut_stream(said: Sequence[str], sentences: Sequence[Sequence[str]]) -> list[range]:
    """Cuts what was said where sentences end: of all cuts one with the fewest errors.

    Errors are words that were inserted, left out or replaced, case does not matter. Where several alignments are as
    good, a word left out is taken before one inserted, and that before one replaced, as in mWERSegmenter. One thing
    differs: there each sentence that is over before the first word costs an error of its own, so that a speaker who
    begins with the second sentence has its first word counted for the first one. Memory: a byte for each pair of words.

    Args:
      said: words, in order.
      sentences: the words of each sentence of the reference; some may have none.

    Returns:
      Of each sentence, which of `said` are its own; together they are all, in order.
    """
    # A row of the table is a word of the reference, or a sentence's end, which costs nothing.
    words: list[str | None] = [None]
    ends: list[int] = []
    for sentence in sentences:
        words += [word.lower() for word in sentence]
        words.append(None)
        ends.append(len(words) - 1)
    place = {word: number for number, word in enumerate(dict.fromkeys(word for word in words if word is not None))}
    is_end = np.array([word is None for word in words])
    reference = np.array([-1 if word is None else place[word] for word in words])
    moves = _fewest_errors(np.array([place.get(word.lower(), -2) for word in said]), reference, is_end)
    cut = [len(said)] * len(sentences)
    column, row, sentence_number = len(said), len(words) - 1, len(sentences)
    while row > 0:
        if is_end[row]:
            sentence_number -= 1
            cut[sentence_number] = column
        move = _DELETION if column == 0 else moves[column, row]
        column -= move != _DELETION
        row -= move != _INSERTION
    return [range(begin, end) for begin, end in zip([0, *cut[:-1]], cut)]


def _fewest_errors(said: np.ndarray, reference: np.ndarray, is_end: np.ndarray) -> UInt8[np.ndarray, "J I"]:
    """By which step the best alignment of the first j words said comes to the first i rows of the reference."""
    rows = len(reference)
    moves = np.zeros((len(said) + 1, rows), np.uint8)
    left_out = np.cumsum(~is_end)  # words of the reference up to a row
    before = left_out  # nothing said yet
    for number, word in enumerate(said, 1):
        inserted = np.where(is_end, np.inf, before + 1)
        replaced = np.full(rows, np.inf)
        replaced[1:] = np.where(is_end[1:], np.inf, before[:-1] + (reference[1:] != word))
        inserted[0] = number
        best = np.minimum(inserted, replaced)
        # Whoever comes from the row above has left that many words out: one running minimum for all rows.
        now = np.minimum.accumulate(best - left_out) + left_out
        moves[number] = np.where(inserted <= replaced, _INSERTION, _SUBSTITUTION)
        moves[number, 1:][now[:-1] + ~is_end[1:] <= best[1:]] = _DELETION
        before = now
    return moves


def sentence_lags_s(
    said: DelayedText, sentences: Sequence[Sentence], unit: str = "word"
) -> list[tuple[float, float] | None]:
    """Of each sentence, the lag without and with the time of computing, in seconds; None where nothing was said of it.

    Raises:
      ValueError: delays and units differ in number, or a sentence takes no time.
    """
    if not len(units_of(said.text, unit)) == len(said.ideal_s) == len(said.computed_s):
        raise ValueError(
            f"{len(units_of(said.text, unit))} {unit}s, {len(said.ideal_s)} and {len(said.computed_s)} delays"
        )
    pieces = _aligned_pieces(said.text, unit)
    sizes = [1 if unit == "word" else len(piece) for piece in pieces]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    lags: list[tuple[float, float] | None] = []
    cuts = cut_stream(pieces, [_aligned_pieces(sentence.text, unit) for sentence in sentences])
    for cut, sentence in zip(cuts, sentences):
        own = slice(first[cut.start], first[cut.stop])
        target = len(units_of(sentence.text, unit))
        ideal, computed = (
            laal([time_s - sentence.start_s for time_s in times_s[own]], sentence.duration_s, target) if cut else None
            for times_s in (said.ideal_s, said.computed_s)
        )
        lags.append(None if ideal is None or computed is None else (ideal, computed))
    return lags


def stream_laal(said: DelayedText, sentences: Sequence[Sentence], unit: str = "word") -> tuple[float, float] | None:
    """StreamLAAL without and with the time of computing, in seconds: the mean over sentences of which something was
    said; None where nothing was.
    """
    lags = [lag for lag in sentence_lags_s(said, sentences, unit) if lag is not None]
    return (float(np.mean([lag[0] for lag in lags])), float(np.mean([lag[1] for lag in lags]))) if lags else None


def commentary_lags_s(said: Commentary, reference: Commentary) -> list[float | None]:
    """Of each utterance that should be said, by how much its words lag, in seconds; None where nothing was said of it.

    Case and punctuation do not matter. A word counts as said when it begins.
    """
    spoken = words_of(said)
    starts_s = tuple(word.start_s for word in spoken)
    stream = DelayedText(" ".join(plain(word.text) for word in spoken), starts_s, starts_s)
    sentences = [
        Sentence(" ".join(plain(word.text) for word in one.words), one.start_s, one.end_s - one.start_s)
        for one in reference
    ]
    return [None if lag is None else lag[0] for lag in sentence_lags_s(stream, sentences)]


def lag_scores(lags_s: Sequence[float | None]) -> dict[str, float | None]:
    """StreamLAAL over all sentences of which something was said, and the share of sentences of which nothing was."""
    known = [lag_s for lag_s in lags_s if lag_s is not None]
    return {
        "lag_s": sum(known) / len(known) if known else None,
        "skipped": 1 - len(known) / len(lags_s) if lags_s else None,
    }


def read_log(path: Path, unit: str = "word") -> dict[str, DelayedText]:
    """A log that simulstream's server writes, as what was said in the end of each recording, by its name.

    Each line holds how much of the recording was taken in, how long that took to compute, the tokens (SentencePiece)
    that were added, and those that were taken back before. A word counts from its last change on.

    Args:
      path: JSON lines.
      unit: "word" or "char".

    Raises:
      LogError: a line is no JSON, has other fields, or takes back what was not said; names file and line.
    """
    names: dict[int, str] = {}
    outputs: dict[str, _Growing] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if "metadata" in fields:
                names[fields["id"]] = PurePosixPath(fields["metadata"]["wav_name"]).stem
            elif "id" in fields:
                if fields["id"] not in names:
                    raise LogError(f"{path}:{number}: stream {fields['id']} has no line of metadata before")
                outputs.setdefault(names[fields["id"]], _Growing(unit)).add(
                    fields["generated_tokens"],
                    fields["deleted_tokens"],
                    float(fields["total_audio_processed"]),
                    float(fields["computation_time"]),
                )
        except LogError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{path}:{number}: is no line of a simulstream log: {error!r}") from error
    return {name: output.result() for name, output in outputs.items()}


class _Growing:
    """What has been said so far, in tokens, with the delays of its units."""

    def __init__(self, unit: str):
        self._unit, self._tokens = unit, list[str]()
        self._ideal_s, self._computed_s = list[float](), list[float]()

    def add(self, generated: list[str], deleted: list[str], taken_in_s: float, computing_s: float) -> None:
        """Takes a line; ValueError where it takes back other tokens than the last ones."""
        if deleted:
            if self._tokens[-len(deleted) :] != deleted:
                raise ValueError(f"takes back {deleted[:5]}, which are not the last tokens")
            self._become(self._tokens[: -len(deleted)], taken_in_s, computing_s)
        self._become([*self._tokens, *generated], taken_in_s, computing_s)

    def _become(self, tokens: list[str], taken_in_s: float, computing_s: float) -> None:
        before, after = units_of(self._text(), self._unit), units_of(_detokenized(tokens), self._unit)
        # The last unit that both have may have changed: a word that goes on, or lost its end.
        kept = min(len(before), len(after))
        if self._unit == "word" and kept and before[kept - 1] != after[kept - 1]:
            kept -= 1
        added = len(after) - kept
        self._ideal_s = [*self._ideal_s[:kept], *[taken_in_s] * added]
        self._computed_s = [*self._computed_s[:kept], *[taken_in_s + computing_s] * added]
        self._tokens = tokens

    def _text(self) -> str:
        return _detokenized(self._tokens)

    def result(self) -> DelayedText:
        return DelayedText(self._text(), tuple(self._ideal_s), tuple(self._computed_s))


def _detokenized(tokens: Sequence[str]) -> str:
    return "".join(tokens).replace(_SPACE, " ").strip()
