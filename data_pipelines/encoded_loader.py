"""Encoded clips to batches: in the order in which `loader.make_loader` takes the records that they were made from."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipelines.encoded import EncodedDataset, EncodedManifest, room_for
from data_pipelines.loader import JoinedSource, LoaderIterator, check_batches, choose_records
from data_pipelines.manifest import ShardError
from data_pipelines.samples import CORRUPT, BatchMaker, CodeShape, Sample, codes_of, text_of, things_of
from data_pipelines.worker_process import tune_malloc
from mmduplex_jax.text_tokenizer import TextTokenizer


@dataclasses.dataclass(frozen=True)
class EncodedSampleMaker:
    """Turns the k-th chosen record into a sample, as a function of (seed, k) alone, as `samples.SampleMaker` does.

    Attributes:
      datasets: of the records.
      source: the same, one after another.
      tokenizer: spells the words.
      flip: whether half the clips of records that are safe to flip are flipped ones.
      seed: of the choices.
      with_things: whether what `samples.things_of` gives is in the sample.
      codes: shape of the codes of sound that are in the sample (`samples.codes_of`); None for none.
    """

    datasets: tuple[EncodedDataset, ...]
    source: JoinedSource
    tokenizer: TextTokenizer
    flip: bool
    seed: int
    with_things: bool = False
    codes: CodeShape | None = None

    def room(self, size: int) -> Sample:
        """Memory for the arrays of so many samples."""
        return room_for(self.datasets[0].manifest.arrays, size)

    def __call__(self, position: int, index: int, room: Sample | None = None) -> Sample:
        """The sample at a position k of the run: the manifests' arrays (in `room`, if given), slots, slot_valid, index.

        In that of a record which cannot be read no slot and no token is valid, and its index is `CORRUPT - index`.
        """
        part, number = self.source.place(index)
        dataset = self.datasets[part]
        try:
            pieces = dataset.pieces(number)
            piece = 0 if pieces == 1 else int(np.random.default_rng((self.seed, position, 1)).integers(pieces))
            mirrored = self.flip and dataset.flip_safe(number)
            mirrored = mirrored and np.random.default_rng((self.seed, position)).random() < 0.5
            clip = dataset.clip(number, piece, mirrored=bool(mirrored), room=room)
        except ShardError:
            return self._nothing(index, dataset.manifest, room)
        num_ticks = dataset.manifest.num_ticks
        text = text_of(clip.record, clip.ticks, num_ticks, self.tokenizer)
        sample = {"slots": text.slots, "slot_valid": text.slot_valid, "index": np.array(index, np.int64)}
        if self.with_things:
            sample |= things_of(clip.record, clip.ticks, num_ticks, self.tokenizer)
        if self.codes is not None:
            sample |= codes_of(clip.record, clip.ticks, num_ticks, dataset.clock, self.codes)
        return clip.arrays | sample

    def _nothing(self, index: int, manifest: EncodedManifest, room: Sample | None) -> Sample:
        steps = manifest.clock.step_of_tick(manifest.num_ticks)
        arrays = room_for(manifest.arrays) if room is None else room
        for spec in manifest.arrays:
            arrays[spec.name][...] = spec.fill
        things = things_of(None, range(0), manifest.num_ticks, self.tokenizer) if self.with_things else {}
        if self.codes is not None:
            things = things | codes_of(None, range(0), manifest.num_ticks, manifest.clock, self.codes)
        return (
            arrays
            | things
            | {
                "slots": np.full(steps, self.tokenizer.pad_id, np.int32),
                "slot_valid": np.zeros(steps, bool),
                "index": np.array(CORRUPT - index, np.int64),
            }
        )


def make_encoded_loader(
    dirs: Sequence[str | Path],
    tokenizer: TextTokenizer,
    *,
    batch_size: int,
    seed: int = 0,
    flip: bool | None = False,
    with_things: bool = False,
    codes: CodeShape | None = None,
    weights: Sequence[float] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
    threads: int = 2,
    worker_processes: int = 0,
) -> LoaderIterator:
    """Batches of a run from encoded clips, for ever.

    Of one clip a record, the k-th batch is of the same records, flipped or not, as `make_loader` gives of the shards
    that they were encoded from.

    Args:
      dirs: of encoded clips, one after another, or mixed by `weights`.
      tokenizer: spells the words.
      batch_size, seed, weights, process_index, process_count, prefetch, threads, worker_processes: see `make_loader`.
      with_things, codes: as of `make_loader`.
      flip: as of `make_loader`; what is flipped must be there flipped (`EncodedManifest.mirrored`).

    Raises:
      ValueError: the arguments contradict each other or the data; says which.
      ShardError: the data cannot be read.
    """
    tune_malloc()
    datasets = tuple(EncodedDataset(directory) for directory in dirs)
    source = JoinedSource(datasets)
    check_batches(source, batch_size, process_index, process_count)
    _check_flips(datasets, flip)
    first = datasets[0].manifest
    for dataset in datasets[1:]:
        if dataset.manifest.arrays != first.arrays:
            raise ValueError(f"clips of {datasets[0].directory} and of {dataset.directory} hold other arrays")
    parts = [range(begin, end) for begin, end in zip(source.offsets, source.offsets[1:])]
    chosen = choose_records(source, parts, seed, True, None, weights)
    maker = EncodedSampleMaker(datasets, source, tokenizer, flip is not False, seed, with_things, codes)
    share = batch_size // process_count
    groups = chosen.batch(share, drop_remainder=True).map_with_index(BatchMaker(maker, share))
    batches = groups[process_index::process_count]
    order: Mapping[str, Any] = {
        "encoded": [dataset.manifest.fingerprint for dataset in datasets],
        "batch_size": batch_size,
        "seed": seed,
        "flip": flip is not False,
        "weights": None if weights is None else [float(weight) for weight in weights],
    }
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return LoaderIterator(source, batches, order, options, worker_processes)


def _check_flips(datasets: Sequence[EncodedDataset], flip: bool | None) -> None:
    """ValueError where clips are to be flipped that are not there flipped, or must not be."""
    for dataset in datasets if flip is not False else ():
        manifest = dataset.manifest
        if flip and not manifest.flip_safe:
            raise ValueError(f"{dataset.directory} must not be flipped: its data's manifest does not say flip_safe")
        if manifest.flip_safe and not manifest.mirrored:
            raise ValueError(
                f"half the clips of {dataset.directory} would be flipped, which needs their pixels: encode them with "
                "--mirrored, or leave flips out with --config.data.flip=False"
            )
