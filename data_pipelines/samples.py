"""Records to samples of fixed length: cut, mirrored, packed, padded; and what stands for a record that is missing."""

import dataclasses

import numpy as np

from data_pipelines.dataset import RecordSource
from data_pipelines.geometry import shrink_frames
from data_pipelines.manifest import ShardError
from data_pipelines.mirror import mirror_record
from data_pipelines.packing import pack_words
from data_pipelines.schema import Record
from mmduplex_jax.interop.text_tokenizer import TextTokenizer

Sample = dict[str, np.ndarray]
# The index of a sample that only fills the last batch of an evaluation.
NO_RECORD = -1
# `CORRUPT - index` is the index of a sample whose record cannot be read.
CORRUPT = -2


def is_corrupt(index: np.ndarray) -> np.ndarray:
    """Which samples of a batch's `index` int64 [B] stand for records that could not be read: bool [B]."""
    return index <= CORRUPT


def corrupt_records(index: np.ndarray) -> list[int]:
    """The numbers of these records."""
    return (CORRUPT - index[is_corrupt(index)]).tolist()


@dataclasses.dataclass(frozen=True)
class Piece:
    """What of a record a sample is made of.

    Attributes:
      record: mirrored if it is to be; None where there is none to be seen.
      ticks: of the record, at most as many as a sample has.
      index: the record's number; NO_RECORD or `CORRUPT - number` where there is none.
    """

    record: Record | None
    ticks: range
    index: int


def take_piece(
    source: RecordSource, position: int, index: int, num_ticks: int, mirror: bool, seed: int, *, mark_corrupt: bool
) -> Piece:
    """What the sample at a position k of a run is made of, a function of (seed, k) alone.

    Args:
      source: the records.
      position: k.
      index: the record that was chosen for it, or NO_RECORD.
      num_ticks: of a longer record so many ticks in a row are taken, anywhere in it with equal probability.
      mirror: whether half the samples are seen in a mirror.
      seed: of the choices.
      mark_corrupt: what to do with a record that cannot be read: a piece of nothing, or an error.

    Raises:
      ShardError: the record cannot be read, unless such are marked.
      ValueError: the record is of another clock.
    """

    def ticks_of(record_ticks: int) -> range:
        if record_ticks <= num_ticks:
            return range(record_ticks)
        # The 1 keeps this draw apart from the mirror's.
        begin = int(np.random.default_rng((seed, position, 1)).integers(record_ticks - num_ticks + 1))
        return range(begin, begin + num_ticks)

    if index == NO_RECORD:
        return Piece(None, range(0), NO_RECORD)
    try:
        record = source.read(index, ticks_of)
    except ShardError:
        if not mark_corrupt:
            raise
        return Piece(None, range(0), CORRUPT - index)
    if record.clock != source.clock:
        raise ValueError(f"record {index} ({record.key}) has {record.clock}, its dataset {source.clock}")
    if mirror and np.random.default_rng((seed, position)).random() < 0.5:
        # Samples hold no motion fields, so theirs need no turning.
        record = mirror_record(dataclasses.replace(record, motion=None))
    return Piece(record, ticks_of(record.num_ticks), index)


@dataclasses.dataclass(frozen=True)
class SampleMaker:
    """Turns the k-th chosen record into a sample, as a function of (seed, k) alone.

    Attributes:
      source: the records.
      tokenizer: spells the words.
      num_ticks: T of a sample. Of a longer record some T ticks in a row are taken, anywhere in it with equal
        probability; a shorter one is filled up with black frames whose slots are not valid.
      mirror: whether half the samples are seen in a mirror.
      seed: of the choices.
      with_lag: whether `max_lag_s` is in the sample.
      mark_corrupt: what to do with a record that cannot be read: a sample in which nothing is valid, or an error.
      frame_px: H = W of a sample; larger frames are shrunk. None for frames as they are stored.
    """

    source: RecordSource
    tokenizer: TextTokenizer
    num_ticks: int
    mirror: bool
    seed: int
    with_lag: bool
    mark_corrupt: bool = False
    frame_px: int | None = None

    def __call__(self, position: int, index: int) -> Sample:
        """The sample at a position k of the run, made of a record.

        A slot is not valid if the record does not know what is said in it: past its end, before `words_from_s`, and
        where a word goes on that began before the sample does.

        Returns:
          frames uint8 [T, H, W, 3]; slots int32 [S]; slot_valid bool [S]; index int64 []; with `with_lag` also
          max_lag_s float32 [], how far the text falls behind the clock at worst.

        Raises:
          ShardError: the record cannot be read, unless such are marked.
          ValueError: the record is of another clock, its frames are too small, or a word cannot be spelled.
        """
        piece = take_piece(
            self.source, position, index, self.num_ticks, self.mirror, self.seed, mark_corrupt=self.mark_corrupt
        )
        record, ticks = piece.record, piece.ticks
        if record is None:
            return self._nothing(piece.index)
        try:
            frames = record.frames[ticks.start : ticks.stop]
            if self.frame_px is not None:
                frames = shrink_frames(frames, self.frame_px)
            slots, slot_valid, lag_steps = self._text(record, ticks)
        except ValueError as error:
            raise ValueError(f"record {index} ({record.key}): {error}") from error
        if len(ticks) < self.num_ticks:
            frames = np.concatenate([frames, np.zeros((self.num_ticks - len(ticks), *frames.shape[1:]), np.uint8)])
        sample = {"frames": frames, "slots": slots, "slot_valid": slot_valid, "index": np.array(index, np.int64)}
        if self.with_lag:
            sample["max_lag_s"] = np.array(lag_steps * self.source.clock.step_s, np.float32)
        return sample

    def _text(self, record: Record, ticks: range) -> tuple[np.ndarray, np.ndarray, int]:
        """The slots int32 [S], slot_valid bool [S], and the most steps by which a word of these ticks is late.

        The whole record is packed and then cut, so that words lie where they would if it were seen as a whole.
        """
        clock, pad_id = self.source.clock, self.tokenizer.pad_id
        first, end = clock.step_of_tick(ticks.start), clock.step_of_tick(ticks.stop)
        words = [(self.tokenizer.encode_word(word.text), word.start_s) for word in record.words]
        packed = pack_words(words, clock, clock.step_of_tick(record.num_ticks), pad_id, self.tokenizer.word_id)
        known = np.ones(len(packed.slots), bool)
        cut = clock.step_at(record.words_from_s)
        known[:cut] = False
        if clock.steps_in(record.words_from_s) > cut < len(known):
            # In a step that is only partly here, silence may be the begin of an earlier window's word.
            known[cut] = packed.slots[cut] != pad_id
        latest = 0
        for (token_ids, start_s), lag in zip(words, packed.lag_steps.tolist()):
            step = clock.step_at(start_s)
            if max(step, 0) < first:
                # Seen from its middle on, nobody could know the word: neither said nor kept silent here.
                begin = step + lag
                packed.slots[begin : begin + 1 + len(token_ids)] = pad_id
                known[begin : begin + 1 + len(token_ids)] = False
            elif step < end:
                latest = max(latest, lag)
        num_steps = clock.step_of_tick(self.num_ticks)
        slots, slot_valid = np.full(num_steps, pad_id, np.int32), np.zeros(num_steps, bool)
        slots[: end - first] = packed.slots[first:end]
        slot_valid[: end - first] = known[first:end]
        return slots, slot_valid, latest

    def _nothing(self, index: int) -> Sample:
        """A sample in which nothing is seen and no slot is valid."""
        px = self.frame_px or self.source.frame_px
        num_steps = self.source.clock.step_of_tick(self.num_ticks)
        sample: Sample = {
            "frames": np.zeros((self.num_ticks, px, px, 3), np.uint8),
            "slots": np.full(num_steps, self.tokenizer.pad_id, np.int32),
            "slot_valid": np.zeros(num_steps, bool),
            "index": np.array(index, np.int64),
        }
        if self.with_lag:
            sample["max_lag_s"] = np.zeros((), np.float32)
        return sample
