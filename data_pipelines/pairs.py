"""Records to pairs: some frames of a piece of a record, and one text that belongs to it."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from data_pipelines.dataset import RecordSource
from data_pipelines.geometry import shrink_frames
from data_pipelines.samples import Sample, take_piece
from data_pipelines.schema import Record
from mmduplex_jax.interop.text_tokenizer import TextTokenizer

TEXTS = ("caption", "words", "either")


@dataclasses.dataclass(frozen=True)
class PairFormat:
    """What a pair holds.

    Attributes:
      frames: how many; 1 is a picture.
      length: of a text, in tokens, its end mark included; longer texts are cut.
      text: "caption" (of the whole record), "words" (those that begin in the piece) or "either" (the caption where
        there is one, the words where there is none).
    """

    frames: int
    length: int
    text: str = "words"

    def __post_init__(self):
        if self.text not in TEXTS:
            raise ValueError(f"the text of a pair is one of {', '.join(TEXTS)}, not {self.text!r}")
        if self.frames < 1 or self.length < 2:
            raise ValueError(
                f"a pair needs at least 1 frame and 2 tokens (a word and the end mark), got {self.frames} frames and "
                f"{self.length} tokens"
            )


@dataclasses.dataclass(frozen=True)
class PairMaker:
    """Turns the k-th chosen record into a pair, as a function of (seed, k) alone.

    Attributes:
      source: the records.
      tokenizer: spells the texts.
      num_ticks: how long a piece of a record a pair is about (see `samples.take_piece`).
      mirror: whether half the pairs are seen in a mirror.
      seed: of the choices.
      format: what a pair holds.
      mark_corrupt: what to do with a record that cannot be read: a sample that is no pair, or an error.
      frame_px: H = W of a sample; larger frames are shrunk. None for frames as they are stored.
    """

    source: RecordSource
    tokenizer: TextTokenizer
    num_ticks: int
    mirror: bool
    seed: int
    format: PairFormat
    mark_corrupt: bool = False
    frame_px: int | None = None

    def __call__(self, position: int, index: int) -> Sample:
        """The pair at a position k of the run, made of a record.

        Returns:
          frames uint8 [T, H, W, 3]; ids int32 [S]; id_valid bool [S], all false where there is no text, and so no
          pair; index int64 [].

        Raises:
          ShardError: the record cannot be read, unless such are marked.
          ValueError: the record is of another clock, its frames are too small, or a word cannot be spelled.
        """
        piece = take_piece(
            self.source, position, index, self.num_ticks, self.mirror, self.seed, mark_corrupt=self.mark_corrupt
        )
        if piece.record is None:
            px = self.frame_px or self.source.frame_px
            frames = np.zeros((self.format.frames, px, px, 3), np.uint8)
            ids, id_valid = spell((), self.tokenizer, self.format.length)
        else:
            try:
                frames = spread_frames(piece.record, piece.ticks, self.format.frames, self.frame_px)
                words = text_of(piece.record, piece.ticks, self.format.text)
                ids, id_valid = spell(words, self.tokenizer, self.format.length)
            except ValueError as error:
                raise ValueError(f"record {index} ({piece.record.key}): {error}") from error
        return {"frames": frames, "ids": ids, "id_valid": id_valid, "index": np.array(piece.index, np.int64)}


def end_of_text(tokenizer: TextTokenizer) -> int:
    """The id that ends a text: the last mark, since some text towers look at the largest id."""
    return tokenizer.start_id


def spread_frames(record: Record, ticks: range, number: int, frame_px: int | None = None) -> np.ndarray:
    """`number` frames in the middles of as many equal parts of `ticks`: uint8 [number, H, W, 3].

    Args:
      record: whose.
      ticks: at least one.
      number: of frames; where there are fewer ticks, some are given several times.
      frame_px: H = W; larger frames are shrunk. None: as they are.
    """
    chosen = ticks.start + (2 * np.arange(number) + 1) * len(ticks) // (2 * number)
    frames = record.frames[chosen]
    return frames if frame_px is None else shrink_frames(frames, frame_px)


def text_of(record: Record, ticks: range, text: str) -> list[str]:
    """The words that belong to these ticks of a record, by `PairFormat.text`; none if there are none.

    Nor are there where the record does not know all that is said in these ticks (`Record.words_from_s`): half a text
    would be learned as if it were whole.
    """
    if record.caption and text != "words":
        return record.caption.split()
    if text == "caption":
        return []
    clock = record.clock
    steps = range(clock.step_of_tick(ticks.start), clock.step_of_tick(ticks.stop))
    if steps.start < clock.step_at(record.words_from_s):
        return []
    return [word.text for word in record.words if max(clock.step_at(word.start_s), 0) in steps]


def spell(words: Iterable[str], tokenizer: TextTokenizer, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A text as token ids, its end mark, and PAD to the end.

    Args:
      words: what it says; none is no text.
      tokenizer: spells them.
      length: S; of longer texts the first `length - 1` tokens are kept, so that the end mark is always there.

    Returns:
      ids int32 [S], and bool [S]: which are of the text or its end mark.

    Raises:
      ValueError: a word cannot be spelled.
    """
    ids = np.full(length, tokenizer.pad_id, np.int32)
    tokens = [token for word in words for token in tokenizer.encode_word(word)]
    if not tokens:
        return ids, np.zeros(length, bool)
    tokens = [*tokens[: length - 1], end_of_text(tokenizer)]
    ids[: len(tokens)] = tokens
    return ids, np.arange(length) < len(tokens)
