"""Records to batches: shuffled by seed, sliced by process, flipped, packed, and resumable at any batch.

Sample k of a run is a function of (seed, k) alone. It does not depend on the number of processes, worker processes or
threads, and neither does the state of the iterator, which is the number of the next batch: a run may go on with others.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from data_pipelines.dataset import RecordSource, open_dataset, peek
from data_pipelines.geometry import check_shrinks
from data_pipelines.manifest import ShardError
from data_pipelines.pairs import PairFormat, PairMaker
from data_pipelines.samples import NO_RECORD, BatchMaker, CodeShape, Pieces, Sample, SampleMaker
from data_pipelines.schema import Record, StoredRecord
from data_pipelines.video_source import VideoError
from data_pipelines.worker_process import start_worker, tune_malloc
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size, size_text
from mmduplex_jax.text_tokenizer import TextTokenizer

Batch = Sample  # the same arrays, with B before their axes


class JoinedSource:
    """The records of several sources, one after another.

    Attributes:
      sources: the parts.
      offsets: the number of the first record of each part.
    """

    def __init__(self, sources: Sequence[RecordSource], any_size: bool = False):
        """Joins them; `any_size` where whoever reads them brings frames of different sizes to one."""
        if not sources:
            raise ValueError("a loader needs at least one directory of shards, got none")
        clocks = {source.clock for source in sources}
        if len(clocks) > 1:
            raise ValueError(f"data of different clocks cannot be mixed: {sorted(clocks, key=str)}")
        sizes = {source.frame_px for source in sources if len(source)}
        if len(sizes) > 1 and not any_size:
            shown = ", ".join(size_text(size) for size in sorted(sizes))
            raise ValueError(f"frames of different sizes cannot be mixed, these have {shown}")
        self.sources = tuple(sources)
        self.offsets = np.cumsum([0, *(len(source) for source in sources)]).tolist()

    @property
    def clock(self) -> Clock:
        return self.sources[0].clock

    @property
    def longest_ticks(self) -> int:
        return max(source.longest_ticks for source in self.sources)

    @property
    def frame_px(self) -> FrameSize:
        """Of the smallest frames."""
        return min(source.frame_px for source in self.sources if len(source))

    def __len__(self) -> int:
        return self.offsets[-1]

    def read(self, index: int, ticks: Callable[[int], range] | None = None) -> Record:
        part, position = self.place(index)
        return self.sources[part].read(position, ticks)

    def peek(self, index: int) -> StoredRecord:
        part, position = self.place(index)
        return peek(self.sources[part], position)

    def key(self, index: int) -> str:
        part, position = self.place(index)
        return self.sources[part].key(position)

    def flip_safe(self, index: int) -> bool:
        part, position = self.place(index)
        return self.sources[part].flip_safe(position)

    def place(self, index: int) -> tuple[int, int]:
        """The number of the source that has a record, and the record's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index}: there are {len(self)}")
        part = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return part, index - self.offsets[part]


class NamedSource(Protocol):
    """What a loader's samples are made of, by number."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: int) -> Any:
        """One of them; ShardError or VideoError if it cannot be read."""

    def key(self, index: int) -> str:
        """Its name."""


class LoaderIterator(grain.DatasetIterator):
    """Batches from number `next_batch` on; its state is that number and what the numbering depends on.

    Attributes:
      source: the records, to name the one behind an `index` of a batch (`source.key(index)`).
      num_batches: batches in all, `sys.maxsize` if the data repeats for ever.
      next_batch: the number of the batch that comes next.
    """

    def __init__(
        self,
        source: NamedSource,
        batches: grain.MapDataset,
        order: Mapping[str, Any],
        read_options: grain.ReadOptions,
        worker_processes: int,
    ):
        super().__init__()
        self.source = source
        self.num_batches = len(batches)
        self.next_batch = 0
        self._batches = batches
        self._order = dict(order)
        self._read_options = read_options
        self._worker_processes = worker_processes
        self._running: Any = None  # a grain.DatasetIterator while batches are read ahead

    def __next__(self) -> Batch:
        if self._running is None:
            if self.next_batch >= self.num_batches:
                raise StopIteration
            rest = self._batches[self.next_batch :].to_iter_dataset(self._read_options)
            if self._worker_processes:
                if not flags.FLAGS.is_parsed():  # Grain's worker processes read absl's flags
                    flags.FLAGS.mark_as_parsed()
                options = grain.MultiprocessingOptions(num_workers=self._worker_processes)
                rest = rest.mp_prefetch(options, worker_init_fn=_start_worker)
            self._running = iter(rest)
        batch = next(self._running)
        self.next_batch += 1
        return batch

    def __len__(self) -> int:
        return self.num_batches

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch, and what decides the order, as JSON values."""
        return {"next_batch": self.next_batch, "order": dict(self._order)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on as the iterator that gave `state` would have.

        Raises:
          ValueError: the state counts batches of another order; says what differs.
        """
        theirs = state["order"]
        differences = [
            f"{name} was {theirs.get(name)!r}, is {self._order.get(name)!r}"
            for name in sorted(theirs.keys() | self._order.keys())
            if theirs.get(name) != self._order.get(name)
        ]
        if differences:
            raise ValueError(
                "the saved position belongs to other data or another order: "
                + "; ".join(differences)
                + ". Set them as they were to go on, or start anew"
            )
        self.close()
        self.next_batch = int(state["next_batch"])

    def trouble(self, index: int) -> str:
        """What is wrong with a record that was marked as corrupt: says the file, the record in it, and what to do."""
        try:
            self.source.read(index)
        except (ShardError, VideoError) as error:
            return str(error)
        return (
            f"record {index} ({self.source.key(index)}) could not be read, but can be now: it was repaired meanwhile, "
            "or whatever it is read from fails now and then"
        )

    def close(self) -> None:
        """Ends the threads and processes that read ahead; the iterator can still go on."""
        if self._running is not None:
            self._running.close()
        self._running = None


def _start_worker(_worker: int, _workers: int) -> None:
    start_worker()


def make_loader(
    data: str | Path | Sequence[str | Path] | RecordSource,
    tokenizer: TextTokenizer,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    repeat: int | None = None,
    num_ticks: int | None = None,
    clip_s: float | None = None,
    frame_px: FrameSize | None = None,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
    threads: int = 2,
    worker_processes: int = 0,
    flip: bool | None = False,
    weights: Sequence[float] | None = None,
    drop_remainder: bool | None = None,
    with_lag: bool = False,
    with_things: bool = False,
    codes: CodeShape | None = None,
    mark_corrupt: bool = False,
    pairs: PairFormat | None = None,
) -> LoaderIterator:
    """Batches of a run, or of one pass over the data.

    A batch is a dict of NumPy arrays: `frames` uint8 [B, T, H, W, 3]; `slots` int32 [B, S], packed at delay 0;
    `slot_valid` bool [B, S], false where the record does not know what is said (see `SampleMaker`); `index` int64 [B],
    which record; S = T · video_stride. With `pairs` it holds `frames`, `ids`, `id_valid` and `index` of `PairMaker`.

    Args:
      data: directories of shards (one after another, or mixed by `weights`), or any source of records.
      tokenizer: spells the words.
      batch_size: of the whole run; each process gets `batch_size / process_count` samples of every batch, and the
        processes' parts put together in order are the same batch whatever their number.
      seed: of the shuffle and the flip.
      shuffle: anew in every epoch; otherwise in the order of the records.
      repeat: epochs, None for ever.
      num_ticks: T; by default that of the longest record. Of a longer record a piece is taken, by (seed, k).
      clip_s: the same in seconds.
      frame_px: H and W of a sample; larger frames are shrunk, as a video that is watched live is. By default as stored.
      process_index: which part of each batch.
      process_count: how many parts.
      prefetch: batches read ahead.
      threads: that read them; decoding leaves the interpreter free. 0 reads in the caller's thread.
      worker_processes: instead of threads in this process, for large frames; the order stays the same.
      flip: flip half the samples left to right, "left" and "right" swapped in the words. None flips those of data sets
        whose manifest says that their words allow it, True is an error where one of them does not.
      weights: how often each directory is drawn from; needs `repeat=None`.
      drop_remainder: what to do with samples that fill no last batch. True leaves them out, False fills the batch up
        with samples that are not valid and have index -1. Must be said where it matters.
      with_lag: adds `max_lag_s` float32 [B], the most by which the text falls behind.
      with_things: adds where things are and what names them (`samples.things_of`).
      codes: adds the codes of the clips' sound, of this shape (`samples.codes_of`).
      mark_corrupt: what to do with a record that cannot be read. True puts in its place a sample in which nothing is
        valid, with index -2 - i for record i (see `corrupt_records`); False raises the ShardError.
      pairs: make pairs of frames and a text, not frames with timed words; `num_ticks` is then how long a piece of a
        record a pair is about.

    Raises:
      ValueError: the arguments contradict each other; says which.
      ShardError: the data cannot be read.
    """
    tune_malloc()
    source, parts = _open(data, any_size=frame_px is not None)
    check_batches(source, batch_size, process_index, process_count)
    if frame_px is not None:
        for size in {part.frame_px for part in getattr(source, "sources", [source]) if len(part)}:
            check_shrinks(size, frame_size(frame_px))
    if pairs is not None and with_lag:
        raise ValueError("with_lag is about timed words, of which pairs have none")
    if num_ticks is not None and clip_s is not None:
        raise ValueError("give num_ticks or clip_s, not both")
    if clip_s is not None:
        num_ticks = source.clock.ticks_in(clip_s)
    num_ticks = source.longest_ticks if num_ticks is None else num_ticks

    chosen = choose_records(source, parts, seed, shuffle, repeat, weights)
    remainder = 0 if repeat is None else len(chosen) % batch_size
    if remainder:
        if drop_remainder is None:
            raise ValueError(
                f"{len(chosen)} samples do not fill batches of {batch_size}: drop_remainder=True leaves the last "
                f"{remainder} out, drop_remainder=False fills the last batch up with samples that are not valid"
            )
        if drop_remainder:
            chosen = chosen[: len(chosen) - remainder]
        else:
            filling = grain.MapDataset.source([NO_RECORD] * (batch_size - remainder))
            chosen = grain.MapDataset.concatenate([chosen, filling])
    if len(chosen) == 0:
        raise ValueError(f"{len(source)} records make no batch of {batch_size}, and drop_remainder leaves them all out")
    if flip:
        _check_flip_safe(data, source, parts)
    pieces = Pieces(source, num_ticks, flip is not False, seed, mark_corrupt, frame_px)
    maker = (
        SampleMaker(pieces, tokenizer, with_lag, with_things, codes)
        if pairs is None
        else PairMaker(pieces, tokenizer, pairs)
    )
    # In groups of a process's share: group p, p + P, p + 2P … are its parts of the batches 0, 1, 2 …
    share = batch_size // process_count
    groups = chosen.batch(share, drop_remainder=True).map_with_index(BatchMaker(maker, share))
    batches = groups[process_index::process_count]
    order = {
        "records": len(source) if weights is None else [len(part) for part in parts],
        "batch_size": batch_size,
        "seed": seed,
        "shuffle": shuffle,
        "repeat": repeat,
        "num_ticks": num_ticks,
        "flip": flip is not False,
        "weights": None if weights is None else [float(weight) for weight in weights],
        "pairs": None if pairs is None else dataclasses.asdict(pairs),
    }
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return LoaderIterator(source, batches, order, options, worker_processes)


def _open(data: str | Path | Sequence[str | Path] | RecordSource, any_size: bool) -> tuple[RecordSource, list[range]]:
    """The records, and the range of each part."""
    if isinstance(data, str | Path):
        data = [data]
    if not isinstance(data, Sequence):
        return data, [range(len(data))]
    joined = JoinedSource([open_dataset(directory) for directory in data], any_size)
    return joined, [range(begin, end) for begin, end in zip(joined.offsets, joined.offsets[1:])]


def check_batches(source: Sized, batch_size: int, process_index: int, process_count: int) -> None:
    """ValueError where there are no records, or a batch does not divide among the processes."""
    if len(source) == 0:
        raise ValueError("the data holds no records at all")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"a batch of {batch_size} does not divide among {process_count} processes: set the batch size to a "
            "multiple of their number"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must be 0..{process_count - 1}, got {process_index}")


def _check_flip_safe(data: Any, source: RecordSource, parts: Sequence[range]) -> None:
    """ValueError where records are to be flipped that may not be; names their data set."""
    names = [str(directory) for directory in data] if isinstance(data, list | tuple) else [str(data)]
    unsafe = [name for name, part in zip(names, parts) if len(part) and not source.flip_safe(part.start)]
    if unsafe:
        raise ValueError(
            f"{', '.join(unsafe)} must not be flipped: it is not known that every 'left' and 'right' in the words is a "
            "side of the picture ('he left' would become 'he right'), and its manifest does not say flip_safe. Leave "
            "flip unset: then only data sets that allow it are flipped"
        )


def choose_records(
    source: Sized,
    parts: list[range],
    seed: int,
    shuffle: bool,
    repeat: int | None,
    weights: Sequence[float] | None,
) -> grain.MapDataset:
    """The numbers of the records in the order in which they are seen."""
    if weights is None:
        parts = [range(len(source))]
    elif repeat is not None:
        raise ValueError("weights mix data that repeats for ever: leave repeat=None, or leave the weights out")
    elif len(weights) != len(parts) or any(weight <= 0 for weight in weights):
        raise ValueError(f"{len(parts)} directories need as many positive weights, got {list(weights)}")
    drawn = []
    for number, part in enumerate(parts):
        indices = grain.MapDataset.range(part.start, part.stop)
        if shuffle:
            indices = indices.shuffle(seed=(seed + 7919 * number) % 2**32)
        drawn.append(indices.repeat(repeat))
    return drawn[0] if weights is None else grain.MapDataset.mix(drawn, weights)
