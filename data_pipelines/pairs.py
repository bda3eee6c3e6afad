"""Records to pairs: some frames of a piece of a record, and one text that belongs to it.

A piece that is cut anywhere begins and ends within sentences, and a text of two half sentences belongs to no picture.
So the text may be an utterance: words that are spoken without a pause.
"""

import contextlib
import dataclasses
from collections.abc import Iterable

import numpy as np

from data_pipelines.geometry import shrink_frames
from data_pipelines.samples import Pieces, Place, Sample
from data_pipelines.schema import Record
from data_pipelines.words import utterances
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.text_tokenizer import TextTokenizer, UnknownWordError
from mmduplex_jax.typing import Int, UInt8

TEXTS = ("caption", "words", "either", "utterance")


@dataclasses.dataclass(frozen=True)
class PairFormat:
    """What a pair holds.

    Attributes:
      frames: how many; 1 is a picture.
      length: of a text, in tokens, its end mark included; longer texts are cut.
      text: "caption" (of the whole record), "words" (those that begin in the piece), "either" (the caption where
        there is one, the words where there is none) or "utterance": words that are spoken without a pause, one of
        those of the record by chance, and then the piece lies around its begin.
      pause_s: the shortest silence that ends an utterance.
      shift_s: by how much, at most, the piece of an utterance is moved to either side, by chance.
    """

    frames: int
    length: int
    text: str = "words"
    pause_s: float = 0.5
    shift_s: float = 0.0

    def __post_init__(self):
        if self.text not in TEXTS:
            raise ValueError(f"the text of a pair is one of {', '.join(TEXTS)}, not {self.text!r}")
        if self.frames < 1 or self.length < 2:
            raise ValueError(
                f"a pair needs at least 1 frame and 2 tokens (a word and the end mark), got {self.frames} frames and "
                f"{self.length} tokens"
            )
        if self.pause_s <= 0 or self.shift_s < 0:
            raise ValueError(f"pause_s must be positive and shift_s not negative, got {self.pause_s}, {self.shift_s}")


@dataclasses.dataclass(frozen=True)
class PairMaker:
    """Turns the k-th chosen record into a pair, as a function of (seed, k) alone.

    Attributes:
      pieces: of the records, what pairs are about; one that cannot be read, where such are marked, is no pair.
      tokenizer: spells the texts.
      format: what a pair holds.
    """

    pieces: Pieces
    tokenizer: TextTokenizer
    format: PairFormat

    def room(self, size: int) -> Sample:
        """Memory for the frames of so many pairs."""
        return {"frames": self.pieces.room(size, self.format.frames)}

    def __call__(self, position: int, index: int, room: Sample | None = None) -> Sample:
        """The pair at a position k of the run, made of a record; its frames are put into `room`, if given.

        Returns:
          frames uint8 [T, H, W, 3]; ids int32 [S]; id_valid bool [S], all false where there is no text, and so no
          pair; index int64 [].

        Raises:
          ShardError: the record cannot be read, unless such are marked.
          ValueError: the record is of another clock, or its frames are too small.
        """
        form = self.format
        frames = self.pieces.room(form.frames) if room is None else room["frames"]
        spread = lambda ticks: spread_ticks(ticks, form.frames).tolist()
        choice = self._around_an_utterance if form.text == "utterance" else None
        piece = self.pieces.take(position, index, frames, spread, choice)
        record, ticks = piece.record, piece.place.ticks
        if record is None:
            ids, id_valid = spell((), self.tokenizer, form.length)
        else:
            try:
                if piece.place.words is None:
                    words = text_of(record, ticks, form.text)
                else:
                    words = [record.words[word].text for word in piece.place.words]
                ids, id_valid = spell(words, self.tokenizer, form.length)
            except ValueError as error:
                raise ValueError(f"record {index} ({record.key}): {error}") from error
        return {"frames": frames, "ids": ids, "id_valid": id_valid, "index": np.array(piece.index, np.int64)}

    def _around_an_utterance(self, record: Record, chance: np.random.Generator) -> Place:
        """One utterance by chance; the first piece and no words where there is none."""
        found = utterances_of(record, self.format.pause_s)
        if not found:
            return Place(piece_around(0, self.pieces.num_ticks, record.num_ticks), range(0))
        words = found[int(chance.integers(len(found)))]
        begin_s = record.words[words.start].start_s + chance.uniform(-1, 1) * self.format.shift_s
        tick = record.clock.tick_at(max(begin_s, 0.0))
        return Place(piece_around(tick, self.pieces.num_ticks, record.num_ticks), words)


def utterances_of(record: Record, pause_s: float) -> list[range]:
    """The utterances that a record knows the whole begin of."""
    return utterances(record.words, pause_s, record.words_from_s)


def piece_around(tick: int, num_ticks: int, record_ticks: int) -> range:
    """`num_ticks` ticks of a record with `tick` in their middle, moved where it ends; all of a shorter record."""
    begin = min(max(tick - num_ticks // 2, 0), max(record_ticks - num_ticks, 0))
    return range(begin, min(begin + num_ticks, record_ticks))


def end_of_text(tokenizer: TextTokenizer) -> int:
    """The id that ends a text: the last mark, since some text towers look at the largest id."""
    return tokenizer.start_id


def spread_ticks(ticks: range, number: int) -> Int[np.ndarray, "T"]:
    """`number` ticks in the middles of as many equal parts of `ticks`; where there are fewer, some several times."""
    return ticks.start + (2 * np.arange(number) + 1) * len(ticks) // (2 * number)


def spread_frames(
    record: Record, ticks: range, number: int, frame_px: FrameSize | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a record at `spread_ticks`.

    Args:
      record: whose.
      ticks: at least one.
      number: of frames.
      frame_px: H and W; larger frames are shrunk. None: as they are.
    """
    frames = record.frames[spread_ticks(ticks, number)]
    return frames if frame_px is None else shrink_frames(frames, frame_px)


def text_of(record: Record, ticks: range, text: str) -> list[str]:
    """The words that belong to these ticks of a record; none if there are none.

    Nor are there where the record does not know all that is said in these ticks (`Record.words_from_s`): half a text
    would be learned as if it were whole.

    Args:
      record: whose.
      ticks: of it.
      text: "caption", "words" or "either", see `PairFormat`.

    Raises:
      ValueError: `text` is something else; what an utterance is does not depend on given ticks (`middle_of`).
    """
    if text not in ("caption", "words", "either"):
        raise ValueError(f"the text of given ticks is one of caption, words, either, not {text!r}")
    if record.caption and text != "words":
        return record.caption.split()
    if text == "caption":
        return []
    clock = record.clock
    steps = range(clock.step_of_tick(ticks.start), clock.step_of_tick(ticks.stop))
    if steps.start < clock.step_at(record.words_from_s):
        return []
    return [word.text for word in record.words if max(clock.step_at(word.start_s), 0) in steps]


def middle_of(record: Record, num_ticks: int, form: PairFormat) -> tuple[range, list[str]]:
    """The piece in the middle of a record, and its text: what an evaluation looks at, without chance.

    Of utterances it is the middle one; where there is none, the middle piece without a text.

    Args:
      record: whose.
      num_ticks: of the piece; all of a shorter record.
      form: `text` and `pause_s` of it.
    """
    middle = piece_around(record.num_ticks // 2, num_ticks, record.num_ticks)
    if form.text != "utterance":
        return middle, text_of(record, middle, form.text)
    found = utterances_of(record, form.pause_s)
    if not found:
        return middle, []
    words = [record.words[number] for number in found[len(found) // 2]]
    tick = record.clock.tick_at(max(words[0].start_s, 0.0))
    return piece_around(tick, num_ticks, record.num_ticks), [word.text for word in words]


def spell(words: Iterable[str], tokenizer: TextTokenizer, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A text as token ids, its end mark, and PAD to the end.

    Args:
      words: what it says; none is no text. Those that the vocabulary cannot spell are left out (`survey_words` counts
        them before a training begins).
      tokenizer: spells them.
      length: S; of longer texts the first `length - 1` tokens are kept, so that the end mark is always there.

    Returns:
      ids int32 [S], and bool [S]: which are of the text or its end mark.
    """
    ids = np.full(length, tokenizer.pad_id, np.int32)
    tokens: list[int] = []
    for word in words:
        with contextlib.suppress(UnknownWordError):
            tokens += tokenizer.encode_word(word)
    if not tokens:
        return ids, np.zeros(length, bool)
    tokens = [*tokens[: length - 1], end_of_text(tokenizer)]
    ids[: len(tokens)] = tokens
    return ids, np.arange(length) < len(tokens)
