"""The folder `parts` of a directory of shards: the plan, and of each finished shard its facts and what it rejects.

Each shard's part is written by whoever wrote the shard, just after it. So nothing is shared between writers, a shard
counts as finished when its part is there, and the files about the whole are put together once, at the end.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines.manifest import (
    MANIFEST_NAME,
    PARTS_NAME,
    PLAN_NAME,
    Manifest,
    Shard,
    ShardError,
    damages,
    save_text,
)
from data_pipelines.summary import SUMMARY_NAME, summary_of

REJECTED_NAME = "rejected.jsonl"


class RejectedItem(NamedTuple):
    """An item that gave no record, see `data_pipelines.sources.Rejected`."""

    key: str
    cause: str
    detail: str


def shard_name(number: int, num_shards: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}-of-{num_shards:05d}.arrayrecord"


def save_part(directory: Path, shard: Shard, rejected: list[RejectedItem]) -> None:
    """Says that a shard is finished; overwrites what was said before."""
    fields = {"shard": vars(shard), "rejected": rejected}
    save_text(_part_path(directory, shard.name), json.dumps(fields, sort_keys=True, ensure_ascii=False) + "\n")


def load_part(directory: Path, name: str) -> tuple[Shard, list[RejectedItem]] | None:
    """A shard's facts and its rejected items, None where it is not finished.

    Raises:
      ShardError: the part is there and damaged.
    """
    path = _part_path(directory, name)
    try:
        fields = json.loads(path.read_bytes())
        return Shard(**fields["shard"]), [RejectedItem(*item) for item in fields["rejected"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{path} is damaged ({error!r}): delete it and run the same `python -m launch.prepare` again, "
            "which writes that shard anew"
        ) from error


def resume(directory: Path, plan: Manifest, *, verify: bool, threads: int) -> tuple[dict[str, Shard], tuple[str, ...]]:
    """Makes a directory ready for a plan.

    Args:
      directory: exists, and is locked by the caller.
      plan: what is to be written.
      verify: whether the shards that are there are read and their hashes compared.
      threads: that do so.

    Returns:
      The shards that are finished, by name, and the names of those that were finished and are damaged.

    Raises:
      ShardError: the directory holds other data.
    """
    parts = directory / PARTS_NAME
    if not (parts / PLAN_NAME).exists():
        if any(directory.glob("*.arrayrecord")) or (directory / MANIFEST_NAME).exists():
            raise ShardError(f"{directory} holds data without {PARTS_NAME}/{PLAN_NAME}: choose another directory")
        parts.mkdir(exist_ok=True)
        save_text(parts / PLAN_NAME, plan.to_json())
        return {}, ()
    differences = Manifest.read(parts / PLAN_NAME).differences(plan)
    if differences:
        raise ShardError(
            f"{directory} holds data of another configuration; choose another directory or delete this one:\n  "
            + "\n  ".join(differences)
        )
    for leftover in (*directory.glob(".*.tmp"), *parts.glob(".*.tmp")):
        leftover.unlink()
    # Only the facts are kept, so that what millions of rejected items say need not fit in memory.
    loaded = (load_part(directory, shard_name(number, plan.num_shards)) for number in range(plan.num_shards))
    finished = {part[0].name: part[0] for part in loaded if part is not None}
    damaged = tuple(damages(directory, list(finished.values()), read_all=verify, threads=threads))
    for name in damaged:
        del finished[name]
        _part_path(directory, name).unlink()
    return finished, damaged


def finish(directory: Path, plan: Manifest, finished: dict[str, Shard]) -> Manifest:
    """Puts rejected.jsonl, summary.json and, last, manifest.json together, unless they are there.

    Raises:
      ShardError: shards do not go together.
    """
    names = [shard_name(number, plan.num_shards) for number in range(plan.num_shards)]
    manifest = Manifest(
        config=plan.config,
        source=plan.source,
        clock=plan.clock,
        num_units=plan.num_units,
        num_shards=plan.num_shards,
        shards=tuple(finished[name] for name in names),
        flip_safe=plan.flip_safe,
    )
    sizes_px = {shard.frame_px for shard in manifest.shards if shard.records}
    if len(sizes_px) > 1:
        raise ShardError(
            f"{directory}: frames of {sorted(sizes_px)} px do not go together; the source must give one size"
        )
    text = manifest.to_json()
    path = directory / MANIFEST_NAME
    others = (directory / REJECTED_NAME, directory / SUMMARY_NAME)
    if path.exists() and path.read_text(encoding="utf-8") == text and all(other.exists() for other in others):
        return manifest
    temporary = directory / f".{REJECTED_NAME}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        for line in _rejected_lines(directory, manifest.shards):
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, directory / REJECTED_NAME)
    summary = json.dumps(summary_of(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    save_text(directory / SUMMARY_NAME, summary + "\n")
    save_text(path, text)
    return manifest


def _rejected_lines(directory: Path, shards: tuple[Shard, ...]) -> Iterator[str]:
    for shard in shards:
        if shard.rejected:
            part = load_part(directory, shard.name)
            if part is None:
                raise ShardError(f"{_part_path(directory, shard.name)} has disappeared: run the same command again")
            for item in part[1]:
                yield json.dumps(item._asdict() | {"shard": shard.name}, ensure_ascii=False) + "\n"


def _part_path(directory: Path, name: str) -> Path:
    return directory / PARTS_NAME / (name.removesuffix(".arrayrecord") + ".json")
