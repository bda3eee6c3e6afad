"""Records to samples of fixed length: cut, flipped, packed, padded; and what stands for a record that is missing."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from data_pipelines.dataset import RecordSource, ShardDataset, peek
from data_pipelines.encoded import EncodedDataset
from data_pipelines.flip import flip_record
from data_pipelines.geometry import check_shrinks, shrink_frames
from data_pipelines.manifest import ShardError
from data_pipelines.packing import pack_spoken
from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.text_tokenizer import TextTokenizer, UnknownWordError
from mmduplex_jax.typing import UInt8

Sample = dict[str, np.ndarray]
# What stands for a code where no sound is known (`schema.Codes`).
NO_CODE = -1
# The index of a sample that only fills the last batch of an evaluation.
NO_RECORD = -1
# `CORRUPT - index` is the index of a sample whose record cannot be read.
CORRUPT = -2
# Things whose boxes a sample has room for: those that are seen longest.
NUM_THINGS = 16
# A survey reads records of so many bytes together, but so many records at least.
_SURVEY_BYTES, _SURVEY_RECORDS = 256 << 20, 32


def is_corrupt(index: np.ndarray) -> np.ndarray:
    """Which samples of a batch's `index` int64 [B] stand for records that could not be read: bool [B]."""
    return index <= CORRUPT


def corrupt_records(index: np.ndarray) -> list[int]:
    """The numbers of these records."""
    return (CORRUPT - index[is_corrupt(index)]).tolist()


class CodeShape(NamedTuple):
    """The codes that samples are to have.

    Attributes:
      codebooks: of every step, the first ones that records have.
      card: codes of a codebook.
    """

    codebooks: int
    card: int


class Place(NamedTuple):
    """Where in a record a piece lies.

    Attributes:
      ticks: of the record.
      words: which of its words the piece was chosen for; None where it was chosen for none.
    """

    ticks: range
    words: range | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
    """What of a record a sample is made of.

    Attributes:
      record: flipped if it is to be, but for its frames, which are not to be looked at; None where there is none to be
        seen.
      place: of the piece in it.
      index: the record's number; NO_RECORD or `CORRUPT - number` where there is none.
    """

    record: Record | None
    place: Place
    index: int


# Given a record without its frames and a source of chance, where the piece is to lie.
Choice = Callable[[Record, np.random.Generator], Place]


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What samples are made of: the k-th is a function of (seed, k) alone.

    Attributes:
      source: the records.
      num_ticks: of a longer record so many ticks in a row are taken, anywhere in it with equal probability.
      flip: whether half the pieces of records that are safe to flip (`RecordSource.flip_safe`) are flipped.
      seed: of the choices.
      mark_corrupt: what to do with a record that cannot be read: a piece of nothing, or an error.
      frame_px: H and W of frames; larger ones are shrunk. None for frames as they are stored.
    """

    source: RecordSource
    num_ticks: int
    flip: bool
    seed: int
    mark_corrupt: bool = False
    frame_px: FrameSize | None = None

    def take(
        self,
        position: int,
        index: int,
        out: UInt8[np.ndarray, "T H W 3"],
        shown: Callable[[range], Sequence[int]],
        choice: Choice | None = None,
    ) -> Piece:
        """The piece at a position k of the run; its frames are decoded into their place in a batch.

        Args:
          position: k.
          index: the record that was chosen for it, or NO_RECORD.
          out: the place; what is left of it, or all of it where there is no record, becomes black.
          shown: which ticks of a piece's are to be seen there, at most T.
          choice: where in the record the piece lies, if not anywhere.

        Raises:
          ShardError: the record cannot be read, unless such are marked.
          ValueError: the record is of another clock, or its frames are too small.
        """
        if index == NO_RECORD:
            return self._nothing(out, NO_RECORD)
        try:
            record, draw = peek(self.source, index)
            if record.clock != self.source.clock:
                raise ValueError(f"record {index} ({record.key}) has {record.clock}, its dataset {self.source.clock}")
            try:
                check_shrinks(record.frame_px, (out.shape[1], out.shape[2]))
            except ValueError as error:
                raise ValueError(f"record {index} ({record.key}): {error}") from error
            if choice is None:
                place = self._anywhere(position, record.num_ticks)
            else:
                place = choice(record, self._chance(position))
            safe = self.flip and self.source.flip_safe(index)
            flipped = bool(safe and np.random.default_rng((self.seed, position)).random() < 0.5)
            ticks = shown(place.ticks)
            draw(out[: len(ticks)], ticks, flipped)
        except ShardError:
            if not self.mark_corrupt:
                raise
            return self._nothing(out, CORRUPT - index)
        out[len(ticks) :] = 0
        if flipped:
            # Samples hold no motion fields, so theirs need no turning.
            record = flip_record(dataclasses.replace(record, motion=None))
        return Piece(record, place, index)

    def _nothing(self, out: UInt8[np.ndarray, "T H W 3"], index: int) -> Piece:
        out[...] = 0
        return Piece(None, Place(range(0)), index)

    def frames(self, record: Record, chosen: slice | np.ndarray) -> UInt8[np.ndarray, "T H W 3"]:
        """Some frames of a record, in the size of samples; ValueError where they are too small."""
        frames = record.frames[chosen]
        return frames if self.frame_px is None else shrink_frames(frames, self.frame_px)

    def room(self, *shape: int) -> UInt8[np.ndarray, "... H W 3"]:
        """Memory for so many frames."""
        return np.empty((*shape, *(self.frame_px or self.source.frame_px), 3), np.uint8)

    def _anywhere(self, position: int, record_ticks: int) -> Place:
        if record_ticks <= self.num_ticks:
            return Place(range(record_ticks))
        begin = int(self._chance(position).integers(record_ticks - self.num_ticks + 1))
        return Place(range(begin, begin + self.num_ticks))

    def _chance(self, position: int) -> np.random.Generator:
        # The 1 keeps these draws apart from the flip's.
        return np.random.default_rng((self.seed, position, 1))


class Text(NamedTuple):
    """What is said in some ticks of a record.

    Attributes:
      slots: int32 [S], packed at delay 0.
      slot_valid: bool [S], false where the record does not know what is said.
      lag_steps: the most steps by which a word of these ticks is late.
      words_cut: for how many of their words the record ends too early.
    """

    slots: np.ndarray
    slot_valid: np.ndarray
    lag_steps: int
    words_cut: int


def text_of(record: Record, ticks: range, num_ticks: int, tokenizer: TextTokenizer) -> Text:
    """What is said in ticks of a record, filled up to `num_ticks`.

    The whole record is packed and then cut, so that words lie where they would if it were seen as a whole.
    """
    clock, pad_id = record.clock, tokenizer.pad_id
    first, end = clock.step_of_tick(ticks.start), clock.step_of_tick(ticks.stop)
    spoken = pack_spoken(record.words, tokenizer, clock, clock.step_of_tick(record.num_ticks))
    packed = spoken.packed
    known = np.ones(len(packed.slots), bool)
    if record.words_from_s > 0:
        first_known = clock.step_at(record.words_from_s)
        known[:first_known] = False
        if clock.steps_in(record.words_from_s) > first_known < len(known):
            # In a step that is only partly here, silence may be the begin of an earlier window's word.
            known[first_known] = packed.slots[first_known] != pad_id
    latest = cut = 0
    for (token_ids, start_s), lag, is_spelled in zip(spoken.words, packed.lag_steps.tolist(), spoken.spelled):
        step = clock.step_at(start_s)
        begin = step + lag
        after = begin + 1 + len(token_ids)
        if not is_spelled:
            known[begin:after] = False
        if max(step, 0) < first:
            # Seen from its middle on, nobody could know the word: neither said nor kept silent here.
            after += packed.slots[after : after + 1].tolist() == [tokenizer.end_id]
            packed.slots[begin:after] = pad_id
            known[begin:after] = False
        elif step < end:
            latest = max(latest, lag)
            cut += after > len(packed.slots)
    num_steps = clock.step_of_tick(num_ticks)
    slots, slot_valid = np.full(num_steps, pad_id, np.int32), np.zeros(num_steps, bool)
    slots[: end - first] = packed.slots[first:end]
    slot_valid[: end - first] = known[first:end]
    return Text(slots, slot_valid, latest, cut)


def things_of(record: Record | None, ticks: range, num_ticks: int, tokenizer: TextTokenizer) -> Sample:
    """Where things are in some ticks of a record, and what names them.

    Args:
      record: whose; None for one that cannot be read.
      ticks: of it.
      num_ticks: T, to which they are filled up.
      tokenizer: spells the nouns.

    Returns:
      thing_boxes float32 [T, K, 4], see `schema.Thing`; thing_ids int32 [K], the first token of each noun, PAD where
      there is no thing and -1 of one that the vocabulary cannot spell; things_known bool [], whether the record knows
      what is in its picture. K = `NUM_THINGS`.
    """
    boxes = np.zeros((num_ticks, NUM_THINGS, 4), np.float32)
    ids = np.full(NUM_THINGS, tokenizer.pad_id, np.int32)
    known = record is not None and record.things is not None
    things = (record.things or ()) if record is not None else ()
    seen = sorted(things, key=lambda thing: -int(thing.boxes[ticks.start : ticks.stop].any(axis=1).sum()))
    for number, thing in enumerate(seen[:NUM_THINGS]):
        boxes[: len(ticks), number] = thing.boxes[ticks.start : ticks.stop]
        try:
            ids[number] = tokenizer.encode_word(thing.noun.split()[0])[0]
        except UnknownWordError:
            ids[number] = -1
    return {"thing_boxes": boxes, "thing_ids": ids, "things_known": np.array(known)}


def codes_of(record: Record | None, ticks: range, num_ticks: int, clock: Clock, shape: CodeShape) -> Sample:
    """What is to be heard in some ticks of a record.

    Args:
      record: whose; None for one that cannot be read.
      ticks: of it.
      num_ticks: T, to which they are filled up.
      clock: of the data.
      shape: of the codes.

    Returns:
      codes int16 [S, K], packed at delay 0 as slots are; `NO_CODE` where no sound is known.

    Raises:
      ValueError: the record's codes are not of this shape.
    """
    codes = np.full((clock.step_of_tick(num_ticks), shape.codebooks), NO_CODE, np.int16)
    if record is None or record.codes is None:
        return {"codes": codes}
    found = record.codes.values
    if found.shape[1] < shape.codebooks or found.max() >= shape.card:
        raise ValueError(
            f"its sound has {found.shape[1]} codebooks with codes up to {found.max()} (codec {record.codes.codec!r}), "
            f"wanted are {shape.codebooks} of {shape.card} codes: set config.audio.codebooks and config.audio.card as "
            "that codec has them"
        )
    first, end = clock.step_of_tick(ticks.start), clock.step_of_tick(ticks.stop)
    codes[: end - first] = found[first:end, : shape.codebooks]
    return {"codes": codes}


@dataclasses.dataclass(frozen=True)
class SampleMaker:
    """Turns the k-th chosen record into a sample, as a function of (seed, k) alone.

    Attributes:
      pieces: of the records. A shorter record than a piece has ticks is filled up with black frames, whose slots are
        not valid; of one that cannot be read, where such are marked, nothing is valid.
      tokenizer: spells the words.
      with_lag: whether `max_lag_s` is in the sample.
      with_things: whether what `things_of` gives is in the sample.
      codes: shape of the codes of sound that are in the sample (`codes_of`); None for none.
    """

    pieces: Pieces
    tokenizer: TextTokenizer
    with_lag: bool
    with_things: bool = False
    codes: CodeShape | None = None

    def room(self, size: int) -> Sample:
        """Memory for the frames of so many samples."""
        return {"frames": self.pieces.room(size, self.pieces.num_ticks)}

    def __call__(self, position: int, index: int, room: Sample | None = None) -> Sample:
        """The sample at a position k of the run, made of a record; its frames are put into `room`, if given.

        A slot is not valid if the record does not know what is said in it: past its end, before `words_from_s`, where a
        word goes on that began before the sample does, and where a word is said that the vocabulary cannot spell.

        Returns:
          frames uint8 [T, H, W, 3]; slots int32 [S]; slot_valid bool [S]; index int64 []; with `with_lag` also
          max_lag_s float32 [], how far the text falls behind the clock at worst, and words_cut int32 [], how many words
          begin in the sample and are not said in full before the record ends.

        Raises:
          ShardError: the record cannot be read, unless such are marked.
          ValueError: the record is of another clock, or its frames are too small.
        """
        num_ticks = self.pieces.num_ticks
        frames = self.pieces.room(num_ticks) if room is None else room["frames"]
        piece = self.pieces.take(position, index, frames, lambda ticks: ticks)
        record, ticks = piece.record, piece.place.ticks
        if record is None:
            return {"frames": frames} | self._nothing(piece.index)
        try:
            text = text_of(record, ticks, num_ticks, self.tokenizer)
            heard = self._codes(record, ticks)
        except ValueError as error:
            raise ValueError(f"record {index} ({record.key}): {error}") from error
        sample = {"frames": frames, "slots": text.slots, "slot_valid": text.slot_valid}
        sample["index"] = np.array(index, np.int64)
        if self.with_lag:
            sample["max_lag_s"] = np.array(text.lag_steps * self.pieces.source.clock.step_s, np.float32)
            sample["words_cut"] = np.array(text.words_cut, np.int32)
        if self.with_things:
            sample |= things_of(record, ticks, num_ticks, self.tokenizer)
        return sample | heard

    def _nothing(self, index: int) -> Sample:
        """All but the frames of a sample in which no slot is valid."""
        num_steps = self.pieces.source.clock.step_of_tick(self.pieces.num_ticks)
        sample: Sample = {
            "slots": np.full(num_steps, self.tokenizer.pad_id, np.int32),
            "slot_valid": np.zeros(num_steps, bool),
            "index": np.array(index, np.int64),
        }
        if self.with_lag:
            sample["max_lag_s"], sample["words_cut"] = np.zeros((), np.float32), np.zeros((), np.int32)
        if self.with_things:
            sample |= things_of(None, range(0), self.pieces.num_ticks, self.tokenizer)
        return sample | self._codes(None, range(0))

    def _codes(self, record: Record | None, ticks: range) -> Sample:
        if self.codes is None:
            return {}
        return codes_of(record, ticks, self.pieces.num_ticks, self.pieces.source.clock, self.codes)


class Maker(Protocol):
    """What makes samples: `SampleMaker`, `pairs.PairMaker`, `encoded_loader.EncodedSampleMaker`."""

    def room(self, size: int) -> Sample:
        """Memory for what is large of `size` samples, by name."""

    def __call__(self, position: int, index: int, room: Sample | None = None) -> Sample:
        """The sample at a position of the run, made of a record; what is large of it is put into `room`, if given."""


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """Turns the records that were chosen for a batch into it.

    Attributes:
      maker: of samples. What is large of them is decoded straight into the batch, and not copied.
      size: of a batch.
    """

    maker: Maker
    size: int

    def __call__(self, number: int, indices: Sequence[int]) -> Sample:
        """The batch with this number among those of the run, of these records."""
        room, first = self.maker.room(self.size), self.size * number
        samples = [
            self.maker(first + place, int(index), {name: array[place] for name, array in room.items()})
            for place, index in enumerate(indices)
        ]
        return room | {name: np.stack([sample[name] for sample in samples]) for name in samples[0] if name not in room}


@dataclasses.dataclass
class WordSurvey:
    """What a training will meet in the words of some data.

    Attributes:
      clips: that were looked at.
      of_clips: of so many.
      words: in them.
      unknown: those that the vocabulary cannot spell, with how often they come.
      cut: words that are not said in full before their record ends, because those before them take too long.
      max_lag_s: the most by which a word falls behind its time.
      lengths_s: of the clips.
      with_things: clips that say where things are.
      codecs: what made the codes of clips with sound, and how many clips each has.
    """

    clips: int = 0
    of_clips: int = 0
    words: int = 0
    unknown: Counter[str] = dataclasses.field(default_factory=Counter)
    cut: int = 0
    max_lag_s: float = 0.0
    lengths_s: list[float] = dataclasses.field(default_factory=list)
    with_things: int = 0
    codecs: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def unknown_share(self) -> float:
        return self.unknown.total() / self.words if self.words else 0.0


def survey_words(datasets: Sequence[ShardDataset | EncodedDataset], tokenizer: TextTokenizer) -> WordSurvey:
    """Looks at the words of clips spread evenly over the data: of all, or of as many as `spread_records` reads."""
    survey = WordSurvey(of_clips=sum(map(len, datasets)))
    for record in spread_records(datasets):
        clock = record.clock
        spoken = pack_spoken(record.words, tokenizer, clock, clock.step_of_tick(record.num_ticks))
        packed = spoken.packed
        survey.clips += 1
        survey.words += len(record.words)
        survey.unknown.update(word.text for word, known in zip(record.words, spoken.spelled) if not known)
        survey.cut += len(packed.pending)
        survey.max_lag_s = max(survey.max_lag_s, float(packed.lag_steps.max(initial=0)) * clock.step_s)
        survey.lengths_s.append(clock.tick_time_s(record.num_ticks))
        survey.with_things += record.things is not None
        survey.codecs.update(() if record.codes is None else (record.codes.codec,))
    return survey


def spread_records(datasets: Sequence[ShardDataset | EncodedDataset]) -> Iterator[Record]:
    """Records without their pictures, spread evenly over the data, so many that it takes seconds.

    One that cannot be read is left out: the loader counts and names it when it comes to it.
    """
    for dataset in datasets:
        size_bytes = sum(shard.size_bytes for shard in dataset.manifest.shards)
        share = min(1.0, _SURVEY_BYTES / len(datasets) / max(size_bytes, 1))
        number = min(max(math.ceil(len(dataset) * share), _SURVEY_RECORDS), len(dataset))
        for index in np.unique(np.linspace(0, len(dataset) - 1, number).astype(int)).tolist() if number else ():
            try:
                yield dataset.read(index, lambda num_ticks: range(0))
            except ShardError:
                continue
