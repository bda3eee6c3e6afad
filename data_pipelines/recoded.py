"""Prepared shards again, with codes of their sound: their records' bytes as they are, and a field more.

A shard is written as `shards.write_shards` writes it: whole under its name, then its part; a run that was stopped goes
on where it was. What makes the codes is the caller's affair.
"""

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.manifest import (
    MANIFEST_NAME,
    Manifest,
    Part,
    Shard,
    ShardError,
    finish,
    load_part,
    resume,
    save_part,
    sha256_of,
)
from data_pipelines.schema import Codes, Record, with_codes
from data_pipelines.shards import WriteReport, array_record_file, disk_has_room, locked

# Codes of some records, in order; None of one without sound.
MakeCodes = Callable[[Sequence[Record]], Sequence[Codes | None]]


def plan_of(dataset: ShardDataset, facts: Mapping[str, Any]) -> Manifest:
    """What the shards with codes will be.

    Args:
      dataset: the records.
      facts: what decides the codes, as JSON values.
    """
    shards = dataset.manifest.shards
    data = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
    config = dataset.manifest.config | {"codes": {**facts, "data_sha256": data}}
    return dataclasses.replace(dataset.manifest, config=config, shards=())


def write_recoded(
    data: str | Path,
    out: str | Path,
    facts: Mapping[str, Any],
    make_codes: MakeCodes,
    *,
    batch: int,
    on_records: Callable[[int], None] = lambda records: None,
) -> WriteReport:
    """Writes the records of a directory of shards once more, with codes of their sound and without the sound itself.

    Args:
      data: prepared shards.
      out: another directory; made if need be.
      facts: what decides the codes, as JSON values; a directory of others is refused.
      make_codes: given records without their frames.
      batch: how many of them it gets at a time.
      on_records: called with how many records were done since the last call; those of shards that are kept count.

    Raises:
      ShardError: data cannot be read, `out` holds other data or is in use, or the disk is full.
    """
    dataset, out = open_dataset(data), Path(out)
    if out.resolve() == dataset.directory.resolve():
        raise ShardError(f"{out} is the data itself: give --out another directory")
    plan = plan_of(dataset, facts)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), disk_has_room(str(out)):
        there = resume(out, plan, verify=False, threads=1)
        finished, written, kept = dict(there.finished), [], []
        for number, shard in enumerate(dataset.manifest.shards):
            if shard.name in finished:
                kept.append(shard.name)
                on_records(shard.records)
                continue
            (out / MANIFEST_NAME).unlink(missing_ok=True)  # the directory is unfinished again
            finished[shard.name] = _write_shard(dataset, number, out, make_codes, batch, on_records)
            written.append(shard.name)
        manifest = finish(out, plan, finished)
    return WriteReport(manifest, tuple(written), tuple(kept), there.damaged)


def _write_shard(
    dataset: ShardDataset,
    number: int,
    out: Path,
    make_codes: MakeCodes,
    batch: int,
    on_records: Callable[[int], None],
) -> Shard:
    shards = dataset.manifest.shards
    shard, first = shards[number], sum(one.records for one in shards[:number])
    part = load_part(dataset.directory, shard.name) or Part(shard, [], [], [])
    temporary = out / f".{shard.name}.{uuid.uuid4().hex}.tmp"
    try:
        with array_record_file(temporary, shard.name) as write:
            for begin in range(first, first + shard.records, batch):
                indices = range(begin, min(begin + batch, first + shard.records))
                records = [dataset.read(index, lambda ticks: range(0)) for index in indices]
                for index, codes in zip(indices, make_codes(records), strict=True):
                    write(with_codes(dataset.stored(index), codes))
                on_records(len(indices))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        written = dataclasses.replace(shard, size_bytes=temporary.stat().st_size, sha256=sha256_of(temporary))
        os.replace(temporary, out / shard.name)
        save_part(out, dataclasses.replace(part, shard=written, units=[]))
    finally:
        temporary.unlink(missing_ok=True)
    return written
